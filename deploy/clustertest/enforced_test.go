// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// With the chart's agents and operator: a policy is told to be enforced on both nodes, a change of it too, and what cannot be
// enforced is told by field. The nodes' reports belong to the Nodes.
func TestAgentsAndOperatorSayWhatIsEnforced(t *testing.T) {
	c := installed(t)
	ns := namespace(t, c, "enforced")
	enforced := func(object, generation string) {
		t.Helper()
		start := time.Now()
		within(t, 30*time.Second, func(ctx context.Context) error {
			out, err := c.Kubectl(ctx, "-n", ns, "get", object, "-o", `jsonpath={.status.observedGeneration} {.status.summary} {.status.conditions[0].reason}`)
			if want := generation + " 2/2 Enforced"; err == nil && out != want {
				err = fmt.Errorf("%s is %q, want %q", object, out, want)
			}
			return err
		})
		t.Logf("%s, generation %s: told to be enforced after %v", object, generation, time.Since(start).Round(10*time.Millisecond))
	}
	policy := func(port int) string {
		return fmt.Sprintf(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: %s}, spec: {podSelector: {}, ingress: [{ports: [{port: %d}]}]}}`, ns, port)
	}
	apply(t, c, policy(80))
	enforced("policystatus/networkpolicy.web", "1")
	apply(t, c, policy(81))
	enforced("policystatus/networkpolicy.web", "2")

	apply(t, c, fmt.Sprintf(`{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: api, namespace: %s}, spec: {endpointSelector: {}, egress: [{toFQDNs: [{matchName: example.com}]}]}}`, ns))
	within(t, 30*time.Second, func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "-n", ns, "get", "cnp", "api", "-o", `jsonpath={.status.conditions[?(@.type=="Enforced")].reason} {.status.conditions[?(@.type=="Enforced")].message}`)
		if err == nil && !strings.HasPrefix(out, "NotEnforceable not enforced as written on 2 of 2 nodes: spec.egress[0].toFQDNs: ") {
			err = fmt.Errorf("the condition is %q", out)
		}
		return err
	})
	for _, node := range []string{"n1", "n2"} {
		owner, err := c.Field(t.Context(), "", "weirnode/"+node, ".metadata.ownerReferences[0].uid")
		if err != nil {
			t.Fatal(err)
		}
		if uid, err := c.Field(t.Context(), "", "node/"+node, ".metadata.uid"); err != nil || uid != owner {
			t.Errorf("the report of %s belongs to %q, the Node is %q; %v", node, owner, uid, err)
		}
	}
	t.Logf("\n%s\n%s", kubectl(t, c, "get", "wn", "-o", "wide"), kubectl(t, c, "-n", ns, "get", "wps", "-o", "wide"))
	kubectl(t, c, "-n", ns, "delete", "networkpolicy/web", "cnp/api")
	within(t, 10*time.Second, func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "-n", ns, "get", "wps", "-o", "name")
		if err == nil && out != "" {
			err = fmt.Errorf("there is still %s", out)
		}
		return err
	})
}
