// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// 5,000 nodes see a change every ten seconds, meet an outage of the server, and half of them start anew together.
func TestFleetKeepsToItsRate(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		const size = 5000
		c := newCluster()
		first, end := context.WithCancel(ctx)
		defer end()
		reporters := append(fleet(t, first, c, size)[:size/2], fleet(t, ctx, c, size)[size/2:]...)
		all := func(reporters []*Reporter, v int) {
			for _, r := range reporters {
				r.Applied(refs("NetworkPolicy", v), nil, time.Now())
			}
		}
		start := time.Now()
		for v := range 120 {
			all(reporters, v)
			time.Sleep(10 * time.Second)
			switch v {
			case 30:
				c.fail(errors.New("no server"))
			case 45:
				c.fail(nil)
			case 80:
				end()
				synctest.Wait()
				copy(reporters, fleet(t, ctx, c, size)[:size/2])
			}
		}
		all(reporters, 1000)
		time.Sleep(2 * size * time.Second / FleetRate)
		elapsed := time.Since(start)
		behind := 0
		for i := range reporters {
			if mark(c.node(fmt.Sprintf("n%d", i)), "NetworkPolicy") != "1000" {
				behind++
			}
		}
		if behind > 0 {
			t.Errorf("%d nodes have not told of the last change", behind)
		}
		rate, second, ten := float64(c.count())/elapsed.Seconds(), c.busiest(time.Second), c.busiest(10*time.Second)
		t.Logf("%d writes in %v: %.1f a second; at most %d in any second, %d in any 10 s", c.count(), elapsed, rate, second, ten)
		if rate > 50 || second > 50 || ten > 500 {
			t.Error("that is too much")
		}
	})
}

// One change in a quiet fleet: everybody writes once, evenly, and it is over when it should be.
func TestFleetTakesTurns(t *testing.T) {
	for _, size := range []int{2, 45, 500, 5000} {
		bubble(t, func(t *testing.T, ctx context.Context) {
			c := newCluster()
			for _, r := range fleet(t, ctx, c, size) {
				r.Applied(refs("NetworkPolicy", 1), nil, time.Now())
			}
			start := time.Now()
			expected := time.Duration(size)*time.Second/FleetRate + settleTime
			time.Sleep(expected)
			if n := c.count(); n != size {
				t.Errorf("%d nodes: %d have written after %v", size, n, expected)
			}
			took := c.writes[len(c.writes)-1].Sub(start)
			if most := c.busiest(time.Second); most > 50 {
				t.Errorf("%d nodes: %d writes in one second", size, most)
			}
			t.Logf("%d nodes: all told within %v, at most %d writes in any second", size, took.Round(time.Millisecond), c.busiest(time.Second))
		})
	}
}

// 5,000 nodes in turn, 400 policies created together and then one changed every ten seconds, a node that comes with it:
// what the operator writes stays within its budgets, and all is told in the end.
func TestOperatorKeepsToItsRates(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		const size, policies = 5000, 400
		p := newPaper()
		var names []string
		for i := range size {
			names = append(names, fmt.Sprintf("n%04d", i))
		}
		w := writing(ctx, p, names...)
		w.Restore(nil)
		go run(ctx, w)
		version := 0
		change := func(i int, generation int64) {
			version++
			w.SetPolicy(cnp(fmt.Sprintf("p%03d", i), generation), uint64(version))
		}
		for i := range policies {
			change(i, 1)
		}
		node, turns := 0, time.Second/FleetRate
		step := func(d time.Duration) { // nodes report in turn
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(turns) {
				w.report(cnpSays(names[node%size], version))
				node++
			}
		}
		start := time.Now()
		step(3 * time.Minute)
		enforced := 0
		for i := range policies {
			if p.reason(cnp(fmt.Sprintf("p%03d", i), 1).Key()) == ReasonEnforced {
				enforced++
			}
		}
		t.Logf("3 minutes after %d policies were created: %d are told to be enforced", policies, enforced)
		generation := int64(2)
		for i := range 12 {
			change(i, generation)
			w.Board(func(b *Board) { b.SetNode(fmt.Sprintf("m%d", i), NodeFacts{UID: "u", Ready: true}) })
			w.report(&WeirNode{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m%d", i)}, Status: NodeStatus{Phase: PhaseEnforcing, Kinds: []KindMark{{"CiliumNetworkPolicy", "1000000", policies}}}})
			step(10 * time.Second)
		}
		step(2 * time.Minute)
		late := 0
		for i := range policies {
			if p.reason(cnp(fmt.Sprintf("p%03d", i), 1).Key()) != ReasonEnforced {
				late++
			}
		}
		if late > 0 {
			t.Errorf("%d policies are not told to be enforced in the end", late)
		}
		elapsed := time.Since(start)
		for _, what := range []string{writeStatus, writeCondition, writeEvent} {
			c := cluster{writes: p.writes[what]}
			second, minute := c.busiest(time.Second), c.busiest(time.Minute)
			t.Logf("%s: %d writes in %v, %.1f a second; at most %d in any second, %d in any minute", what, p.count(what), elapsed, float64(p.count(what))/elapsed.Seconds(), second, minute)
			if most := map[string]int{writeStatus: 60*StatusRate + statusBurst, writeEvent: 60*StatusRate + statusBurst, writeCondition: 60*MirrorRate + mirrorBurst}[what]; minute > most+1 {
				t.Errorf("%s: %d in a minute are more than %d", what, minute, most)
			}
		}
		if len(p.took) != policies+12 {
			t.Errorf("%d policies' times were told, want %d", len(p.took), policies+12)
		}
		for key, e := range p.events {
			if len(e) > 2 {
				t.Errorf("%s: %d events", key.Name, len(e))
			}
		}
	})
}
