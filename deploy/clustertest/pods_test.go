// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cluster"
)

// pod is a pod of the test app (internal/cluster/app).
type pod struct {
	Namespace, Name string
	Node            string            // empty: the scheduler's choice
	Labels          map[string]string // beside app=NAME
	Args            []string          // empty: serve
	HostNetwork     bool

	IP    string // set by start
	netns string // found by the address, when somebody asks
}

// start creates pods and returns when they are ready.
func start(t *testing.T, c *cluster.Cluster, pods ...*pod) {
	t.Helper()
	var manifest strings.Builder
	for _, p := range pods {
		manifest.WriteString(p.manifest(t) + "\n---\n")
	}
	// The service account of a new namespace may take a moment.
	within(t, 30*time.Second, func(ctx context.Context) error { return c.Apply(ctx, manifest.String()) })
	for _, p := range pods {
		p.await(t, c)
	}
}

func (p *pod) manifest(t *testing.T) string {
	type object = map[string]any
	labels := map[string]string{"app": p.Name}
	for key, value := range p.Labels {
		labels[key] = value
	}
	args := p.Args
	if len(args) == 0 {
		args = []string{"serve"}
	}
	spec := object{
		"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "hostNetwork": p.HostNetwork, "enableServiceLinks": false,
		"dnsPolicy": "Default",
		"containers": []object{{"name": "app", "image": cluster.AppImage, "imagePullPolicy": "Never", "args": args,
			"ports": []object{{"name": "http", "containerPort": 8080}}}},
	}
	if p.Node != "" {
		spec["nodeSelector"] = map[string]string{"kubernetes.io/hostname": p.Node}
	}
	text, err := json.Marshal(object{"apiVersion": "v1", "kind": "Pod", "spec": spec,
		"metadata": object{"namespace": p.Namespace, "name": p.Name, "labels": labels}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// await returns when the pod is ready, and learns its address.
func (p *pod) await(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if _, err := c.Kubectl(t.Context(), "--namespace="+p.Namespace, "wait", "--for=condition=Ready", "pod/"+p.Name, "--timeout=90s"); err != nil {
		described, _ := c.Kubectl(t.Context(), "--namespace="+p.Namespace, "describe", "pod", p.Name)
		t.Fatalf("%v\n%s", err, described)
	}
	ip, err := c.Field(t.Context(), p.Namespace, "pod/"+p.Name, ".status.podIP")
	if err != nil {
		t.Fatal(err)
	}
	p.IP = ip
}

// get asks an HTTP server from inside the pod, once.
func (p *pod) get(ctx context.Context, c *cluster.Cluster, address string) error {
	_, err := c.PodExec(ctx, p.Namespace, p.Name, "/app", "get", "http://"+address+"/")
	return err
}

// udp asks a UDP server from inside the pod, once.
func (p *pod) udp(ctx context.Context, c *cluster.Cluster, address string) error {
	_, err := c.PodExec(ctx, p.Namespace, p.Name, "/app", "udp", address)
	return err
}

// refused tells that a probe failed for want of an answer, and not for another reason.
func refused(err error) error {
	if err == nil {
		return fmt.Errorf("the server answered")
	}
	if cluster.ExitCode(err) != 1 || !strings.Contains(err.Error(), "app:") {
		return fmt.Errorf("the probe itself failed: %w", err)
	}
	return nil
}

// service is a Service of port 80 for the pods app=NAME.
func service(namespace, name, address string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: %s},
  spec: {clusterIP: %s, selector: {app: %s}, ports: [{name: http, port: 80, targetPort: http}]}}`, name, namespace, address, name)
}
