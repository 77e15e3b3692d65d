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

// changesBetween is what a watcher would have told.
func changesBetween(from, to *Model) Changes {
	var c Changes
	old := map[string]*Pod{}
	for i := range from.Pods {
		old[from.Pods[i].Key()] = &from.Pods[i]
	}
	for _, pod := range to.Pods {
		if was := old[pod.Key()]; was == nil || !reflect.DeepEqual(*was, pod) {
			c.Pods = append(c.Pods, pod)
		}
		delete(old, pod.Key())
	}
	c.GonePods = slices.Collect(maps.Keys(old))
	c.NodesChanged, c.GoneNodes = differing(from.Nodes, to.Nodes, func(n *Node) string { return n.Name })
	if len(c.NodesChanged)+len(c.GoneNodes) > 1 {
		c.Nodes, c.NodesChanged, c.GoneNodes = to.Nodes, nil, nil
	}
	if !reflect.DeepEqual(from.Policies, to.Policies) {
		c.Policies = append([]Policy{}, to.Policies...)
	}
	c.ServicesChanged, c.GoneServices = differing(from.Services, to.Services, (*Service).Key)
	if len(c.ServicesChanged) > 1 {
		c.Services, c.ServicesChanged, c.GoneServices = append([]Service{}, to.Services...), nil, nil
	}
	if from.Options != to.Options {
		c.Options = &to.Options
	}
	return c
}

// differing is what of to is not in from as it is, and the keys of what was there.
func differing[T any](from, to []T, key func(*T) string) (there []T, gone []string) {
	old := map[string]*T{}
	for i := range from {
		old[key(&from[i])] = &from[i]
	}
	for i := range to {
		if was := old[key(&to[i])]; was == nil || !reflect.DeepEqual(*was, to[i]) {
			there = append(there, to[i])
		}
		delete(old, key(&to[i]))
	}
	return there, slices.Collect(maps.Keys(old))
}

// exported is n as Compile takes it.
func (n *numbering) exported() *Numbers {
	m := &Numbers{
		Generation: n.generation, MaxImage: n.maxImage, Vocabulary: n.vocabulary, Identities: maps.Collect(n.identities.all()), Rules: n.rules,
		LastRule: n.lastRule, Endpoints: n.endpoints, Nodes: n.nodes, Tenancies: map[netip.Addr]Tenancy{}, Charged: n.charged,
	}
	n.tenancies.each(func(t *tenancyKey) { m.Tenancies[t.Addr] = t.Tenancy })
	return m
}

// mutatePods changes a pod or two, mostly so that their identities stay among those that are known.
func mutatePods(r *rand.Rand, m *Model) *Model {
	c := clonePods(m)
	for range 1 + r.IntN(2) {
		i := r.IntN(len(c.Pods))
		switch r.IntN(6) {
		case 0:
			randomizePod(r, &c.Pods[i])
		case 1: // another pod at the same address
			c.Pods[i].UID += "'"
		case 2:
			if len(c.Pods) > 2 {
				c.Pods = slices.Delete(c.Pods, i, i+1)
			}
		case 3: // it has another's labels now
			c.Pods[i].Labels, c.Pods[i].Ports = pick(r, c.Pods).Labels, pick(r, c.Pods).Ports
		default: // one more like another, or where one has been before
			twin := c.Pods[i]
			n := 210 + r.IntN(20)
			twin.Name, twin.UID, twin.Addrs = fmt.Sprintf("twin%d", n), fmt.Sprint(r.IntN(3)), []netip.Addr{mustAddr(fmt.Sprintf("10.42.%s.%d", twin.Node[5:], n))}
			if !slices.ContainsFunc(c.Pods, func(p Pod) bool { return p.Name == twin.Name || p.Addrs[0] == twin.Addrs[0] }) {
				c.Pods = append(c.Pods, twin)
			}
		}
	}
	return c
}

func withServices(r *rand.Rand, m *Model) *Model {
	m.Services = nil
	for i := range 1 + r.IntN(3) {
		m.Services = append(m.Services, randomService(r, m, i))
	}
	return m
}

// randomService may have backends anywhere, and claim what another one does.
func randomService(r *rand.Rand, m *Model, i int) Service {
	s := Service{Namespace: "red", Name: fmt.Sprintf("s%d", i), NodePorts: r.IntN(2) == 0, Addrs: []netip.Addr{mustAddr(fmt.Sprintf("10.43.0.%d", i))}}
	if r.IntN(4) == 0 {
		s.Addrs = append(s.Addrs, pick(r, []netip.Addr{mustAddr("10.43.0.9"), mustAddr("2001:db8:43::1"), mustAddr("192.0.2.2"), mustAddr("::ffff:10.43.0.8")}))
	}
	for j := range 1 + r.IntN(2) {
		p := ServicePort{Protocol: TCP, Port: uint16(80 + j), NodePort: uint16(r.IntN(3)) * 30080}
		if r.IntN(4) == 0 {
			p.Port = 30080 // of a node's address too, perhaps
		}
		for range r.IntN(4) {
			p.Backends = append(p.Backends, netip.AddrPortFrom(pick(r, pick(r, m.Pods).Addrs), 80),
				netip.AddrPortFrom(mustAddr(fmt.Sprintf("10.42.%d.%d", 1+r.IntN(5), 210+r.IntN(20))), 81), netip.AddrPortFrom(pick(r, m.Nodes).Underlay[0], 8472))
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

// mutateServices changes, adds or removes one.
func mutateServices(r *rand.Rand, m *Model) *Model {
	c := *m
	i := r.IntN(5)
	c.Services = slices.DeleteFunc(slices.Clone(m.Services), func(s Service) bool { return s.Name == fmt.Sprintf("s%d", i) })
	if r.IntN(3) > 0 {
		s := randomService(r, m, i)
		if len(m.Services) > 0 && r.IntN(3) == 0 {
			s.Ports = pick(r, m.Services).Ports // in the same memory
		}
		c.Services = append(c.Services, s)
	}
	return &c
}

// mutateNodes lets a node join or leave, or changes one.
func mutateNodes(r *rand.Rand, m *Model) *Model {
	c := *m
	c.Nodes = slices.Clone(m.Nodes)
	n := 1 + r.IntN(6)
	i := slices.IndexFunc(c.Nodes, func(node Node) bool { return node.Name == fmt.Sprintf("node-%d", n) })
	switch {
	case i < 0:
		c.Nodes = append(c.Nodes, Node{
			Name: fmt.Sprintf("node-%d", n), Underlay: []netip.Addr{mustAddr(fmt.Sprintf("192.0.2.%d", n))},
			Overlay:  []netip.Addr{mustAddr(fmt.Sprintf("10.42.%d.0", n)), mustAddr(fmt.Sprintf("10.42.%d.1", n))},
			PodCIDRs: []netip.Prefix{mustPrefix(fmt.Sprintf("10.42.%d.0/24", n))}, VTEPMAC: [6]byte{2, 0, 0, 0, 0, byte(n)},
		})
	case n > 3 && r.IntN(2) == 0 && !slices.ContainsFunc(m.Pods, func(p Pod) bool { return p.Node == c.Nodes[i].Name }):
		c.Nodes = slices.Delete(c.Nodes, i, i+1)
	default:
		switch node := &c.Nodes[i]; r.IntN(6) {
		case 0:
			node.VTEPMAC[0] ^= 4
		case 1:
			node.Direct = !node.Direct
		case 2:
			node.APIServer = !node.APIServer
		case 3:
			node.Underlay = []netip.Addr{mustAddr(fmt.Sprintf("192.0.2.%d", n+10*r.IntN(2)))}
		case 4:
			node.Underlay = append(slices.Clone(node.Underlay[:1]), mustAddr(fmt.Sprintf("192.0.2.%d", 100+n)))
		case 5:
			node.PodCIDRs = append(slices.Clone(node.PodCIDRs[:1]), mustPrefix(fmt.Sprintf("10.43.%d.0/24", 10*n+r.IntN(2))))
		}
	}
	return &c
}

// body is an image without its header and its keys, which also tell of addresses that have come since.
func body(img *Image) []byte { return img.bytes[imageHeaderSize:img.u32(offKeys)] }

// After whatever sequence of whole models and of changes, the tables are those that Compile makes of the model and the
// numbers, byte for byte, and a delta applied to the tables before gives them, too.
func TestChangesComeToWhatCompileMakes(t *testing.T) {
	deltas, edits, interims, nodes, services, wholes := 0, 0, 0, 0, 0, 0
	eachSeed(t, 120, func(t *testing.T, r *rand.Rand) {
		from := withServices(r, randomModel(r))
		p := NewPlanner()
		plan := step(t, p, from)
		k := &standing{}
		k.whole(plan.Final)
		for range 14 {
			to := from
			if r.IntN(4) > 0 {
				to = mutatePods(r, to)
			}
			if r.IntN(3) == 0 {
				to = mutateNodes(r, to)
			}
			if r.IntN(3) == 0 {
				to = mutateServices(r, to)
			}
			switch r.IntN(8) {
			case 0:
				to = withServices(r, mutate(r, to))
			case 1, 2:
				to = clonePods(to)
				to.Policies = slices.Clone(from.Policies)
				if n := len(to.Policies); n > 0 {
					p := &to.Policies[r.IntN(n)]
					p.Subject = randomSelector(r)
					if p.Tier == TierNormal {
						p.Isolates[r.IntN(2)] = r.IntN(2) == 0
					}
				}
			}
			if r.IntN(4) == 0 { // a plan that comes to nothing
				if _, err := p.PlanChanges(changesBetween(from, mutatePods(r, from))); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			changewise := r.IntN(3) > 0
			if changewise {
				plan, err = p.PlanChanges(changesBetween(from, to))
			} else {
				plan, err = p.Plan(to)
			}
			if err != nil {
				t.Fatal(err)
			}
			got := plan.Final
			if d := plan.Delta; d != nil {
				deltas++
				if plan.Swap {
					edits++
				}
				if plan.Interim != nil {
					interims++
				}
				nodes += min(1, len(d.Nodes)+len(d.GoneNodes))
				services += min(1, len(d.Services)+len(d.GoneServices))
				before := p.live.image
				if plan.Interim != nil {
					before = plan.Interim
				}
				if plan.Swap == (got.Image == before) {
					t.Fatal("another image than the last one, which is to be swapped in")
				}
				k.change(t, d)
				if changewise {
					got.Addresses = p.live.addressesWith(d)
				}
			} else {
				wholes++
				k.whole(plan.Final)
			}
			p.Commit(plan)
			want, err := Compile(to, p.live.numbers.exported())
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Addresses, want.Addresses) {
				t.Fatalf("addresses (changes %v, delta %v):\n%+v\nwant\n%+v", changewise, plan.Delta != nil, got.Addresses, want.Addresses)
			}
			if !reflect.DeepEqual(got.Endpoints, want.Endpoints) || !reflect.DeepEqual(got.Nodes, want.Nodes) {
				t.Fatalf("endpoints or nodes:\n%+v\n%+v\nwant\n%+v\n%+v", got.Endpoints, got.Nodes, want.Endpoints, want.Nodes)
			}
			if (plan.Delta == nil || !changewise) && !reflect.DeepEqual(got.Services, want.Services) {
				t.Fatalf("Services:\n%+v\nwant\n%+v", got.Services, want.Services)
			}
			if all := (&standing{}); true {
				if all.whole(want); !reflect.DeepEqual(k, all) {
					t.Fatalf("after the delta %+v:\n%+v\nwant\n%+v", plan.Delta, k, all)
				}
			}
			if !bytes.Equal(body(got.Image), body(want.Image)) || plan.Swap && !bytes.Equal(got.Image.Bytes(), want.Image.Bytes()) {
				t.Fatalf("another image (swap %v, interim %v)", plan.Swap, plan.Interim != nil)
			}
			checkState(t, p)
			from = to
		}
	})
	if os.Getenv("WEIR_SEED") == "" && (deltas < 400 || edits < 30 || interims < 100 || nodes < 30 || services < 100 || wholes < 100) {
		t.Errorf("%d deltas, of them %d with other policies, %d with new identities, %d with nodes, %d with Services; %d plans of the whole",
			deltas, edits, interims, nodes, services, wholes)
	}
	t.Logf("%d deltas, of them %d with other policies, %d with new identities, %d with nodes, %d with Services; %d plans of the whole",
		deltas, edits, interims, nodes, services, wholes)
}

func TestChangesNeedAModel(t *testing.T) {
	p := NewPlanner()
	if _, err := p.PlanChanges(Changes{}); err != ErrNoModel {
		t.Errorf("a new planner: %v", err)
	}
	m := smallModel()
	img := step(t, p, m).Final.Image
	p.Restore(img)
	if _, err := p.PlanChanges(Changes{}); err != ErrNoModel {
		t.Errorf("a restored planner: %v", err)
	}
	step(t, p, m)
	if plan, err := p.PlanChanges(Changes{}); err != nil || plan.Delta == nil || len(plan.Delta.Set)+len(plan.Delta.Gone)+len(plan.Delta.Endpoints) != 0 {
		t.Errorf("nothing changes: %+v, %v", plan, err)
	}
	twice := smallPod("again", "10.42.1.10", 1)
	if _, err := p.PlanChanges(Changes{Pods: []Pod{twice}}); err == nil {
		t.Error("two pods of one address")
	}
	if plan, err := p.PlanChanges(Changes{GonePods: []string{"default/nobody", "nonsense"}}); err != nil || plan.Delta == nil {
		t.Errorf("pods go that never were: %v", err)
	}
}
