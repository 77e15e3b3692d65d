// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"
)

// ErrNoModel is that changes were to be planned, and there is no model that they are changes of: none was planned whole
// and carried out since the planner was made or restored.
var ErrNoModel = errors.New("no model to change")

// Changes is what has changed in a cluster since the plan that was carried out last.
type Changes struct {
	Pods     []Pod    // those that are new, and those that say something else than before
	GonePods []string // keys; one that comes back under its key is in Pods, too or only
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

// maxDelta is how many pods may change in a plan that is made from the changes alone.
const maxDelta = 256

type podID struct{ namespace, name string }

func (p *Pod) id() podID { return podID{p.Namespace, p.Name} }

// resident is what a planner keeps of the model that is live, so that a change of pods costs no look at the others. It is
// the planner's only state that changes in place, by Commit.
type resident struct {
	model    *Model         // its pods are those of the last plan that was no delta
	changing map[podID]bool // pods that are not as the model has them
	pods     map[podID]*Pod
	resolver *resolver // with the owners of all addresses
	cidrs    map[netip.Prefix]bool
	uses     map[string]int // addresses by the name of their identity
	slots    map[uint16]bool
	backends map[netip.Addr]bool
	departed int // tenancies of addresses that nobody has
	words    *words
	stale    bool // the numbers' vocabulary has words that no policy names any more

	compiled *Compiled             // Addresses as they were before touched
	touched  map[netip.Prefix]bool // addresses that have changed since
}

func newResident(g *planning, c *Compiled) *resident {
	r := &resident{
		model: g.model, resolver: g.resolver, compiled: c, touched: map[netip.Prefix]bool{}, changing: map[podID]bool{},
		pods: make(map[podID]*Pod, len(g.model.Pods)), cidrs: map[netip.Prefix]bool{}, uses: make(map[string]int, len(g.used)),
		slots: make(map[uint16]bool, len(g.numbers.Endpoints)), backends: map[netip.Addr]bool{},
	}
	for i := range g.model.Pods {
		p := &g.model.Pods[i]
		r.pods[p.id()] = p
	}
	for i := range g.model.Nodes {
		for _, p := range g.model.Nodes[i].PodCIDRs {
			r.cidrs[p.Masked()] = true
		}
	}
	for i := range c.Addresses {
		r.uses[identityName(g.numbers.Identities[c.Addresses[i].Identity])]++
	}
	for _, slot := range g.numbers.Endpoints {
		r.slots[slot] = true
	}
	for i := range g.model.Services {
		for _, p := range g.model.Services[i].Ports {
			for _, b := range p.Backends {
				r.backends[b.Addr().Unmap()] = true
			}
		}
	}
	r.words = newWords(g.policies)
	r.stale = len(r.words.labels) != len(g.numbers.Vocabulary.Labels) || len(r.words.prefixes) != len(g.numbers.Vocabulary.Prefixes)
	for _, t := range g.numbers.Tenancies {
		if t.Left != 0 {
			r.departed++
		}
	}
	return r
}

// PlanChanges plans for what is live with changes. Where only pods change, and each has an identity that the live image
// knows, it costs no look at the rest of the cluster: the plan then has a Delta, and Final's Addresses are nil. What the
// changes share with earlier ones must not have been written to since.
func (p *Planner) PlanChanges(c Changes) (*Plan, error) {
	if p.live == nil || p.live.resident == nil {
		return nil, ErrNoModel
	}
	gone := make([]podID, 0, len(c.GonePods))
	r := p.live.resident
	for _, key := range c.GonePods {
		if id, ok := r.find(key); ok {
			gone = append(gone, id)
		}
	}
	if c.podsOnly() {
		pods := make([]*Pod, len(c.Pods))
		for i := range c.Pods {
			pod := c.Pods[i]
			pods[i] = &pod
		}
		if plan := p.delta(pods, gone); plan != nil {
			return plan, nil
		}
	}
	return p.whole(r.with(c, gone))
}

func (r *resident) find(key string) (podID, bool) {
	for i := range key {
		if key[i] == '/' {
			id := podID{key[:i], key[i+1:]}
			_, ok := r.pods[id]
			return id, ok
		}
	}
	return podID{}, false
}

// podsOnly says that nothing but pods changes.
func (c *Changes) podsOnly() bool {
	return c.Nodes == nil && c.Policies == nil && c.Services == nil && c.Options == nil &&
		len(c.NodesChanged)+len(c.GoneNodes)+len(c.ServicesChanged)+len(c.GoneServices) == 0
}

// with is the whole model with changes.
func (r *resident) with(c Changes, gone []podID) *Model {
	m := *r.model
	pods := maps.Clone(r.pods)
	for _, id := range gone {
		delete(pods, id)
	}
	m.Pods = make([]Pod, 0, len(pods)+len(c.Pods))
	for i := range c.Pods {
		delete(pods, c.Pods[i].id())
	}
	for _, p := range pods {
		m.Pods = append(m.Pods, *p)
	}
	m.Pods = append(m.Pods, c.Pods...)
	if c.Nodes != nil {
		m.Nodes = c.Nodes
	}
	if c.Policies != nil {
		m.Policies = c.Policies
	}
	if c.Services != nil {
		m.Services = c.Services
	}
	if c.Options != nil {
		m.Options = *c.Options
	}
	m.Nodes = changed(m.Nodes, c.NodesChanged, c.GoneNodes, func(n *Node) string { return n.Name })
	m.Services = changed(m.Services, c.ServicesChanged, c.GoneServices, (*Service).Key)
	return &m
}

// changed is list without what is gone, and with what is there in place of what had its key.
func changed[T any](list, there []T, gone []string, key func(*T) string) []T {
	if len(there)+len(gone) == 0 {
		return list
	}
	out := make(map[string]bool, len(there)+len(gone))
	for _, k := range gone {
		out[k] = true
	}
	for i := range there {
		out[key(&there[i])] = true
	}
	return append(slices.DeleteFunc(slices.Clone(list), func(t T) bool { return out[key(&t)] }), there...)
}

// snapshot is m in lists of its own.
func (m *Model) snapshot() *Model {
	c := *m
	c.Nodes, c.Pods, c.Policies, c.Services = slices.Clone(m.Nodes), slices.Clone(m.Pods), slices.Clone(m.Policies), slices.Clone(m.Services)
	return &c
}

// changed lists the pods in which m differs from what is live; false if more than pods do, or many of them.
func (r *resident) changed(m *Model) (pods []*Pod, gone []podID, ok bool) {
	if !equalPolicies(m.Policies, r.model.Policies) {
		return nil, nil, false
	}
	return r.changedPods(m)
}

// changedPods is changed for models whose policies may differ.
func (r *resident) changedPods(m *Model) (pods []*Pod, gone []podID, ok bool) {
	was := r.model
	if m.Node != was.Node || m.Options != was.Options ||
		!reflect.DeepEqual(m.Nodes, was.Nodes) || !reflect.DeepEqual(m.Services, was.Services) {
		return nil, nil, false
	}
	known := 0
	for i := range m.Pods {
		pod := &m.Pods[i]
		if i < len(was.Pods) && equalPod(&was.Pods[i], pod) && (len(r.changing) == 0 || !r.changing[pod.id()]) {
			known++ // mostly they are where they were
			continue
		}
		old := r.pods[pod.id()]
		if old != nil {
			known++
		}
		if old == nil || !equalPod(old, pod) {
			copied := *pod // or it would keep all of m's in memory
			if pods = append(pods, &copied); len(pods) > maxDelta {
				return nil, nil, false
			}
		}
	}
	if missing := len(r.pods) - known; missing > 0 {
		if missing > maxDelta {
			return nil, nil, false
		}
		there := make(map[podID]bool, len(m.Pods))
		for i := range m.Pods {
			there[m.Pods[i].id()] = true
		}
		for id := range r.pods {
			if !there[id] {
				gone = append(gone, id)
			}
		}
	} else if missing < 0 {
		return nil, nil, false // one is listed twice
	}
	return pods, gone, true
}

// equalPod says whether two pods say the same. Labels that are the same memory are not read.
func equalPod(a, b *Pod) bool {
	return a == b || a.UID == b.UID && a.Node == b.Node && a.Namespace == b.Namespace && a.Name == b.Name &&
		slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Ports, b.Ports) &&
		(reflect.ValueOf(a.Labels).UnsafePointer() == reflect.ValueOf(b.Labels).UnsafePointer() || maps.Equal(a.Labels, b.Labels))
}
