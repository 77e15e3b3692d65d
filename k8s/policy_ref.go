// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PolicyRef is one version of a policy object, as a cluster knows it.
type PolicyRef struct {
	Kind, Namespace, Name, UID string
	// Generation counts the changes of the object's spec, ResourceVersion those of anything about it; later versions of the
	// objects of a kind have higher ones (KEP-5504), also if the two are not versions of one object.
	Generation      int64
	ResourceVersion string
}

// Object is the name that a Status has for the policy: "CiliumNetworkPolicy default/web".
func (r PolicyRef) Object() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// Reasons of a Status that are not Translate's: what became of a policy on its way to the kernel.
const (
	ReasonTooLarge = "TooLarge" // the policies of its namespace do not fit; the pods it selects are isolated
	ReasonRefused  = "Refused"  // the object is wrong in itself, or cannot be read
)

// PolicyRefs are those of all policy objects of a set, sorted by name.
func (o *Objects) PolicyRefs() []PolicyRef {
	var refs []PolicyRef
	add := func(kind string, p metav1.Object) {
		refs = append(refs, PolicyRef{Kind: kind, Namespace: p.GetNamespace(), Name: p.GetName(), UID: string(p.GetUID()),
			Generation: p.GetGeneration(), ResourceVersion: p.GetResourceVersion()})
	}
	for _, p := range o.NetworkPolicies {
		add("NetworkPolicy", p)
	}
	for _, p := range o.CiliumNetworkPolicies {
		add("CiliumNetworkPolicy", p)
	}
	for _, p := range o.CiliumClusterwideNetworkPolicies {
		add("CiliumClusterwideNetworkPolicy", p)
	}
	for _, p := range o.ClusterNetworkPolicies {
		add("ClusterNetworkPolicy", p)
	}
	slices.SortFunc(refs, func(a, b PolicyRef) int { return strings.Compare(a.Object(), b.Object()) })
	return refs
}
