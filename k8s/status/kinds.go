// SPDX-License-Identifier: Apache-2.0

package status

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kind is a kind of policy.
type Kind struct {
	Name       string
	Resource   schema.GroupVersionResource
	Namespaced bool
	Conditions bool     // its status has conditions
	Short      []string // names for the command line
	// CRD is the name of the definition that a cluster may lack; empty if the kind is Kubernetes' own.
	CRD string
	// Shared says that other software may define the kind and write its status.
	Shared bool
}

// Kinds lists the kinds of policy. Of ClusterNetworkPolicy the version that a cluster serves is looked for.
func Kinds() []Kind {
	cilium := schema.GroupVersion{Group: "cilium.io", Version: "v2"}
	return []Kind{
		{Name: "NetworkPolicy", Resource: schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
			Namespaced: true, Short: []string{"netpol", "np"}},
		{Name: "CiliumNetworkPolicy", Resource: cilium.WithResource("ciliumnetworkpolicies"), Namespaced: true, Conditions: true,
			Short: []string{"cnp", "ciliumnp"}, CRD: "ciliumnetworkpolicies.cilium.io", Shared: true},
		{Name: "CiliumClusterwideNetworkPolicy", Resource: cilium.WithResource("ciliumclusterwidenetworkpolicies"), Conditions: true,
			Short: []string{"ccnp"}, CRD: "ciliumclusterwidenetworkpolicies.cilium.io", Shared: true},
		{Name: "ClusterNetworkPolicy", Resource: schema.GroupVersionResource{Group: "policy.networking.k8s.io", Version: "v1beta1", Resource: "clusternetworkpolicies"},
			Conditions: true, CRD: "clusternetworkpolicies.policy.networking.k8s.io"},
	}
}

// versions of a kind's resource to look for, the preferred one first.
func (k Kind) versions() []schema.GroupVersionResource {
	if k.Name != "ClusterNetworkPolicy" {
		return []schema.GroupVersionResource{k.Resource}
	}
	older := k.Resource
	older.Version = "v1alpha2"
	return []schema.GroupVersionResource{k.Resource, older}
}

// FindKind finds a kind by its name, resource or short name, in any case; "ciliumnetworkpolicies.cilium.io" will do.
func FindKind(name string) (Kind, bool) {
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	for _, k := range Kinds() {
		if name == strings.ToLower(k.Name) || name == k.Resource.Resource {
			return k, true
		}
		for _, s := range k.Short {
			if name == s {
				return k, true
			}
		}
	}
	return Kind{}, false
}

// StatusName is the name of the PolicyStatus of a policy.
func StatusName(kind, name string) string {
	full := strings.ToLower(kind) + "." + name
	if len(full) <= maxObjectName {
		return full
	}
	sum := hash(full)
	return full[:maxObjectName-len(sum)-1] + "-" + sum
}

const maxObjectName = 253

var kindsByName = func() map[string]Kind {
	m := map[string]Kind{}
	for _, k := range Kinds() {
		m[k.Name] = k
	}
	return m
}()
