// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/weirnet/weir/policy"
)

func TestNodes(t *testing.T) {
	o, err := Decode("m.yaml", []byte(`apiVersion: v1
kind: Node
metadata:
  name: n1
  annotations:
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/backend-data: '{"VNI":1,"VtepMAC":"00:00:5e:00:53:01"}'
    flannel.alpha.coreos.com/public-ip: 192.0.2.1
    flannel.alpha.coreos.com/public-ip-overwrite: 198.51.100.1
spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, '2001:db8:1::/64']}
status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: 203.0.113.1}]}
---
apiVersion: v1
kind: Node
metadata:
  name: n2
  annotations: {flannel.alpha.coreos.com/backend-type: host-gw, flannel.alpha.coreos.com/backend-data: "null"}
spec: {podCIDR: 10.1.1.0/24}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: low}
spec: {nodeName: n2}
status: {podIP: 10.1.1.1}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.2]}, {addresses: [203.0.113.9]}]
---
`+ciliumDoc("{endpointSelector: {}, egress: [{toEntities: [kube-apiserver]}]}")))
	if err != nil {
		t.Fatal(err)
	}
	m, statuses, err := Translate(o, "n1", Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"n1 [192.0.2.1 198.51.100.1] [10.1.0.0 10.1.0.1 2001:db8:1:: 2001:db8:1::1] [10.1.0.0/24 2001:db8:1::/64] 00005e005301 false",
		"n2 [192.0.2.2] [10.1.1.0] [10.1.1.0/24] 000000000000 true",
	}
	for i, n := range m.Nodes {
		if got := fmt.Sprintf("%s %v %v %v %x %v", n.Name, n.Underlay, n.Overlay, n.PodCIDRs, n.VTEPMAC, n.APIServer); got != want[i] {
			t.Errorf("\n got %s\nwant %s", got, want[i])
		}
	}
	if got := ruleText(m.Policies[0].Rules[0]); got != "spec.egress[0] out allow [kube-apiserver, 203.0.113.9/32] [*]" {
		t.Error(got)
	}
	if len(statuses) != 1 || statuses[0].Object != "Node n2" || statuses[0].Path != "metadata.annotations[flannel.alpha.coreos.com/backend-type]" {
		t.Errorf("statuses %v", statuses)
	}
}

func TestPods(t *testing.T) {
	m, _ := translate(t, `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  uid: u1
  labels: {app: web, io.kubernetes.pod.namespace: forged, io.cilium.k8s.namespace.labels.team: forged, io.cilium.k8s.policy.cluster: forged}
spec:
  nodeName: n1
  serviceAccountName: runner
  initContainers:
  - {name: setup, ports: [{name: setup, containerPort: 1}]}
  - {name: proxy, restartPolicy: Always, ports: [{name: metrics, containerPort: 9090}]}
  containers:
  - {name: c, ports: [{name: http, containerPort: 80}, {containerPort: 81}, {name: dns, containerPort: 53, protocol: UDP}]}
  - {name: d, ports: [{name: http, containerPort: 82}]}
status: {phase: Running, podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}, {ip: '2001:db8::2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: leaving, deletionTimestamp: "2026-01-01T00:00:00Z"}
spec: {nodeName: n2}
status: {podIP: 10.1.1.2}
---
apiVersion: v1
kind: Pod
metadata: {name: done}
spec: {nodeName: n2}
status: {phase: Succeeded, podIP: 10.1.1.3}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec: {nodeName: n2, hostNetwork: true}
status: {podIP: 192.0.2.2}
---
apiVersion: v1
kind: Pod
metadata: {name: waiting}
spec: {containers: [{name: c}]}
`, Options{})
	if len(m.Pods) != 2 || m.Pods[0].Key() != "default/leaving" || m.Pods[1].Key() != "shop/web" {
		t.Fatalf("pods %v", m.Pods)
	}
	web := m.Pods[1]
	if got := fmt.Sprint(web.UID, web.Node, web.Addrs); got != "u1n1[10.1.0.2 2001:db8::2]" {
		t.Error(got)
	}
	wantPorts := []policy.NamedPort{{Name: "http", Protocol: policy.TCP, Port: 80}, {Name: "dns", Protocol: policy.UDP, Port: 53}, {Name: "metrics", Protocol: policy.TCP, Port: 9090}}
	if !reflect.DeepEqual(web.Ports, wantPorts) {
		t.Errorf("ports %v", web.Ports)
	}
	wantLabels := map[string]string{"app": "web", "io.kubernetes.pod.namespace": "shop", "io.cilium.k8s.namespace.labels.team": "a",
		"io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": "shop", "io.cilium.k8s.policy.serviceaccount": "runner", "io.cilium.k8s.policy.cluster": "default",
		"own::io.kubernetes.pod.namespace": "forged", "own::io.cilium.k8s.namespace.labels.team": "forged", "own::io.cilium.k8s.policy.cluster": "forged"}
	if !reflect.DeepEqual(web.Labels, wantLabels) {
		t.Errorf("labels %v", web.Labels)
	}
	if got := m.Pods[0].Labels["io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"]; got != "default" {
		t.Errorf("a namespace without an object is called %q", got)
	}
}

func TestPodsNeedTheirNode(t *testing.T) {
	o, err := Decode("m.yaml", []byte(nodes+podDoc("a", "spec: {nodeName: n9}\nstatus: {podIP: 10.1.0.2}\n---")+podDoc("b", "spec: {containers: [{name: c}]}\nstatus: {podIP: 10.1.0.3}\n---")+podDoc("c", "")))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Translate(o, "n1", Options{})
	want := `m.yaml document 3: Pod default/a: spec.nodeName: no Node is called n9; add it or correct the name
m.yaml document 4: Pod default/b: spec.nodeName: missing, yet the pod has the address 10.1.0.3; say on which node it runs
m.yaml document 5: Pod default/c: spec: missing; a pod that is not known to run is not guarded`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestServices(t *testing.T) {
	m, _ := translate(t, `apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, '2001:db8:96::1'], externalIPs: [203.0.113.1], ports: [{name: http, port: 80, nodePort: 30080}, {name: dns, port: 53, protocol: UDP}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.2}, {hostname: a.example}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: dns, port: 5353, protocol: UDP}]
endpoints:
- {addresses: [10.1.0.3]}
- {addresses: [10.1.0.2], conditions: {ready: true}}
- {addresses: [10.1.0.4], conditions: {ready: false}}
- {addresses: [10.1.0.5], conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: v1
kind: Service
metadata: {name: leaving}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: leaving-1, labels: {kubernetes.io/service-name: leaving}}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints:
- {addresses: [10.1.0.4], conditions: {ready: false, serving: false, terminating: true}}
- {addresses: [10.1.0.5], conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: v1
kind: Service
metadata: {name: old}
spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: old}
subsets: [{addresses: [{ip: 10.1.0.9}], notReadyAddresses: [{ip: 10.1.0.8}], ports: [{port: 9}]}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: away}
spec: {type: ExternalName, externalName: a.example}
`, Options{})
	want := []string{
		"leaving [10.96.0.2] [{6 80 0 [10.1.0.5:8080]}] false",
		"old [10.96.0.3] [{6 80 0 [10.1.0.9:9]}] false",
		"web [10.96.0.1 2001:db8:96::1 203.0.113.1 203.0.113.2] [{6 80 30080 [10.1.0.2:8080 10.1.0.3:8080]} {17 53 0 [10.1.0.2:5353 10.1.0.3:5353]}] true",
	}
	if len(m.Services) != len(want) {
		t.Fatalf("services %v", m.Services)
	}
	for i, s := range m.Services {
		if got := fmt.Sprint(s.Name, " ", s.Addrs, " ", s.Ports, " ", s.NodePorts); got != want[i] {
			t.Errorf("\n got %s\nwant %s", got, want[i])
		}
	}
}

func TestTranslateDoesNotDependOnOrder(t *testing.T) {
	manifest := nodes + podDoc("a", "spec: {nodeName: n1}\nstatus: {podIP: 10.1.0.2}\n---") + podDoc("b", "spec: {nodeName: n2}\nstatus: {podIP: 10.1.1.2}\n---") +
		policyDoc("{podSelector: {}}") + "---\n" + ciliumEgress(`{toNodes: [{}]}, {toFQDNs: [{matchName: a.example}]},
 {toServices: [{k8sServiceSelector: {selector: {}}}]}, {toCIDRSet: [{cidrGroupSelector: {}}]}`) + "---\n" +
		serviceDoc("s", "{selector: {app: s}}") + serviceDoc("r", "{selector: {app: r}}") + groupDoc("g", "[10.9.0.0/16]") + groupDoc("f", "[10.8.0.0/16]")
	o, err := Decode("m.yaml", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	options := Options{NodeSelectorLabels: true}
	first, firstStatuses, err := Translate(o, "n1", options)
	if err != nil {
		t.Fatal(err)
	}
	o.Services[0], o.Services[1] = o.Services[1], o.Services[0]
	o.CiliumCIDRGroups[0], o.CiliumCIDRGroups[1] = o.CiliumCIDRGroups[1], o.CiliumCIDRGroups[0]
	o.Nodes[0], o.Nodes[1] = o.Nodes[1], o.Nodes[0]
	o.Pods[0], o.Pods[1] = o.Pods[1], o.Pods[0]
	second, secondStatuses, err := Translate(o, "n1", options)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(first, second) || !reflect.DeepEqual(firstStatuses, secondStatuses) {
		t.Errorf("%+v\n%+v", first, second)
	}
}
