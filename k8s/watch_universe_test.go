// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// universe is a small cluster whose objects come, change and go at random.
type universe struct {
	*rand.Rand
	t       *testing.T
	objects map[string]any // as the API server has them, by kind and key
	readers map[string]*reader
}

func newUniverse(t *testing.T, seed uint64) *universe {
	u := &universe{t: t, Rand: rand.New(rand.NewPCG(seed, 7)), objects: map[string]any{}, readers: map[string]*reader{}}
	for _, kind := range []string{"NetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "ClusterNetworkPolicy", "CiliumCIDRGroup"} {
		u.readers[kind] = newReader(kind)
	}
	return u
}

func pick[T any](u *universe, of ...T) T { return of[u.IntN(len(of))] }

func (u *universe) labels() map[string]string {
	labels := map[string]string{}
	for _, key := range []string{"app", "tier", "io.cilium.k8s.x"} {
		if u.IntN(2) == 0 {
			labels[key] = pick(u, "a", "b")
		}
	}
	return labels
}

func (u *universe) meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: u.labels(), UID: "uid-1", CreationTimestamp: metav1.Unix(int64(1000+u.IntN(3)), 0),
		ResourceVersion: fmt.Sprint(u.IntN(100000))}
}

func (u *universe) namespace() string { return pick(u, "default", "shop", "bank") }

// make makes a version of some object.
func (u *universe) make() any {
	switch u.IntN(12) {
	case 0:
		return &corev1.Namespace{ObjectMeta: u.meta("", u.namespace())}
	case 1:
		i := u.IntN(4)
		n := &corev1.Node{ObjectMeta: u.meta("", fmt.Sprintf("n%d", i))}
		n.Spec.PodCIDR = fmt.Sprintf("10.1.%d.0/24", pick(u, i, i, i, 2))
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", pick(u, i, i, i, 2))}}
		if u.IntN(4) == 0 {
			n.Annotations = map[string]string{flannelPrefix + "public-ip": pick(u, "198.51.100.1", "x", "10.1.1.5")}
		}
		return n
	case 2, 3, 4, 5:
		p := &corev1.Pod{ObjectMeta: u.meta(u.namespace(), pick(u, "p1", "p2", "p3"))}
		p.UID = types.UID(pick(u, "uid-a", "uid-b"))
		p.Spec.NodeName = pick(u, "n0", "n0", "n1", "n2", "")
		p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: pick(u, "http", "web"), ContainerPort: 80}}}}
		p.Spec.HostNetwork = u.IntN(10) == 0
		p.Status.Phase = pick(u, corev1.PodRunning, corev1.PodRunning, corev1.PodPending, corev1.PodSucceeded)
		if ip := pick(u, "", "10.1.0.1", "10.1.0.5", "10.1.1.5", "10.1.1.6", "10.1.2.5", "192.0.2.2"); ip != "" {
			p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
		}
		return p
	case 6:
		s := &corev1.Service{ObjectMeta: u.meta(u.namespace(), pick(u, "s1", "s2"))}
		s.Spec.ClusterIP = fmt.Sprintf("10.96.0.%d", u.IntN(3))
		s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}
		if u.IntN(2) == 0 {
			s.Spec.Selector = map[string]string{"app": "a"}
		}
		return s
	case 7:
		s := &discoveryv1.EndpointSlice{ObjectMeta: u.meta(u.namespace(), pick(u, "e1", "e2", "kubernetes")), AddressType: discoveryv1.AddressTypeIPv4}
		if u.IntN(4) > 0 {
			s.Labels[discoveryv1.LabelServiceName] = pick(u, "s1", "s2", "kubernetes")
		}
		port, name := int32(80), "http"
		s.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port}}
		for range u.IntN(3) {
			ready := u.IntN(3) > 0
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{pick(u, "10.1.0.5", "10.1.1.5", "192.0.2.1", "203.0.113.9")}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
		}
		return s
	case 8:
		p := &networkingv1.NetworkPolicy{ObjectMeta: u.meta(u.namespace(), pick(u, "np1", "np2"))}
		p.Spec.PodSelector.MatchLabels = u.labels()
		for range u.IntN(2) {
			p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{
				{IPBlock: &networkingv1.IPBlock{CIDR: pick(u, "192.0.2.0/24", "203.0.113.0/24", "010.0.0.0/8")}}, // the last is what old API servers took
			}})
		}
		if u.IntN(4) == 0 {
			p.Annotations = map[string]string{AuditAnnotation: pick(u, "true", "yes")}
		}
		return p
	}
	kind, spec, namespace := "CiliumNetworkPolicy", "", u.namespace()
	switch u.IntN(8) {
	case 0:
		kind, namespace = "CiliumCIDRGroup", ""
		spec = pick(u, "{externalCIDRs: [203.0.113.0/24]}", "{externalCIDRs: [198.51.100.0/24, 192.0.2.0/28]}", "{externalCIDRs: []}")
	case 1:
		kind, namespace = "ClusterNetworkPolicy", ""
		spec = pick(u, "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
			"{tier: Admin, priority: 2, subject: {namespaces: {}}, egress: [{action: Accept, to: [{regions: [x]}]}]}",
			"{tier: Admin, priority: 2, subject: {namespaces: {}}, egress: [{action: Wave, to: [{namespaces: {}}]}]}",
			"{tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}")
	case 2:
		kind, namespace = "CiliumClusterwideNetworkPolicy", ""
		fallthrough
	default:
		spec = pick(u,
			"{endpointSelector: {}, egress: [{toServices: [{k8sService: {serviceName: s1}}]}]}",
			"{endpointSelector: {matchLabels: {app: a}}, egress: [{toServices: [{k8sServiceSelector: {selector: {matchLabels: {app: a}}}}]}]}",
			"{endpointSelector: {}, ingress: [{fromCIDRSet: [{cidrGroupRef: g1}]}]}",
			"{endpointSelector: {}, ingress: [{fromCIDRSet: [{cidrGroupSelector: {matchLabels: {app: a}}}]}]}",
			"{endpointSelector: {}, egress: [{toEntities: [kube-apiserver]}, {toEntities: [cluster]}]}",
			"{endpointSelector: {}, ingress: [{fromNodes: [{matchLabels: {app: a}}]}]}",
			"{endpointSelector: {}, ingressDeny: [{fromNodes: [{}]}]}",
			"{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {'reserved:remote-node': ''}}]}]}",
			"{endpointSelector: {}, egress: [{toFQDNs: [{matchName: example.com}]}]}",
			"{endpointSelector: {matchLabels: {tier: b}}, ingress: [{fromEndpoint: [{}]}, {fromEntities: [world]}]}",
			"{endpointSelector: {}, ingres: [{}]}",
			"{nodeSelector: {}, ingress: [{}]}")
	}
	object := &unstructured.Unstructured{Object: treeOf(u.t, "spec: "+spec)}
	m := u.meta(namespace, pick(u, "g1", "g2"))
	object.SetKind(kind)
	object.SetAPIVersion(u.readers[kind].kind.apiVersion)
	object.SetNamespace(m.Namespace)
	object.SetName(m.Name)
	object.SetLabels(m.Labels)
	object.SetResourceVersion(m.ResourceVersion)
	return object
}

func (u *universe) key(x any) string {
	object := x.(metav1.Object)
	if custom, ok := x.(*unstructured.Unstructured); ok {
		return custom.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
	}
	return fmt.Sprintf("%T %s/%s", x, object.GetNamespace(), object.GetName())
}

// put lets a mirror see an object; gone, that it is gone.
func (u *universe) put(t *testing.T, m *mirror, x any, gone bool) {
	t.Helper()
	key := keyOf(x.(metav1.Object))
	switch x := x.(type) {
	case *corev1.Namespace:
		if gone {
			m.removeNamespace(key)
		} else {
			m.putNamespace(key, x.Labels)
		}
	case *corev1.Node:
		if gone {
			m.removeNode(key)
		} else {
			m.putNode(newNodeObject(x))
		}
	case *corev1.Pod:
		if gone {
			m.pods.remove(newPodID(key))
		} else {
			m.pods.put(newPodObject(x))
		}
	case *corev1.Service:
		if gone {
			m.removeService(key)
		} else {
			m.putService(newServiceObject(x))
		}
	case *discoveryv1.EndpointSlice:
		if gone {
			m.removeSlice(key)
		} else {
			m.putSlice(newSliceObject(x))
		}
	default:
		kind := "NetworkPolicy"
		if custom, ok := x.(*unstructured.Unstructured); ok {
			kind = custom.GetKind()
		}
		r := u.readers[kind]
		if kind == "CiliumCIDRGroup" {
			if gone {
				m.removeGroup(key)
				return
			}
			g, err := r.object(x.(*unstructured.Unstructured))
			if err != nil {
				t.Fatal(err)
			}
			m.putGroup(g.(*CiliumCIDRGroup))
			return
		}
		if gone {
			m.removePolicy(kind + " " + key)
			return
		}
		p, err := r.policy(x)
		if err != nil {
			t.Fatal(err)
		}
		m.putPolicy(p)
	}
}
