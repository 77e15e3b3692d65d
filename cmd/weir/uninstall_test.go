// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/weirnet/weir/k8s"
	nodestatus "github.com/weirnet/weir/k8s/status"
)

func thing(apiVersion, kind, namespace, name string, rest map[string]any) *unstructured.Unstructured {
	object := map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name}}
	for key, value := range rest {
		object[key] = value
	}
	u := &unstructured.Unstructured{Object: object}
	u.SetNamespace(namespace)
	return u
}

func agentPod(node string, running bool) *unstructured.Unstructured {
	state := map[string]any{"waiting": map[string]any{"reason": "ImagePullBackOff"}}
	if running {
		state = map[string]any{"running": map[string]any{}}
	}
	pod := thing("v1", "Pod", "kube-system", "weir-"+node, map[string]any{"spec": map[string]any{"nodeName": node},
		"status": map[string]any{"containerStatuses": []any{map[string]any{"name": "agent", "state": state, "ready": running, "restartCount": int64(0)}}}})
	pod.SetLabels(map[string]string{"app": "weir"})
	return pod
}

func weirNode(name, phase string) *unstructured.Unstructured {
	return thing("weirnet.github.io/v1alpha1", "WeirNode", "", name, map[string]any{"status": map[string]any{"phase": phase}})
}

func agentsSet() *unstructured.Unstructured {
	return thing("apps/v1", "DaemonSet", "kube-system", "weir", map[string]any{"spec": map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": "weir"}}}})
}

func newTestUninstall(objects ...runtime.Object) (*uninstall, *fake.FakeDynamicClient, *bytes.Buffer) {
	client := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		daemonSetResource: "DaemonSetList", podResource: "PodList", nodestatus.NodeResource: "WeirNodeList"}, objects...)
	out := &bytes.Buffer{}
	return &uninstall{api: client, namespace: "kube-system", name: "weir", poll: time.Millisecond, out: out}, client, out
}

// It returns only when every node that an agent works on says that it is clean.
func TestUninstallWaitsForEveryNode(t *testing.T) {
	u, client, out := newTestUninstall(agentsSet(), agentPod("n1", true), agentPod("n2", true), agentPod("n3", false), weirNode("n1", "Enforcing"), weirNode("n2", "Cleaned"),
		weirNode("elsewhere", "Enforcing"))
	ended := make(chan error, 1)
	go func() { ended <- u.run(t.Context()) }()
	select {
	case err := <-ended:
		t.Fatalf("ended while n1 is not clean: %v, %s", err, out)
	case <-time.After(200 * time.Millisecond):
	}
	set, err := client.Resource(daemonSetResource).Namespace("kube-system").Get(t.Context(), "weir", metav1.GetOptions{})
	if err != nil || set.GetAnnotations()[k8s.UninstallAnnotation] != "true" {
		t.Errorf("the DaemonSet has the annotations %v (%v)", set.GetAnnotations(), err)
	}
	if _, err := client.Resource(nodestatus.NodeResource).Update(t.Context(), weirNode("n1", "Cleaned"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil || !strings.Contains(out.String(), "1 of 2 nodes are clean; waiting for n1\nall 2 nodes are clean\n") {
			t.Errorf("%v, %q", err, out)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("did not end")
	}
}

// Whom it waited for in vain, it names: an agent that never started counts if one before it has published something.
func TestUninstallNamesNodesThatAreNotClean(t *testing.T) {
	u, _, _ := newTestUninstall(agentsSet(), agentPod("n1", true), agentPod("n2", false), weirNode("n2", "Failing"))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := u.run(ctx); !errors.Is(err, errNodesLeft) || !strings.Contains(err.Error(), "n1, n2") {
		t.Errorf("%v, want both nodes", err)
	}
}

func TestUninstallWithoutDaemonSetIsDone(t *testing.T) {
	u, _, out := newTestUninstall()
	if err := u.run(t.Context()); err != nil || !strings.Contains(out.String(), "nothing to uninstall") {
		t.Errorf("%v, %q", err, out)
	}
}

// An API server that is away when it begins is waited for; one that says no is not.
func TestUninstallWaitsForTheAPIServer(t *testing.T) {
	for _, test := range []struct {
		failure error
		waits   bool
	}{
		{errors.New("connection refused"), true},
		{apierrors.NewForbidden(daemonSetResource.GroupResource(), "weir", nil), false},
	} {
		u, client, out := newTestUninstall(agentsSet(), agentPod("n1", true), weirNode("n1", "Cleaned"))
		failures := 0
		client.PrependReactor("patch", "daemonsets", func(clienttesting.Action) (bool, runtime.Object, error) {
			failures++
			return failures < 4, nil, test.failure
		})
		if err := u.run(t.Context()); (err == nil) != test.waits {
			t.Errorf("%v: %v after %d failures, %s", test.failure, err, failures, out)
		}
	}
}
