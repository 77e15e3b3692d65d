// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/k8s"
)

// How many of many a status names.
const (
	maxWaiting = 10
	maxNamed   = 3 // in a message
	maxFields  = 8
)

// Outcome is how far a policy is enforced: State has all but its times and conditions, which are Status, Reason, and a message
// that Board.Message makes.
type Outcome struct {
	Policy Policy
	State  PolicyState
	Status metav1.ConditionStatus
	Reason string
}

// Done says that no node's progress will change the outcome's reason: it is enforced, or its author has to do something.
func (o *Outcome) Done() bool {
	return o.Status == metav1.ConditionTrue || o.State.Applied == o.State.Nodes && o.State.Nodes > 0
}

// Evaluate says how far a policy of the board is enforced.
func (b *Board) Evaluate(key PolicyKey) Outcome {
	p := b.policies[key]
	order := b.order(p.Kind)
	nodes, behind := len(order.names), order.behind(p.Since)
	absent, failing := order.absent[behind], order.failing[behind]
	o := Outcome{Policy: *p, State: PolicyState{
		ObservedGeneration: p.Generation, ResourceVersion: fmt.Sprint(p.Since), Audited: p.Audited,
		Nodes: int32(nodes), Applied: int32(nodes - behind), Waiting: []string{},
	}}
	o.State.Waiting = append(o.State.Waiting, order.names[:min(behind, maxWaiting)]...)
	slices.Sort(o.State.Waiting)

	var excepted int
	o.State.Reasons, excepted = b.reasons(p, order, behind)
	unlisted := b.unlisted(p, order, behind)
	if !p.Audited {
		o.State.Enforced = int32(nodes - behind - excepted - unlisted)
	}
	o.State.Summary = fmt.Sprintf("%d/%d", o.State.Enforced, nodes)

	blocker := firstBlocker(o.State.Reasons)
	o.Status = metav1.ConditionFalse
	switch {
	case nodes == 0:
		o.Status, o.Reason = metav1.ConditionUnknown, ReasonNoNodes
	case blocker != nil:
		o.Reason = conditionReason(blocker.Reason)
	case p.Audited && behind == 0:
		o.Reason = ReasonAudited
	case failing > 0:
		o.Reason = ReasonNodesFailing
	case behind > absent:
		o.Reason = ReasonProgressing
	case unlisted > 0:
		o.Status, o.Reason = metav1.ConditionUnknown, ReasonUnlisted
	case behind > 0:
		o.Status, o.Reason = metav1.ConditionUnknown, ReasonNodesNotReady
	default:
		o.Status, o.Reason = metav1.ConditionTrue, ReasonEnforced
	}
	return o
}

// Message says an outcome to people: "enforced on 4998 of 5000 nodes; 2 waiting: n7, n9".
func (b *Board) Message(o *Outcome) string {
	s, order := &o.State, b.order(o.Policy.Kind)
	behind := order.names[:order.behind(o.Policy.Since)]
	waiting := b.waiting(behind, order.absent[len(behind)])
	blocker := firstBlocker(s.Reasons)
	switch {
	case s.Nodes == 0:
		return "no node runs weir"
	case blocker != nil:
		return fmt.Sprintf("%s on %d of %s%s%s", problem(blocker.Reason), blocker.Nodes, count(s.Nodes), explain(blocker), waiting)
	case s.Audited:
		return fmt.Sprintf("under audit on %d of %s: what it would drop is counted and logged, nothing is enforced%s", s.Applied, count(s.Nodes), waiting)
	}
	text := fmt.Sprintf("enforced on %d of %s%s", s.Enforced, count(s.Nodes), waiting)
	if o.Reason == ReasonUnlisted {
		text += fmt.Sprintf("; %d have more policies that are not enforced as written than they list", s.Applied-s.Enforced)
	}
	return text
}

func count(nodes int32) string {
	if nodes == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", nodes)
}

// reasons is what the nodes that have applied the policy say of it, blocking reasons first, and how many of them do not
// enforce it as written.
func (b *Board) reasons(p *Policy, o *order, behind int) (reasons []NodeReason, excepted int) {
	of := b.notes[p.Key()]
	switch {
	case of == nil:
		return []NodeReason{}, 0
	case behind > 0 || o.strays: // some speak of another version, or need not be asked
		return of.count(func(name string) bool { return b.nodes[name].must() && b.nodes[name].mark(p.Kind) >= p.Since })
	case of.reasons == nil:
		of.reasons, of.excepted = of.count(func(string) bool { return true })
	}
	return of.reasons, of.excepted
}

// count counts the nodes that counts holds for.
func (of *noted) count(counts func(node string) bool) (out []NodeReason, excepted int) {
	byReason := map[string]*NodeReason{}
	for name, reasons := range of.nodes {
		if !counts(name) {
			continue
		}
		blocked := false
		for _, reason := range reasons {
			r := byReason[reason]
			if r == nil {
				r = &NodeReason{Reason: reason, Note: !blocking(reason)}
				byReason[reason] = r
			}
			r.Nodes++
			r.Sample = sample(r.Sample, name)
			blocked = blocked || !r.Note
		}
		if blocked {
			excepted++
		}
	}
	out = []NodeReason{}
	for _, r := range byReason {
		for f, use := range of.fields {
			if f.reason == r.Reason {
				r.Fields = append(r.Fields, ReasonField{Field: f.field, Message: use.message})
			}
		}
		slices.SortFunc(r.Fields, func(x, y ReasonField) int { return cmp.Compare(x.Field, y.Field) })
		r.Fields = r.Fields[:min(len(r.Fields), maxFields)]
		out = append(out, *r)
	}
	slices.SortFunc(out, func(x, y NodeReason) int {
		return cmp.Or(cmp.Compare(severity(x.Reason), severity(y.Reason)), cmp.Compare(x.Reason, y.Reason))
	})
	return out, excepted
}

// sample keeps the first names, sorted.
func sample(names []string, name string) []string {
	at, _ := slices.BinarySearch(names, name)
	if at >= maxNamed {
		return names
	}
	names = slices.Insert(names, at, name)
	return names[:min(len(names), maxNamed)]
}

// unlisted counts the nodes that have applied the policy and may have exceptions of it that they do not list.
func (b *Board) unlisted(p *Policy, o *order, behind int) (n int) {
	if b.omitting == 0 {
		return 0
	}
	of := b.notes[p.Key()]
	for _, name := range o.names[behind:] {
		if b.nodes[name].omitted && (of == nil || !slices.ContainsFunc(of.nodes[name], blocking)) {
			n++
		}
	}
	return n
}

func severity(reason string) int {
	switch reason {
	case k8s.ReasonRefused:
		return 0
	case k8s.ReasonTooLarge:
		return 1
	case k8s.ReasonUnsupported:
		return 2
	}
	return 3
}

func firstBlocker(reasons []NodeReason) *NodeReason {
	if len(reasons) == 0 || reasons[0].Note {
		return nil
	}
	return &reasons[0]
}

// conditionReason is the condition's reason for a node's.
func conditionReason(reason string) string {
	if reason == k8s.ReasonUnsupported {
		return ReasonNotEnforced
	}
	return reason // TooLarge, Refused
}

func problem(reason string) string {
	switch reason {
	case k8s.ReasonRefused:
		return "refused"
	case k8s.ReasonTooLarge:
		return "too large to be enforced"
	}
	return "not enforced as written"
}

// explain says what the fields are and what to do.
func explain(r *NodeReason) string {
	var b strings.Builder
	for i, f := range r.Fields[:min(len(r.Fields), maxNamed)] {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		if f.Field != "" {
			b.WriteString(f.Field + ": ")
		}
		b.WriteString(f.Message)
	}
	if more := len(r.Fields) - maxNamed; more > 0 {
		fmt.Fprintf(&b, "; and %d fields more", more)
	}
	return b.String()
}

// waiting says how many nodes are behind, names some, and says why the first of them that knows is.
func (b *Board) waiting(behind []string, absent int) string {
	if len(behind) == 0 {
		return ""
	}
	var text strings.Builder
	part := func(verb string, n int, which func(*boardNode) bool) {
		if n == 0 {
			return
		}
		var names []string
		for _, name := range behind {
			if len(names) == maxNamed && n > maxNamed {
				break
			}
			if which(b.nodes[name]) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		fmt.Fprintf(&text, "; %d %s: %s", n, verb, strings.Join(names, ", "))
		if n > len(names) {
			text.WriteString(", …")
		}
	}
	part("waiting", len(behind)-absent, func(n *boardNode) bool { return n.facts.Ready })
	part("not ready", absent, func(n *boardNode) bool { return !n.facts.Ready })
	why := ""
	for _, name := range behind {
		n := b.nodes[name]
		if n.phase == PhaseFailing && n.valid() && (why == "" || name < why) {
			why = name
		}
	}
	switch {
	case why != "":
		fmt.Fprintf(&text, "; %s says: %s", why, b.nodes[why].failure)
	case len(behind) <= maxNamed:
		for _, name := range behind {
			if n := b.nodes[name]; n.facts.Ready && !n.valid() {
				fmt.Fprintf(&text, "; %s %s", name, n.silence())
			}
		}
	}
	return text.String()
}

// silence says why there is no valid report.
func (n *boardNode) silence() string {
	if n.own() {
		return "has not reported since it was started anew"
	}
	return "has not reported yet"
}
