// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"strings"
	"testing"
)

// annotated is a manifest of one object with the annotation.
func annotated(manifest, value string) string {
	return strings.Replace(manifest, "metadata: {name: web", "metadata: {annotations: {"+AuditAnnotation+": "+value+"}, name: web", 1)
}

func TestAuditAnnotationCountsForEveryKindOfPolicy(t *testing.T) {
	clusterwide := strings.Replace(ciliumDoc("{endpointSelector: {}, ingress: [{}]}"), "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", 1)
	specs := "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web}\nspecs: [{endpointSelector: {}, ingress: [{}]}, {endpointSelector: {}, egress: [{}]}]\n"
	for _, manifest := range []string{policyDoc("{podSelector: {}}"), ciliumDoc("{endpointSelector: {}, ingress: [{}]}"), clusterwide, specs} {
		for value, audit := range map[string]bool{`"true"`: true, `"false"`: false} {
			m, statuses := translate(t, annotated(manifest, value), Options{})
			for _, p := range m.Policies {
				if p.Audit != audit {
					t.Errorf("%s %s: audit %v", p.Key, value, p.Audit)
				}
			}
			var want []Status
			if audit {
				want = []Status{{m.Policies[0].Key, "metadata.annotations[weirnet.github.io/audit]", ReasonAudited,
					"under audit: it enforces nothing, what it would drop is counted and logged; remove the annotation to enforce it"}}
			}
			if len(statuses) != len(want) || len(want) > 0 && statuses[0] != want[0] {
				t.Errorf("%s: statuses %+v, want %+v", value, statuses, want)
			}
		}
		for _, value := range []string{`"True"`, `""`, `"yes"`, `"1"`} {
			_, err := Decode("m.yaml", []byte(annotated(manifest, value)))
			if err == nil || !strings.Contains(err.Error(), "metadata.annotations[weirnet.github.io/audit]: "+value+`, must be "true" or "false"`) {
				t.Errorf("%s: %v", value, err)
			}
		}
	}
	if _, err := Decode("m.yaml", []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: web, annotations: {weirnet.github.io/audit: \"yes\"}}\n")); err != nil {
		t.Errorf("what is no policy has the annotation: %v", err)
	}
}

// Only the annotated object is under audit, whatever others are called.
func TestAuditIsOfOneObject(t *testing.T) {
	m, _ := translate(t, annotated(policyDoc("{podSelector: {}}"), `"true"`)+"---\n"+ciliumDoc("{endpointSelector: {}, ingress: [{}]}"), Options{})
	for _, p := range m.Policies {
		if p.Audit != strings.HasPrefix(p.Key, "NetworkPolicy ") {
			t.Errorf("%s: audit %v", p.Key, p.Audit)
		}
	}
}
