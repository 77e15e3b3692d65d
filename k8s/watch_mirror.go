// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/weirnet/weir/policy"
)

// mirror is the translation of a cluster's objects, kept up by what changes. Objects are noted as they come; flush then
// translates those that somebody's change concerns and says what is new. However the objects came, the result is that of
// their last state. It is not safe for concurrent use.
type mirror struct {
	node    string
	options Options

	namespaces map[string]map[string]string // labels, by name
	pods       podMirror
	nodes      nodeMirror
	services   map[string]*serviceRecord // by "namespace/name"; also of slices whose Service is not there
	sliceOf    map[string]*sliceObject   // by the slice's own "namespace/name"
	groups     map[string]*CiliumCIDRGroup
	policies   map[string]*policyRecord // by name: "NetworkPolicy default/web"

	// What is yet to be translated.
	policiesDirty map[string]bool
	servicesDirty map[string]bool
	concerned     uint8 // what policies depend on and has changed, of the depends... constants
	statusDirty   bool
	refsDirty     bool
	listDirty     bool // of policies

	// What is translated, sorted. Lists that were handed over are replaced, never written to.
	lookup   lookup
	model    *translator // with nodes and the API server's addresses
	list     []policy.Policy
	refs     []PolicyRef
	statuses []Status
	asked    map[netip.Addr]bool // addresses whose holder some policy's status names
}

// What a policy can depend on besides itself.
const (
	dependsNodes uint8 = 1 << iota // and on where the API is served
	dependsGroups
	dependsServices // and on who holds their endpoints' addresses
)

func newMirror(node string, options Options) *mirror {
	m := &mirror{
		node: node, options: options, namespaces: map[string]map[string]string{}, pods: newPodMirror(), nodes: newNodeMirror(),
		services: map[string]*serviceRecord{}, sliceOf: map[string]*sliceObject{}, groups: map[string]*CiliumCIDRGroup{}, policies: map[string]*policyRecord{},
		policiesDirty: map[string]bool{}, servicesDirty: map[string]bool{}, asked: map[netip.Addr]bool{}, statusDirty: true, refsDirty: true,
		concerned: dependsNodes | dependsGroups | dependsServices,
	}
	m.lookup = lookup{behind: m.behind, holder: m.holder}
	m.model = m.translator()
	return m
}

func (m *mirror) translator() *translator {
	return &translator{objects: &Objects{}, options: m.options, lenient: true, byName: &m.lookup, facts: m.nodes.facts,
		model: &policy.Model{Node: m.node, Options: m.options.Policy}}
}

// ready says whether there is anything to enforce: without its own Node, a node does not know what is its own.
func (m *mirror) ready() bool { return m.nodes.objects[m.node] != nil }

// putNamespace notes a Namespace's labels.
func (m *mirror) putNamespace(name string, labels map[string]string) {
	if old, known := m.namespaces[name]; known && maps.Equal(old, labels) {
		return
	}
	m.namespaces[name] = labels
	m.pods.relabel(name, labels)
}

func (m *mirror) removeNamespace(name string) {
	if _, known := m.namespaces[name]; known {
		delete(m.namespaces, name)
		m.pods.relabel(name, nil)
	}
}

func (m *mirror) putGroup(g *CiliumCIDRGroup) {
	m.groups[g.Name] = g
	m.concerned |= dependsGroups
}

func (m *mirror) removeGroup(name string) {
	if m.groups[name] != nil {
		delete(m.groups, name)
		m.concerned |= dependsGroups
	}
}

// dirty says whether something that policy depends on has changed since the last flush.
func (m *mirror) dirty() bool {
	return len(m.pods.dirty)+len(m.servicesDirty)+len(m.policiesDirty) > 0 || m.nodes.dirty || m.concerned != 0
}

// flush translates what has changed and returns it. What it returned before is not in it again.
func (m *mirror) flush() policy.Changes {
	var c policy.Changes
	m.flushNodes(&c)
	m.flushPods(&c)
	m.flushServices(&c)
	m.flushPolicies(&c)
	m.flushStatuses()
	return c
}

// whole is the model of all that is translated.
func (m *mirror) whole() *policy.Model {
	model := &policy.Model{Node: m.node, Options: m.options.Policy, Nodes: slices.Clone(m.model.model.Nodes), Policies: m.list}
	model.Pods = make([]policy.Pod, 0, len(m.pods.records))
	for _, r := range m.pods.records {
		if pod, ok := m.effective(r); ok {
			model.Pods = append(model.Pods, pod)
		}
	}
	sort.Slice(model.Pods, func(i, j int) bool { return comparePods(&model.Pods[i], &model.Pods[j]) < 0 })
	for _, key := range slices.Sorted(maps.Keys(m.services)) {
		if s := m.services[key]; s.listed {
			model.Services = append(model.Services, s.model)
		}
	}
	slices.SortFunc(model.Services, func(a, b policy.Service) int { return compareNames(a.Namespace, a.Name, b.Namespace, b.Name) })
	return model
}

func comparePods(a, b *policy.Pod) int { return compareNames(a.Namespace, a.Name, b.Namespace, b.Name) }

func compareNames(namespace, name, otherNamespace, otherName string) int {
	return cmp.Or(strings.Compare(namespace, otherNamespace), strings.Compare(name, otherName))
}

// holder is the pod or node that an address is of.
func (m *mirror) holder(addr netip.Addr) (kind, holder string) {
	m.asked[addr] = true
	if r := m.pods.holders[addr]; r != nil && !m.nodes.taken[addr] && m.placed(r) {
		return "pod", r.Namespace + "/" + r.Name
	}
	if name := m.nodes.owners[addr]; name != "" {
		return "node", name
	}
	return "", ""
}

// flushStatuses lists the statuses anew if any has changed.
func (m *mirror) flushStatuses() {
	if !m.statusDirty {
		return
	}
	m.statusDirty = false
	all := slices.Clone(m.nodes.statuses)
	for _, statuses := range m.pods.statuses {
		all = append(all, statuses...)
	}
	for _, p := range m.policies {
		all = append(all, p.statuses...)
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Object < all[j].Object })
	m.statuses = all
}
