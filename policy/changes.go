// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"maps"
	"reflect"
	"slices"
)

// ErrNoModel is that changes were to be planned, and there is no model that they are changes of: none was planned whole
// and carried out since the planner was made or restored.
var ErrNoModel = errors.New("no model to change")

// Changes is what has changed in a cluster since the plan that was carried out last.
type Changes struct {
	Pods     []Pod    // those that are new, and those that say something else than before
	GonePods []string // keys; one that comes back under its key may be listed, too
	// The same of nodes, by name, and of Services, by Service.Key. A Service whose backends change says something else.
	NodesChanged    []Node
	GoneNodes       []string
	ServicesChanged []Service
	GoneServices    []string
	// Whole lists, in place of those before; nil: as before. What changes of nodes and Services comes on top.
	Nodes    []Node
	Policies []Policy
	Services []Service
	Options  *Options
}

// Empty says whether nothing has changed.
func (c *Changes) Empty() bool {
	return c.Nodes == nil && c.Policies == nil && c.Services == nil && c.Options == nil &&
		len(c.Pods)+len(c.GonePods)+len(c.NodesChanged)+len(c.GoneNodes)+len(c.ServicesChanged)+len(c.GoneServices) == 0
}

// maxDelta is how many pods, nodes or Services may change in a plan that is made from the changes alone.
const maxDelta = 4096

type podID struct{ namespace, name string }

func (p *Pod) id() podID { return podID{p.Namespace, p.Name} }

// news is how a model differs from the one that is live, policies excepted: what is new or says something else, and
// what is gone. The structs are the planner's own.
type news struct {
	pods         []*Pod
	gonePods     []podID
	nodes        []*Node
	goneNodes    []string
	services     []*Service
	goneServices []string
}

func (d *news) few() bool {
	return max(len(d.pods), len(d.gonePods), len(d.nodes), len(d.goneNodes), len(d.services), len(d.goneServices)) <= maxDelta
}

// ownPorts copies the Services' lists of ports: the planner knows ports by where they are.
func (d *news) ownPorts() {
	for _, s := range d.services {
		s.Ports = slices.Clone(s.Ports)
	}
}

// told is what a watcher says.
func (r *resident) told(c *Changes) *news {
	d := &news{}
	for i := range c.Pods {
		pod := c.Pods[i]
		d.pods = append(d.pods, &pod)
	}
	for _, key := range c.GonePods {
		if id, ok := r.find(key); ok {
			d.gonePods = append(d.gonePods, id)
		}
	}
	d.gonePods = without(d.gonePods, d.pods, (*Pod).id)
	d.nodes, d.goneNodes = listed(r.resolver.nodes, c.Nodes, c.NodesChanged, c.GoneNodes, func(n *Node) string { return n.Name }, equalNode)
	d.services, d.goneServices = listed(r.services.services, c.Services, c.ServicesChanged, c.GoneServices, (*Service).Key, equalService)
	d.ownPorts()
	return d
}

func (r *resident) find(key string) (podID, bool) {
	for i := range key {
		if key[i] == '/' {
			id := podID{key[:i], key[i+1:]}
			return id, r.pods.get(id) != nil
		}
	}
	return podID{}, false
}

// listed is what a whole list, if there is one, and changes on top of it, come to.
func listed[T any](have map[string]*T, all, changed []T, gone []string, key func(*T) string, equal func(a, b *T) bool) ([]*T, []string) {
	if all == nil && len(changed)+len(gone) == 0 {
		return nil, nil
	}
	out := make(map[string]bool, len(gone))
	for _, k := range gone {
		out[k] = true
	}
	on := make(map[string]bool, len(changed))
	for i := range changed {
		on[key(&changed[i])] = true
	}
	var come []*T
	var left []string
	if all != nil {
		there := make(map[string]bool, len(all))
		for i := range all {
			t := &all[i]
			k := key(t)
			there[k] = true
			if old := have[k]; !on[k] && !out[k] && (old == nil || !equal(old, t)) {
				copied := *t
				come = append(come, &copied)
			}
		}
		for k := range have {
			if !there[k] {
				out[k] = true
			}
		}
	}
	for i := range changed {
		copied := changed[i]
		come = append(come, &copied)
	}
	for k := range out {
		if have[k] != nil {
			left = append(left, k)
		}
	}
	return come, without(left, come, key)
}

// without is gone without what comes back.
func without[K comparable, T any](gone []K, come []*T, key func(*T) K) []K {
	if len(gone) == 0 || len(come) == 0 {
		return gone
	}
	back := make(map[K]bool, len(come))
	for _, t := range come {
		back[key(t)] = true
	}
	return slices.DeleteFunc(gone, func(k K) bool { return back[k] })
}

// newsOf is how m differs from what is live; false if one is listed twice, or if there are many.
func (r *resident) newsOf(m *Model) (*news, bool) {
	d := &news{}
	known := 0
	for i := range m.Pods {
		pod := &m.Pods[i]
		old := r.pods.get(pod.id())
		if old != nil {
			known++
			if equalPod(old, pod) {
				continue
			}
		}
		copied := *pod // or it would keep all of m's in memory
		if d.pods = append(d.pods, &copied); len(d.pods) > maxDelta {
			return nil, false
		}
	}
	switch missing := r.pods.len() - known; {
	case missing < 0 || missing > maxDelta:
		return nil, false
	case missing > 0:
		there := make(map[podID]bool, len(m.Pods))
		for i := range m.Pods {
			there[m.Pods[i].id()] = true
		}
		for p := range r.pods.all() {
			if !there[p.id()] {
				d.gonePods = append(d.gonePods, p.id())
			}
		}
		if len(d.gonePods) != missing {
			return nil, false
		}
	}
	var once bool
	if d.nodes, d.goneNodes, once = between(r.resolver.nodes, m.Nodes, func(n *Node) string { return n.Name }, equalNode); !once {
		return nil, false
	}
	if d.services, d.goneServices, once = between(r.services.services, m.Services, (*Service).Key, equalService); !once {
		return nil, false
	}
	d.ownPorts()
	return d, d.few()
}

// between is how a list differs from what there is; false if one is listed twice.
func between[T any](have map[string]*T, list []T, key func(*T) string, equal func(a, b *T) bool) (come []*T, gone []string, once bool) {
	there := make(map[string]bool, len(list))
	for i := range list {
		t := &list[i]
		k := key(t)
		there[k] = true
		if old := have[k]; old == nil || !equal(old, t) {
			copied := *t
			come = append(come, &copied)
		}
	}
	for k := range have {
		if !there[k] {
			gone = append(gone, k)
		}
	}
	return come, gone, len(there) == len(list)
}

// equalPod says whether two pods say the same. Labels that are the same memory are not read.
func equalPod(a, b *Pod) bool {
	return a == b || a.UID == b.UID && a.Node == b.Node && a.Namespace == b.Namespace && a.Name == b.Name &&
		slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Ports, b.Ports) && equalLabels(a.Labels, b.Labels)
}

func equalLabels(a, b map[string]string) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer() || maps.Equal(a, b)
}

// equalNode and equalService take nil and empty for the same.
func equalNode(a, b *Node) bool {
	return a == b || a.Name == b.Name && a.VTEPMAC == b.VTEPMAC && a.APIServer == b.APIServer && a.Direct == b.Direct &&
		slices.Equal(a.Underlay, b.Underlay) && slices.Equal(a.Overlay, b.Overlay) && slices.Equal(a.PodCIDRs, b.PodCIDRs) && equalLabels(a.Labels, b.Labels)
}

func equalService(a, b *Service) bool {
	return a == b || a.Namespace == b.Namespace && a.Name == b.Name && a.NodePorts == b.NodePorts && slices.Equal(a.Addrs, b.Addrs) &&
		equalLists(a.Ports, b.Ports, func(p, q *ServicePort) bool {
			return p.Protocol == q.Protocol && p.Port == q.Port && p.NodePort == q.NodePort && slices.Equal(p.Backends, q.Backends)
		})
}
