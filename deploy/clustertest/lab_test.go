// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"strings"
	"testing"
)

// What the other tests take for granted: without weir everybody reaches everybody.
func TestPodsOfTwoNodesReachEachOther(t *testing.T) {
	c := nodes(t)
	ns := namespace(t, c, "lab")
	server := &pod{Namespace: ns, Name: "server", Node: "n1"}
	near := &pod{Namespace: ns, Name: "near", Node: "n1"}
	far := &pod{Namespace: ns, Name: "far", Node: "n2"}
	start(t, c, server, near, far)
	apply(t, c, `{apiVersion: v1, kind: Service, metadata: {name: server, namespace: `+ns+`}, spec: {clusterIP: 10.96.0.80, selector: {app: server}, ports: [{port: 80, targetPort: http}]}}`)
	for _, client := range []*pod{near, far} {
		if err := client.get(t.Context(), c, server.IP+":8080"); err != nil {
			t.Error(err)
		}
		if err := client.udp(t.Context(), c, server.IP+":8080"); err != nil {
			t.Error(err)
		}
		if err := refused(client.get(t.Context(), c, server.IP+":1")); err != nil {
			t.Error(err)
		}
	}
	out, err := c.PodExec(t.Context(), ns, "far", "/app", "get", "http://10.96.0.80/")
	if err != nil || !strings.Contains(out, "host=server") {
		t.Errorf("through the Service: %q, %v", out, err)
	}
	if out, err := c.Node("n1").Exec(t.Context(), "ip", "-d", "link", "show", "flannel.1"); err != nil || !strings.Contains(out, "dstport 8472") {
		t.Errorf("flannel's device: %q, %v", out, err)
	}
}
