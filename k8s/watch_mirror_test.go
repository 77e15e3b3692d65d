// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weirnet/weir/policy"
)

// shadow is a model that is kept up by changes alone, as a planner does.
type shadow struct {
	pods     map[string]policy.Pod
	nodes    map[string]policy.Node
	services map[string]policy.Service
	policies []policy.Policy
}

func (s *shadow) apply(t *testing.T, c *policy.Changes) {
	t.Helper()
	for _, p := range c.Pods {
		s.pods[p.Key()] = p
	}
	for _, key := range c.GonePods {
		delete(s.pods, key)
	}
	for _, n := range c.NodesChanged {
		s.nodes[n.Name] = n
	}
	for _, name := range c.GoneNodes {
		delete(s.nodes, name)
	}
	for _, x := range c.ServicesChanged {
		s.services[x.Key()] = x
	}
	for _, key := range c.GoneServices {
		delete(s.services, key)
	}
	if c.Policies != nil {
		s.policies = c.Policies
	}
}

func sortedValues[T any](m map[string]T, compare func(a, b T) int) []T {
	return slices.SortedFunc(maps.Values(m), compare)
}

func (s *shadow) same(t *testing.T, what string, m *policy.Model) {
	t.Helper()
	got := []any{sortedValues(s.pods, func(a, b policy.Pod) int { return comparePods(&a, &b) }),
		sortedValues(s.nodes, func(a, b policy.Node) int { return compareNames("", a.Name, "", b.Name) }),
		sortedValues(s.services, func(a, b policy.Service) int { return compareNames(a.Namespace, a.Name, b.Namespace, b.Name) }), s.policies}
	for i, want := range []any{m.Pods, m.Nodes, m.Services, m.Policies} {
		if g := got[i]; reflect.ValueOf(g).Len()+reflect.ValueOf(want).Len() > 0 && fmt.Sprintf("%+v", g) != fmt.Sprintf("%+v", want) {
			t.Fatalf("%s:\n got %+v\nwant %+v", what, g, want)
		}
	}
}

// translateAll is what Translate, which knows no changes, makes of the objects; ok is false if they are no set of manifests.
func (u *universe) translateAll(t *testing.T) (m *policy.Model, statuses []Status, ok bool) {
	t.Helper()
	o := &Objects{origins: map[metav1.Object]Origin{}}
	held := map[netip.Addr]bool{}
	for _, x := range u.objects {
		switch x := x.(type) {
		case *corev1.Namespace:
			o.Namespaces = append(o.Namespaces, x)
		case *corev1.Node:
			o.Nodes = append(o.Nodes, x)
		case *corev1.Pod:
			if !ownsAddress(x) {
				continue
			}
			for _, addr := range podAddrs(x) {
				if held[addr] {
					return nil, nil, false // two claim it
				}
				held[addr] = true
			}
			o.Pods = append(o.Pods, x)
		case *corev1.Service:
			o.Services = append(o.Services, x)
		case *discoveryv1.EndpointSlice:
			o.EndpointSlices = append(o.EndpointSlices, x)
		default:
			kind := "NetworkPolicy"
			if custom, is := x.(*unstructured.Unstructured); is {
				kind = custom.GetKind()
			}
			tree, err := u.readers[kind].tree(x)
			if err != nil {
				t.Fatal(err)
			}
			object, _ := u.readers[kind].decode(tree)
			switch p := object.(type) {
			case *networkingv1.NetworkPolicy:
				o.NetworkPolicies = append(o.NetworkPolicies, p)
			case *CiliumNetworkPolicy:
				o.CiliumNetworkPolicies = append(o.CiliumNetworkPolicies, p)
			case *CiliumClusterwideNetworkPolicy:
				o.CiliumClusterwideNetworkPolicies = append(o.CiliumClusterwideNetworkPolicies, p)
			case *ClusterNetworkPolicy:
				o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, p)
			case *CiliumCIDRGroup:
				o.CiliumCIDRGroups = append(o.CiliumCIDRGroups, p)
			default:
				return nil, nil, false // something is wrong with it
			}
		}
	}
	for _, n := range o.Nodes {
		for _, a := range n.Status.Addresses {
			if held[netip.MustParseAddr(a.Address)] {
				return nil, nil, false
			}
		}
		if held[netip.MustParseAddr("10.1.1.5")] && n.Annotations[flannelPrefix+"public-ip"] == "10.1.1.5" {
			return nil, nil, false
		}
	}
	m, statuses, err := Translate(o, "n0", Options{})
	return m, statuses, err == nil
}

// Whatever happened in whatever order, what a mirror says is what its objects say; what it said of changes comes to the same;
// and where the objects could be a set of manifests, it is what Translate makes of them.
func TestMirrorEqualsTranslation(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	compared, rounds := 0, 100
	for round := range rounds {
		u := newUniverse(t, seed+uint64(round))
		m := newMirror("n0", Options{})
		s := &shadow{map[string]policy.Pod{}, map[string]policy.Node{}, map[string]policy.Service{}, nil}
		t.Cleanup(func() {
			if t.Failed() && round == rounds-1 {
				t.Logf("seed %d", seed)
			}
		})
		own := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n0", CreationTimestamp: metav1.Unix(1, 0)}}
		own.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.10"}}
		u.objects[u.key(own)] = own
		u.put(t, m, own, false)
		for step := range 60 {
			for range 1 + u.IntN(4) {
				x := u.make()
				key := u.key(x)
				old, there := u.objects[key]
				gone := there && u.IntN(3) == 0 && key != u.key(own)
				if gone {
					x = old
					delete(u.objects, key)
				} else {
					u.objects[key] = x
				}
				u.put(t, m, x, gone)
			}
			c := m.flush()
			s.apply(t, &c)
			whole := m.whole()
			s.same(t, fmt.Sprintf("seed %d step %d: changes do not come to the whole", seed+uint64(round), step), whole)
			if again := m.flush(); !again.Empty() {
				t.Fatalf("seed %d step %d: nothing has changed, and changed is %+v", seed+uint64(round), step, again)
			}
			if step%6 != 0 {
				continue
			}
			fresh := newMirror("n0", Options{})
			keys := slices.Collect(maps.Keys(u.objects)) // in no order
			for _, key := range keys {
				u.put(t, fresh, u.objects[key], false)
			}
			fresh.flush()
			// A cluster-wide policy that cannot be read stays as it was: the one thing that depends on what was.
			if slices.ContainsFunc(m.statuses, func(s Status) bool { return strings.HasSuffix(s.Message, "or as it was last read") }) {
				continue
			}
			s.same(t, fmt.Sprintf("seed %d step %d: the order matters", seed+uint64(round), step), fresh.whole())
			if len(m.statuses)+len(fresh.statuses) > 0 && !slices.Equal(m.statuses, fresh.statuses) {
				t.Fatalf("seed %d step %d: statuses\n got %v\nwant %v", seed+uint64(round), step, m.statuses, fresh.statuses)
			}
			if !slices.Equal(m.refs, fresh.refs) {
				t.Fatalf("seed %d step %d: refs\n got %v\nwant %v", seed+uint64(round), step, m.refs, fresh.refs)
			}
			if want, statuses, ok := u.translateAll(t); ok {
				compared++
				s.same(t, fmt.Sprintf("seed %d step %d: Translate says otherwise", seed+uint64(round), step), want)
				if len(statuses)+len(m.statuses) > 0 && !slices.Equal(m.statuses, statuses) {
					t.Fatalf("seed %d step %d: statuses\n got %v\nwant %v", seed+uint64(round), step, m.statuses, statuses)
				}
			}
		}
	}
	if compared < rounds/10 {
		t.Errorf("only %d of the states could be compared with a translation of the whole", compared)
	}
	t.Logf("%d states were compared with a translation of the whole", compared)
}
