// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// A namespace whose policies are too large is named, and does not keep anybody else's from being enforced.
func TestAgentSaysWhosePoliciesAreTooLarge(t *testing.T) {
	o := newOneAgent(t)
	o.pod("web", "10.42.0.10")
	o.start()
	o.must(o.agent.ready(context.Background()))
	var ports strings.Builder
	for _, protocol := range []string{"TCP", "UDP"} { // more classes of ports than an image can tell apart
		for port := 1; port <= 65535; port++ {
			fmt.Fprintf(&ports, "{protocol: %s, port: %d}, ", protocol, port)
		}
	}
	o.must(o.lab.Manifests.Write("bad.yaml", `apiVersion: v1
kind: Namespace
metadata: {name: bad}
---
apiVersion: v1
kind: Pod
metadata: {name: hog, namespace: bad}
spec: {nodeName: node1, containers: [{name: c, image: none}]}
status: {phase: Running, podIP: 10.42.0.99, podIPs: [{ip: 10.42.0.99}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: hog, namespace: bad}
spec:
  podSelector: {}
  ingress: [{ports: [`+ports.String()+`]}]
`))
	metric := func(want string) {
		t.Helper()
		o.eventually(want, func() bool {
			body, err := o.agent.get(context.Background(), "/metrics")
			return err == nil && strings.Contains(body, "\n"+want+"\n")
		})
	}
	o.readySays("ready\n", "isolated, too large: the policies of namespace bad ", "classes of ports")
	metric("weir_oversized_namespaces 1")
	o.must(o.lab.Manifests.Write("good.yaml", ingress("web", "", 0)))
	o.must(o.agent.ready(context.Background()))
	o.readySays("ready\n", "isolated, too large: the policies of namespace bad ")
	o.must(o.lab.Manifests.Remove("bad.yaml"))
	o.must(o.agent.ready(context.Background()))
	metric("weir_oversized_namespaces 0")
}
