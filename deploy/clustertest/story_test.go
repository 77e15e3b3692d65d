// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cluster"
)

// seed reads a manifest of the story that weir began with, as `weir demo` has it. The images it names cannot be had here:
// the test app is in their place.
func seed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "cmd", "weir", "demo", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ours := "image: " + cluster.AppImage + "\n        imagePullPolicy: Never\n        args: [serve]"
	return strings.NewReplacer("image: nginx:latest", ours, "image: httpd:latest", ours).Replace(string(text))
}

// only is the one pod of a Deployment.
func only(t *testing.T, c *cluster.Cluster, namespace, app string) *pod {
	t.Helper()
	kubectl(t, c, "--namespace="+namespace, "rollout", "status", "deployment/"+app, "--timeout=90s")
	p := &pod{Namespace: namespace, Name: kubectl(t, c, "--namespace="+namespace, "get", "pods", "-l", "app="+app, "-o", "jsonpath={.items[0].metadata.name}")}
	p.await(t, c)
	return p
}

// The story weir began with: two Deployments, a CiliumNetworkPolicy that was meant to guard backend and guards frontend, and
// the one that was meant.
func TestSeedStory(t *testing.T) {
	c := installed(t)
	ns := namespace(t, c, "story")
	within(t, 30*time.Second, func(ctx context.Context) error {
		return inNamespace(ctx, c, ns, "apply", seed(t, "frontend-deployment")+"\n---\n"+seed(t, "backend-deployment"))
	})
	frontend, backend := only(t, c, ns, "frontend"), only(t, c, ns, "backend")
	other := &pod{Namespace: ns, Name: "other"}
	start(t, c, other)
	allowed := func(from, to *pod) {
		t.Helper()
		within(t, 5*time.Second, func(ctx context.Context) error { return from.get(ctx, c, to.IP+":8080") })
	}
	denied := func(from, to *pod) {
		t.Helper()
		within(t, 10*time.Second, func(ctx context.Context) error { return refused(from.get(ctx, c, to.IP+":8080")) })
	}
	allowed(frontend, backend)
	allowed(other, backend)
	allowed(other, frontend)

	if err := inNamespace(t.Context(), c, ns, "apply", seed(t, "frontend-to-backend-policy")); err != nil {
		t.Fatal(err)
	}
	denied(other, frontend)
	allowed(backend, frontend) // as it says
	allowed(frontend, backend) // which it does not restrict
	allowed(other, backend)

	if err := inNamespace(t.Context(), c, ns, "apply", seed(t, "backend-from-frontend-policy")); err != nil {
		t.Fatal(err)
	}
	denied(other, backend)
	allowed(frontend, backend)
	denied(other, frontend)
	if err := refused(frontend.udp(t.Context(), c, backend.IP+":8080")); err != nil {
		t.Errorf("UDP to a port of TCP: %v", err)
	}

	kubectl(t, c, "--namespace="+ns, "delete", "ciliumnetworkpolicies", "--all")
	allowed(other, backend)
	allowed(other, frontend)
}

// inNamespace applies or deletes a manifest that names no namespace.
func inNamespace(ctx context.Context, c *cluster.Cluster, namespace, verb, manifest string) error {
	_, err := c.KubectlAs(ctx, c.Kubeconfig, strings.NewReader(manifest), "--namespace="+namespace, verb, "-f", "-")
	return err
}
