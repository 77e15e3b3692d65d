// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// use is where weir needs a right: a file and a text in it that is gone when the use is.
type use struct{ file, text string }

// uses has a row for every right that the chart grants: "ROLE GROUP/RESOURCE[ NAMES]: VERBS".
func uses() map[string]use {
	return map[string]use{
		// What the agent reads.
		"weir /pods: list watch":                                           {"k8s/watch_kinds.go", `"pods"`},
		"weir /namespaces: list watch":                                     {"k8s/watch_kinds.go", `"namespaces"`},
		"weir /nodes: list watch":                                          {"k8s/watch_kinds.go", `"nodes"`},
		"weir /services: list watch":                                       {"k8s/watch_kinds.go", `"services"`},
		"weir discovery.k8s.io/endpointslices: list watch":                 {"k8s/watch_kinds.go", `"endpointslices"`},
		"weir networking.k8s.io/networkpolicies: list watch":               {"k8s/watch_kinds.go", `"networkpolicies"`},
		"weir cilium.io/ciliumnetworkpolicies: list watch":                 {"k8s/watch_kinds.go", `"ciliumnetworkpolicies.cilium.io"`},
		"weir cilium.io/ciliumclusterwidenetworkpolicies: list watch":      {"k8s/watch_kinds.go", `"ciliumclusterwidenetworkpolicies.cilium.io"`},
		"weir cilium.io/ciliumcidrgroups: list watch":                      {"k8s/watch_kinds.go", `"ciliumcidrgroups.cilium.io"`},
		"weir cilium.io/ciliumnodes: list watch":                           {"k8s/watch_kinds.go", `"ciliumnodes.cilium.io"`},
		"weir crd.projectcalico.org/blockaffinities: list watch":           {"k8s/watch_kinds.go", `"blockaffinities.crd.projectcalico.org"`},
		"weir policy.networking.k8s.io/clusternetworkpolicies: list watch": {"k8s/watch_kinds.go", `"clusternetworkpolicies.policy.networking.k8s.io"`},
		"weir apiextensions.k8s.io/customresourcedefinitions: list watch":  {"k8s/watch_kinds.go", `Resource: "customresourcedefinitions"`},
		"weir in its namespace apps/daemonsets weir: list watch":           {"k8s/watch_kinds.go", `Resource: "daemonsets"`},
		// What it writes.
		"weir weirnet.github.io/weirnodes: create patch": {"k8s/status/objects.go", "c.objects.Apply(ctx, name, u"},
		"weir weirnet.github.io/weirnodes/status: patch": {"k8s/status/objects.go", "c.objects.ApplyStatus(ctx, n.Name"},
		"weir /nodes: get": {"k8s/status/objects.go", "c.nodes.Get(ctx, name"},
		// The operator.
		"weir-operator weirnet.github.io/weirnodes: list watch":                               {"k8s/status/operator.go", "o.cfg.Clients.Objects, NodeResource,"},
		"weir-operator /nodes: list watch":                                                    {"k8s/status/operator.go", "o.watchNodes()"},
		"weir-operator networking.k8s.io/networkpolicies: list watch":                         {"k8s/status/kinds.go", `"networkpolicies"`},
		"weir-operator cilium.io/ciliumnetworkpolicies: list watch":                           {"k8s/status/kinds.go", `"ciliumnetworkpolicies"`},
		"weir-operator cilium.io/ciliumclusterwidenetworkpolicies: list watch":                {"k8s/status/kinds.go", `"ciliumclusterwidenetworkpolicies"`},
		"weir-operator policy.networking.k8s.io/clusternetworkpolicies: list watch":           {"k8s/status/kinds.go", `"clusternetworkpolicies"`},
		"weir-operator weirnet.github.io/policystatuses: create delete get list patch":        {"k8s/status/policies.go", "in.Apply(ctx, s.Name"},
		"weir-operator weirnet.github.io/clusterpolicystatuses: create delete get list patch": {"k8s/status/policies.go", "in.Delete(ctx, name"},
		"weir-operator weirnet.github.io/policystatuses/status: patch":                        {"k8s/status/policies.go", "ApplyStatus("},
		"weir-operator weirnet.github.io/clusterpolicystatuses/status: patch":                 {"k8s/status/policies.go", "ApplyStatus("},
		"weir-operator cilium.io/ciliumnetworkpolicies/status: patch":                         {"k8s/status/policies.go", "ApplyStatus("},
		"weir-operator cilium.io/ciliumclusterwidenetworkpolicies/status: patch":              {"k8s/status/policies.go", "ApplyStatus("},
		"weir-operator policy.networking.k8s.io/clusternetworkpolicies/status: patch":         {"k8s/status/policies.go", "ApplyStatus("},
		"weir-operator events.k8s.io/events: create":                                          {"k8s/status/policies.go", "c.events.Events(namespace).Create("},
		"weir-operator apiextensions.k8s.io/customresourcedefinitions ciliumnetworkpolicies.cilium.io,ciliumclusterwidenetworkpolicies.cilium.io: get": {
			"k8s/status/kindwatch.go", "Resource(crdResource).Get(ctx, k.CRD"},
		"weir-operator in its namespace coordination.k8s.io/leases: create":                   {"cmd/weir/operator.go", "resourcelock"},
		"weir-operator in its namespace coordination.k8s.io/leases weir-operator: get update": {"cmd/weir/operator.go", `"weir-operator"`},
		// Jobs.
		"weir-uninstall weirnet.github.io/weirnodes: list":                                         {"cmd/weir/uninstall.go", "Resource(nodestatus.NodeResource).List("},
		"weir-uninstall in its namespace apps/daemonsets weir: patch":                              {"cmd/weir/uninstall.go", "Resource(daemonSetResource).Namespace(u.namespace).Patch("},
		"weir-uninstall in its namespace /pods: list":                                              {"cmd/weir/uninstall.go", "Resource(podResource).Namespace(u.namespace).List("},
		"weir-test in its namespace networking.k8s.io/networkpolicies weir-test: get":              {"k8s/status/wait.go", "in.Get(ctx, t.Name"},
		"weir-test in its namespace weirnet.github.io/policystatuses networkpolicy.weir-test: get": {"k8s/status/wait.go", "in.Get(ctx, StatusName("},
		// People: kubectl, weir status.
		"weir-view weirnet.github.io/policystatuses: get list watch":           {"cmd/weir/status.go", "kstatus.PolicyStatusResource"},
		"weir-view weirnet.github.io/clusterpolicystatuses: get list watch":    {"cmd/weir/status.go", "kstatus.ClusterPolicyStatusResource"},
		"weir-view weirnet.github.io/weirnodes: get list watch":                {"cmd/weir/status.go", "kstatus.ListNodes("},
		"weir-view cilium.io/ciliumnetworkpolicies: get list watch":            {"k8s/status/kinds.go", `"ciliumnetworkpolicies"`},
		"weir-view cilium.io/ciliumclusterwidenetworkpolicies: get list watch": {"k8s/status/kinds.go", `"ciliumclusterwidenetworkpolicies"`},
		"weir-view cilium.io/ciliumcidrgroups: get list watch":                 {"deploy/crds/cilium.io_ciliumcidrgroups.yaml", "ciliumcidrgroups"},
	}
}

// Nothing is granted that nobody uses.
func TestEveryRightHasAUse(t *testing.T) {
	table := uses()
	for _, o := range objects(t, install(t, "")) {
		var role string
		var rules []rbacv1.PolicyRule
		switch r := o.(type) {
		case *rbacv1.ClusterRole:
			role, rules = r.Name, r.Rules
		case *rbacv1.Role:
			role, rules = r.Name+" in its namespace", r.Rules
		}
		for _, rule := range rules {
			if len(rule.NonResourceURLs) > 0 {
				t.Errorf("%s grants URLs: %v", role, rule.NonResourceURLs)
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					key := fmt.Sprintf("%s %s/%s", role, group, resource)
					if len(rule.ResourceNames) > 0 {
						key += " " + strings.Join(rule.ResourceNames, ",")
					}
					key += ": " + strings.Join(rule.Verbs, " ")
					if strings.Contains(key, "*") {
						t.Errorf("%s is a wildcard", key)
					}
					u, ok := table[key]
					if !ok {
						t.Errorf("nobody is said to use %q", key)
						continue
					}
					delete(table, key)
					if data, err := os.ReadFile(filepath.Join("../..", u.file)); err != nil || !strings.Contains(string(data), u.text) {
						t.Errorf("%s: %s does not say %q (%v)", key, u.file, u.text, err)
					}
				}
			}
		}
	}
	for key := range table {
		t.Errorf("the table has %q, which is not granted", key)
	}
}

// pods are the pod templates of a render by the name of their object.
func pods(t *testing.T, r rendered) map[string]corev1.PodSpec {
	t.Helper()
	out := map[string]corev1.PodSpec{}
	for _, o := range objects(t, r) {
		switch w := o.(type) {
		case *appsv1.DaemonSet:
			out[w.Name] = w.Spec.Template.Spec
		case *appsv1.Deployment:
			out[w.Name] = w.Spec.Template.Spec
		case *corev1.Pod:
			out[w.Name] = w.Spec
		case *batchv1.Job:
			out[w.Name] = w.Spec.Template.Spec
		}
	}
	return out
}

// No container of the chart's defaults is privileged, writes to its root, sees the host's processes, or gains a privilege.
func TestContainersAreConfined(t *testing.T) {
	for name, pod := range pods(t, install(t, "")) {
		if pod.HostPID || pod.HostIPC {
			t.Errorf("%s sees the host's processes", name)
		}
		if pod.SecurityContext == nil || pod.SecurityContext.SeccompProfile == nil || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s has no seccomp profile", name)
		}
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			s := c.SecurityContext
			if s == nil || s.Privileged == nil || *s.Privileged || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation {
				t.Errorf("%s %s: %+v", name, c.Name, s)
				continue
			}
			if !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s %s drops %v", name, c.Name, s.Capabilities.Drop)
			}
			if name != "weir" && (len(s.Capabilities.Add) > 0 || pod.SecurityContext.RunAsNonRoot == nil || !*pod.SecurityContext.RunAsNonRoot) {
				t.Errorf("%s %s is root, or has capabilities: %v", name, c.Name, s.Capabilities.Add)
			}
			if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
				t.Errorf("%s %s has no memory limit or no CPU request", name, c.Name)
			}
		}
	}
}

// The reason of each capability stands beside it.
func TestEveryCapabilityHasAReason(t *testing.T) {
	template, err := os.ReadFile(filepath.Join(chartDir, "templates/agent/daemonset.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	agent := pods(t, install(t, ""))["weir"].Containers[0]
	if len(agent.SecurityContext.Capabilities.Add) == 0 {
		t.Error("the agent has no capability")
	}
	for _, c := range agent.SecurityContext.Capabilities.Add {
		if !strings.Contains(string(template), fmt.Sprintf("# %s: to ", c)) && !strings.Contains(string(template), fmt.Sprintf("# %s: the ", c)) {
			t.Errorf("templates/agent/daemonset.yaml gives no reason for %s", c)
		}
	}
}
