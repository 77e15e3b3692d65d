// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/k8s"
)

// paper is a stateful fake of what a Writer writes to.
type paper struct {
	mu         sync.Mutex
	statuses   map[PolicyKey]*PolicyStatus
	conditions map[PolicyKey]metav1.Condition
	events     map[PolicyKey][]string
	writes     map[string][]time.Time
	took       []time.Duration
	failing    error
}

func newPaper() *paper {
	return &paper{statuses: map[PolicyKey]*PolicyStatus{}, conditions: map[PolicyKey]metav1.Condition{}, events: map[PolicyKey][]string{}, writes: map[string][]time.Time{}}
}

func (p *paper) do(f func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failing != nil {
		return p.failing
	}
	f()
	return nil
}

func (p *paper) WriteStatus(_ context.Context, s *PolicyStatus, fresh bool) error {
	key := PolicyKey{s.Policy.Kind, s.Namespace, s.Policy.Name}
	return p.do(func() {
		if old := p.statuses[key]; old != nil && old.Policy.UID != s.Policy.UID {
			panic("the status of another policy is written over")
		}
		p.statuses[key] = s
	})
}

func (p *paper) DeleteStatus(_ context.Context, key PolicyKey, uid string) error {
	return p.do(func() {
		if s := p.statuses[key]; s != nil && s.Policy.UID == uid {
			delete(p.statuses, key)
		}
	})
}

func (p *paper) SetCondition(_ context.Context, policy *Policy, c metav1.Condition) error {
	return p.do(func() { p.conditions[policy.Key()] = c })
}

func (p *paper) Tell(_ context.Context, policy *Policy, e Event) error {
	return p.do(func() {
		kind := "Normal"
		if e.Warning {
			kind = "Warning"
		}
		p.events[policy.Key()] = append(p.events[policy.Key()], kind+" "+e.Reason+" "+e.Message)
	})
}

func (p *paper) Enforced(took time.Duration) { p.took = append(p.took, took) }

func (p *paper) Wrote(what string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes[what] = append(p.writes[what], time.Now())
}

func (p *paper) count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.writes[what])
}

// reason is that of the condition in a PolicyStatus; empty if there is none.
func (p *paper) reason(key PolicyKey) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.statuses[key]; s != nil {
		return s.Status.Conditions[0].Reason
	}
	return ""
}

func (p *paper) told(key PolicyKey) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events[key])
}

// writing is a Writer that ticks, on a board with nodes that report nothing.
func writing(ctx context.Context, p *paper, nodes ...string) *Writer {
	w := NewWriter(p, p, p, quiet())
	w.Board(func(b *Board) {
		for _, n := range nodes {
			b.SetNode(n, NodeFacts{UID: "uid-" + n, BootID: "boot", Ready: true, Expected: true})
		}
	})
	return w
}

func run(ctx context.Context, w *Writer) {
	for ctx.Err() == nil {
		w.Tick(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
}

func (w *Writer) report(r *WeirNode) { w.Board(func(b *Board) { b.SetReport(r) }) }

// cnp is a policy with a status of its own.
func cnp(name string, generation int64) Policy {
	return Policy{Kind: "CiliumNetworkPolicy", Namespace: "shop", Name: name, UID: "u-" + name, APIVersion: "cilium.io/v2", Generation: generation}
}

func cnpSays(node string, version int, change ...func(*WeirNode)) *WeirNode {
	n := says(node, version, change...)
	n.Status.Kinds[0].Kind = "CiliumNetworkPolicy"
	for i := range n.Status.Exceptions {
		n.Status.Exceptions[i].Kind = "CiliumNetworkPolicy"
	}
	return n
}

// In a small cluster all is said once: status, condition and Event, as soon as the last node has reported.
func TestSmallClusterIsWrittenOnce(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		p := newPaper()
		w := writing(ctx, p, "n1", "n2")
		w.Restore(nil)
		go run(ctx, w)
		api := cnp("web", 1)
		w.SetPolicy(api, 100)
		time.Sleep(300 * time.Millisecond)
		w.report(cnpSays("n1", 100))
		time.Sleep(300 * time.Millisecond)
		w.report(cnpSays("n2", 100))
		time.Sleep(time.Second)
		s := p.statuses[api.Key()]
		if s == nil || s.Name != "ciliumnetworkpolicy.web" || s.Namespace != "shop" || s.Status.Summary != "2/2" || s.Status.EnforcedAt == nil ||
			string(s.OwnerReferences[0].UID) != "u-web" || s.Status.Conditions[0].ObservedGeneration != 1 || s.Status.ResourceVersion != "100" {
			t.Fatalf("status %+v", s)
		}
		if c := p.conditions[api.Key()]; c.Status != "True" || c.Message != "enforced on 2 of 2 nodes" || c.ObservedGeneration != 1 || c.LastTransitionTime.IsZero() {
			t.Errorf("condition %+v", c)
		}
		if e := p.told(api.Key()); len(e) != 1 || e[0] != "Normal Enforced generation 1: enforced on 2 of 2 nodes, 1s after it changed" {
			t.Errorf("events %q", e)
		}
		time.Sleep(time.Hour)
		for what, times := range p.writes {
			if len(times) != 1 {
				t.Errorf("%d writes of %s", len(times), what)
			}
		}
		if len(p.took) != 1 || p.took[0] < 500*time.Millisecond || p.took[0] > time.Second {
			t.Errorf("it took %v", p.took)
		}
	})
}

// What takes longer is said to be going on, more and more seldom.
func TestProgressIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		p := newPaper()
		var nodes []string
		for i := range 600 {
			nodes = append(nodes, fmt.Sprintf("n%d", i))
		}
		w := writing(ctx, p, nodes...)
		w.Restore(nil)
		go run(ctx, w)
		api := cnp("web", 1)
		w.SetPolicy(api, 100)
		for _, n := range nodes {
			w.report(cnpSays(n, 100))
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Second)
		if p.reason(api.Key()) != ReasonEnforced {
			t.Errorf("it ends as %s", p.reason(api.Key()))
		}
		if n := p.count(writeStatus); n < 15 || n > 40 {
			t.Errorf("%d writes of progress in ten minutes", n)
		}
		if n := p.count(writeCondition); n < 5 || n > 25 {
			t.Errorf("%d writes of conditions in ten minutes", n)
		}
		if e := p.told(api.Key()); len(e) != 1 {
			t.Errorf("events %q", e)
		}
	})
}

func TestWhatCannotBeEnforcedIsToldOnceForEachChange(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		p := newPaper()
		w := writing(ctx, p, "n1")
		w.Restore(nil)
		go run(ctx, w)
		w.SetPolicy(cnp("web", 1), 100)
		broken := func(version int, field string) {
			w.report(cnpSays("n1", version, except(k8s.ReasonUnsupported, field, "not supported. Remove it.")))
			time.Sleep(10 * time.Second)
		}
		broken(100, "spec.x")
		broken(110, "spec.x") // of other policies
		w.SetPolicy(cnp("web", 2), 120)
		broken(120, "spec.y")
		w.SetPolicy(cnp("web", 3), 130)
		w.report(cnpSays("n1", 130))
		time.Sleep(10 * time.Second)
		want := []string{
			"Warning NotEnforceable generation 1: not enforced as written on 1 of 1 node: spec.x: not supported. Remove it.",
			"Warning NotEnforceable generation 2: not enforced as written on 1 of 1 node: spec.y: not supported. Remove it.",
			"Normal Enforced generation 3: enforced on 1 of 1 node",
		}
		if got := p.told(cnp("web", 1).Key()); !slices.Equal(got, want) {
			t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// Also of a policy that cannot be enforced it is said when the last node has applied it.
func TestTheLastNodeIsToldAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		p := newPaper()
		w := writing(ctx, p, "n1", "n2")
		w.Restore(nil)
		go run(ctx, w)
		w.SetPolicy(cnp("web", 1), 100)
		w.report(cnpSays("n1", 100, except(k8s.ReasonUnsupported, "spec.x", "not supported")))
		time.Sleep(5 * time.Second)
		w.report(cnpSays("n2", 100, except(k8s.ReasonUnsupported, "spec.x", "not supported")))
		time.Sleep(time.Second)
		if m := p.statuses[cnp("web", 1).Key()].Status.Conditions[0].Message; m != "not enforced as written on 2 of 2 nodes: spec.x: not supported" {
			t.Error(m)
		}
	})
}

// A node that is started anew enforces nothing for a while. Nobody is told unless that lasts; then everybody is.
func TestFallingBackIsToldIfItLasts(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		p := newPaper()
		w := writing(ctx, p, "n1", "n2")
		w.Restore(nil)
		go run(ctx, w)
		api := cnp("web", 1)
		w.SetPolicy(api, 100)
		w.report(cnpSays("n1", 100))
		w.report(cnpSays("n2", 100))
		time.Sleep(5 * time.Second)
		boot := func(id string) {
			w.Board(func(b *Board) { b.SetNode("n2", NodeFacts{UID: "uid-n2", BootID: id, Ready: true, Expected: true}) })
		}
		boot("another")
		time.Sleep(20 * time.Second)
		boot("boot")
		time.Sleep(20 * time.Second)
		if n := p.count(writeStatus); n != 1 {
			t.Errorf("%d writes after a short time", n)
		}
		boot("another")
		time.Sleep(40 * time.Second)
		if p.reason(api.Key()) != ReasonProgressing || p.conditions[api.Key()].Reason != ReasonProgressing {
			t.Errorf("after a long time it is %s, and %s", p.reason(api.Key()), p.conditions[api.Key()].Reason)
		}
		boot("boot")
		time.Sleep(5 * time.Second)
		if p.reason(api.Key()) != ReasonEnforced || len(p.told(api.Key())) != 1 {
			t.Errorf("at last it is %s, and was told as %q", p.reason(api.Key()), p.told(api.Key()))
		}
	})
}

func TestAnotherPolicyOfTheSameName(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		p := newPaper()
		w := writing(ctx, p, "n1")
		w.Restore(nil)
		go run(ctx, w)
		w.SetPolicy(cnp("web", 1), 100)
		w.report(cnpSays("n1", 100))
		time.Sleep(3 * time.Second)
		w.DeletePolicy(cnp("web", 1).Key())
		other := cnp("web", 1)
		other.UID = "u-other"
		w.SetPolicy(other, 200)
		w.report(cnpSays("n1", 200))
		time.Sleep(3 * time.Second)
		if s := p.statuses[other.Key()]; s == nil || s.Policy.UID != "u-other" || s.Status.Summary != "1/1" {
			t.Errorf("status %+v", s)
		}
		w.DeletePolicy(other.Key())
		time.Sleep(3 * time.Second)
		if len(p.statuses) != 0 {
			t.Errorf("it is still there: %v", p.statuses)
		}
	})
}

// A successor knows from the cluster what was told, and goes on with the versions that were to be reached.
func TestSuccessorGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		p := newPaper()
		first, stop := context.WithCancel(ctx)
		w := writing(first, p, "n1", "n2")
		w.Restore(nil)
		go run(first, w)
		done, open, gone := cnp("done", 3), cnp("open", 1), cnp("gone", 1)
		w.SetPolicy(done, 100)
		w.SetPolicy(gone, 100)
		w.report(cnpSays("n1", 200))
		w.report(cnpSays("n2", 100))
		w.SetPolicy(open, 200)
		time.Sleep(10 * time.Second)
		stop()
		time.Sleep(time.Second)
		if p.reason(open.Key()) != ReasonProgressing {
			t.Fatalf("the first one leaves %s", p.reason(open.Key()))
		}
		before := map[string]int{}
		for what := range p.writes {
			before[what] = p.count(what)
		}

		w = writing(ctx, p, "n1", "n2")
		w.report(cnpSays("n1", 200))
		w.report(cnpSays("n2", 100))
		w.SetPolicy(done, 150) // a condition was written into it, which no node has to follow
		w.SetPolicy(open, 250)
		var stored []*PolicyStatus
		for _, s := range p.statuses {
			stored = append(stored, s)
		}
		w.Restore(stored)
		go run(ctx, w)
		time.Sleep(10 * time.Second)
		if p.reason(done.Key()) != ReasonEnforced || p.reason(open.Key()) != ReasonProgressing || p.reason(gone.Key()) != "" {
			t.Errorf("done is %s, open %s, gone %s", p.reason(done.Key()), p.reason(open.Key()), p.reason(gone.Key()))
		}
		if n := p.count(writeStatus) - before[writeStatus]; n > 0 {
			t.Errorf("%d statuses were written again", n)
		}
		w.report(cnpSays("n2", 200))
		time.Sleep(3 * time.Second)
		if p.reason(open.Key()) != ReasonEnforced {
			t.Errorf("at last open is %s", p.reason(open.Key()))
		}
		for _, key := range []PolicyKey{done.Key(), open.Key()} {
			if e := p.told(key); len(e) != 1 {
				t.Errorf("events of %s: %q", key.Name, e)
			}
		}
	})
}

func TestWhatCannotBeWrittenIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		p := newPaper()
		w := writing(ctx, p, "n1")
		w.Restore(nil)
		go run(ctx, w)
		p.mu.Lock()
		p.failing = errors.New("no server")
		p.mu.Unlock()
		api := cnp("web", 1)
		w.SetPolicy(api, 100)
		w.report(cnpSays("n1", 100))
		time.Sleep(5 * time.Minute)
		if n := p.count(writeStatus); n < 5 || n > 20 {
			t.Errorf("%d attempts in 5 minutes", n)
		}
		p.mu.Lock()
		p.failing = nil
		p.mu.Unlock()
		time.Sleep(3 * time.Minute)
		if p.reason(api.Key()) != ReasonEnforced || p.conditions[api.Key()].Status != "True" || len(p.told(api.Key())) != 1 {
			t.Errorf("afterwards it is %s, condition %+v, events %q", p.reason(api.Key()), p.conditions[api.Key()], p.told(api.Key()))
		}
	})
}

func TestStatusThatSomebodyDeletedComesBack(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		p := newPaper()
		w := writing(ctx, p, "n1")
		w.Restore(nil)
		go run(ctx, w)
		api := cnp("web", 1)
		w.SetPolicy(api, 100)
		w.report(cnpSays("n1", 100))
		time.Sleep(relist)
		p.mu.Lock()
		delete(p.statuses, api.Key())
		p.mu.Unlock()
		w.Restore(nil)
		time.Sleep(3 * time.Second)
		if p.reason(api.Key()) != ReasonEnforced {
			t.Error("it did not")
		}
	})
}
