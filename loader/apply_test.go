// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// clock is a time that only moves when it is told to.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

func newClock() *clock { return &clock{time.Unix(1700000000, 0)} }

func testConfig(c *clock) Config {
	return Config{
		Sizes: Sizes{ImageBytes: 1 << 18, Addr4Blocks: 32, Flows: 1024, FlowsNew: 1024, Fragments: 64},
		Log:   slog.New(slog.DiscardHandler), Now: c.read,
	}
}

func openTables(t testing.TB, c *clock) *Tables {
	t.Helper()
	tables, err := Open(testConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeTables(t, tables) })
	return tables
}

func closeTables(t testing.TB, tables *Tables) {
	t.Helper()
	if err := tables.Close(); err != nil {
		t.Error(err)
	}
}

// takeOver opens the maps of tables anew, as an agent does that finds the pins of a killed one.
func takeOver(t *testing.T, tables *Tables) *Tables {
	t.Helper()
	next := &Tables{
		log: tables.log, now: tables.now, monotonic: tables.monotonic, vxlanPort: tables.vxlanPort, writes: &writes{},
		maps: make(map[string]*ebpf.Map), memory: make(map[string]*words), lingering: make(map[prefix4]linger), bumpDue: true,
	}
	for name, m := range tables.maps {
		clone, err := m.Clone()
		if err != nil {
			t.Fatal(err)
		}
		next.maps[name] = clone
	}
	if err := next.open(); err != nil {
		t.Fatal(err)
	}
	return next
}

func apply(t testing.TB, tables *Tables, p *policy.Planner, m *policy.Model) *policy.Plan {
	t.Helper()
	plan, err := p.Plan(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := tables.Apply(context.Background(), plan); err != nil {
		t.Fatal(err)
	}
	p.Commit(plan)
	return plan
}

// seen answers flows from nothing but what the programs can see.
type seen struct{ tables *Tables }

func (s seen) answers(t *testing.T, all []flow) map[flow]bool {
	t.Helper()
	img, err := s.tables.image.decode()
	if err != nil || img == nil {
		t.Fatal("no image is live", err)
	}
	answers, lookup := make(map[flow]bool), s.lookup(t)
	for _, f := range all {
		answers[f] = judge(img, lookup, f).allow()
	}
	return answers
}

func (s seen) lookup(t *testing.T) func(uint32) addressEntry {
	return func(addr uint32) addressEntry {
		e := s.tables.addresses.trie.lookup(addr)
		if *s.tables.shared.cidr4Entries() == 0 {
			return e
		}
		key, other := newPrefix4(addr, 32).cidr4Key(), uint64(0)
		if err := s.tables.maps["cidr4"].Lookup(&key, &other); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Fatal(err)
		}
		if addressEntry(other).bits() > e.bits() {
			return addressEntry(other)
		}
		return e
	}
}

// transition is a change of models, and what each flow's verdict may be on the way.
type transition struct {
	from, to *policy.Model
	flows    []flow
	old, new map[flow]bool
	// settled flows are between addresses that the same pod, or none, has in both models; the others meet whoever of the
	// two is there, under either policy.
	settled map[flow]bool
}

func newTransition(t *testing.T, r *rand.Rand) *transition {
	t.Helper()
	tr := &transition{from: randomModel(r), settled: make(map[flow]bool)}
	tr.to = mutate(r, tr.from)
	tr.flows = flows(tr.from, tr.to)
	var err error
	if tr.old, err = compiledAnswers(tr.from, tr.flows); err != nil {
		t.Fatal(err)
	}
	if tr.new, err = compiledAnswers(tr.to, tr.flows); err != nil {
		t.Fatal(err)
	}
	stays := func(a netip.Addr) bool { return owner(tr.from, a) == owner(tr.to, a) }
	for _, f := range tr.flows {
		tr.settled[f] = stays(f.src) && stays(f.dst)
	}
	return tr
}

func (tr *transition) check(t *testing.T, where string, n int, got map[flow]bool) {
	t.Helper()
	for _, f := range tr.flows {
		if tr.settled[f] && got[f] != tr.old[f] && got[f] != tr.new[f] {
			t.Fatalf("%s, write %d: %s → %s port %d is %v; before and after it is %v", where, n, f.src, f.dst, f.port, got[f], tr.old[f])
		}
	}
}

func (tr *transition) checkFinal(t *testing.T, where string, n int, got map[flow]bool) {
	t.Helper()
	for _, f := range tr.flows {
		if got[f] != tr.new[f] {
			t.Fatalf("%s, write %d: %s → %s port %d is %v, want %v", where, n, f.src, f.dst, f.port, got[f], tr.new[f])
		}
	}
}

// At each write of Apply, every flow's verdict is its old or its new one; so it is if the agent dies there, and the next
// one, which knows nothing but the maps, completes the work under the same condition.
func TestApplyCutAnywhere(t *testing.T) {
	r, total := newRand(t), 0
	for range 8 {
		tr, c := newTransition(t, r), newClock()
		start := func() (*Tables, *policy.Plan) {
			tables, err := Open(testConfig(c))
			if err != nil {
				t.Fatal(err)
			}
			p := policy.NewPlanner()
			apply(t, tables, p, tr.from)
			plan, err := p.Plan(tr.to)
			if err != nil {
				t.Fatal(err)
			}
			return tables, plan
		}
		tables, plan := start()
		view := seen{tables}
		tr.checkSame(t, view.answers(t, tr.flows))
		points := 0
		tables.writes.before = func() {
			if points++; points < 300 || points%997 == 0 {
				tr.check(t, "apply", points, view.answers(t, tr.flows))
			}
		}
		if err := tables.Apply(context.Background(), plan); err != nil {
			t.Fatal(err)
		}
		tables.writes.before = nil
		tr.checkFinal(t, "apply", points, view.answers(t, tr.flows))
		closeTables(t, tables)
		total += points
		for n := 0; n < points; n += 1 + points/40 {
			tables, plan := start()
			if !cutAfter(tables.writes, n, func() { tables.apply(plan) }) {
				t.Fatalf("it ended before write %d of %d", n, points)
			}
			next := takeOver(t, tables)
			view := seen{next}
			tr.check(t, "after the cut", n, view.answers(t, tr.flows))
			p := policy.NewPlanner()
			p.Restore(next.LiveImage())
			p.RestoreAddresses(next.Addresses())
			writes := 0
			next.writes.before = func() {
				if writes++; writes%7 == 0 && writes < 200 {
					tr.check(t, "completing", writes, view.answers(t, tr.flows))
				}
			}
			second := apply(t, next, p, tr.to)
			next.writes.before = nil
			tr.checkFinal(t, "completed", n, view.answers(t, tr.flows))
			checkTables(t, next, second.Final)
			closeTables(t, next)
			closeTables(t, tables)
		}
	}
	if total < 30 {
		t.Errorf("only %d writes were cut at", total)
	}
}

func (tr *transition) checkSame(t *testing.T, got map[flow]bool) {
	t.Helper()
	for _, f := range tr.flows {
		if got[f] != tr.old[f] {
			t.Fatalf("at the start: %s → %s port %d is %v, want %v", f.src, f.dst, f.port, got[f], tr.old[f])
		}
	}
}

// checkTables holds the maps against what they were compiled from: nothing is missing and nothing is left over.
func checkTables(t *testing.T, tables *Tables, c *policy.Compiled) {
	t.Helper()
	want, _ := newEntries(c.Addresses)
	if !equalSets(tables.addresses.entries, want) {
		t.Errorf("the address table has %d prefixes, want %d", len(tables.addresses.entries.entries), len(want.entries))
	}
	used := tables.endpoints.used()
	for i := range c.Endpoints {
		w := &c.Endpoints[i]
		if e := used[w.Slot]; e.Identity != w.Identity || e.Addr4 != addr4(w.Addrs[0]) {
			t.Errorf("endpoint %d is %+v, want %+v", w.Slot, e, w)
		}
		delete(used, w.Slot)
	}
	if len(used) > 0 {
		t.Errorf("endpoints are left over: %+v", used)
	}
	if gone := tables.nodes.gone(c.Nodes, want); len(gone) > 0 {
		t.Errorf("nodes are left over: %v", gone)
	}
	if n := *tables.shared.cidr4Entries(); int(n) != len(tables.addresses.overflow.entries) {
		t.Errorf("state says %d prefixes are in cidr4, it has %d", n, len(tables.addresses.overflow.entries))
	}
}

// A second Apply of the same plan writes nothing but generations.
func TestApplyIsIdempotent(t *testing.T) {
	tables := openTables(t, newClock())
	p := policy.NewPlanner()
	plan := apply(t, tables, p, randomModel(newRand(t)))
	plan = &policy.Plan{Final: plan.Final}
	writes := 0
	tables.writes.before = func() { writes++ }
	if err := tables.Apply(context.Background(), plan); err != nil {
		t.Fatal(err)
	}
	if writes != 0 {
		t.Errorf("%d writes were made", writes)
	}
	checkTables(t, tables, plan.Final)
}

// What does not fit is refused whole: image, endpoints, nodes, Services, addresses.
func TestApplyRefusesWhatDoesNotFit(t *testing.T) {
	c := newClock()
	cfg := testConfig(c)
	cfg.Sizes.ImageBytes = 1 << 12
	tables, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTables(t, tables)
	r := newRand(t)
	compiled, err := policy.Build(randomModel(r))
	if err != nil {
		t.Fatal(err)
	}
	writes := 0
	tables.writes.before = func() { writes++ }
	for name, plan := range map[string]*policy.Plan{
		"image":    {Final: compiled, Swap: true},
		"endpoint": {Final: &policy.Compiled{Endpoints: []policy.Endpoint{{Slot: bpf.MaxEndpoints}}}},
		"node":     {Final: &policy.Compiled{Nodes: []policy.NodeEntry{{Slot: bpf.MaxNodes}}}},
		"services": {Final: &policy.Compiled{Services: manyServices(70000)}},
	} {
		if err := tables.Apply(context.Background(), plan); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v, want %v", name, err, ErrTooLarge)
		}
	}
	if writes != 0 {
		t.Errorf("%d writes were made", writes)
	}
}

func manyServices(n int) (services []policy.ServiceEntry) {
	for i := range n {
		addr := netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)})
		services = append(services, policy.ServiceEntry{Addr: addr, Protocol: policy.TCP, Port: 80})
	}
	return services
}

// With a pool of four blocks, most prefixes live in cidr4; every answer is still that of the longest prefix, at any write.
func TestAddressesOverflowIntoTheKernelsTrie(t *testing.T) {
	cfg := testConfig(newClock())
	cfg.Sizes.Addr4Blocks = 4
	tables, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTables(t, tables)
	r := newRand(t)
	addrs, view := probes(r)[:120], seen{tables}
	lookup := view.lookup(t)
	old, overflow := oracle4{}, 0
	for range 40 {
		next := oracle4{}
		for p, e := range old {
			if r.IntN(3) > 0 {
				next[p] = e
			}
		}
		for range 12 {
			if p := randomPrefix(r); p.bits() > 8 {
				next[p] = randomEntry(r, p)
			}
		}
		want := newPrefixSet()
		for p, e := range next {
			want.set(p, e)
		}
		before, after := make([]addressEntry, len(addrs)), make([]addressEntry, len(addrs))
		for i, addr := range addrs {
			before[i], after[i] = old.lookup(addr), next.lookup(addr)
		}
		tables.writes.before = func() {
			for i, addr := range addrs {
				if got := lookup(addr); got != before[i] && got != after[i] {
					t.Fatalf("%s is %#x between %#x and %#x", newPrefix4(addr, 32), got, before[i], after[i])
				}
			}
		}
		if err := tables.addresses.fits(want); err != nil {
			t.Fatal(err)
		}
		if err := tables.addresses.replace(want); err != nil {
			t.Fatal(err)
		}
		tables.writes.before = nil
		for i, addr := range addrs {
			if got := lookup(addr); got != after[i] {
				t.Fatalf("%s is %#x, want %#x", newPrefix4(addr, 32), got, after[i])
			}
		}
		if n := len(tables.addresses.overflow.entries); n > overflow {
			overflow = n
		}
		old = next
	}
	if overflow < 5 {
		t.Errorf("at most %d prefixes overflowed", overflow)
	}
}
