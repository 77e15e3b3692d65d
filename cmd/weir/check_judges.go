// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/k8s/oracle"
	"github.com/weirnet/weir/policy"
)

// judge answers questions, in order; what it cannot answer has its own error.
type judge interface {
	name() string
	judge(ctx context.Context, questions []*question) ([]answer, error)
	Close() error
}

// brain compiles the objects for each node that a question touches, once.
type brain struct {
	objs     *k8s.Objects
	cluster  *cluster
	options  k8s.Options
	warnings []string
	compiled map[string]*nodeTables
}

// nodeTables are one node's compiled tables.
type nodeTables struct {
	node     string
	slot     uint16            // the node's
	slots    map[string]uint16 // local pods'
	model    *policy.Model
	compiled *policy.Compiled
	services map[serviceKey]*policy.ServiceEntry
}

type serviceKey struct {
	addr     netip.Addr
	protocol uint8
	port     uint16
}

// newBrain translates once for a start: what is invalid or cannot be enforced shows before anything is answered.
func newBrain(objs *k8s.Objects, c *cluster, options k8s.Options) (*brain, error) {
	b := &brain{objs: objs, cluster: c, options: options, compiled: map[string]*nodeTables{}}
	if len(objs.Nodes) == 0 {
		return nil, errors.New("translate objects: there is no node")
	}
	_, statuses, err := k8s.Translate(objs, objs.Nodes[0].Name, options)
	if err != nil {
		return nil, fmt.Errorf("translate objects: %w", err)
	}
	for _, s := range statuses {
		weight := "warning"
		if s.Reason == k8s.ReasonAudited {
			weight = "note"
		}
		b.warnings = append(b.warnings, fmt.Sprintf("%s: %s: %s: %s", weight, s.Object, s.Path, s.Message))
	}
	return b, nil
}

func (b *brain) tables(node string) (*nodeTables, error) {
	if t := b.compiled[node]; t != nil {
		return t, nil
	}
	model, _, err := k8s.Translate(b.objs, node, b.options)
	if err != nil {
		return nil, fmt.Errorf("translate objects for node %s: %w", node, err)
	}
	plan, err := policy.NewPlanner().Plan(model)
	if err != nil {
		return nil, fmt.Errorf("compile policy for node %s: %w", node, err)
	}
	t := &nodeTables{node: node, model: model, compiled: plan.Final,
		services: map[serviceKey]*policy.ServiceEntry{}, slots: map[string]uint16{}}
	for i := range plan.Final.Services {
		s := &plan.Final.Services[i]
		t.services[serviceKey{s.Addr, s.Protocol, s.Port}] = s
	}
	for _, e := range plan.Final.Endpoints {
		t.slots[e.Pod] = e.Slot
	}
	for _, n := range plan.Final.Nodes {
		if n.Name == node {
			t.slot = n.Slot
		}
	}
	b.compiled[node] = t
	return t, nil
}

// serviceAt is what is behind an address and port; nil if that is no Service's.
func (t *nodeTables) serviceAt(addr netip.Addr, protocol uint8, port uint16) *policy.ServiceEntry {
	if s := t.services[serviceKey{addr, protocol, port}]; s != nil {
		return s
	}
	any := netip.IPv6Unspecified()
	if addr.Is4() {
		any = netip.IPv4Unspecified()
	}
	if a := t.compiled.Address(addr); a.ServesNodePorts() {
		return t.services[serviceKey{any, protocol, port}]
	}
	return nil
}

// identity of an address: that of the longest prefix that contains it.
func (t *nodeTables) identity(addr netip.Addr) uint32 { return t.compiled.Address(addr).Identity }

// ruleName is a rule's name for people; "" is the default.
func (t *nodeTables) ruleName(rule uint16) string {
	if rule == 0 {
		return ""
	}
	key, path, ok := t.compiled.Image.RuleName(rule)
	if !ok {
		return fmt.Sprintf("rule %d", rule)
	}
	return key + " " + path
}

// imageJudge reads the compiled images in Go.
type imageJudge struct{ brain *brain }

func (j *imageJudge) name() string { return "image" }

func (j *imageJudge) Close() error { return nil }

func (j *imageJudge) judge(ctx context.Context, questions []*question) ([]answer, error) {
	answers := make([]answer, len(questions))
	for i, q := range questions {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		if q.src.Pod != nil {
			answers[i].egress, err = j.side(q, q.src, q.dst, policy.Egress)
		}
		if q.dst.Pod != nil && err == nil {
			answers[i].ingress, err = j.side(q, q.dst, q.src, policy.Ingress)
		}
		if err != nil {
			return nil, err
		}
		q.override(&answers[i], bpf.DefaultKnobs().VXLANPort)
	}
	return answers, nil
}

func (j *imageJudge) side(q *question, subject, peer oracle.Party, direction policy.Direction) (*sideAnswer, error) {
	t, err := j.brain.tables(subject.Pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	img := t.compiled.Image
	enforced := planeView{t, img.Lookup, img.Enforced(direction, t.identity(subject.Addr))}
	audited := planeView{t, img.LookupAudited, img.Policed(direction, t.identity(subject.Addr))}
	answer := enforced.side(q, subject, peer, direction)
	if answer.Verdict == "allow" {
		if would := audited.side(q, subject, peer, direction); would.Verdict != "allow" {
			answer.Audit = &auditAnswer{would.Verdict, would.Reason, would.Rule}
		}
	}
	return answer, nil
}

// planeView is one plane of an image, seen for one pod in one direction.
type planeView struct {
	*nodeTables
	lookup  func(policy.Direction, uint32, uint32, uint8, uint16) policy.Cell
	policed bool
}

func (v planeView) side(q *question, subject, peer oracle.Party, direction policy.Direction) *sideAnswer {
	own := v.identity(subject.Addr)
	if direction == policy.Egress && v.policed {
		if service := v.serviceAt(peer.Addr, q.protocol, q.port); service != nil {
			return v.service(own, service)
		}
	}
	cell := v.lookup(direction, own, v.identity(peer.Addr), q.protocol, q.port)
	reason := bpf.ReasonDeniedRule
	switch {
	case !cell.Allow() && subject.Addr == peer.Addr:
		return &sideAnswer{Verdict: "allow", Reason: bpf.ReasonName(bpf.ReasonSelf)}
	case cell.Allow() && cell.Default():
		reason = bpf.ReasonNotIsolated
	case cell.Allow():
		reason = bpf.ReasonAllowed
	case cell.Default():
		reason = bpf.ReasonDeniedDefault
	}
	return &sideAnswer{Verdict: verdictName(cell.Allow()), Reason: bpf.ReasonName(reason), Rule: v.ruleName(cell.Rule())}
}

// service judges a Service address by what stands behind it, as the programs do.
func (v planeView) service(own uint32, s *policy.ServiceEntry) *sideAnswer {
	admitted, hostRefused := 0, false
	for _, b := range s.Backends {
		if v.lookup(policy.Egress, own, b.Identity, s.Protocol, b.Port).Allow() {
			admitted++
		} else if b.Host {
			hostRefused = true
		}
	}
	switch {
	case len(s.Backends) > bpf.MaxBackends: // judged after translation
		return &sideAnswer{Verdict: "allow", Reason: bpf.ReasonName(bpf.ReasonServiceMixed)}
	case admitted == 0 || admitted < len(s.Backends) && hostRefused:
		return &sideAnswer{Verdict: "deny", Reason: bpf.ReasonName(bpf.ReasonDeniedService)}
	case admitted == len(s.Backends):
		return &sideAnswer{Verdict: "allow", Reason: bpf.ReasonName(bpf.ReasonService)}
	}
	return &sideAnswer{Verdict: "allow", Reason: bpf.ReasonName(bpf.ReasonServiceMixed)}
}

// oracleJudge reads the objects themselves.
type oracleJudge struct{ oracle *oracle.Oracle }

func newOracleJudge(objs *k8s.Objects, options k8s.Options) *oracleJudge {
	return &oracleJudge{oracle.New(objs, oracleOptions(options))}
}

func (j *oracleJudge) name() string { return "oracle" }

func (j *oracleJudge) Close() error { return nil }

func (j *oracleJudge) judge(ctx context.Context, questions []*question) ([]answer, error) {
	answers := make([]answer, len(questions))
	for i, q := range questions {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		egress, ingress := j.oracle.Judge(q.src, q.dst, oracle.Packet{Protocol: q.protocol, Port: q.port})
		answers[i] = answer{egress: oracleSide(egress), ingress: oracleSide(ingress)}
		q.override(&answers[i], bpf.DefaultKnobs().VXLANPort)
	}
	return answers, nil
}

func oracleSide(j *oracle.Judgement) *sideAnswer {
	if j == nil {
		return nil
	}
	s := &sideAnswer{Verdict: verdictName(j.Allow), Reason: j.Reason}
	if len(j.Rules) > 0 {
		s.Rule = j.Rules[0]
	}
	if would := oracleSide(j.Audit); would != nil {
		s.Audit = &auditAnswer{would.Verdict, would.Reason, would.Rule}
	}
	return s
}

// pairs are all pairs of pods on all containerPorts of the set, those where no pod has an address of its own left out.
func (c *cluster) pairs() iter.Seq[*probe] {
	type service struct {
		protocol uint8
		port     uint16
	}
	seen := map[service]bool{}
	for _, pod := range c.pods {
		for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, p := range container.Ports {
				protocol := policy.TCP
				switch p.Protocol {
				case corev1.ProtocolUDP:
					protocol = policy.UDP
				case corev1.ProtocolSCTP:
					protocol = policy.SCTP
				}
				seen[service{protocol, uint16(p.ContainerPort)}] = true
			}
		}
	}
	services := slices.SortedFunc(maps.Keys(seen), func(a, b service) int {
		return int(a.protocol)<<16 + int(a.port) - int(b.protocol)<<16 - int(b.port)
	})
	return func(yield func(*probe) bool) {
		for _, src := range c.names {
			for _, dst := range c.names {
				if c.pods[src].Spec.HostNetwork && c.pods[dst].Spec.HostNetwork {
					continue
				}
				for _, s := range services {
					if !yield(pairProbe(src, dst, s.protocol, s.port)) {
						return
					}
				}
			}
		}
	}
}

// pairProbe is a probe as it would have been written.
func pairProbe(src, dst string, protocol uint8, port uint16) *probe {
	return &probe{src: src, dst: dst, protocol: protocol, port: port, members: []member{
		{"src", quote(src)}, {"dst", quote(dst)}, {"protocol", quote(policy.ProtocolName(protocol))},
		{"port", fmt.Appendf(nil, "%d", port)}}}
}
