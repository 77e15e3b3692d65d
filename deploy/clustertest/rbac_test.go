// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirnet/weir/internal/cluster"
)

var accounts = []string{"weir", "weir-operator"}

// chartOnAPIServer installs the chart's objects where nothing runs them.
func chartOnAPIServer(t *testing.T) *cluster.Cluster {
	t.Helper()
	c := apiserver(t)
	chart, err := cluster.Chart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Helm(t.Context(), "upgrade", "--install", release, chart, "--namespace="+system); err != nil {
		t.Fatal(err)
	}
	return c
}

// With the tokens of the chart's accounts: what they read is there for them; of everything that the apiserver serves they
// change only what is weir's own, and what holds secrets they do not even read.
func TestAccountsMayDoNoMoreThanTheyMust(t *testing.T) {
	c := chartOnAPIServer(t)
	for _, account := range accounts {
		token := strings.TrimSpace(kubectl(t, c, "--namespace="+system, "create", "token", account))
		path := filepath.Join(t.TempDir(), "kubeconfig")
		if err := c.WriteKubeconfig(path, token); err != nil {
			t.Fatal(err)
		}
		for _, resource := range []string{"nodes", "networkpolicies"} {
			if _, err := c.KubectlAs(t.Context(), path, nil, "get", resource, "--all-namespaces"); err != nil {
				t.Errorf("%s: %v", account, err)
			}
		}
		for _, resource := range []string{"secrets", "configmaps", "serviceaccounts", "clusterroles"} {
			if _, err := c.KubectlAs(t.Context(), path, nil, "get", resource, "--all-namespaces"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
				t.Errorf("%s reads %s: %v", account, resource, err)
			}
		}
		for _, r := range served(t, c) {
			for _, verb := range []string{"create", "update", "patch", "delete", "deletecollection", "bind", "escalate", "impersonate"} {
				if own(account, r, verb) {
					continue
				}
				if may(t, c, account, verb, r) && !may(t, c, "nobody", verb, r) {
					t.Errorf("%s may %s %s", account, verb, r)
				}
			}
		}
		for _, sensitive := range []string{"/secrets", "/pods/log", "/pods/exec", "/nodes/proxy", "/services/proxy", "/serviceaccounts/token"} {
			for _, verb := range []string{"get", "list", "watch", "create"} {
				if may(t, c, account, verb, sensitive) {
					t.Errorf("%s may %s %s", account, verb, sensitive)
				}
			}
		}
	}
}

// own says what an account may change.
func own(account, resource, verb string) bool {
	group, name, _ := strings.Cut(resource, "/")
	status := strings.HasSuffix(name, "/status") && verb == "patch"
	switch {
	case account == "weir":
		return group == "weirnet.github.io" && (name == "weirnodes" && slices.Contains([]string{"create", "patch"}, verb) || name == "weirnodes/status" && verb == "patch")
	case group == "weirnet.github.io" && strings.HasSuffix(name, "policystatuses"):
		return slices.Contains([]string{"create", "patch", "delete"}, verb)
	case group == "weirnet.github.io" && strings.HasSuffix(name, "policystatuses/status"), group == "cilium.io", group == "policy.networking.k8s.io":
		return status
	}
	return name == "events" && group == "events.k8s.io" && verb == "create" || name == "leases" && group == "coordination.k8s.io" && verb == "create"
}

// served are all resources that the apiserver serves, as GROUP/RESOURCE and GROUP/RESOURCE/SUBRESOURCE.
func served(t *testing.T, c *cluster.Cluster) (resources []string) {
	t.Helper()
	versions := []string{"/api/v1"}
	for line := range strings.Lines(kubectl(t, c, "api-versions")) {
		if strings.Contains(line, "/") {
			versions = append(versions, "/apis/"+strings.TrimSpace(line))
		}
	}
	for _, version := range versions {
		var list struct{ Resources []struct{ Name string } }
		if err := json.Unmarshal([]byte(kubectl(t, c, "get", "--raw", version)), &list); err != nil {
			t.Fatal(err)
		}
		group, _, found := strings.Cut(strings.TrimPrefix(version, "/apis/"), "/")
		if !found || version == "/api/v1" {
			group = ""
		}
		for _, r := range list.Resources {
			resources = append(resources, group+"/"+r.Name)
		}
	}
	if len(resources) < 100 {
		t.Fatalf("only %d resources are served", len(resources))
	}
	return resources
}

// may asks the apiserver whether an account may do something, in its own namespace or without one.
func may(t *testing.T, c *cluster.Cluster, account, verb, resource string) bool {
	t.Helper()
	group, name, _ := strings.Cut(resource, "/")
	name, sub, _ := strings.Cut(name, "/")
	review := fmt.Sprintf(`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"system:serviceaccount:%s:%s",
		"groups":["system:serviceaccounts","system:serviceaccounts:%s","system:authenticated"],
		"resourceAttributes":{"namespace":%q,"verb":%q,"group":%q,"resource":%q,"subresource":%q}}}`, system, account, system, system, verb, group, name, sub)
	out, err := c.Request(t.Context(), http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Status struct{ Allowed bool } }
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Status.Allowed
}
