// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AuditAnnotation, with the value "true", puts a policy object under audit: it enforces nothing, and what it would drop is
// counted and told. "false" is the same as none.
const AuditAnnotation = "weir.net/audit"

const auditPath = "metadata.annotations[" + AuditAnnotation + "]"

func isAudited(object metav1.Object) bool { return object.GetAnnotations()[AuditAnnotation] == "true" }

// audit checks the annotation: a typing error must not decide whether a policy is enforced.
func (c *checker) audit(object metav1.Object) {
	if value, set := object.GetAnnotations()[AuditAnnotation]; set && value != "true" && value != "false" {
		c.bad(auditPath, `%q, must be "true" or "false"`, value)
	}
}

// audits marks the policies of the objects that are under audit.
func (t *translator) audits() {
	audited := map[string]bool{}
	mark := func(kind string, object metav1.Object) {
		if isAudited(object) {
			audited[name(kind, object)] = true
			t.status(name(kind, object), auditPath, ReasonAudited,
				"under audit: it enforces nothing, what it would drop is counted and logged; remove the annotation to enforce it")
		}
	}
	for _, p := range t.objects.NetworkPolicies {
		mark("NetworkPolicy", p)
	}
	for _, p := range t.objects.CiliumNetworkPolicies {
		mark("CiliumNetworkPolicy", p)
	}
	for _, p := range t.objects.CiliumClusterwideNetworkPolicies {
		mark("CiliumClusterwideNetworkPolicy", p)
	}
	for _, p := range t.objects.ClusterNetworkPolicies {
		mark("ClusterNetworkPolicy", p)
	}
	for i := range t.model.Policies {
		t.model.Policies[i].Audit = audited[t.model.Policies[i].Key]
	}
}
