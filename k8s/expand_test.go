// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func expanded(t *testing.T, manifest string) *Objects {
	t.Helper()
	o, err := Decode("m.yaml", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	return Expand(o)
}

// podTexts is one line for each pod: name, node, addresses.
func podTexts(o *Objects) []string {
	var lines []string
	for _, p := range o.Pods {
		lines = append(lines, fmt.Sprint(p.Namespace, "/", p.Name, " ", p.Spec.NodeName, " ", podAddrs(p)))
	}
	return lines
}

func workloadDoc(kind, version, name, more string) string {
	return "apiVersion: " + version + "\nkind: " + kind + "\nmetadata: {name: " + name + "}\nspec: {" + more +
		"selector: {matchLabels: {app: " + name + "}}, template: {metadata: {labels: {app: " + name + "}}, spec: {containers: [{name: c, image: i}]}}}\n---\n"
}

func TestExpandSeed(t *testing.T) {
	o, err := ReadDir("testdata/seed")
	if err != nil {
		t.Fatal(err)
	}
	e := Expand(o)
	want := []string{
		"default/backend node-1 [10.244.1.2 fd00:10:244:1::2]",
		"default/frontend node-2 [10.244.2.2 fd00:10:244:2::2]",
	}
	if got := podTexts(e); !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	if got := e.Origin(e.Pods[1]).String(); got != "frontend-deployment.yaml document 1" {
		t.Errorf("origin of frontend: %s", got)
	}
	if len(o.Pods) != 0 || len(o.Nodes) != 0 {
		t.Error("the given objects changed")
	}
	m, _, err := Translate(e, "node-2", Options{})
	if err != nil {
		t.Fatal(err)
	}
	node := m.Nodes[1]
	if got := fmt.Sprintf("%s %v %v %x", node.Name, node.Underlay, node.PodCIDRs, node.VTEPMAC); got != "node-2 [192.0.2.2 2001:db8::2] [10.244.2.0/24 fd00:10:244:2::/64] 00005e005302" {
		t.Error(got)
	}
	if !m.Policies[0].Subject.Matches(m.Pods[1].Labels) || m.Policies[0].Subject.Matches(m.Pods[0].Labels) {
		t.Error("the policy guards frontend and not backend")
	}
}

func TestExpandWorkloads(t *testing.T) {
	tests := []struct {
		name, manifest string
		want           []string
	}{
		{"replicas", workloadDoc("Deployment", "apps/v1", "web", "replicas: 3, "), []string{
			"default/web node-1 [10.244.1.2 fd00:10:244:1::2]", "default/web-2 node-2 [10.244.2.2 fd00:10:244:2::2]", "default/web-3 node-1 [10.244.1.3 fd00:10:244:1::3]"}},
		{"no replicas", workloadDoc("Deployment", "apps/v1", "web", "replicas: 0, "), nil},
		{"one pod a node", workloadDoc("DaemonSet", "apps/v1", "ds", ""), []string{
			"default/ds node-1 [10.244.1.2 fd00:10:244:1::2]", "default/ds-2 node-2 [10.244.2.2 fd00:10:244:2::2]"}},
		{"two workloads of one name", workloadDoc("Deployment", "apps/v1", "web", "") + workloadDoc("StatefulSet", "apps/v1", "web", "serviceName: web, "), []string{
			"default/web node-1 [10.244.1.2 fd00:10:244:1::2]", "default/web-statefulset node-2 [10.244.2.2 fd00:10:244:2::2]"}},
		{"pods of its own, by selector", workloadDoc("Deployment", "apps/v1", "web", "") + "apiVersion: v1\nkind: Pod\nmetadata: {name: web-x, labels: {app: web}}\n", []string{
			"default/web-x node-1 [10.244.1.2 fd00:10:244:1::2]"}},
		{"pods of its own, by owner", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {parallelism: 2, completions: 1, template: {}}\n---\n" +
			"apiVersion: v1\nkind: Pod\nmetadata: {name: j-x, ownerReferences: [{apiVersion: batch/v1, kind: Job, name: j, uid: u}]}\n", []string{
			"default/j-x node-1 [10.244.1.2 fd00:10:244:1::2]"}},
		{"Job", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {parallelism: 2, completions: 1, template: {}}\n", []string{
			"default/j node-1 [10.244.1.2 fd00:10:244:1::2]"}},
		{"ReplicaSet of a Deployment that is here", workloadDoc("Deployment", "apps/v1", "web", "") +
			strings.Replace(workloadDoc("ReplicaSet", "apps/v1", "web-abc", ""), "name: web-abc}", "name: web-abc, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: u}]}", 1), []string{
			"default/web node-1 [10.244.1.2 fd00:10:244:1::2]"}},
		{"the given nodes and addresses stay", nodes + workloadDoc("Deployment", "apps/v1", "web", "replicas: 2, ") +
			podDoc("a", "spec: {nodeName: n1}\nstatus: {podIP: 10.1.0.2}\n---") + podDoc("b", "status: {podIP: 10.1.1.7}"), []string{
			"default/a n1 [10.1.0.2]", "default/b n2 [10.1.1.7]", "default/web n1 [10.1.0.3]", "default/web-2 n2 [10.1.1.2]"}},
		{"a node that only pods name", podDoc("a", "spec: {nodeName: n7}"), []string{"default/a n7 [10.244.1.2 fd00:10:244:1::2]"}},
		{"pods of the host", podDoc("a", "spec: {hostNetwork: true}"), []string{"default/a node-1 [192.0.2.1 2001:db8::1]"}},
		{"finished pods get no address", podDoc("a", "status: {phase: Succeeded}"), []string{"default/a node-1 []"}},
		{"an invented podCIDR touches no given address", podDoc("a", "status: {podIP: 10.244.1.9}\n---") + podDoc("b", ""), []string{
			"default/a node-1 [10.244.1.9]", "default/b node-2 [10.244.3.2 fd00:10:244:3::2]"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := expanded(t, test.manifest)
			if got := podTexts(e); !reflect.DeepEqual(got, test.want) {
				t.Errorf("\n got %q\nwant %q", got, test.want)
			}
			if again := podTexts(Expand(e)); !reflect.DeepEqual(again, test.want) {
				t.Errorf("expanded twice: %q", again)
			}
			if _, _, err := Translate(e, e.Nodes[0].Name, Options{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExpandGivesNoAddressTwice(t *testing.T) {
	e := expanded(t, workloadDoc("Deployment", "apps/v1", "web", "replicas: 1200, "))
	if len(e.Pods) != 1200 {
		t.Fatalf("%d pods", len(e.Pods))
	}
	for _, p := range e.Pods {
		if len(podAddrs(p)) != 2 {
			t.Fatalf("%s has %v", p.Name, podAddrs(p))
		}
	}
	if problems := e.conflicts(); len(problems) > 0 {
		t.Errorf("%v", problems)
	}
}
