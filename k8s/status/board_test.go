// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/k8s"
)

var webKey = PolicyKey{"NetworkPolicy", "shop", "web"}

// scene is a board with one policy, web, in generation 2, seen at version 100, and nodes that are ready and do not report.
func scene(nodes ...string) *Board {
	b := NewBoard()
	b.SetPolicy(web(2, false), 100)
	for _, n := range nodes {
		b.SetNode(n, NodeFacts{UID: "uid-" + n, BootID: "boot", Ready: true, Expected: true})
	}
	return b
}

func web(generation int64, audited bool) Policy {
	return Policy{Kind: "NetworkPolicy", Namespace: "shop", Name: "web", UID: "u", APIVersion: "networking.k8s.io/v1", Generation: generation, Audited: audited}
}

// says is the report of a node of a scene.
func says(name string, version int, change ...func(*WeirNode)) *WeirNode {
	n := &WeirNode{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{{Kind: "Node", Name: name, UID: types.UID("uid-" + name)}}}}
	n.Status = NodeStatus{Phase: PhaseEnforcing, BootID: "boot", Kinds: []KindMark{{"NetworkPolicy", fmt.Sprint(version), 1}}}
	for _, c := range change {
		c(n)
	}
	return n
}

func except(reason, field, message string) func(*WeirNode) {
	return func(n *WeirNode) {
		n.Status.Exceptions = append(n.Status.Exceptions, Exception{"NetworkPolicy", "shop", "web", reason, field, message})
	}
}

func TestOutcomes(t *testing.T) {
	cleaned := func(n *WeirNode) { n.Status = NodeStatus{Phase: PhaseCleaned, BootID: n.Status.BootID} }
	failing := func(n *WeirNode) { n.Status.Phase, n.Status.Failure = PhaseFailing, "no room" }
	for name, c := range map[string]struct {
		board   func() *Board
		status  metav1.ConditionStatus
		reason  string
		summary string
		message string
	}{
		"no nodes": {func() *Board { return scene() }, "Unknown", ReasonNoNodes, "0/0", "no node runs weir"},
		"all enforce it": {func() *Board {
			b := scene("n1", "n2")
			b.SetReport(says("n1", 100))
			b.SetReport(says("n2", 130))
			return b
		}, "True", ReasonEnforced, "2/2", "enforced on 2 of 2 nodes"},
		"versions are numbers": {func() *Board {
			b := scene("n1")
			b.SetReport(says("n1", 99))
			return b
		}, "False", ReasonProgressing, "0/1", "enforced on 0 of 1 node; 1 waiting: n1"},
		"some wait": {func() *Board {
			b := scene("n1", "n2", "n3")
			b.SetReport(says("n1", 100))
			b.SetReport(says("n3", 50))
			return b
		}, "False", ReasonProgressing, "1/3", "enforced on 1 of 3 nodes; 2 waiting: n2, n3; n2 has not reported yet"},
		"many wait": {func() *Board {
			b := scene()
			for i := range 5000 {
				n := fmt.Sprintf("n%04d", i)
				b.SetNode(n, NodeFacts{UID: "uid-" + n, Ready: true, Expected: true})
				b.SetReport(says(n, 100-i%2))
			}
			return b
		}, "False", ReasonProgressing, "2500/5000", "enforced on 2500 of 5000 nodes; 2500 waiting: n0001, n0003, n0005, …"},
		"one cannot": {func() *Board {
			b := scene("n1", "n2")
			b.SetReport(says("n1", 100))
			b.SetReport(says("n2", 50, failing))
			return b
		}, "False", ReasonNodesFailing, "1/2", "enforced on 1 of 2 nodes; 1 waiting: n2; n2 says: no room"},
		"one cannot do what is newer": {func() *Board {
			b := scene("n1")
			b.SetReport(says("n1", 100, failing))
			return b
		}, "True", ReasonEnforced, "1/1", "enforced on 1 of 1 node"},
		"one is not ready and behind": {func() *Board {
			b := scene("n1", "n2")
			b.SetReport(says("n1", 100))
			b.SetReport(says("n2", 50))
			b.SetNode("n2", NodeFacts{UID: "uid-n2", BootID: "boot"})
			return b
		}, "Unknown", ReasonNodesNotReady, "1/2", "enforced on 1 of 2 nodes; 1 not ready: n2"},
		"one is not ready and up to date": {func() *Board {
			b := scene("n1")
			b.SetReport(says("n1", 100))
			b.SetNode("n1", NodeFacts{UID: "uid-n1", BootID: "boot"})
			return b
		}, "True", ReasonEnforced, "1/1", "enforced on 1 of 1 node"},
		"one was started anew": {func() *Board {
			b := scene("n1")
			b.SetReport(says("n1", 100))
			b.SetNode("n1", NodeFacts{UID: "uid-n1", BootID: "later", Ready: true})
			return b
		}, "False", ReasonProgressing, "0/1", "enforced on 0 of 1 node; 1 waiting: n1; n1 has not reported since it was started anew"},
		"a report is of an earlier node of the name": {func() *Board {
			b := scene("n1")
			b.SetReport(says("n1", 100, func(n *WeirNode) { n.OwnerReferences[0].UID = "before" }))
			return b
		}, "False", ReasonProgressing, "0/1", "enforced on 0 of 1 node; 1 waiting: n1; n1 has not reported yet"},
		"weir has left a node": {func() *Board {
			b := scene("n1", "n2")
			b.SetReport(says("n1", 100))
			b.SetReport(says("n2", 100, cleaned))
			return b
		}, "True", ReasonEnforced, "1/1", "enforced on 1 of 1 node"},
		"weir is not meant to run on a node": {func() *Board {
			b := scene("n1", "n2")
			b.SetReport(says("n1", 100))
			b.SetNode("n2", NodeFacts{UID: "uid-n2", Ready: true})
			return b
		}, "True", ReasonEnforced, "1/1", "enforced on 1 of 1 node"},
		"it runs there all the same": {func() *Board {
			b := scene("n1", "n2")
			b.SetReport(says("n1", 100))
			b.SetNode("n2", NodeFacts{UID: "uid-n2", Ready: true})
			b.SetReport(says("n2", 90))
			return b
		}, "False", ReasonProgressing, "1/2", "enforced on 1 of 2 nodes; 1 waiting: n2"},
		"a node has gone": {func() *Board {
			b := scene("n1", "n2")
			b.SetReport(says("n1", 100))
			b.SetReport(says("n2", 50))
			b.DeleteNode("n2")
			return b
		}, "True", ReasonEnforced, "1/1", "enforced on 1 of 1 node"},
		"it cannot be enforced": {func() *Board {
			b := scene("n1", "n2")
			b.SetReport(says("n1", 100, except(k8s.ReasonUnsupported, "spec.x", "not supported. Remove x.")))
			b.SetReport(says("n2", 100, except(k8s.ReasonUnsupported, "", "")))
			return b
		}, "False", ReasonNotEnforced, "0/2", "not enforced as written on 2 of 2 nodes: spec.x: not supported. Remove x."},
		"it could not be enforced before it was changed": {func() *Board {
			b := scene("n1")
			b.SetReport(says("n1", 99, except(k8s.ReasonUnsupported, "spec.x", "not supported")))
			return b
		}, "False", ReasonProgressing, "0/1", "enforced on 0 of 1 node; 1 waiting: n1"},
		"it is too large on one node": {func() *Board {
			b := scene("n1", "n2")
			b.SetReport(says("n1", 100, except(k8s.ReasonTooLarge, "", "too large by 3 bytes")))
			b.SetReport(says("n2", 100))
			return b
		}, "False", ReasonTooLarge, "1/2", "too large to be enforced on 1 of 2 nodes: too large by 3 bytes"},
		"a note does not matter": {func() *Board {
			b := scene("n1")
			b.SetReport(says("n1", 100, except(k8s.ReasonUnresolved, "spec.y", "there is no such Service")))
			return b
		}, "True", ReasonEnforced, "1/1", "enforced on 1 of 1 node"},
		"a node does not list all": {func() *Board {
			b := scene("n1")
			b.SetReport(says("n1", 100, func(n *WeirNode) { n.Status.ExceptionsOmitted = 1 }))
			return b
		}, "Unknown", ReasonUnlisted, "0/1", "enforced on 0 of 1 node; 1 have more policies that are not enforced as written than they list"},
		"under audit": {func() *Board {
			b := scene("n1")
			b.SetPolicy(web(2, true), 120)
			b.SetReport(says("n1", 120))
			return b
		}, "False", ReasonAudited, "0/1", "under audit on 1 of 1 node: what it would drop is counted and logged, nothing is enforced"},
		"to be under audit": {func() *Board {
			b := scene("n1")
			b.SetPolicy(web(2, true), 120)
			b.SetReport(says("n1", 119))
			return b
		}, "False", ReasonProgressing, "0/1", "under audit on 0 of 1 node: what it would drop is counted and logged, nothing is enforced; 1 waiting: n1"},
	} {
		b := c.board()
		o := b.Evaluate(webKey)
		if o.Status != c.status || o.Reason != c.reason || o.State.Summary != c.summary || b.Message(&o) != c.message {
			t.Errorf("%s: %s %s %s %q\nwant %s %s %s %q", name, o.Status, o.Reason, o.State.Summary, b.Message(&o), c.status, c.reason, c.summary, c.message)
		}
	}
}

// Writing a condition into a policy's status gives it a new version, which must not make it another one to wait for.
func TestOnlyWhatChangesEnforcementIsNews(t *testing.T) {
	b := scene("n1")
	b.SetReport(says("n1", 100))
	if b.SetPolicy(web(2, false), 150) {
		t.Error("a new version of the same generation is news")
	}
	if o := b.Evaluate(webKey); o.Reason != ReasonEnforced {
		t.Errorf("then it is %s", o.Reason)
	}
	version := uint64(200)
	for _, p := range []Policy{web(3, false), web(3, true), web(3, false)} {
		version += 10
		if !b.SetPolicy(p, version) {
			t.Errorf("%+v is no news", p)
		}
		if o := b.Evaluate(webKey); o.State.Applied != 0 {
			t.Errorf("%+v is applied by who has not seen it", p)
		}
		b.SetReport(says("n1", int(version)))
		if o := b.Evaluate(webKey); o.State.Applied != 1 {
			t.Errorf("%+v is not applied", p)
		}
	}
	again := web(3, false)
	again.UID = "another"
	if !b.SetPolicy(again, version+1) || b.Evaluate(webKey).State.Applied != 0 {
		t.Error("another policy of the same name counts as the one before")
	}
}

func TestReportsReplaceEachOther(t *testing.T) {
	b := scene("n1", "n2")
	for range 3 {
		b.SetReport(says("n1", 100, except(k8s.ReasonUnsupported, "spec.x", "x"), except(k8s.ReasonUnsupported, "spec.y", "y"), except(k8s.ReasonUnresolved, "spec.z", "z")))
		b.SetReport(says("n2", 100, except(k8s.ReasonUnsupported, "spec.x", "x")))
	}
	o := b.Evaluate(webKey)
	if len(o.State.Reasons) != 2 || o.State.Reasons[0].Nodes != 2 || len(o.State.Reasons[0].Fields) != 2 || !o.State.Reasons[1].Note || o.State.Reasons[1].Nodes != 1 {
		t.Errorf("reasons %+v", o.State.Reasons)
	}
	b.SetReport(says("n1", 100))
	if o = b.Evaluate(webKey); len(o.State.Reasons) != 1 || o.State.Reasons[0].Nodes != 1 || len(o.State.Reasons[0].Fields) != 1 {
		t.Errorf("then %+v", o.State.Reasons)
	}
	b.DeleteReport("n2")
	if o = b.Evaluate(webKey); len(o.State.Reasons) != 0 || len(b.notes) != 0 || len(b.names) != 0 {
		t.Errorf("then %+v; %v, %v are kept", o.State.Reasons, b.notes, b.names)
	}
	b.DeleteNode("n2")
	b.DeleteNode("n1")
	b.DeleteReport("n1")
	if len(b.nodes) != 0 {
		t.Errorf("nodes %v are kept", b.nodes)
	}
}

// ARCHITECTURE.md has one row for each reason of the condition.
func TestReasonsAreInARCHITECTURE(t *testing.T) {
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## How far a policy is enforced\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var got []string
	for _, row := range regexp.MustCompile("(?m)^\\| (?:True|False|Unknown) \\| `([A-Za-z]+)` \\|").FindAllStringSubmatch(section, -1) {
		got = append(got, row[1])
	}
	want := []string{ReasonEnforced, ReasonProgressing, ReasonNodesFailing, ReasonNotEnforced, ReasonTooLarge, ReasonRefused, ReasonAudited,
		ReasonNodesNotReady, ReasonUnlisted, ReasonNoNodes}
	if !slices.Equal(got, want) {
		t.Errorf("reasons in ARCHITECTURE.md: %q, want %q", got, want)
	}
}

func TestStatusNames(t *testing.T) {
	long := strings.Repeat("a", 253)
	one, two := StatusName("CiliumClusterwideNetworkPolicy", long), StatusName("CiliumClusterwideNetworkPolicy", long[:252]+"b")
	if len(one) > 253 || one == two {
		t.Errorf("%q and %q", one, two)
	}
	if got := StatusName("NetworkPolicy", "web"); got != "networkpolicy.web" {
		t.Error(got)
	}
}

func TestKindsByAnyName(t *testing.T) {
	for name, want := range map[string]string{"netpol": "NetworkPolicy", "NetworkPolicy": "NetworkPolicy", "networkpolicies.networking.k8s.io": "NetworkPolicy",
		"cnp": "CiliumNetworkPolicy", "ccnp": "CiliumClusterwideNetworkPolicy", "clusternetworkpolicy": "ClusterNetworkPolicy", "pods": ""} {
		if k, _ := FindKind(name); k.Name != want {
			t.Errorf("%s is %q, want %q", name, k.Name, want)
		}
	}
}

// 5,000 nodes that each list exceptions of 100 policies, of 1,000.
func BenchmarkBoard(b *testing.B) {
	board := NewBoard()
	for i := range 1000 {
		board.SetPolicy(Policy{Kind: "NetworkPolicy", Namespace: "shop", Name: fmt.Sprintf("p%d", i), UID: fmt.Sprint(i), Generation: 1}, uint64(1+i))
	}
	reports := make([]*WeirNode, 5000)
	for i := range reports {
		n := fmt.Sprintf("n%d", i)
		board.SetNode(n, NodeFacts{UID: "uid-" + n, BootID: "boot", Ready: true, Expected: true})
		reports[i] = says(n, 500+i%1000, func(n *WeirNode) {
			for j := range 100 {
				n.Status.Exceptions = append(n.Status.Exceptions, Exception{Kind: "NetworkPolicy", Namespace: "shop", Name: fmt.Sprintf("p%d", j), Reason: k8s.ReasonUnsupported})
			}
		})
		board.SetReport(reports[i])
	}
	keys := board.Keys()
	b.Run("one report, all policies evaluated", func(b *testing.B) {
		for i := range b.N {
			board.SetReport(reports[i%len(reports)])
			for _, k := range keys {
				board.Evaluate(k)
			}
		}
	})
}
