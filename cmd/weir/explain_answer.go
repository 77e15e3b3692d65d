// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/k8s/oracle"
	"github.com/weirnet/weir/policy"
)

// explanation is the answer of explain, and its JSON form.
type explanation struct {
	Src      string         `json:"src"`
	Dst      string         `json:"dst"`
	Protocol string         `json:"protocol"`
	Port     uint16         `json:"port"` // of ICMP and ICMPv6, the type
	Verdict  string         `json:"verdict"`
	From     explainedPlace `json:"from"`
	To       explainedPlace `json:"to"`
	Service  string         `json:"service,omitempty"` // whose address the destination is
	Egress   *explainedSide `json:"egress,omitempty"`
	Ingress  *explainedSide `json:"ingress,omitempty"`
	Replies  *replies       `json:"replies"`
	Hooks    []hookStep     `json:"hooks"`
	Backends []*explanation `json:"backends,omitempty"` // of the Service, one by one
	Notes    []string       `json:"notes,omitempty"`
	probe    *probe
}

// explainedPlace is where one end of the packet is.
type explainedPlace struct {
	Addr netip.Addr `json:"addr"`
	Node string     `json:"node,omitempty"` // "": outside
}

// explainedSide is what one pod's policies make of the packet.
type explainedSide struct {
	Pod      string          `json:"pod"`
	Verdict  string          `json:"verdict"`
	Reason   string          `json:"reason"`
	Rule     string          `json:"rule"` // "": no rule decided
	Audit    *auditAnswer    `json:"audit,omitempty"`
	Isolated bool            `json:"isolated"`
	Selected []selection     `json:"selected_by"`
	Matches  []explainedRule `json:"matches"`
	Nearest  []explainedRule `json:"nearest"`
}

// selection is a policy that has a say.
type selection struct {
	Policy   string `json:"policy"`
	Isolates bool   `json:"isolates"`
	ordered
	written
}

// ordered is the place of a policy that has one.
type ordered struct {
	Tier     string `json:"tier,omitempty"`
	Priority *int32 `json:"priority,omitempty"`
}

func orderOf(p *policy.Policy) ordered {
	if p.Tier == policy.TierNormal {
		return ordered{}
	}
	return ordered{p.Tier.String(), &p.Priority}
}

func (o ordered) String() string {
	if o.Priority == nil {
		return ""
	}
	return fmt.Sprintf(" in tier %s, priority %d", o.Tier, *o.Priority)
}

// written is where something is written.
type written struct {
	File     string `json:"file,omitempty"`
	Document int    `json:"document,omitempty"`
	Line     int    `json:"line,omitempty"`
}

func (w written) String() string {
	switch {
	case w.File == "":
		return ""
	case w.Line == 0:
		return fmt.Sprintf("%s document %d", w.File, w.Document)
	}
	return fmt.Sprintf("%s document %d line %d", w.File, w.Document, w.Line)
}

// explainedRule is a rule that matches, or nearly does.
type explainedRule struct {
	Policy  string `json:"policy"`
	Path    string `json:"path"`
	Action  string `json:"action"`
	Decides bool   `json:"decides"`
	Passes  bool   `json:"passes,omitempty"` // to the next tier
	ordered
	written
	YAML   string          `json:"yaml,omitempty"`
	Misses []explainedMiss `json:"misses,omitempty"`
	// Swapped: the policy guards the other end, and would decide if its two sides were exchanged.
	Swapped bool `json:"swapped,omitempty"`
}

// explainedMiss is a field that does not match. Side says whose: "subject" of the policy's own selector.
type explainedMiss struct {
	Side  string `json:"side"` // subject, peer, port
	Field string `json:"field"`
	Key   string `json:"key,omitempty"`
	Want  string `json:"want"`
	Got   string `json:"got"`
	Text  string `json:"text"`
}

// mostNearest bounds the rules that are told of those that do not match.
const mostNearest = 5

// explain answers a question, and for a Service address one for each backend.
func (r *explainRun) explain(ctx context.Context, p *probe, q *question) (*explanation, error) {
	a, err := r.judged(ctx, p, q)
	if err != nil {
		return nil, err
	}
	e := &explanation{Src: p.src, Dst: p.dst, Protocol: policy.ProtocolName(p.protocol), Port: p.port, Verdict: a.verdict(), probe: p,
		From: explainedPlace{q.src.Addr, q.srcNode}, To: explainedPlace{q.dst.Addr, q.dstNode}}
	if a.egress != nil {
		if e.Egress, err = r.side(q, q.src, q.dst, policy.Egress, a.egress); err != nil {
			return nil, err
		}
	}
	if a.ingress != nil {
		if e.Ingress, err = r.side(q, q.dst, q.src, policy.Ingress, a.ingress); err != nil {
			return nil, err
		}
	}
	if e.Service, err = r.backends(ctx, e, q); err != nil {
		return nil, err
	}
	w := way{q: q, toService: e.Service != "", egress: a.egress, ingress: a.ingress, egressPoliced: e.Egress.policed(), ingressPoliced: e.Ingress.policed()}
	e.Hooks = w.steps()
	if e.Replies, err = r.replies(q, e); err != nil {
		return nil, err
	}
	if e.Egress.reasonIs(bpf.ReasonTunnelFromPod) || e.Ingress.reasonIs(bpf.ReasonTunnelStray) {
		e.Notes = append(e.Notes, "this is the overlay's own port: the datapath refuses it before any policy is asked")
	}
	if q.src.Addr.Is6() {
		e.Notes = append(e.Notes, "the datapath does not judge IPv6 yet: a pod that policies select in a direction drops it there (reason ipv6)")
	}
	return e, nil
}

func (s *explainedSide) policed() bool { return s != nil && len(s.Selected) > 0 }

// side explains one side's verdict, which has been given.
func (r *explainRun) side(q *question, subject, peer oracle.Party, dir policy.Direction, given *sideAnswer) (*explainedSide, error) {
	t, err := r.set.brain.tables(subject.Pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	x := t.compiled.Image.Explain(policy.Traffic{Direction: dir, Subject: t.identity(subject.Addr), Peer: t.identity(peer.Addr),
		Addr: peer.Addr, Protocol: q.protocol, Port: q.port})
	s := &explainedSide{Pod: subject.Pod.Namespace + "/" + subject.Pod.Name, Verdict: given.Verdict, Reason: given.Reason, Rule: given.Rule, Audit: given.Audit,
		Selected: []selection{}, Matches: []explainedRule{}, Nearest: []explainedRule{}}
	for _, sel := range x.Selected {
		s.Isolated = s.Isolated || sel.Isolates
		if n := len(s.Selected); n > 0 && s.Selected[n-1].Policy == sel.Policy.Key { // another spec of the same object
			s.Selected[n-1].Isolates = s.Selected[n-1].Isolates || sel.Isolates
			continue
		}
		excerpt, _ := r.set.objects.Excerpt(r.set.dir, sel.Policy.Key, "") // without a file, without a place
		s.Selected = append(s.Selected, selection{sel.Policy.Key, sel.Isolates, orderOf(sel.Policy), written{excerpt.File, excerpt.Document, excerpt.Line}})
	}
	if s.reasonIs(bpf.ReasonService, bpf.ReasonServiceMixed, bpf.ReasonDeniedService, bpf.ReasonTunnelFromPod, bpf.ReasonTunnelStray) {
		return s, nil // no rule was asked about this address
	}
	for i := range x.Matches {
		s.Matches = append(s.Matches, r.rule(&x.Matches[i]))
	}
	for i := range x.Misses {
		// A rule of a policy that does not select the pod is of interest if it would turn the verdict.
		m := &x.Misses[i]
		turns := m.Rule.Action != policy.Pass && (m.Rule.Action == policy.Allow) != x.Verdict.Allow
		if len(s.Nearest) < mostNearest && (len(m.Subject) == 0 || m.Swapped || turns) {
			s.Nearest = append(s.Nearest, r.rule(m))
		}
	}
	return s, nil
}

func (r *explainRun) rule(m *policy.RuleMatch) explainedRule {
	out := explainedRule{Policy: m.Policy.Key, Path: m.Rule.Path, Action: m.Rule.Action.String(), Decides: m.Decides, Passes: m.Passes,
		Swapped: m.Swapped, ordered: orderOf(m.Policy)}
	excerpt, _ := r.set.objects.Excerpt(r.set.dir, m.Policy.Key, m.Rule.Path) // without a file, without text
	out.written, out.YAML = written{excerpt.File, excerpt.Document, excerpt.Line}, excerpt.Text
	add := func(side string, misses []policy.Miss) {
		for _, miss := range misses {
			out.Misses = append(out.Misses, explainedMiss{side, string(miss.Field), miss.Key, miss.Want, miss.Got, miss.String()})
		}
	}
	add("subject", m.Subject)
	add("peer", m.Peer)
	add("port", m.Port)
	return out
}

// backends explains what stands behind a Service address, and names the Service; "" if the destination is none.
func (r *explainRun) backends(ctx context.Context, e *explanation, q *question) (string, error) {
	if q.src.Pod == nil {
		return "", nil
	}
	t, err := r.set.brain.tables(q.srcNode)
	if err != nil {
		return "", err
	}
	if t.serviceAt(q.dst.Addr, q.protocol, q.port) == nil {
		return "", nil
	}
	called := ""
	var seen []netip.AddrPort
	for i := range t.model.Services {
		s := &t.model.Services[i]
		for j := range s.Ports {
			p := &s.Ports[j]
			own := slices.Contains(s.Addrs, q.dst.Addr) && p.Port == q.port
			if p.Protocol != q.protocol || !own && !(q.dst.Node != "" && p.NodePort == q.port) {
				continue
			}
			called = "Service " + s.Namespace + "/" + s.Name
			for _, b := range p.Backends {
				if b.Addr().Unmap().Is4() != q.dst.Addr.Is4() || slices.Contains(seen, b) {
					continue
				}
				seen = append(seen, b)
				backend, err := r.backend(ctx, e, q, b)
				if err != nil {
					return "", err
				}
				e.Backends = append(e.Backends, backend)
			}
		}
	}
	return called, nil
}

// backend explains what becomes of a packet to a Service that is sent to one of its backends.
func (r *explainRun) backend(ctx context.Context, e *explanation, q *question, to netip.AddrPort) (*explanation, error) {
	party, known := r.set.cluster.owner[to.Addr().Unmap()]
	if !known {
		party = oracle.Party{Addr: to.Addr().Unmap()}
	}
	p := &probe{src: e.Src, dst: partyName(party), protocol: q.protocol, port: to.Port()}
	each := &question{src: q.src, dst: party, srcNode: q.srcNode, dstNode: r.set.cluster.place(party), protocol: q.protocol, port: to.Port()}
	out, err := r.explain(ctx, p, each)
	if err != nil {
		return nil, fmt.Errorf("explain backend %s: %w", to, err)
	}
	service := &sideAnswer{Verdict: e.Egress.Verdict, Reason: e.Egress.Reason}
	w := way{q: each, egress: &sideAnswer{Verdict: out.Egress.Verdict, Reason: out.Egress.Reason}, service: service,
		egressPoliced: out.Egress.policed(), ingressPoliced: out.Ingress.policed()}
	if out.Ingress != nil {
		w.ingress = &sideAnswer{Verdict: out.Ingress.Verdict, Reason: out.Ingress.Reason}
	}
	out.Hooks = w.steps()
	out.Replies.translated(each)
	if service.Verdict == "deny" {
		out.Replies = &replies{Text: "none: the packet is dropped"}
		out.Verdict = "deny" // whatever is said of this one: the packet dies before one is chosen
		out.Notes = append(out.Notes, "the Service address is refused as a whole (reason "+service.Reason+"): this backend is never chosen")
	}
	return out, nil
}

func partyName(p oracle.Party) string {
	switch {
	case p.Pod != nil:
		return p.Pod.Namespace + "/" + p.Pod.Name
	case p.Node != "":
		return "node:" + p.Node
	}
	return p.Addr.String()
}

// reasonIs says whether a side's reason is a certain one of the datapath's.
func (s *explainedSide) reasonIs(reasons ...bpf.Reason) bool {
	return s != nil && slices.ContainsFunc(reasons, func(r bpf.Reason) bool { return s.Reason == bpf.ReasonName(r) })
}
