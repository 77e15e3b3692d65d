// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"strings"
	"testing"
)

// What stands behind a Service's addresses is what kube-proxy on this node, n1, sends a pod's packets to.
func TestServiceBackends(t *testing.T) {
	const nodes = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDR: 10.1.0.0/24}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n---\n"
	for _, c := range []struct{ name, spec, status, endpoints, want string }{
		{"ready", "clusterIP: 10.96.0.1", "", "{addresses: [10.1.0.5]}, {addresses: [10.1.1.5]}", "[10.96.0.1] [10.1.0.5:8080 10.1.1.5:8080]"},
		{"one of them is not", "clusterIP: 10.96.0.1", "", "{addresses: [10.1.0.5]}, {addresses: [10.1.1.5], conditions: {ready: false}}", "[10.96.0.1] [10.1.0.5:8080]"},
		{"all terminate, one serves", "clusterIP: 10.96.0.1", "", "{addresses: [10.1.0.5], conditions: {ready: false, serving: true, terminating: true}}, " +
			"{addresses: [10.1.1.5], conditions: {ready: false, serving: false, terminating: true}}", "[10.96.0.1] [10.1.0.5:8080]"},
		{"all terminate, and whether they serve is not said", "clusterIP: 10.96.0.1", "",
			"{addresses: [10.1.0.5], conditions: {ready: false, terminating: true}}", "[10.96.0.1] [10.1.0.5:8080]"},
		{"one is ready, one terminates", "clusterIP: 10.96.0.1", "",
			"{addresses: [10.1.0.5], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.1.1.5]}", "[10.96.0.1] [10.1.1.5:8080]"},
		{"not ready and published, while it terminates", "clusterIP: 10.96.0.1, publishNotReadyAddresses: true", "",
			"{addresses: [10.1.0.5], conditions: {ready: true, serving: false, terminating: true}}", "[10.96.0.1] [10.1.0.5:8080]"},
		{"local", "clusterIP: 10.96.0.1, internalTrafficPolicy: Local", "", "{addresses: [10.1.0.5], nodeName: n1}, {addresses: [10.1.1.5], nodeName: n2}",
			"[10.96.0.1] [10.1.0.5:8080]"},
		{"local, and the local one terminates", "clusterIP: 10.96.0.1, internalTrafficPolicy: Local", "",
			"{addresses: [10.1.0.5], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.1.1.5], nodeName: n2}",
			"[10.96.0.1] [10.1.0.5:8080]"},
		{"local, and none is", "clusterIP: 10.96.0.1, internalTrafficPolicy: Local", "", "{addresses: [10.1.1.5], nodeName: n2}", "[10.96.0.1] []"},
		{"local, with an address outside", "clusterIP: 10.96.0.1, externalIPs: [203.0.113.1], internalTrafficPolicy: Local", "",
			"{addresses: [10.1.0.5], nodeName: n1}, {addresses: [10.1.1.5], nodeName: n2}", "[10.96.0.1 203.0.113.1] [10.1.0.5:8080 10.1.1.5:8080]"},
		{"headless, whatever it says", "clusterIP: None, externalIPs: [203.0.113.1]", "", "{addresses: [10.1.0.5]}", "none"},
		{"a name outside", "type: ExternalName, externalName: example.org", "", "{addresses: [10.1.0.5]}", "none"},
		{"a load balancer's address", "clusterIP: 10.96.0.1, type: LoadBalancer", "[{ip: 203.0.113.7}, {ip: 203.0.113.8, ipMode: VIP}, {ip: 203.0.113.9, ipMode: Proxy}, {hostname: a.example.org}]",
			"{addresses: [10.1.0.5]}", "[10.96.0.1 203.0.113.7 203.0.113.8] [10.1.0.5:8080]"},
		{"no endpoints", "clusterIP: 10.96.0.1", "", "", "[10.96.0.1] []"},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc := nodes + "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {" + c.spec + ", ports: [{name: http, port: 80, targetPort: web}]}\n"
			if c.status != "" {
				doc += "status: {loadBalancer: {ingress: " + c.status + "}}\n"
			}
			doc += "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n" +
				"addressType: IPv4\nports: [{name: http, port: 8080}, {name: other, port: 9090}]\nendpoints: [" + c.endpoints + "]\n"
			o, err := Decode("service.yaml", []byte(doc))
			if err != nil {
				t.Fatal(err)
			}
			m, _, err := Translate(o, "n1", Options{})
			if err != nil {
				t.Fatal(err)
			}
			got := []string{}
			for _, s := range m.Services {
				got = append(got, fmt.Sprint(s.Addrs, " ", s.Ports[0].Backends))
			}
			if text := strings.Join(got, "; "); text != c.want && !(c.want == "none" && text == "") {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
}
