// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// AuditAnnotation, with the value "true", puts a policy object under audit: it enforces nothing, and what it would drop is
// counted and told. "false" is the same as none.
const AuditAnnotation = "weirnet.github.io/audit"

const auditPath = "metadata.annotations[" + AuditAnnotation + "]"

func isAudited(object metav1.Object) bool { return object.GetAnnotations()[AuditAnnotation] == "true" }

// audit checks the annotation: a typing error must not decide whether a policy is enforced.
func (c *checker) audit(object metav1.Object) {
	if value, set := object.GetAnnotations()[AuditAnnotation]; set && value != "true" && value != "false" {
		c.bad(auditPath, `%q, must be "true" or "false"`, value)
	}
}

// audit marks the policies of an object that is under audit.
func (t *translator) audit(object string, policies []policy.Policy) {
	for i := range policies {
		policies[i].Audit = true
	}
	t.status(object, auditPath, ReasonAudited, "under audit: it enforces nothing, what it would drop is counted and logged; remove the annotation to enforce it")
}
