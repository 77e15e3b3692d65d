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
	var backends []netip.AddrPort
	for range 3 {
		backends = append(backends, netip.AddrPortFrom(pick(r, m.Pods).Addrs[0], 80), netip.AddrPortFrom(mustAddr(fmt.Sprintf("10.42.1.%d", 210+r.IntN(20))), 81))
	}
	m.Services = []Service{{Namespace: "red", Name: "s", NodePorts: true, Addrs: []netip.Addr{mustAddr("10.43.0.1")}, Ports: []ServicePort{{Protocol: TCP, Port: 80, NodePort: 30080, Backends: backends}}}}
	return m
}

// body is an image without its header and its keys, which also tell of addresses that have come since.
func body(img *Image) []byte { return img.bytes[imageHeaderSize:img.u32(offKeys)] }

// After whatever sequence of whole models and of changes, the tables are those that Compile makes of the model and the
// numbers, byte for byte, and a delta applied to the tables before gives them, too.
func TestChangesComeToWhatCompileMakes(t *testing.T) {
	deltas, edits, images := 0, 0, 0
	eachSeed(t, 60, func(t *testing.T, r *rand.Rand) {
		from := withServices(r, randomModel(r))
		p := NewPlanner()
		plan := step(t, p, from)
		k := entries(plan.Final)
		for range 12 {
			to := mutatePods(r, from)
			switch r.IntN(4) {
			case 0:
				to = withServices(r, mutate(r, from))
			case 1:
				to = clonePods(from)
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
			if d := plan.Delta; d != nil {
				deltas++
				if plan.Swap {
					edits++
				}
				if plan.Interim != nil || plan.Swap == (plan.Final.Image == p.live.image) {
					t.Fatal("a delta with another image than the last one, which is to be swapped in")
				}
				for _, a := range d.Set {
					if k[a.Prefix] == a {
						t.Fatalf("%s is set to what it is", a.Prefix)
					}
					k[a.Prefix] = a
				}
				for _, prefix := range d.Gone {
					delete(k, prefix)
				}
				plan.Final.Addresses = p.live.addressesWith(d)
			} else {
				images++
				k = entries(plan.Final)
			}
			p.Commit(plan)
			want, err := Compile(to, p.live.numbers)
			if err != nil {
				t.Fatal(err)
			}
			got := plan.Final
			if !reflect.DeepEqual(got.Addresses, want.Addresses) || !maps.Equal(k, entries(want)) {
				t.Fatalf("addresses (changes %v, delta %v):\n%+v\nwant\n%+v", changewise, plan.Delta != nil, got.Addresses, want.Addresses)
			}
			if !reflect.DeepEqual(got.Endpoints, want.Endpoints) || !reflect.DeepEqual(got.Nodes, want.Nodes) || !reflect.DeepEqual(got.Services, want.Services) {
				t.Fatalf("endpoints, nodes or Services:\n%+v\n%+v\n%+v\nwant\n%+v\n%+v\n%+v", got.Endpoints, got.Nodes, got.Services, want.Endpoints, want.Nodes, want.Services)
			}
			if !bytes.Equal(body(got.Image), body(want.Image)) || plan.Swap && !bytes.Equal(got.Image.Bytes(), want.Image.Bytes()) {
				t.Fatalf("another image (swap %v, interim %v)", plan.Swap, plan.Interim != nil)
			}
			from = to
		}
	})
	if os.Getenv("WEIR_SEED") == "" && (deltas < 100 || edits < 10 || images < 100) {
		t.Errorf("%d deltas, %d of them edits, %d plans with images", deltas, edits, images)
	}
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

// An equal policy says the same in every field that there is.
func TestEqualPolicyReadsEveryField(t *testing.T) {
	full := func() *Policy {
		return &Policy{Key: "k", Subject: labels("a", In, "b"), Rules: []Rule{{Path: "r", Peers: []Peer{pods("x", In, "y"), cidr("10.0.0.0/8", "10.1.0.0/16")}, Ports: []PortMatch{tcp(1, 2)}}}}
	}
	if a, b := full(), full(); !equalPolicy(a, b) {
		t.Fatal("equal policies differ")
	}
	var visit func(v reflect.Value, path string, check func(path string))
	visit = func(v reflect.Value, path string, check func(string)) {
		switch v.Kind() {
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[netip.Prefix]() {
				was := v.Interface()
				v.Set(reflect.ValueOf(mustPrefix("192.0.2.0/30")))
				check(path)
				v.Set(reflect.ValueOf(was))
				return
			}
			for i := range v.NumField() {
				visit(v.Field(i), path+"."+v.Type().Field(i).Name, check)
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				visit(v.Index(i), fmt.Sprintf("%s[%d]", path, i), check)
			}
			if v.Kind() == reflect.Slice && v.Len() > 0 {
				was := v.Interface()
				v.Set(v.Slice(0, v.Len()-1))
				check(path)
				v.Set(reflect.ValueOf(was))
			}
		default:
			was := reflect.New(v.Type()).Elem()
			was.Set(v)
			switch v.Kind() {
			case reflect.String:
				v.SetString(v.String() + "!")
			case reflect.Bool:
				v.SetBool(!v.Bool())
			case reflect.Uint8, reflect.Uint16, reflect.Uint32:
				v.SetUint(v.Uint() + 1)
			case reflect.Int, reflect.Int32, reflect.Int64:
				v.SetInt(v.Int() + 1)
			default:
				t.Fatalf("%s: teach this test to change a %s", path, v.Kind())
			}
			check(path)
			v.Set(was)
		}
	}
	changed := full()
	visit(reflect.ValueOf(changed).Elem(), "", func(path string) {
		if equalPolicy(full(), changed) {
			t.Errorf("%s differs, and nobody sees it", path)
		}
	})
}
