// SPDX-License-Identifier: Apache-2.0

package k8s

import "testing"

func TestSeedDecodes(t *testing.T) {
	o, err := ReadDir("testdata/seed")
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Workloads.Deployments) != 2 || len(o.CiliumNetworkPolicies) != 1 {
		t.Fatalf("decoded %d deployments and %d policies, want 2 and 1", len(o.Workloads.Deployments), len(o.CiliumNetworkPolicies))
	}
	p := o.CiliumNetworkPolicies[0]
	if got := name("CiliumNetworkPolicy", p) + " from " + o.Origin(p).String(); got != "CiliumNetworkPolicy default/frontend-to-backend from frontend-to-backend-policy.yaml document 1" {
		t.Error(got)
	}
	if p.Spec.Ingress[0].FromEndpoints == nil || p.Spec.Ingress[0].FromCIDR != nil {
		t.Error("a list that is there must not be nil, one that is not must be")
	}
}
