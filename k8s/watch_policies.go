// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// policyObject is a policy object as it was read: whole, or as much of it as can be.
type policyObject struct {
	ref     PolicyRef
	object  metav1.Object // nil: nothing of it can be read
	refused []Status      // what is wrong with it
}

// GetObjectMeta lets a reflector tell policies apart.
func (p *policyObject) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.ref.Namespace, Name: p.ref.Name}
}

// policyRecord is a policy object in the mirror.
type policyRecord struct {
	policyObject
	depends    uint8
	translated []policy.Policy
	told       []Status // by the translation
	statuses   []Status
}

func (m *mirror) putPolicy(p *policyObject) {
	key := p.ref.Object()
	r := m.policies[key]
	if r == nil {
		r = &policyRecord{}
		m.policies[key] = r
	}
	m.refsDirty = m.refsDirty || r.ref != p.ref
	before := r.policyObject
	if r.policyObject = *p; p.object == nil {
		r.object = before.object // the version before, if there is one, stays in force
	}
	if p.object == nil && before.object == nil || p.object != nil && (before.object == nil || !sameSpec(before.object, p.object)) ||
		!slices.Equal(before.refused, p.refused) {
		m.policiesDirty[key] = true
	}
}

func (m *mirror) removePolicy(key string) {
	if m.policies[key] != nil {
		delete(m.policies, key)
		m.policiesDirty[key], m.refsDirty, m.statusDirty, m.listDirty = true, true, true, true
	}
}

// sameSpec says whether two versions of an object say the same to policy.
func sameSpec(a, b metav1.Object) bool {
	if isAudited(a) != isAudited(b) {
		return false
	}
	switch a := a.(type) {
	case *networkingv1.NetworkPolicy:
		return reflect.DeepEqual(a.Spec, b.(*networkingv1.NetworkPolicy).Spec)
	case *CiliumNetworkPolicy:
		return reflect.DeepEqual(a.Spec, b.(*CiliumNetworkPolicy).Spec) && reflect.DeepEqual(a.Specs, b.(*CiliumNetworkPolicy).Specs)
	case *CiliumClusterwideNetworkPolicy:
		return reflect.DeepEqual(a.Spec, b.(*CiliumClusterwideNetworkPolicy).Spec) && reflect.DeepEqual(a.Specs, b.(*CiliumClusterwideNetworkPolicy).Specs)
	case *ClusterNetworkPolicy:
		return reflect.DeepEqual(a.Spec, b.(*ClusterNetworkPolicy).Spec) && reflect.DeepEqual(a.Unknown, b.(*ClusterNetworkPolicy).Unknown)
	}
	return false
}

// dependencies is what the translation of a policy object looks at besides the object.
func dependencies(object metav1.Object) uint8 {
	var specs []*CiliumRule
	switch p := object.(type) {
	case *CiliumNetworkPolicy:
		specs = append(slices.Clone(p.Specs), p.Spec)
	case *CiliumClusterwideNetworkPolicy:
		specs = append(slices.Clone(p.Specs), p.Spec)
	}
	var on uint8
	for _, spec := range specs {
		if spec == nil {
			continue
		}
		for _, r := range rulesOf(spec, "") {
			if len(r.entities)+len(r.nodes) > 0 || slices.ContainsFunc(r.endpoints, namesReserved) {
				on |= dependsNodes
			}
			if len(r.services) > 0 {
				on |= dependsServices
			}
			if slices.ContainsFunc(r.cidrSets, func(c CiliumCIDRRule) bool { return c.CIDR == "" }) {
				on |= dependsGroups
			}
		}
	}
	return on
}

func namesReserved(s metav1.LabelSelector) bool {
	return slices.ContainsFunc(ciliumSelector(&s), func(r policy.Requirement) bool { return strings.HasPrefix(r.Key, labelReserved) })
}

// flushPolicies translates the policies that have changed, and those that depend on what has.
func (m *mirror) flushPolicies(c *policy.Changes) {
	if m.concerned != 0 {
		for key, r := range m.policies {
			if r.depends&m.concerned != 0 {
				m.policiesDirty[key] = true
			}
		}
	}
	if m.concerned&dependsServices != 0 {
		clear(m.asked) // all who ask do so again
	}
	m.concerned = 0
	for key := range m.policiesDirty {
		r := m.policies[key]
		if r == nil {
			continue
		}
		var translated []policy.Policy
		if r.told = nil; r.object != nil {
			r.depends = dependencies(r.object)
			translated, r.told = m.translate(r)
		}
		if !reflect.DeepEqual(translated, r.translated) {
			r.translated, m.listDirty = translated, true
		}
		if statuses := slices.Concat(r.refused, r.told); !slices.Equal(statuses, r.statuses) {
			r.statuses, m.statusDirty = statuses, true
		}
	}
	clear(m.policiesDirty)
	if !m.listDirty && !m.refsDirty {
		return
	}
	keys := slices.Sorted(maps.Keys(m.policies))
	if m.listDirty {
		m.listDirty = false
		m.list = make([]policy.Policy, 0, len(keys))
		for _, key := range keys {
			m.list = append(m.list, m.policies[key].translated...)
		}
		c.Policies = m.list
	}
	if m.refsDirty {
		m.refsDirty = false
		m.refs = make([]PolicyRef, 0, len(keys))
		for _, key := range keys {
			m.refs = append(m.refs, m.policies[key].ref)
		}
	}
}

// translate translates one policy object.
func (m *mirror) translate(r *policyRecord) ([]policy.Policy, []Status) {
	if r.depends&dependsServices != 0 && m.lookup.services == nil {
		for _, s := range m.services {
			if s.object != nil {
				m.lookup.services = append(m.lookup.services, s.object)
			}
		}
		m.lookup.services = sortedByName(m.lookup.services)
	}
	if r.depends&dependsGroups != 0 {
		m.lookup.groups = sortedByName(slices.Collect(maps.Values(m.groups)))
	}
	t, model := *m.model, *m.model.model
	model.Policies, t.model, t.statuses = nil, &model, nil
	t.policy(r.object)
	return model.Policies, t.statuses
}
