// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

func openPins(t *testing.T, path string, sizes Sizes) (*Tables, error) {
	t.Helper()
	cfg := testConfig(newClock())
	cfg.PinPath = path
	if sizes != (Sizes{}) {
		cfg.Sizes = sizes
	}
	return Open(cfg)
}

// What was applied is there when the pins are opened again, image and all; a set of pins that was being made is made
// anew; removing the pins twice is no error, and then nothing is left.
func TestPinsOutliveTheProcess(t *testing.T) {
	if !isolate(t) {
		return
	}
	pins := mountBPFFS(t)
	half := filepath.Join(pins, "maps_abi1_new")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	first, err := openPins(t, pins, Sizes{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half-made pins stayed: %v", err)
	}
	if first.LiveImage() != nil {
		t.Error("an image is live in new tables")
	}
	p := policy.NewPlanner()
	plan := apply(t, first, p, randomModel(newRand(t)))
	slot := plan.Final.Endpoints[0].Slot
	if err := first.SetInterface(slot, Interface{Index: 7, PodMAC: [6]byte{2, 0, 0, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	endpoint := first.Endpoint(slot)
	closeTables(t, first)

	second, err := openPins(t, pins, Sizes{})
	if err != nil {
		t.Fatal(err)
	}
	if img := second.LiveImage(); img == nil || !bytes.Equal(img.Bytes(), plan.Final.Image.Bytes()) {
		t.Error("the live image is not the one that was applied")
	}
	if e := second.Endpoint(slot); e != endpoint || e.Ifindex != 7 {
		t.Errorf("the endpoint is %+v, was %+v", e, endpoint)
	}
	checkTables(t, second, plan.Final)
	closeTables(t, second)

	for range 2 {
		if err := Remove(pins); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin path is still there: %v", err)
	}
}

// Pins that this program did not make, or made otherwise, are refused and left alone.
func TestPinsThatDoNotFitAreRefused(t *testing.T) {
	if !isolate(t) {
		return
	}
	pins := mountBPFFS(t)
	tables, err := openPins(t, pins, Sizes{})
	if err != nil {
		t.Fatal(err)
	}
	closeTables(t, tables)
	ours := filepath.Join(pins, "maps_abi1")
	other := testConfig(newClock()).Sizes
	other.Flows = 2048
	if _, err := openPins(t, pins, other); !errors.Is(err, ErrPinSet) {
		t.Errorf("other sizes: %v, want %v", err, ErrPinSet)
	}
	if err := os.Mkdir(filepath.Join(pins, "maps_abi2"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := openPins(t, pins, Sizes{}); !errors.Is(err, ErrPinABI) {
		t.Errorf("another ABI: %v, want %v", err, ErrPinABI)
	}
	if err := os.Remove(filepath.Join(pins, "maps_abi2")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(ours, "flows")); err != nil {
		t.Fatal(err)
	}
	if _, err := openPins(t, pins, Sizes{}); !errors.Is(err, ErrPinSet) {
		t.Errorf("a missing pin: %v, want %v", err, ErrPinSet)
	}
	if _, err := os.Stat(filepath.Join(ours, "addr4")); err != nil {
		t.Errorf("what was refused is gone: %v", err)
	}
}

func TestPinPathMustBeTrusted(t *testing.T) {
	if !isolate(t) {
		return
	}
	good := mountBPFFS(t)
	parent := filepath.Dir(good)
	at := func(name string) string { return filepath.Join(parent, name) }
	for name, path := range map[string]string{
		"mode":            at("open"),
		"owner":           at("foreign"),
		"symbolic link":   at("link"),
		"below a link":    filepath.Join(at("link"), "below"),
		"below a foreign": filepath.Join(at("foreign"), "below"),
		"no bpffs":        t.TempDir(),
		"relative":        "weir",
	} {
		switch name {
		case "mode":
			must(t, os.Mkdir(path, 0o755))
			must(t, os.Chmod(path, 0o755))
		case "owner":
			must(t, os.Mkdir(path, 0o700))
			must(t, os.Chown(path, 1000, 1000))
		case "symbolic link":
			must(t, os.Symlink(good, path))
		}
	}
	must(t, os.MkdirAll(filepath.Join(at("foreign"), "below"), 0o700))
	must(t, os.Mkdir(filepath.Join(good, "below"), 0o700))
	for name, path := range map[string]string{
		"mode": at("open"), "owner": at("foreign"), "symbolic link": at("link"), "below a link": filepath.Join(at("link"), "below"),
		"below a foreign": filepath.Join(at("foreign"), "below"), "no bpffs": t.TempDir(), "relative": "weir",
	} {
		if _, err := openPins(t, path, Sizes{}); !errors.Is(err, ErrPinPath) {
			t.Errorf("open, %s: %v, want %v", name, err, ErrPinPath)
		}
		if err := Remove(path); name != "relative" && !errors.Is(err, ErrPinPath) {
			t.Errorf("remove, %s: %v, want %v", name, err, ErrPinPath)
		}
	}
	if _, err := openPins(t, at("new"), Sizes{}); err != nil {
		t.Errorf("a path that is to be made: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// twoNodes is a model of one local pod and another node, for changes by hand.
func twoNodes() *policy.Model {
	node := func(name, cidr string, underlay string, mac byte) policy.Node {
		return policy.Node{Name: name, Underlay: []netip.Addr{netip.MustParseAddr(underlay)}, VTEPMAC: [6]byte{2, 0, 0, 0, 0, mac},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix(cidr)}}
	}
	return &policy.Model{
		Node:  "node-1",
		Nodes: []policy.Node{node("node-1", "10.42.1.0/24", "192.0.2.1", 1), node("node-2", "10.42.2.0/24", "192.0.2.2", 2)},
		Pods: []policy.Pod{{Namespace: "test", Name: "pod", UID: "1", Node: "node-1", Labels: map[string]string{"app": "a"},
			Addrs: []netip.Addr{netip.MustParseAddr("10.42.1.10")}}},
	}
}

var isolateIngress = []policy.Policy{{Key: "NetworkPolicy test/deny", Isolates: [2]bool{policy.Ingress: true}}}

// Isolation begins when a policy first selects a pod that runs; never for one that is born with it, unless it ran before
// anything guarded it.
func TestIsolationBegins(t *testing.T) {
	tables, p, now := openTables(t, newClock()), policy.NewPlanner(), uint64(1000)
	tables.monotonic = func() uint64 { return now }
	m := twoNodes()
	slot := apply(t, tables, p, m).Final.Endpoints[0].Slot
	expect := func(when string, ingress, egress uint64) {
		t.Helper()
		if got := tables.Endpoint(slot).IsolatedNs; got != [2]uint64{ingress, egress} {
			t.Errorf("%s: isolation began at %v, want %v", when, got, [2]uint64{ingress, egress})
		}
	}
	expect("not isolated", 0, 0)
	must(t, tables.SetInterface(slot, Interface{Index: 5}))
	expect("interface found", 0, 0)

	m.Policies, now = isolateIngress, 2000
	seen := false
	plan, err := p.Plan(m)
	must(t, err)
	tables.writes.before = func() {
		if tables.image.live.Policed(policy.Ingress, tables.endpoints.get(slot).Identity) && !seen {
			seen = true
			expect("at the write after isolation", 2000, 0)
		}
	}
	must(t, tables.Apply(context.Background(), plan))
	p.Commit(plan)
	tables.writes.before = nil
	expect("isolated", 2000, 0)
	if e := tables.Endpoint(slot); e.Ifindex != 5 {
		t.Errorf("the interface is %d after a change of policy", e.Ifindex)
	}

	now = 3000
	m.Pods[0].Labels = map[string]string{"app": "b"}
	m.Policies = append(m.Policies[:1:1], policy.Policy{Key: "NetworkPolicy test/names-b", Subject: policy.Selector{{Key: "app", Values: []string{"b"}}}})
	apply(t, tables, p, m)
	expect("isolated all along, under another identity", 2000, 0)

	now = 4000
	born := m.Pods[0]
	born.Name, born.UID, born.Addrs = "born", "2", []netip.Addr{netip.MustParseAddr("10.42.1.11")}
	found := born
	found.Name, found.UID, found.Addrs = "found", "3", []netip.Addr{netip.MustParseAddr("10.42.1.12")}
	m.Pods = append(m.Pods, born, found)
	for _, e := range apply(t, tables, p, m).Final.Endpoints {
		slot = e.Slot
		switch e.Pod {
		case "test/born":
			must(t, tables.SetInterface(slot, Interface{Index: 6}))
			expect("born isolated", 0, 0)
		case "test/found":
			must(t, tables.SetInterface(slot, Interface{Index: 7, Existing: true}))
			expect("found running", 4000, 4000)
			now = 5000
			must(t, tables.SetInterface(slot, Interface{Index: 7, Existing: true}))
			expect("found again", 4000, 4000)
		}
	}
}

// The interface of a pod leads to its slot until the pod or the interface goes.
func TestInterfaces(t *testing.T) {
	tables, p, m := openTables(t, newClock()), policy.NewPlanner(), twoNodes()
	slot := apply(t, tables, p, m).Final.Endpoints[0].Slot
	expect := func(when string, want map[uint32]uint32) {
		t.Helper()
		got := make(map[uint32]uint32)
		var index, owner uint32
		entries := tables.maps["interfaces"].Iterate()
		for entries.Next(&index, &owner) {
			got[index] = owner
		}
		if len(got) != len(want) {
			t.Errorf("%s: interfaces %v, want %v", when, got, want)
		}
		for index, owner := range want {
			if got[index] != owner {
				t.Errorf("%s: interfaces %v, want %v", when, got, want)
			}
		}
	}
	if err := tables.SetInterface(slot+1, Interface{Index: 5}); err == nil {
		t.Error("a slot without a pod got an interface")
	}
	pod, host := PodMACs(slot)
	must(t, tables.SetInterface(slot, Interface{Index: 5, PodMAC: pod, HostMAC: host}))
	expect("set", map[uint32]uint32{5: uint32(slot)})
	if e := tables.Endpoint(slot); e.Ifindex != 5 || e.Mac != pod || e.HostMac != host {
		t.Errorf("the endpoint is %+v", e)
	}
	must(t, tables.SetInterface(slot, Interface{Index: 6}))
	expect("moved", map[uint32]uint32{6: uint32(slot)})
	must(t, tables.ClearInterface(slot))
	must(t, tables.ClearInterface(slot))
	expect("gone", nil)
	must(t, tables.SetInterface(slot, Interface{Index: 6}))
	m.Pods = nil
	apply(t, tables, p, m)
	expect("pod gone", nil)
	if e := tables.Endpoint(slot); e != (bpf.Endpoint{}) {
		t.Errorf("the pod is gone, its endpoint is %+v", e)
	}
}

// A slot that another pod had gives nothing of it to the next one.
func TestReusedSlotIsEmptiedFirst(t *testing.T) {
	tables, p, m := openTables(t, newClock()), policy.NewPlanner(), twoNodes()
	final := apply(t, tables, p, m).Final
	slot := final.Endpoints[0].Slot
	must(t, tables.SetInterface(slot, Interface{Index: 5, Existing: true}))
	next := *final
	next.Endpoints = []policy.Endpoint{{Slot: slot, Pod: "test/other", Identity: final.Endpoints[0].Identity, Addrs: final.Endpoints[0].Addrs}}
	next.Addresses = nil
	for _, a := range final.Addresses {
		if a.Kind == policy.AddressLocalPod {
			a.Tenancy++
		}
		next.Addresses = append(next.Addresses, a)
	}
	addr := addr4(final.Endpoints[0].Addrs[0])
	old := tables.Endpoint(slot)
	tables.writes.before = func() {
		if e := tables.addresses.trie.lookup(addr); e.kind() == policy.AddressLocalPod && e.tenancy() == 0 && tables.endpoints.get(slot) != old {
			t.Error("the old pod's address leads to a slot that changes")
		}
	}
	must(t, tables.Apply(context.Background(), &policy.Plan{Final: &next}))
	tables.writes.before = nil
	if e := tables.Endpoint(slot); e.Ifindex != 0 || e.IsolatedNs != [2]uint64{} || e.Addr4 != addr {
		t.Errorf("the new pod's endpoint is %+v", e)
	}
	if e := tables.addresses.lookup(addr); e.tenancy() != 1 || e.slot() != slot {
		t.Errorf("the address is %#x", e)
	}
}

// The address generation moves when an address changes hands, and only then.
func TestAddressGeneration(t *testing.T) {
	tables, p, m := openTables(t, newClock()), policy.NewPlanner(), twoNodes()
	apply(t, tables, p, m)
	generation := func() uint32 { return *tables.shared.addrGeneration() }
	before := generation()
	m.Policies = isolateIngress
	apply(t, tables, p, m)
	if generation() != before {
		t.Error("a change of policy moved it")
	}
	m.Pods[0].UID = "another"
	apply(t, tables, p, m)
	if generation() < before+2 {
		t.Errorf("another pod at the address: it went from %d to %d, want before and after the change", before, generation())
	}
	before = generation()
	next := takeOver(t, tables)
	defer closeTables(t, next)
	q := policy.NewPlanner()
	q.Restore(next.LiveImage())
	q.RestoreAddresses(next.Addresses())
	apply(t, next, q, m)
	if generation() == before {
		t.Error("an agent that takes over cannot know that the last change was completed, and did not move it")
	}
}

// Old and new facts of a node both hold for the grace period, and then only the new ones; a process that takes over grants
// no less.
func TestNodeFactsOverlap(t *testing.T) {
	c := newClock()
	tables, p, m := openTables(t, c), policy.NewPlanner(), twoNodes()
	slot := func(plan *policy.Plan, name string) uint16 {
		for _, n := range plan.Final.Nodes {
			if n.Name == name {
				return n.Slot
			}
		}
		t.Fatalf("no node %s", name)
		return 0
	}
	two := slot(apply(t, tables, p, m), "node-2")
	node := func() bpf.Node { return tables.nodes.get(two) }
	if n := node(); n.VtepMac != [6]byte{2, 0, 0, 0, 0, 2} || n.Flags != bpf.NodeMACKnown {
		t.Fatalf("node-2 is %+v", n)
	}
	pod := func(addr string) addressEntry { return tables.addresses.lookup(addr4(netip.MustParseAddr(addr))) }

	// A new MAC, a new podCIDR, a new InternalIP.
	m.Nodes[1].VTEPMAC[5] = 3
	m.Nodes[1].PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.42.3.0/24")}
	m.Nodes[1].Underlay = []netip.Addr{netip.MustParseAddr("192.0.2.3")}
	plan, err := p.Plan(m)
	must(t, err)
	tables.writes.before = func() {
		n := node()
		if n.VtepMac[5] != 2 && (n.VtepMac[5] != 3 || n.OldVtepMac[5] != 2 || n.Flags&bpf.NodeOldMACKnown == 0) {
			t.Errorf("on the way, node-2 is %+v", n)
		}
	}
	must(t, tables.Apply(context.Background(), plan))
	tables.writes.before = nil
	p.Commit(plan)
	owned := func(when string, want map[string]bool) {
		t.Helper()
		for addr, owned := range want {
			e := pod(addr)
			if s, ok := e.remoteOwner(); owned && (!ok || s != two) || !owned && ok && s == two {
				t.Errorf("%s: %s is %#x, node-2's is %v", when, addr, e, owned)
			}
		}
	}
	both := map[string]bool{"10.42.2.9": true, "10.42.3.9": true, "192.0.2.2": true, "192.0.2.3": true}
	owned("changed", both)
	if n := node(); n.VtepMac[5] != 3 || n.OldVtepMac[5] != 2 || n.Flags != bpf.NodeMACKnown|bpf.NodeOldMACKnown ||
		!hasUnderlay(n, "192.0.2.3") || !hasUnderlay(n, "192.0.2.2") {
		t.Errorf("changed: node-2 is %+v", n)
	}
	c.now = c.now.Add(Grace - time.Second)
	must(t, tables.Tick(c.now))
	apply(t, tables, p, m)
	owned("just before the end", both)
	next := takeOver(t, tables)
	defer closeTables(t, next)
	c.now = c.now.Add(time.Second)
	must(t, tables.Tick(c.now))
	owned("after the end", map[string]bool{"10.42.2.9": false, "10.42.3.9": true, "192.0.2.2": false, "192.0.2.3": true})
	if n := node(); n.Flags != bpf.NodeMACKnown || !hasUnderlay(n, "192.0.2.3") || hasUnderlay(n, "192.0.2.2") {
		t.Errorf("after the end: node-2 is %+v", n)
	}
	if n := len(next.nodes.timers); n != 1 {
		t.Errorf("who takes over has %d nodes in grace, want 1", n)
	}

	// node-3 takes over what node-2 has: node-2 may still speak for it.
	third := m.Nodes[1]
	third.Name, third.Underlay, third.VTEPMAC = "node-3", []netip.Addr{netip.MustParseAddr("192.0.2.4")}, [6]byte{2, 0, 0, 0, 0, 4}
	m.Nodes[1].PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.42.4.0/24")}
	m.Nodes = append(m.Nodes, third)
	three := slot(apply(t, tables, p, m), "node-3")
	if n := tables.nodes.get(three); n.Predecessor != uint32(two)+1 {
		t.Errorf("node-3 is %+v, its predecessor is %d", n, two)
	}
	if s, _ := pod("10.42.3.9").remoteOwner(); s != three {
		t.Errorf("10.42.3.9 belongs to %d, not %d", s, three)
	}
	c.now = c.now.Add(Grace)
	must(t, tables.Tick(c.now))
	if n := tables.nodes.get(three); n.Predecessor != 0 {
		t.Errorf("after the end node-3 is %+v", n)
	}

	// A node that goes keeps its addresses for the grace period, and its entry as long as them.
	m.Nodes = m.Nodes[:2]
	apply(t, tables, p, m)
	if s, ok := pod("10.42.3.9").remoteOwner(); !ok || s != three || tables.nodes.get(three) == (bpf.Node{}) {
		t.Errorf("node-3 went at once: %#x", pod("10.42.3.9"))
	}
	c.now = c.now.Add(Grace)
	must(t, tables.Tick(c.now))
	apply(t, tables, p, m)
	if _, ok := pod("10.42.3.9").remoteOwner(); ok || tables.nodes.get(three) != (bpf.Node{}) {
		t.Errorf("node-3 is still there: %#x, %+v", pod("10.42.3.9"), tables.nodes.get(three))
	}
}

func hasUnderlay(n bpf.Node, addr string) bool {
	return slices.Contains(n.Underlay4[:], addr4(netip.MustParseAddr(addr)))
}

// Service addresses are written, replaced and removed; more backends than fit, and a node's tunnel port, are flagged.
func TestServices(t *testing.T) {
	tables := openTables(t, newClock())
	c, err := policy.Build(twoNodes())
	must(t, err)
	var node uint32
	for _, a := range c.Addresses {
		if a.Kind == policy.AddressNode {
			node = a.Identity
		}
	}
	addr := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, n}) }
	many := make([]policy.Backend, bpf.MaxBackends+1)
	for i := range many {
		many[i] = policy.Backend{Identity: 256, Port: uint16(i + 1)}
	}
	write := func(services ...policy.ServiceEntry) map[byte]bpf.Service {
		t.Helper()
		next := *c
		next.Services = services
		must(t, tables.Apply(context.Background(), &policy.Plan{Final: &next, Swap: true}))
		got := make(map[byte]bpf.Service)
		var key bpf.ServiceKey
		var service bpf.Service
		for entries := tables.maps["services"].Iterate(); entries.Next(&key, &service); {
			if key.Port != 80 && key.Port != 53 {
				t.Errorf("key %+v", key)
			}
			got[byte(key.Addr4)] = service
		}
		if n := *tables.shared.serviceEntries(); int(n) != len(got) {
			t.Errorf("state says %d entries, there are %d", n, len(got))
		}
		return got
	}
	got := write(
		policy.ServiceEntry{Addr: addr(1), Protocol: policy.TCP, Port: 80, Backends: []policy.Backend{{Identity: 256, Port: 8080}, {Identity: 1, Port: 81, Host: true}}},
		policy.ServiceEntry{Addr: addr(2), Protocol: policy.TCP, Port: 80, Backends: many},
		policy.ServiceEntry{Addr: addr(3), Protocol: policy.UDP, Port: 53, Backends: []policy.Backend{{Identity: node, Port: 8472}}},
		policy.ServiceEntry{Addr: addr(4), Protocol: policy.UDP, Port: 53, Backends: []policy.Backend{{Identity: 256, Port: 8472}}},
		policy.ServiceEntry{Addr: addr(5), Protocol: policy.TCP, Port: 80, Backends: []policy.Backend{{Identity: node, Port: 8472}}},
		policy.ServiceEntry{Addr: netip.MustParseAddr("2001:db8::1"), Protocol: policy.TCP, Port: 80},
	)
	want := bpf.Service{Count: 2}
	want.Backends[0] = bpf.Backend{Identity: 256, Port: 8080}
	want.Backends[1] = bpf.Backend{Identity: 1, Port: 81, Flags: bpf.BackendHost}
	if len(got) != 5 || got[1] != want {
		t.Errorf("%d Services, the first %+v, want %+v", len(got), got[1], want)
	}
	for n, flags := range map[byte]uint32{2: bpf.ServiceMany, 3: bpf.ServiceTunnel, 4: 0, 5: 0} {
		if got[n].Flags != flags {
			t.Errorf("Service %d has flags %d, want %d", n, got[n].Flags, flags)
		}
	}
	if got[2].Count != bpf.MaxBackends {
		t.Errorf("%d backends of many", got[2].Count)
	}
	got = write(policy.ServiceEntry{Addr: addr(1), Protocol: policy.TCP, Port: 80})
	if len(got) != 1 || got[1] != (bpf.Service{}) {
		t.Errorf("after the change: %+v", got)
	}
}

// When old and new Services do not fit beside each other, the old ones go first.
func TestServicesMakeRoom(t *testing.T) {
	tables := openTables(t, newClock())
	limit := int(tables.maps["services"].MaxEntries())
	services := manyServices(limit + 1000)
	c, err := policy.Build(twoNodes())
	must(t, err)
	for _, part := range [][]policy.ServiceEntry{services[:limit], services[1000:]} {
		next := *c
		next.Services = part
		must(t, tables.Apply(context.Background(), &policy.Plan{Final: &next, Swap: true}))
		if n := *tables.shared.serviceEntries(); int(n) != limit {
			t.Errorf("%d of %d Services", n, limit)
		}
	}
}
