// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/policy"
)

// kernelJudge runs the real programs, on the tables of one node after the other: the packet passes the hooks there in the
// order in which it would meet them, and each node sees the whole chunk before the next.
type kernelJudge struct {
	brain     *brain
	knobs     bpf.Knobs
	simulator *simulated // nil before the first question
}

// simulated is the simulator, the node that it is now, and the source ports that it has seen as this node.
type simulated struct {
	*loader.Simulator
	tables *nodeTables
	nonce  uint16
}

// firstNonce is the first source port, or echo id. Each probe has another one, so that no flow of an earlier probe can be
// taken for its own; the tables are emptied when they run out, and before a probe whose destination port is one of them.
const firstNonce = 49152

func newKernelJudge(b *brain) *kernelJudge {
	return &kernelJudge{brain: b, knobs: bpf.DefaultKnobs()}
}

func (j *kernelJudge) name() string { return "kernel" }

// Close releases the simulator.
func (j *kernelJudge) Close() error {
	if j.simulator == nil {
		return nil
	}
	s := j.simulator
	j.simulator = nil
	return s.Close()
}

func (j *kernelJudge) judge(ctx context.Context, questions []*question) ([]answer, error) {
	answers := make([]answer, len(questions))
	byNode := map[string][]int{}
	for i, q := range questions {
		for _, node := range q.podNodes() {
			byNode[node] = append(byNode[node], i)
		}
	}
	nodes := make([]string, 0, len(byNode))
	for node := range byNode {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	for _, node := range nodes {
		s, err := j.become(node)
		if err != nil {
			return nil, err
		}
		for _, i := range byNode[node] {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := j.visit(s, questions[i], &answers[i]); err != nil {
				return nil, err
			}
		}
	}
	return answers, nil
}

// podNodes are the nodes of those parties that are pods.
func (q *question) podNodes() []string {
	var nodes []string
	if q.src.Pod != nil {
		nodes = append(nodes, q.srcNode)
	}
	if q.dst.Pod != nil && !slices.Contains(nodes, q.dstNode) {
		nodes = append(nodes, q.dstNode)
	}
	return nodes
}

// become gives the simulator the tables of a node. Loading the programs anew would take much longer; it is done where the
// tables are too large for the maps.
func (j *kernelJudge) become(node string) (*simulated, error) {
	t, err := j.brain.tables(node)
	if err != nil {
		return nil, err
	}
	if s := j.simulator; s != nil {
		if s.tables == t {
			return s, nil
		}
		err := s.Apply(&policy.Plan{Final: t.compiled, Swap: true})
		if err == nil {
			err = s.ResetFlows()
		}
		if err == nil {
			s.tables, s.nonce = t, firstNonce
			return s, nil
		}
		if err = errors.Join(j.Close(), ignoring(err, loader.ErrTooLarge)); err != nil {
			return nil, fmt.Errorf("simulate node %s: %w", node, err)
		}
	}
	sim, err := loader.NewSimulator(j.knobs, t.compiled)
	if err != nil {
		return nil, fmt.Errorf("simulate node %s: %w", node, err)
	}
	j.simulator = &simulated{Simulator: sim, tables: t, nonce: firstNonce}
	return j.simulator, nil
}

// ignoring is err, unless it is one that is expected.
func ignoring(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// visit takes a packet through the hooks of one node that has one of its pods.
func (j *kernelJudge) visit(s *simulated, q *question, a *answer) error {
	if err := s.renew(q); err != nil {
		return err
	}
	frame := inner(q, s.nonce)
	var sent *sideAnswer // what the sender's hook said of the receiver, on the same node
	if q.src.Pod != nil && q.srcNode == s.tables.node {
		var err error
		if a.egress, sent, err = s.send(q, frame.Bytes()); err != nil {
			return err
		}
	}
	if q.dst.Pod == nil || q.dstNode != s.tables.node {
		return nil
	}
	received, err := s.receive(q, frame, j.knobs)
	if err != nil {
		return err
	}
	if sent != nil && (received.Verdict == "deny" || a.egress.Verdict == "allow") {
		received = sent // the first hook that drops is the one where the packet dies
	}
	a.ingress = received
	return nil
}

// renew gives the next packet a source port that no flow in the tables has.
func (s *simulated) renew(q *question) error {
	ports := q.protocol == policy.TCP || q.protocol == policy.UDP || q.protocol == policy.SCTP
	if s.nonce++; s.nonce == 0 || ports && q.port >= firstNonce {
		s.nonce = firstNonce
		if err := s.ResetFlows(); err != nil {
			return fmt.Errorf("empty the flow tables of node %s: %w", s.tables.node, err)
		}
	}
	return nil
}

// outcome is what a hook made of a packet, and what it would have if no policy were under audit, where that is a drop.
type outcome struct {
	bpf.Event
	audit *bpf.Event
}

// run passes a frame through one hook; those on pods' interfaces are told which pod's.
func (s *simulated) run(hook bpf.Hook, pod *corev1.Pod, frame []byte) (*outcome, error) {
	if pod != nil {
		if err := s.Bind(s.tables.slots[pod.Namespace+"/"+pod.Name]); err != nil {
			return nil, fmt.Errorf("put pod %s/%s behind the interface: %w", pod.Namespace, pod.Name, err)
		}
	}
	result, err := s.Run(hook, frame)
	if err != nil {
		return nil, fmt.Errorf("run %s on node %s: %w", bpf.HookName(hook), s.tables.node, err)
	}
	o := &outcome{Event: result.Event}
	for i := range result.Events {
		if bpf.Verdict(result.Events[i].Verdict) == bpf.VerdictAudit {
			o.audit = &result.Events[i]
		}
	}
	return o, nil
}

// send passes a packet through the hooks on its way out. The second answer is the receiver's denial, if it is on this
// node: then the sender's hook knows it too.
func (s *simulated) send(q *question, frame []byte) (egress, ingress *sideAnswer, err error) {
	event, err := s.run(bpf.HookPodTx, q.src.Pod, frame)
	if err != nil {
		return nil, nil, err
	}
	if denied(event) && bpf.Direction(event.Direction) == bpf.DirectionIngress {
		// That the sender's side admits it follows; by which rule is in the image that the program has just read.
		image := &imageJudge{brain: &brain{compiled: map[string]*nodeTables{s.tables.node: s.tables}}}
		egress, err := image.side(q, q.src, q.dst, policy.Egress)
		if err != nil {
			return nil, nil, err
		}
		egress.Hook = bpf.HookName(bpf.HookPodTx)
		return egress, s.side(event), nil
	}
	egress = s.side(event)
	if !denied(event) && q.dstNode != q.srcNode {
		left, err := s.run(bpf.HookOverlayTx, nil, frame)
		if err != nil {
			return nil, nil, err
		}
		if denied(left) {
			egress = s.side(left)
		}
	}
	return egress, nil, nil
}

// receive passes a packet through the hooks on its way in: from the same node, through the tunnel from another one, or
// plain from outside.
func (s *simulated) receive(q *question, frame packet.Spec, knobs bpf.Knobs) (*sideAnswer, error) {
	if q.srcNode != q.dstNode {
		wire := frame.Bytes()
		if q.srcNode != "" {
			var err error
			if wire, err = s.tables.tunnelled(q.srcNode, frame, knobs); err != nil {
				return nil, err
			}
		}
		event, err := s.run(bpf.HookUnderlayRx, nil, wire)
		if err != nil {
			return nil, err
		}
		if denied(event) {
			return s.side(event), nil
		}
	}
	event, err := s.run(bpf.HookPodRx, q.dst.Pod, frame.Bytes())
	if err != nil {
		return nil, err
	}
	return s.side(event), nil
}

func denied(o *outcome) bool { return bpf.Verdict(o.Verdict) == bpf.VerdictDrop }

// side is an outcome as an answer. Only two reasons come from a rule.
func (s *simulated) side(o *outcome) *sideAnswer {
	reason := bpf.Reason(o.Reason)
	a := &sideAnswer{Verdict: verdictName(!denied(o)), Reason: bpf.ReasonName(reason), Hook: bpf.HookName(bpf.Hook(o.Hook))}
	if reason == bpf.ReasonAllowed || reason == bpf.ReasonDeniedRule {
		a.Rule = s.tables.ruleName(o.Rule)
	}
	if o.audit != nil {
		a.Audit = &auditAnswer{verdictName(false), bpf.ReasonName(bpf.Reason(o.audit.Reason)), s.tables.ruleName(o.audit.Rule)}
	}
	return a
}

// inner is the packet between the two parties: the first one of a connection.
func inner(q *question, nonce uint16) packet.Spec {
	src, dst := netip.AddrPortFrom(q.src.Addr, nonce), netip.AddrPortFrom(q.dst.Addr, q.port)
	switch q.protocol {
	case policy.TCP:
		return packet.TCP(src, dst, packet.SYN)
	case policy.UDP:
		return packet.UDP(src, dst)
	case policy.SCTP:
		return packet.SCTP(src, dst)
	}
	return packet.ICMP(q.src.Addr, q.dst.Addr, uint8(q.port), 0, uint32(nonce)<<16|1, nil)
}

// tunnelled is a frame as another node would send it to this one.
func (t *nodeTables) tunnelled(from string, frame packet.Spec, knobs bpf.Knobs) ([]byte, error) {
	sender, src, err := t.underlay(from)
	if err != nil {
		return nil, err
	}
	own, dst, err := t.underlay(t.node)
	if err != nil {
		return nil, err
	}
	outer := packet.Underlay(src, dst)
	outer.DstPort = knobs.VXLANPort
	return packet.VXLAN(outer, knobs.VNI, frame.Via(mac(sender.VTEPMAC, packet.MAC1), mac(own.VTEPMAC, packet.MAC2)).Bytes()), nil
}

// underlay finds a node and the address that its tunnel has.
func (t *nodeTables) underlay(name string) (*policy.Node, netip.Addr, error) {
	for i := range t.model.Nodes {
		node := &t.model.Nodes[i]
		if node.Name != name {
			continue
		}
		for _, addr := range node.Underlay {
			if addr.Is4() {
				return node, addr, nil
			}
		}
		return nil, netip.Addr{}, fmt.Errorf("build a tunnel packet: node %s has no IPv4 InternalIP", name)
	}
	return nil, netip.Addr{}, fmt.Errorf("build a tunnel packet: no node %s", name)
}

// mac is a node's VTEP MAC, or where it is not known, and so not checked, any.
func mac(known, other packet.MAC) packet.MAC {
	if known == (packet.MAC{}) {
		return other
	}
	return known
}
