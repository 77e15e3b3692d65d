// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cluster"
)

// kindOf is a CRD of somebody else's that accepts anything.
func kindOf(group, version, kind, plural, scope string) string {
	return fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: %[4]s.%[1]s
  annotations: {api-approved.kubernetes.io: unapproved}
spec:
  group: %[1]s
  scope: %[5]s
  names: {kind: %[3]s, plural: %[4]s}
  versions:
  - name: %[2]s
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
    subresources: {status: {}}
---
`, group, version, kind, plural, scope)
}

// Kinds of others that weir reads if they are there, and one policy of each kind.
var everyKind = kindOf("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", "Cluster") +
	kindOf("cilium.io", "v2", "CiliumNode", "ciliumnodes", "Cluster") +
	kindOf("crd.projectcalico.org", "v1", "BlockAffinity", "blockaffinities", "Cluster")

const everyPolicy = `
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: used, namespace: used}, spec: {podSelector: {matchLabels: {app: none}}}}
---
{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: used, namespace: used}, spec: {endpointSelector: {matchLabels: {app: none}}, ingress: [{}]}}
---
{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: used}, spec: {endpointSelector: {matchLabels: {app: none}}, ingress: [{}]}}
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: used}, spec: {tier: Admin, priority: 10,
  subject: {namespaces: {matchLabels: {none: none}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}
`

// In all that the tests before, and this one, have agents and operator do: nothing is refused to them, and nothing is granted
// that they never ask for.
func TestAccountsAreGrantedWhatTheyUse(t *testing.T) {
	c := installed(t)
	namespace(t, c, "used")
	apply(t, c, everyKind)
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), everyKind); err != nil {
			t.Error(err)
		}
	})
	within(t, 30*time.Second, func(ctx context.Context) error { return c.Apply(ctx, everyPolicy) })
	settled := false
	within(t, 60*time.Second, func(ctx context.Context) error {
		var errs []error
		for _, account := range accounts {
			unused, err := grantedInVain(ctx, c, account)
			if err != nil {
				return err
			}
			for _, grant := range unused {
				if !settled && (strings.HasPrefix(grant, "get ") || strings.HasPrefix(grant, "delete ")) { // which goes before deleting
					continue
				}
				errs = append(errs, fmt.Errorf("granted to %s and never used: %s", account, grant))
			}
		}
		if len(errs) == 0 && !settled {
			settled = true
			if err := c.Delete(ctx, everyPolicy); err != nil {
				return err
			}
			return errors.New("policies were deleted")
		}
		return errors.Join(errs...)
	})
	for _, account := range accounts {
		requests, err := c.Requests(system, account)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range requests {
			if r.Code == http.StatusForbidden {
				t.Errorf("refused to %s: %s", account, r)
			}
		}
		t.Logf("%s: %d requests", account, len(requests))
	}
}

// grantedInVain compares an account's roles with the audit log.
func grantedInVain(ctx context.Context, c *cluster.Cluster, account string) (unused []string, err error) {
	requests, err := c.Requests(system, account)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, r := range requests {
		used[r.Verb+" "+r.Group+"/"+r.Resource] = true
		switch r.Verb {
		case "watch": // it may begin with the list; where it may not, list is asked for
			used["list "+r.Group+"/"+r.Resource] = true
		case "patch": // if nothing is there yet, to apply is to create
			used["create "+r.Group+"/"+r.Resource] = true
		case "get": // what is to be deleted is looked at first, and the garbage collector may be faster then
			used["delete "+r.Group+"/"+r.Resource] = true
		}
	}
	for _, kind := range []string{"clusterrole", "role"} {
		out, err := c.Kubectl(ctx, "--namespace="+system, "get", kind, account, "-o", "json")
		if err != nil {
			return nil, err
		}
		var role struct {
			Rules []struct{ APIGroups, Resources, Verbs []string }
		}
		if err := json.Unmarshal([]byte(out), &role); err != nil {
			return nil, err
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						if grant := verb + " " + group + "/" + resource; !used[grant] {
							unused = append(unused, grant)
						}
					}
				}
			}
		}
	}
	return unused, nil
}
