// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/internal/fakeapi"
	"github.com/weirnet/weir/internal/lab"
)

// bigCluster is a plausible cluster: namespaces of twenty workloads of twenty-five pods; four workloads of five are
// Deployments, whose pods have equal labels, one is a StatefulSet, whose pods have none equal. Every workload has a Service,
// every namespace as many policies as make up for the number of all; one of five is a CiliumNetworkPolicy.
type bigCluster struct {
	pods, nodes, policies int
	next                  []int // by node, the next address
}

const (
	perWorkload  = 25
	perNamespace = 20 // workloads

	podsPath     = "/api/v1/pods"
	policiesPath = "/apis/networking.k8s.io/v1/networkpolicies"
	cnpPath      = "/apis/cilium.io/v2/ciliumnetworkpolicies"
)

func (b *bigCluster) namespaces() int { return max(1, b.pods/perWorkload/perNamespace) }

func namespaceName(i int) string { return fmt.Sprintf("team-%d", i) }

// nodeCIDR is the podCIDR of a node; node 0 is the lab's own.
func nodeCIDR(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(64 + i>>8), byte(i), 0}), 24)
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// address is the next one of a node.
func (b *bigCluster) address(node int) string {
	if b.next == nil {
		b.next = make([]int, b.nodes)
	}
	b.next[node]++
	a := nodeCIDR(node).Addr().As4()
	a[3] = byte(2 + b.next[node]%250)
	return netip.AddrFrom4(a).String()
}

func (b *bigCluster) node(i int, own *lab.Node) *corev1.Node {
	name, ip, cidr, mac := nodeName(i), netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}).String(), nodeCIDR(i).String(), fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255)
	if i == 0 {
		name, ip, cidr = own.NodeID, own.IP.String(), own.PodCIDR.String()
		mac = fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", own.VTEPMAC[0], own.VTEPMAC[1], own.VTEPMAC[2], own.VTEPMAC[3], own.VTEPMAC[4], own.VTEPMAC[5])
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: types.UID("node-uid-" + name), CreationTimestamp: metav1.Unix(1_700_000_000, 0),
		Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelArchStable: "amd64", corev1.LabelOSStable: "linux",
			corev1.LabelTopologyZone: fmt.Sprintf("zone-%d", i%3), corev1.LabelInstanceTypeStable: "m5.2xlarge"},
		Annotations: map[string]string{"flannel.alpha.coreos.com/backend-data": `{"VNI":1,"VtepMAC":"` + mac + `"}`,
			"flannel.alpha.coreos.com/backend-type": "vxlan", "flannel.alpha.coreos.com/kube-subnet-manager": "true",
			"flannel.alpha.coreos.com/public-ip": ip, "node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
		ManagedFields: managed(),
	}}
	n.Spec.PodCIDR, n.Spec.PodCIDRs = cidr, []string{cidr}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}, {Type: corev1.NodeHostName, Address: name}}
	for j := range 20 {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{fmt.Sprintf("registry.example/team/app-%d@sha256:%064d", j, j)}, SizeBytes: 1 << 28})
	}
	return n
}

func managed() []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{{Manager: "kube-controller-manager", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{` + strings.Repeat(`"f:app.kubernetes.io/name":{},`, 20) + `"f:x":{}}}}`)}}
}

// pod is the i-th pod of the cluster, on a node, at an address; serial tells it from others that were the i-th.
func (b *bigCluster) pod(i, serial, node int, address string) *corev1.Pod {
	workload := i / perWorkload
	ns, app := namespaceName(workload/perNamespace%b.namespaces()), fmt.Sprintf("app-%d", workload%perNamespace)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: ns, UID: types.UID(fmt.Sprintf("%08x-%04x-4000-8000-%012x", i, serial&0xffff, i)), CreationTimestamp: metav1.Unix(1_700_000_000+int64(serial), 0),
		Labels:        map[string]string{"app": app, "app.kubernetes.io/name": app, "app.kubernetes.io/version": "1.2.3", "tier": []string{"web", "api", "db"}[workload%3]},
		ManagedFields: managed(),
	}}
	if workload%5 == 4 {
		p.Name = fmt.Sprintf("%s-%d", app, i%perWorkload)
		p.Labels["statefulset.kubernetes.io/pod-name"], p.Labels["apps.kubernetes.io/pod-index"] = p.Name, fmt.Sprint(i%perWorkload)
		p.Labels["controller-revision-hash"] = app + "-5c9d8f7b6d"
	} else {
		p.Name = fmt.Sprintf("%s-7d9c6b5f48-%05x%x", app, i, serial)
		p.Labels["pod-template-hash"] = "7d9c6b5f48"
	}
	p.Spec.NodeName, p.Spec.ServiceAccountName = nodeName(node), app
	for c := range 2 {
		container := corev1.Container{Name: fmt.Sprintf("c%d", c), Image: "registry.example/team/app:1.2.3", ImagePullPolicy: corev1.PullIfNotPresent}
		for e := range 15 {
			container.Env = append(container.Env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_NUMBER_%d", e), Value: "a value of some length, as they have"})
		}
		for m := range 4 {
			container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: fmt.Sprintf("volume-%d", m), MountPath: "/var/run/secrets/some/path"})
		}
		p.Spec.Containers = append(p.Spec.Containers, container)
	}
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}, {Name: "metrics", ContainerPort: 9090}}
	p.Status.Phase = corev1.PodRunning
	if address != "" {
		p.Status.PodIP, p.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Unix(1_700_000_000, 0))})
	}
	return p
}

// fill gives the server the cluster, and returns the pods.
func (b *bigCluster) fill(api *fakeapi.Server, own *lab.Node, locals []*lab.Pod) []*corev1.Pod {
	for i := range b.namespaces() {
		api.Put("/api/v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceName(i),
			Labels: map[string]string{corev1.LabelMetadataName: namespaceName(i), "team": fmt.Sprint(i % 10)}}})
	}
	for i := range b.nodes {
		api.Put("/api/v1/nodes", b.node(i, own))
	}
	pods := make([]*corev1.Pod, b.pods)
	slices := map[int]*discoveryv1.EndpointSlice{}
	for i := range pods {
		node := 1 + i%(b.nodes-1)
		pods[i] = b.pod(i, 0, node, b.address(node))
		if i%(b.pods/len(locals)) == 0 && i/(b.pods/len(locals)) < len(locals) {
			local := locals[i/(b.pods/len(locals))]
			pods[i] = b.pod(i, 0, 0, local.Addr.String())
			pods[i].Spec.NodeName = own.NodeID
		}
		workload := i / perWorkload
		if slices[workload] == nil {
			slices[workload] = b.service(api, workload, pods[i])
		}
		slices[workload].Endpoints = append(slices[workload].Endpoints, discoveryv1.Endpoint{Addresses: []string{pods[i].Status.PodIP},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pods[i].Namespace, Name: pods[i].Name, UID: pods[i].UID}, NodeName: &pods[i].Spec.NodeName})
	}
	for _, p := range pods {
		api.Put(podsPath, p)
	}
	for _, s := range slices {
		api.Put("/apis/discovery.k8s.io/v1/endpointslices", s)
	}
	api.Define(cnpPath, "CiliumNetworkPolicy")
	api.Put("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "ciliumnetworkpolicies.cilium.io"}})
	for i := range b.policies {
		path, object := b.policy(i)
		api.Put(path, object)
	}
	return pods
}

func (b *bigCluster) service(api *fakeapi.Server, workload int, p *corev1.Pod) *discoveryv1.EndpointSlice {
	name, port, portName := p.Labels["app"], int32(8080), "http"
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: name, ManagedFields: managed()}}
	s.Spec.ClusterIP = netip.AddrFrom4([4]byte{172, 20, byte(workload >> 8), byte(workload)}).String()
	s.Spec.ClusterIPs, s.Spec.Selector = []string{s.Spec.ClusterIP}, map[string]string{"app": name}
	s.Spec.Ports = []corev1.ServicePort{{Name: portName, Port: 80, TargetPort: intstr.FromString("http"), Protocol: corev1.ProtocolTCP}}
	api.Put("/api/v1/services", s)
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: name + "-x7k2p", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}}}
}

// policy is the i-th: it lets two other apps of the namespace reach one, and its pods one another's port.
func (b *bigCluster) policy(i int) (string, runtime.Object) {
	ns, app, from, also := namespaceName(i%b.namespaces()), fmt.Sprintf("app-%d", i/b.namespaces()%perNamespace), fmt.Sprintf("app-%d", (i*7+3)%perNamespace), fmt.Sprintf("app-%d", (i*11+5)%perNamespace)
	if i%5 == 4 {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		text := fmt.Sprintf("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {namespace: %s, name: policy-%d}\nspec: {endpointSelector: {matchLabels: {app: %s}}, "+
			"ingress: [{fromEndpoints: [{matchLabels: {app: %s}}], toPorts: [{ports: [{port: \"8080\", protocol: TCP}]}]}, {fromEntities: [cluster], toPorts: [{ports: [{port: \"9090\"}]}]}]}",
			ns, i, app, from)
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			panic(err)
		}
		return cnpPath, u
	}
	peer := func(app string) networkingv1.NetworkPolicyPeer {
		return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}
	}
	http := intstr.FromInt32(8080)
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("policy-%d", i)}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": app}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer(from), peer(also)}, Ports: []networkingv1.NetworkPolicyPort{{Port: &http}}}}
	if i%3 == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
		p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{peer(also)}, Ports: []networkingv1.NetworkPolicyPort{{Port: &http}}}}
	}
	return policiesPath, p
}

// slice is the EndpointSlice of a pod's workload as the pods are now.
func (b *bigCluster) slice(pods []*corev1.Pod, i int) *discoveryv1.EndpointSlice {
	port, portName, name := int32(8080), "http", pods[i].Labels["app"]
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: pods[i].Namespace, Name: name + "-x7k2p", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}}}
	for _, p := range pods[i/perWorkload*perWorkload : (i/perWorkload+1)*perWorkload] {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.Status.PodIP}})
	}
	return s
}
