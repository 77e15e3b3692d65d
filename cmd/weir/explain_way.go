// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// hookStep is one hook on a packet's way.
type hookStep struct {
	Hook    string `json:"hook"`
	Node    string `json:"node"`
	Judges  string `json:"judges,omitempty"` // egress, ingress, egress+ingress; "": nothing here
	Verdict string `json:"verdict"`          // pass, drop, not reached
	Reason  string `json:"reason,omitempty"`
}

// Verdicts of a hook.
const (
	stepPass       = "pass"
	stepDrop       = "drop"
	stepNotReached = "not reached"
)

// way is what decides a packet's way through the hooks.
type way struct {
	q               *question
	toService       bool        // q.dst is a Service address: what follows pod_tx depends on the backend
	egress, ingress *sideAnswer // nil: not a pod's
	// service, for a packet to a Service that goes to the backend q.dst: the verdict on the Service address.
	service                       *sideAnswer
	egressPoliced, ingressPoliced bool
	taken                         []hookStep
	dead                          bool
}

// steps lists the hooks that the packet meets, in their order, and which of them drops it.
func (w *way) steps() []hookStep {
	q := w.q
	if q.src.Pod != nil {
		w.sender()
	}
	if q.dst.Pod != nil {
		if q.srcNode != q.dstNode {
			w.ingressAt(bpf.HookUnderlayRx, bpf.ReasonName(bpf.ReasonHandedUp))
		}
		w.ingressAt(bpf.HookPodRx, "")
	}
	return w.taken
}

// chosen says whether it depends on the backend chosen whether the sender may.
func (w *way) chosen() bool {
	return w.service != nil && w.service.Reason == bpf.ReasonName(bpf.ReasonServiceMixed)
}

// sender is the way out: pod_tx knows the receiver's policy too, if it is on the same node and not behind a Service.
func (w *way) sender() {
	q := w.q
	at, judges := w.egress, "egress"
	if w.ipv6() {
		if w.egressPoliced {
			at = ipv6Dropped()
		}
	} else if w.service != nil {
		at = w.service
	} else if q.dst.Pod != nil && q.srcNode == q.dstNode && q.src.Pod != q.dst.Pod {
		judges = "egress+ingress"
		if at.Verdict == "allow" && w.ingress.Verdict == "deny" {
			at = w.ingress
		}
	}
	w.step(bpf.HookPodTx, q.srcNode, judges, at, "")
	switch {
	case w.toService, q.srcNode == q.dstNode:
	case w.chosen():
		w.step(bpf.HookOverlayTx, q.srcNode, "egress", w.egress, "")
	default:
		w.step(bpf.HookOverlayTx, q.srcNode, "", &sideAnswer{Verdict: "allow"}, "")
	}
}

func (w *way) ingressAt(hook bpf.Hook, passing string) {
	at, judges := w.ingress, "ingress"
	switch {
	case w.ipv6() && hook == bpf.HookUnderlayRx && w.q.srcNode != "": // in the tunnel it can be bound to no sender
		at, judges = &sideAnswer{Verdict: "deny", Reason: bpf.ReasonName(bpf.ReasonInnerNotIPv4)}, ""
	case w.ipv6() && hook == bpf.HookUnderlayRx:
		at, judges, passing = &sideAnswer{Verdict: "allow"}, "", bpf.ReasonName(bpf.ReasonNotIP)
	case w.ipv6() && w.ingressPoliced:
		at = ipv6Dropped()
	case w.chosen() && w.q.srcNode == w.q.dstNode:
		judges = "egress+ingress" // of the backend chosen
		if w.egress.Verdict == "deny" {
			at = w.egress
		}
	}
	w.step(hook, w.q.dstNode, judges, at, passing)
}

func (w *way) ipv6() bool { return w.q.src.Addr.Is6() }

func ipv6Dropped() *sideAnswer {
	return &sideAnswer{Verdict: "deny", Reason: bpf.ReasonName(bpf.ReasonIPv6)}
}

// step adds a hook with the verdict that it gives; passing is the reason if it is another one than the judgement's.
func (w *way) step(hook bpf.Hook, node, judges string, at *sideAnswer, passing string) {
	s := hookStep{Hook: bpf.HookName(hook), Node: node, Judges: judges, Verdict: stepPass, Reason: at.Reason}
	switch {
	case w.dead:
		s.Verdict, s.Reason = stepNotReached, ""
	case at.Verdict == "deny":
		s.Verdict, w.dead = stepDrop, true
	case passing != "":
		s.Reason = passing
	}
	w.taken = append(w.taken, s)
}

// replies is what the answers to the packet need.
type replies struct {
	Expected bool        `json:"expected"`
	Text     string      `json:"text"`
	Flows    []flowPlace `json:"flows,omitempty"`
}

// flowPlace is where a flow is remembered and what that is good for.
type flowPlace struct {
	Recorded string   `json:"recorded"` // the hook that records it
	Node     string   `json:"node"`
	Pod      string   `json:"pod"`     // whose policies make it necessary
	Excused  []string `json:"excused"` // the hooks where replies pass by it, reason "reply"
	Because  string   `json:"because"`
}

// replies says what the answers need: never a rule, and flow state only where a policy selects a pod against their direction.
func (r *explainRun) replies(q *question, e *explanation) (*replies, error) {
	switch {
	case e.Verdict == "deny":
		return &replies{Text: "none: the packet is dropped"}, nil
	case e.Service != "":
		return &replies{Expected: true, Text: "come from the backend chosen"}, nil
	case q.protocol == policy.ICMP && q.port != 8, q.protocol == policy.ICMPv6 && q.port != 128:
		return &replies{Text: "none is excused: of ICMP messages only an echo request has one"}, nil
	case e.Egress.reasonIs(bpf.ReasonSelf) || e.Ingress.reasonIs(bpf.ReasonSelf):
		return &replies{Expected: true, Text: "a pod always reaches itself"}, nil
	case q.src.Addr.Is6():
		return &replies{Expected: true, Text: "IPv6 is not tracked yet"}, nil
	}
	out := &replies{Expected: true, Text: "need no rule and no flow state: no policy selects a pod against their direction"}
	if q.src.Pod != nil {
		policed, err := r.policed(q.srcNode, q.src.Addr, policy.Ingress)
		if err != nil {
			return nil, err
		}
		if policed {
			hooks := []string{bpf.HookName(bpf.HookPodRx)}
			switch {
			case q.dst.Pod != nil && q.srcNode == q.dstNode:
				hooks = append([]string{bpf.HookName(bpf.HookPodTx)}, hooks...)
			case q.srcNode != q.dstNode:
				hooks = append([]string{bpf.HookName(bpf.HookUnderlayRx)}, hooks...)
			}
			out.Flows = append(out.Flows, flowPlace{bpf.HookName(bpf.HookPodTx), q.srcNode, e.Src, hooks,
				"policies select " + partyName(q.src) + " for ingress, the direction of the replies"})
		}
	}
	if q.dst.Pod != nil {
		policed, err := r.policed(q.dstNode, q.dst.Addr, policy.Egress)
		if err != nil {
			return nil, err
		}
		if policed {
			out.Flows = append(out.Flows, flowPlace{bpf.HookName(bpf.HookPodRx), q.dstNode, e.Dst, []string{bpf.HookName(bpf.HookPodTx)},
				"policies select " + partyName(q.dst) + " for egress, the direction of the replies"})
		}
	}
	if len(out.Flows) > 0 {
		out.Text = "need no rule: the flow is remembered where a policy selects a pod against their direction"
	}
	return out, nil
}

// translated says of the flow of a packet to a Service that it is recorded once the backend is chosen.
func (r *replies) translated(q *question) {
	for i := range r.Flows {
		if f := &r.Flows[i]; f.Recorded == bpf.HookName(bpf.HookPodTx) {
			f.Recorded = bpf.HookName(bpf.HookOverlayTx)
			if q.dst.Pod != nil && q.srcNode == q.dstNode {
				f.Recorded = bpf.HookName(bpf.HookPodRx)
			}
			f.Because += "; the Service address is translated after pod_tx"
		}
	}
}

func (r *explainRun) policed(node string, addr netip.Addr, dir policy.Direction) (bool, error) {
	t, err := r.set.brain.tables(node)
	if err != nil {
		return false, fmt.Errorf("find out what replies need: %w", err)
	}
	return t.compiled.Image.Policed(dir, t.identity(addr)), nil
}
