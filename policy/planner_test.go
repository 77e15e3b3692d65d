// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"testing"
)

// kernel is what the loader would have written: an address table and one live image.
type kernel struct {
	addresses map[netip.Prefix]Address
	image     *Image
}

// table is the address table as it is now.
func (k *kernel) table() *Compiled {
	return &Compiled{Addresses: slices.SortedFunc(maps.Values(k.addresses), func(a, b Address) int { return comparePrefix(a.Prefix, b.Prefix) })}
}

func entries(c *Compiled) map[netip.Prefix]Address {
	m := map[netip.Prefix]Address{}
	for _, a := range c.Addresses {
		m[a.Prefix] = a
	}
	return m
}

func clonePods(m *Model) *Model {
	c := *m
	c.Pods, c.Nodes = slices.Clone(m.Pods), slices.Clone(m.Nodes)
	return &c
}

// mutate changes some of what may change.
func mutate(r *rand.Rand, m *Model) *Model {
	c := clonePods(m)
	if r.IntN(2) == 0 {
		c.Policies = randomPolicies(r)
		if r.IntN(2) == 0 {
			return c
		}
	}
	if r.IntN(4) == 0 { // one more pod like another
		twin := pick(r, c.Pods)
		twin.Name, twin.UID, twin.Addrs = fmt.Sprintf("t%d", len(c.Pods)), "", []netip.Addr{mustAddr("10.42." + twin.Node[5:] + "." + fmt.Sprint(140+len(c.Pods)))}
		if !slices.ContainsFunc(c.Pods, func(p Pod) bool { return p.Name == twin.Name }) {
			c.Pods = append(c.Pods, twin)
		}
		return c
	}
	if r.IntN(8) == 0 {
		c.Options.HostByRule = !c.Options.HostByRule
	}
	for i := range c.Pods {
		switch r.IntN(8) {
		case 0, 1:
			randomizePod(r, &c.Pods[i])
		case 2: // another pod at the same address
			c.Pods[i].UID += "'"
			randomizePod(r, &c.Pods[i])
		}
	}
	if n := len(c.Pods); n > 2 && r.IntN(3) == 0 {
		c.Pods = slices.Delete(c.Pods, n-2, n-1)
	}
	if r.IntN(3) == 0 {
		c.Pods = append(c.Pods, randomPod(r, 40+r.IntN(60)))
		if last := c.Pods[len(c.Pods)-1]; slices.ContainsFunc(c.Pods[:len(c.Pods)-1], func(p Pod) bool { return p.Name == last.Name }) {
			c.Pods = c.Pods[:len(c.Pods)-1]
		}
	}
	if r.IntN(4) == 0 {
		i := r.IntN(len(c.Nodes))
		c.Nodes[i].APIServer = !c.Nodes[i].APIServer
	}
	return c
}

// stays says whether the same pod, node or nobody has the address in both models.
func stays(a netip.Addr, from, to *Model) bool {
	old, now := naive{from}.party(a), naive{to}.party(a)
	if old.pod != nil && now.pod != nil {
		return old.pod.Key() == now.pod.Key() && old.pod.UID == now.pod.UID
	}
	return old.pod == nil && now.pod == nil
}

// At every write on the way from one model to the next, every pair's verdict is its old or its new one; what an address
// that comes or goes meets in between is the old policies' word on its new owner. Numbers do not change their meaning
// while anything refers to them.
func TestPlanKeepsVerdicts(t *testing.T) {
	interims, swaps, none := 0, 0, 0
	eachSeed(t, 50, func(t *testing.T, r *rand.Rand) {
		from := randomModel(r)
		p := NewPlanner()
		plan, err := p.Plan(from)
		if err != nil {
			t.Fatal(err)
		}
		if plan.Interim != nil || !plan.Swap {
			t.Fatal("the first plan needs one image")
		}
		p.Commit(plan)
		k := &kernel{entries(plan.Final), plan.Final.Image}
		for range 6 {
			to := mutate(r, from)
			strangers := map[netip.Addr]bool{}
			if r.IntN(3) == 0 {
				img, err := Decode(k.image.Bytes())
				if err != nil {
					t.Fatal(err)
				}
				p = NewPlanner()
				p.Restore(img)
				p.RestoreAddresses(slices.Collect(maps.Values(k.addresses)))
				p.live.numbers.tenancies.each(func(t *tenancyKey) {
					strangers[t.Addr] = t.PodName == PodName{} // came without an image: its pod counts as another from now on
				})
			}
			if r.IntN(4) == 0 { // a plan that comes to nothing
				if _, err := p.Plan(mutate(r, from)); err != nil {
					t.Fatal(err)
				}
			}
			if plan, err = p.Plan(to); err != nil {
				t.Fatal(err)
			}
			switch {
			case plan.Interim != nil:
				interims++
			case plan.Swap:
				swaps++
			default:
				none++
			}
			checkTransition(t, r, k, from, to, plan, strangers)
			p.Commit(plan)
			from = to
		}
	})
	if os.Getenv("WEIR_SEED") == "" && (interims < 20 || swaps < 5 || none < 5) {
		t.Errorf("too few of a kind: %d with interim image, %d with a final one, %d without", interims, swaps, none)
	}
}

func checkTransition(t *testing.T, r *rand.Rand, k *kernel, from, to *Model, plan *Plan, strangers map[netip.Addr]bool) {
	t.Helper()
	between := clonePods(to)
	between.Policies, between.Options = from.Policies, from.Options
	among := clonePods(between) // newcomers, among pods and nodes as they were
	among.Nodes = from.Nodes
	for i := range among.Pods {
		if old := (naive{from}).party(among.Pods[i].Addrs[0]).pod; old != nil && stays(among.Pods[i].Addrs[0], from, to) {
			among.Pods[i] = *old
		}
	}
	check := func(stage string) {
		t.Helper()
		table := k.table()
		for _, pod := range to.Pods {
			if pod.Node != to.Node {
				continue
			}
			for _, peer := range probeAddrs(to) {
				i := slices.IndexFunc(pod.Addrs, func(a netip.Addr) bool { return a.Is4() == peer.Is4() })
				if i < 0 || stage != "final" && (strangers[pod.Addrs[i]] || strangers[peer]) {
					continue
				}
				subject := pod.Addrs[i]
				dir, protocol, port := Direction(r.IntN(2)), pick(r, probeProtocols), uint16(r.IntN(110))
				got := k.image.Lookup(dir, table.Address(subject).Identity, table.Address(peer).Identity, protocol, port).Allow()
				old, alternative, exact := false, false, stays(subject, from, to) && stays(peer, from, to)
				now, _ := naive{enforced(to)}.judge(dir, &pod, peer, protocol, port)
				if exact {
					old, _ = naive{enforced(from)}.judge(dir, naive{from}.party(subject).pod, peer, protocol, port)
					alternative = old
				} else if stage != "addresses" && stage != "final" {
					continue
				} else {
					old, _ = naive{enforced(between)}.judge(dir, &pod, peer, protocol, port)
					alternative, _ = naive{enforced(among)}.judge(dir, naive{among}.party(subject).pod, peer, protocol, port)
				}
				if got != old && got != alternative && got != now {
					t.Fatalf("%s: %s direction %d peer %s protocol %d port %d: %v, before and after it is %v", stage, pod.Key(), dir, peer, protocol, port, got, old)
				}
				if stage == "final" && got != now {
					t.Fatalf("%s: %s direction %d peer %s protocol %d port %d: %v, want %v", stage, pod.Key(), dir, peer, protocol, port, got, now)
				}
			}
		}
	}
	generation := k.image.Generation()
	defined := k.image.keys.identities
	swap := func(img *Image) {
		if img.Generation() <= generation {
			t.Fatalf("generation %d follows %d", img.Generation(), generation)
		}
		generation = img.Generation()
		for _, a := range k.addresses {
			if img.keys.identities.get(a.Identity) == nil {
				t.Fatalf("image %d does not define identity %d, which %s still has", generation, a.Identity, a.Prefix)
			}
		}
		for number, d := range img.keys.identities.all() {
			if old := defined.get(number); old != nil && old.key() != d.key() && d.Name == "" {
				t.Fatalf("number %d changes from %s to %s", number, old, d)
			}
		}
		k.image = img
	}
	if plan.Interim != nil {
		swap(plan.Interim)
		check("interim")
	}
	next := entries(plan.Final)
	for _, prefix := range slices.SortedFunc(maps.Keys(next), comparePrefix) {
		if r.IntN(2) == 0 && next[prefix].Identity != k.addresses[prefix].Identity && k.image.keys.identities.get(next[prefix].Identity) == nil {
			t.Fatalf("%s gets identity %d before an image defines it", prefix, next[prefix].Identity)
		}
	}
	half := maps.Clone(k.addresses)
	for prefix, a := range next {
		if _, there := half[prefix]; there && r.IntN(2) == 0 {
			half[prefix] = a
		}
	}
	k.addresses = half
	check("half of the addresses")
	k.addresses = next
	check("addresses")
	if plan.Swap {
		swap(plan.Final.Image)
	} else if k.image != plan.Final.Image && !bytes.Equal(k.image.Bytes(), plan.Final.Image.Bytes()) {
		t.Fatal("no swap, but the image that is live is not the final one")
	}
	check("final")
	for _, a := range plan.Final.Addresses {
		if a.Kind == AddressLocalPod {
			e := plan.Final.Endpoints[slices.IndexFunc(plan.Final.Endpoints, func(e Endpoint) bool { return e.Slot == a.Slot })]
			if !slices.Contains(e.Addrs, a.Prefix.Addr()) {
				t.Fatalf("%s leads to slot %d of %s", a.Prefix, a.Slot, e.Pod)
			}
		}
	}
}

func smallModel() *Model {
	m := &Model{Node: "node-1"}
	for i := 1; i <= 2; i++ {
		m.Nodes = append(m.Nodes, Node{
			Name: fmt.Sprintf("node-%d", i), Underlay: []netip.Addr{mustAddr(fmt.Sprintf("192.0.2.%d", i))},
			Overlay:  []netip.Addr{mustAddr(fmt.Sprintf("10.42.%d.0", i)), mustAddr(fmt.Sprintf("10.42.%d.1", i))},
			PodCIDRs: []netip.Prefix{mustPrefix(fmt.Sprintf("10.42.%d.0/24", i))}, VTEPMAC: [6]byte{2, 0, 0, 0, 0, byte(i)},
		})
	}
	for i, app := range []string{"front", "back"} {
		m.Pods = append(m.Pods, smallPod(app, fmt.Sprintf("10.42.%d.10", i+1), i+1))
	}
	return m
}

func smallPod(app, addr string, node int) Pod {
	return Pod{
		Namespace: "default", Name: app, UID: "uid-" + app, Node: fmt.Sprintf("node-%d", node), Addrs: []netip.Addr{mustAddr(addr)},
		Labels: map[string]string{namespaceLabel: "default", "app": app}, Ports: []NamedPort{{"http", TCP, 8080}},
	}
}

func step(t *testing.T, p *Planner, m *Model) *Plan {
	t.Helper()
	plan, err := p.Plan(m)
	if err != nil {
		t.Fatal(err)
	}
	p.Commit(plan)
	return plan
}

func TestPodOfKnownIdentityNeedsNoImage(t *testing.T) {
	p := NewPlanner()
	m := smallModel()
	first := step(t, p, m)
	twin := smallPod("front", "10.42.1.11", 1)
	twin.Name, twin.UID = "front-2", "uid-2"
	m.Pods = append(m.Pods, twin)
	come := step(t, p, m)
	if come.Interim != nil || come.Swap || come.Final.Image != first.Final.Image || len(come.Final.Endpoints) != 2 {
		t.Errorf("a twin comes: interim %v, swap %v, endpoints %+v", come.Interim, come.Swap, come.Final.Endpoints)
	}
	m.Pods = m.Pods[:2]
	if gone := step(t, p, m); gone.Interim != nil || gone.Swap || len(gone.Final.Endpoints) != 1 {
		t.Errorf("the twin goes: interim %v, swap %v", gone.Interim, gone.Swap)
	}
	local := smallPod("back", "10.42.1.12", 1)
	local.Name, local.UID = "back-2", "uid-3"
	m.Pods = append(m.Pods, local)
	if plan := step(t, p, m); plan.Interim == nil {
		t.Error("an identity that becomes local needs rows before its address is there")
	} else if plan.Swap || plan.Final.Image != plan.Interim {
		t.Error("with policies unchanged, one image serves as interim and final")
	}
}

func TestSlotsAndNumbersRestBeforeReuse(t *testing.T) {
	p := NewPlanner()
	m := smallModel()
	first := step(t, p, m).Final
	identity, slot := first.Endpoints[0].Identity, first.Endpoints[0].Slot
	apps := []string{"one", "two", "three", "four", "five"}
	reusedSlot, reusedIdentity := -1, -1
	for i, app := range apps {
		m = clonePods(m)
		m.Pods[0] = smallPod(app, fmt.Sprintf("10.42.1.%d", 20+i), 1)
		m.Policies = []Policy{{Key: "p", Subject: Selector{{Key: "app", Op: In, Values: []string{app}}}, Isolates: [2]bool{true}}}
		e := step(t, p, m).Final.Endpoints[0]
		if e.Slot == slot && reusedSlot < 0 {
			reusedSlot = i
		}
		if e.Identity == identity && reusedIdentity < 0 {
			reusedIdentity = i
		}
	}
	if reusedSlot < 2 || reusedIdentity < 2 {
		t.Errorf("slot reused after %d plans, identity after %d; both must rest in the plan after they were given back, and be reused later", reusedSlot, reusedIdentity)
	}
}

func TestTenancyCountsPodsOfAnAddress(t *testing.T) {
	p := NewPlanner()
	m := smallModel()
	tenancy := func() uint8 { return step(t, p, m).Final.Address(mustAddr("10.42.2.10")).Tenancy }
	if got := tenancy(); got != 0 {
		t.Fatalf("first pod: %d", got)
	}
	m = clonePods(m)
	m.Pods[1].Labels = map[string]string{namespaceLabel: "default", "app": "relabelled"}
	if got := tenancy(); got != 0 {
		t.Errorf("same pod, other labels: %d", got)
	}
	m = clonePods(m)
	m.Pods[1].UID = "recreated"
	if got := tenancy(); got != 1 {
		t.Errorf("pod of the same name, another UID: %d", got)
	}
	without := clonePods(m)
	without.Pods = without.Pods[:1]
	step(t, p, without)
	if got := tenancy(); got != 1 {
		t.Errorf("the same pod back again: %d", got)
	}
	step(t, p, without)
	m.Policies = []Policy{{Key: "p"}} // so that an image is made, which carries it over a restart
	other := clonePods(m)
	other.Pods = other.Pods[:1]
	img, err := Decode(step(t, p, other).Final.Image.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	p = NewPlanner()
	p.Restore(img)
	m.Pods[1] = smallPod("third", "10.42.2.10", 2)
	if got := tenancy(); got != 2 {
		t.Errorf("another pod after a gap and a restart: %d", got)
	}
}

func TestRestoreGoesOnWithTheSameNumbers(t *testing.T) {
	eachSeed(t, 20, func(t *testing.T, r *rand.Rand) {
		m := randomModel(r)
		p := NewPlanner()
		before := step(t, p, m).Final
		img, err := Decode(append(before.Image.Bytes(), 1, 2, 3)) // a kernel map is larger than the image in it
		if err != nil {
			t.Fatal(err)
		}
		restarted := NewPlanner()
		restarted.Restore(img)
		r.Shuffle(len(m.Pods), func(i, j int) { m.Pods[i], m.Pods[j] = m.Pods[j], m.Pods[i] })
		plan := step(t, restarted, m)
		if plan.Interim != nil || plan.Swap || !bytes.Equal(plan.Final.Image.Bytes(), before.Image.Bytes()) {
			t.Fatalf("interim %v, swap %v after a restart with nothing changed", plan.Interim, plan.Swap)
		}
		if !reflect.DeepEqual(plan.Final.Addresses, before.Addresses) || !reflect.DeepEqual(plan.Final.Endpoints, before.Endpoints) ||
			!reflect.DeepEqual(plan.Final.Nodes, before.Nodes) {
			t.Fatal("tables differ after a restart with nothing changed")
		}
	})
}

// A pod that came without an image keeps its slot and tenancy over a restart if the kernel's addresses are handed over.
func TestRestoreAddressesKeepsWhatNoImageHolds(t *testing.T) {
	p := NewPlanner()
	m := smallModel()
	step(t, p, m)
	m = clonePods(m)
	twin := smallPod("front", "10.42.1.11", 1)
	twin.Name = "zz"
	m.Pods = append(m.Pods, twin)
	step(t, p, m)
	m = clonePods(m)
	m.Pods[2].UID = "another"
	m.Pods = append(m.Pods, smallPod("front", "10.42.1.12", 1))
	m.Pods[3].Name = "aa"
	live := step(t, p, m)
	if live.Swap || live.Final.Address(mustAddr("10.42.1.11")).Tenancy != 1 {
		t.Fatalf("swap %v, %+v", live.Swap, live.Final.Address(mustAddr("10.42.1.11")))
	}
	restarted := NewPlanner()
	restarted.Restore(live.Final.Image)
	restarted.RestoreAddresses(live.Final.Addresses)
	if again := step(t, restarted, m); !reflect.DeepEqual(again.Final.Addresses, live.Final.Addresses) {
		t.Errorf("after the restart:\n%+v\nbefore:\n%+v", again.Final.Addresses, live.Final.Addresses)
	}
}

func TestFailedPlanChangesNothing(t *testing.T) {
	p := NewPlanner()
	m := smallModel()
	before := step(t, p, m)
	bad := clonePods(m)
	bad.Pods[1].Addrs = bad.Pods[0].Addrs
	if _, err := p.Plan(bad); err == nil || err.Error() != "resolve addresses: 10.42.1.10/32 belongs to both pod default/back and pod default/front" {
		t.Errorf("two pods of one address: %v", err)
	}
	p.MaxImage = 1000
	bad = clonePods(m)
	bad.Policies = []Policy{{Key: "p", Isolates: [2]bool{true, true}}}
	if _, err := p.Plan(bad); err == nil {
		t.Error("an image over the limit is no error")
	}
	p.MaxImage = 0
	if plan := step(t, p, m); plan.Swap || plan.Final.Image != before.Final.Image || !reflect.DeepEqual(plan.Final.Addresses, before.Final.Addresses) {
		t.Error("a plan that failed left something behind")
	}
}

// A plan that nobody carried out may have been half carried out: what it handed out means nothing else until the next Commit.
func TestNumbersOfAnAbandonedPlanAreNotReused(t *testing.T) {
	p := NewPlanner()
	m := smallModel()
	step(t, p, m)
	abandoned, again := clonePods(m), clonePods(m)
	abandoned.Pods = append(abandoned.Pods, smallPod("first", "10.42.1.20", 1))
	again.Pods = append(again.Pods, smallPod("second", "10.42.1.21", 1))
	one, err := p.Plan(abandoned)
	if err != nil {
		t.Fatal(err)
	}
	two := step(t, p, again)
	a, b := one.Final.Endpoint("default/first"), two.Final.Endpoint("default/second")
	if a.Identity == b.Identity || a.Slot == b.Slot || two.Interim.Generation() <= one.Interim.Generation() {
		t.Errorf("identity %d and %d, slot %d and %d, generation %d and %d", a.Identity, b.Identity, a.Slot, b.Slot, one.Interim.Generation(), two.Interim.Generation())
	}
}
