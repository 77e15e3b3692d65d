// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/k8s"
)

// TestSharesNothing: of package k8s the oracle uses types only, and of the compiler nothing, or it would prove nothing.
func TestSharesNothing(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range file.Imports {
			path := strings.Trim(i.Path.Value, `"`)
			ours := strings.HasPrefix(path, "github.com/weirnet/weir/") && path != "github.com/weirnet/weir/k8s"
			if ours || strings.Contains(path, ".") && !strings.HasPrefix(path, "k8s.io/") && !strings.HasPrefix(path, "github.com/weirnet/weir/k8s") {
				t.Errorf("imports %s", path)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "k8s" {
					seen++
					if s.Sel.Name != "Objects" && s.Sel.Name != "UnknownField" && !strings.HasPrefix(s.Sel.Name, "Cilium") && !strings.HasPrefix(s.Sel.Name, "Cluster") {
						t.Errorf("uses k8s.%s", s.Sel.Name)
					}
				}
			}
			return true
		})
	}
	if seen == 0 {
		t.Error("found no use of package k8s at all")
	}
}

// TestNodesByOption: the switches that let nodes be matched by CIDR and by label.
func TestNodesByOption(t *testing.T) {
	web := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{PodIP: "10.244.1.10"}}
	node := func(name, zone, ip string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": zone}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}}}
	}
	rule := func(peers k8s.CiliumIngressPeers) []*k8s.CiliumNetworkPolicy {
		return []*k8s.CiliumNetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"},
			Spec: &k8s.CiliumRule{EndpointSelector: &metav1.LabelSelector{}, Ingress: []k8s.CiliumIngressRule{{CiliumIngressPeers: peers}}}}}
	}
	zone := []metav1.LabelSelector{{MatchLabels: map[string]string{"reserved:remote-node": "", "node:zone": "a"}}}
	for _, c := range []struct {
		name    string
		options Options
		peers   k8s.CiliumIngressPeers
		want    bool
	}{
		{"a CIDR is no node", Options{}, k8s.CiliumIngressPeers{FromCIDR: []string{"192.0.2.0/24"}}, false},
		{"by the switch it is", Options{CIDRMatchNodes: true}, k8s.CiliumIngressPeers{FromCIDR: []string{"192.0.2.0/24"}}, true},
		{"but not by everything", Options{CIDRMatchNodes: true}, k8s.CiliumIngressPeers{FromCIDR: []string{"0.0.0.0/0"}}, false},
		{"a node has no labels among reserved ones", Options{}, k8s.CiliumIngressPeers{FromEndpoints: zone}, false},
		{"by the switch it has", Options{NodeSelectorLabels: true}, k8s.CiliumIngressPeers{FromEndpoints: zone}, true},
	} {
		objects := &k8s.Objects{Pods: []*corev1.Pod{web}, Nodes: []*corev1.Node{node("n1", "b", "192.0.2.1"), node("n2", "a", "192.0.2.2")}, CiliumNetworkPolicies: rule(c.peers)}
		_, got := New(objects, c.options).Judge(Party{Node: "n2", Addr: netip.MustParseAddr("192.0.2.2")}, Party{Pod: web, Addr: netip.MustParseAddr("10.244.1.10")}, Packet{tcp, 80})
		if got.Allow != c.want {
			t.Errorf("%s: %+v, want allow %v", c.name, got, c.want)
		}
	}
}

// TestOptions: each switch changes what it says and nothing else.
func TestOptions(t *testing.T) {
	pod := func(name, node, ip string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
			Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{PodIP: ip}}
	}
	zero := intstr.FromInt32(0)
	web, db := pod("web", "n1", "10.244.1.10"), pod("db", "n2", "10.244.2.10")
	objects := &k8s.Objects{
		Pods: []*corev1.Pod{web, db},
		NetworkPolicies: []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "block"},
			Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
				{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"192.0.2.0/24", "198.51.100.0/24"}}}}}}}}},
		CiliumNetworkPolicies: []*k8s.CiliumNetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "icmp"},
			Spec: &k8s.CiliumRule{EndpointSelector: &metav1.LabelSelector{}, Ingress: []k8s.CiliumIngressRule{
				{ICMPs: []k8s.CiliumICMPRule{{Fields: []k8s.CiliumICMPField{{Type: &zero}}}}}}}}},
	}
	addr := netip.MustParseAddr
	from := map[string]Party{
		"pod":     {Pod: db, Addr: addr("10.244.2.10")},
		"host":    {Node: "n1", Addr: addr("192.0.2.1")},
		"node":    {Node: "n2", Addr: addr("192.0.2.2")},
		"world":   {Addr: addr("203.0.113.1")},
		"outcast": {Addr: addr("198.51.100.1")},
	}
	for _, c := range []struct {
		name    string
		options Options
		from    string
		packet  Packet
		want    bool
	}{
		{"the own node reaches its pods", Options{}, "host", Packet{tcp, 80}, true},
		{"unless it needs a rule", Options{HostByRule: true}, "host", Packet{tcp, 80}, false},
		{"ipBlock matches pods", Options{}, "pod", Packet{tcp, 80}, true},
		{"unless read as Cilium does", Options{IPBlockCilium: true}, "pod", Packet{tcp, 80}, false},
		{"where it still matches the world", Options{IPBlockCilium: true}, "world", Packet{tcp, 80}, true},
		{"what Cilium reads as a CIDR matches no nodes", Options{IPBlockCilium: true}, "node", Packet{tcp, 80}, false},
		{"unless by its switch, but not by everything", Options{IPBlockCilium: true, CIDRMatchNodes: true}, "node", Packet{tcp, 80}, false},
		{"type 0 is every type", Options{}, "outcast", Packet{icmp, 8}, true},
		{"unless taken at its word", Options{ICMPTypeZeroExact: true}, "outcast", Packet{icmp, 8}, false},
		{"then it is type 0", Options{ICMPTypeZeroExact: true}, "outcast", Packet{icmp, 0}, true},
		{"and never TCP", Options{}, "outcast", Packet{tcp, 0}, false},
	} {
		egress, ingress := New(objects, c.options).Judge(from[c.from], Party{Pod: web, Addr: addr("10.244.1.10")}, c.packet)
		if ingress == nil || ingress.Allow != c.want {
			t.Errorf("%s: %+v, want allow %v", c.name, ingress, c.want)
		}
		if (egress != nil) != (c.from == "pod") {
			t.Errorf("%s: egress is judged for a sender that is no pod, or not for one that is: %+v", c.name, egress)
		}
	}
}
