// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestAddressTable(t *testing.T) {
	m := smallModel()
	m.Nodes[1].Direct = false
	m.Nodes = append(m.Nodes, Node{Name: "node-3", Underlay: []netip.Addr{mustAddr("192.0.2.3")}, Overlay: []netip.Addr{mustAddr("10.42.3.0")},
		PodCIDRs: []netip.Prefix{mustPrefix("10.42.3.0/24")}, Direct: true, APIServer: true})
	m.Pods = append(m.Pods, smallPod("direct", "10.42.3.10", 3))
	m.Policies = []Policy{{Key: "p", Subject: labels("app", In, "front"), Isolates: [2]bool{true}, Rules: []Rule{{
		Path: "r", Ports: []PortMatch{AnyPort}, Peers: []Peer{everywhere(cidr("10.42.2.64/26")), cidr("10.42.2.32/27"), cidr("198.51.100.0/24")},
	}}}}
	c := build(t, m)
	slot := func(node string) uint16 {
		for _, n := range c.Nodes {
			if n.Name == node {
				return n.Slot
			}
		}
		return 0
	}
	for _, test := range []struct {
		addr, prefix string
		kind         AddressKind
		flags        AddressFlags
		slot         uint16
		identity     string
	}{
		{"192.0.2.1", "192.0.2.1/32", AddressHost, AddressUnderlay, slot("node-1"), "host"},
		{"10.42.1.1", "10.42.1.1/32", AddressHost, 0, slot("node-1"), "host"},
		{"192.0.2.2", "192.0.2.2/32", AddressNode, AddressUnderlay, slot("node-2"), "remote-node"},
		{"10.42.2.0", "10.42.2.0/32", AddressNode, AddressTunnelled, slot("node-2"), "remote-node"},
		{"10.42.3.0", "10.42.3.0/32", AddressNode, 0, slot("node-3"), "kube-apiserver+remote-node"},
		{"10.42.1.10", "10.42.1.10/32", AddressLocalPod, 0, c.Endpoint("default/front").Slot, "pod:app=front,io.kubernetes.pod.namespace=default"},
		{"10.42.2.10", "10.42.2.10/32", AddressRemotePod, AddressTunnelled, slot("node-2"), "pod:app=back,io.kubernetes.pod.namespace=default"},
		{"10.42.3.10", "10.42.3.10/32", AddressRemotePod, 0, slot("node-3"), "pod:app=direct,io.kubernetes.pod.namespace=default"},
		{"10.42.1.99", "10.42.1.0/24", AddressLocalCIDR, 0, slot("node-1"), "unmanaged"},
		{"10.42.2.9", "10.42.2.0/24", AddressRemoteCIDR, AddressTunnelled, slot("node-2"), "unmanaged"},
		{"10.42.2.40", "10.42.2.0/24", AddressRemoteCIDR, AddressTunnelled, slot("node-2"), "unmanaged"},
		{"10.42.2.70", "10.42.2.64/26", AddressRemoteCIDR, AddressTunnelled, slot("node-2"), "unmanaged in [10.42.2.64/26]"},
		{"10.42.3.9", "10.42.3.0/24", AddressRemoteCIDR, 0, slot("node-3"), "unmanaged"},
		{"198.51.100.9", "198.51.100.0/24", AddressNone, 0, 0, "cidr:198.51.100.0/24"},
		{"203.0.113.9", "0.0.0.0/0", AddressNone, 0, 0, "world"},
		{"2001:db8::1", "::/0", AddressNone, 0, 0, "world"},
	} {
		a := c.Address(mustAddr(test.addr))
		if a.Prefix != mustPrefix(test.prefix) || a.Kind != test.kind || a.Flags != test.flags || a.Slot != test.slot || c.Image.IdentityName(a.Identity) != test.identity {
			t.Errorf("%s: %+v %s, want %+v", test.addr, a, c.Image.IdentityName(a.Identity), test)
		}
	}
	for i := 1; i < len(c.Addresses); i++ {
		if comparePrefix(c.Addresses[i-1].Prefix, c.Addresses[i].Prefix) >= 0 {
			t.Errorf("%s before %s", c.Addresses[i-1].Prefix, c.Addresses[i].Prefix)
		}
	}
}

func TestReservedNumbers(t *testing.T) {
	m := smallModel()
	m.Nodes[1].APIServer = true
	m.Nodes = append(m.Nodes, Node{Name: "node-3", Underlay: []netip.Addr{mustAddr("192.0.2.3")}})
	check := func(want map[string]uint32) {
		t.Helper()
		c := build(t, m)
		for addr, number := range want {
			if got := c.Address(mustAddr(addr)).Identity; got != number {
				t.Errorf("%s has identity %d (%s), want %d", addr, got, c.Image.IdentityName(got), number)
			}
		}
	}
	check(map[string]uint32{"192.0.2.1": 1, "203.0.113.1": 2, "2001:db8::1": 2, "10.42.1.99": 3, "192.0.2.3": 6, "192.0.2.2": 7, "10.42.1.10": 257, "10.42.2.10": 256})
	m.Policies = []Policy{{Key: "p", Rules: []Rule{{Path: "r", Peers: []Peer{entity(EntityWorldIPv4), cidr("::/0")}, Ports: []PortMatch{AnyPort}}}}}
	check(map[string]uint32{"203.0.113.1": 9, "2001:db8::1": 10})
	m.Nodes[0].APIServer = true
	m.Policies[0].Rules[0].Peers = []Peer{entity(EntityKubeAPIServer)}
	m.Policies[0].Isolates[0] = true
	c := build(t, m)
	host := c.Address(mustAddr("192.0.2.1")).Identity
	if host < FirstIdentity || c.Image.IdentityName(host) != "host+kube-apiserver" {
		t.Errorf("a host that serves the API is %d %s", host, c.Image.IdentityName(host))
	}
	if got := c.Image.Lookup(Ingress, c.Endpoint("default/front").Identity, host, TCP, 1); got.Rule() <= RuleHost {
		t.Errorf("a rule for kube-apiserver does not name itself for the host: %#x", got)
	}
	m.Policies[0].Rules = nil
	c = build(t, m)
	if got := c.Image.Lookup(Ingress, c.Endpoint("default/front").Identity, c.Address(mustAddr("192.0.2.1")).Identity, TCP, 1); got != cell(true, RuleHost) {
		t.Errorf("a host that serves the API is the host: %#x", got)
	}
}

func TestPerPodLabelsCountOnlyWhenNamed(t *testing.T) {
	m := smallModel()
	twin := smallPod("front", "10.42.1.11", 1)
	twin.Name = "twin"
	m.Pods = append(m.Pods, twin)
	for i, hash := range map[int]string{0: "a", 2: "b"} {
		m.Pods[i].Labels["pod-template-hash"] = hash
		m.Pods[i].Labels["batch.kubernetes.io/job-completion-index"] = hash
	}
	same := func() bool {
		c := build(t, m)
		return c.Endpoint("default/front").Identity == c.Endpoint("default/twin").Identity
	}
	if !same() {
		t.Error("pod-template-hash tells identities apart though no policy names it")
	}
	m.Policies = []Policy{{Key: "p", Subject: labels("pod-template-hash", In, "a"), Isolates: [2]bool{true}}}
	if same() {
		t.Error("a policy names pod-template-hash, and it tells nobody apart")
	}
}

// One entry stands for a NodePort at all nodes: thousands of nodes and hundreds of ports fit. Only an address that a Service
// claims for itself has an entry of its own, with what the node serves there, too.
func TestNodePortsCostOneEntry(t *testing.T) {
	m := smallModel()
	ap := netip.MustParseAddrPort
	node := m.Nodes[1].Underlay[0]
	m.Services = []Service{
		{Namespace: "default", Name: "web", NodePorts: true, Ports: []ServicePort{{Protocol: TCP, Port: 80, NodePort: 30080, Backends: []netip.AddrPort{ap("10.42.2.10:8080")}}}},
		{Namespace: "default", Name: "lb", Addrs: []netip.Addr{node}, Ports: []ServicePort{{Protocol: TCP, Port: 30080, Backends: []netip.AddrPort{ap("10.42.1.10:8081")}}}},
	}
	for i := range 5000 {
		m.Nodes = append(m.Nodes, Node{Name: fmt.Sprintf("n%d", i), Underlay: []netip.Addr{netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}})
	}
	c := build(t, m)
	backends := map[string]int{}
	for _, s := range c.Services {
		backends[s.Addr.String()] = len(s.Backends)
	}
	if want := map[string]int{"0.0.0.0": 1, "::": 0, node.String(): 2}; !maps.Equal(backends, want) {
		t.Errorf("backends by address: %v, want %v", backends, want)
	}
}

func TestServices(t *testing.T) {
	m := smallModel()
	ap := netip.MustParseAddrPort
	m.Services = []Service{
		{Namespace: "default", Name: "web", Addrs: []netip.Addr{mustAddr("10.43.0.1"), mustAddr("fd00::1")}, NodePorts: true, Ports: []ServicePort{
			{Protocol: TCP, Port: 80, NodePort: 30080, Backends: []netip.AddrPort{ap("10.42.2.10:8080"), ap("10.42.2.10:8080"), ap("10.42.1.10:8080"), ap("192.0.2.1:80"), ap("198.51.100.1:80")}},
			{Protocol: UDP, Port: 53},
		}},
	}
	c := build(t, m)
	front, back := c.Endpoint("default/front").Identity, c.Address(mustAddr("10.42.2.10")).Identity
	want := []Backend{{1, 80, true, true}, {2, 80, false, false}, {min(front, back), 8080, false, false}, {max(front, back), 8080, false, false}}
	var got []string
	for _, s := range c.Services {
		got = append(got, fmt.Sprintf("%s/%d/%d", s.Addr, s.Protocol, s.Port))
		switch {
		case s.Protocol == UDP || s.Addr.Is6():
			if len(s.Backends) != 0 {
				t.Errorf("%s %d: %+v", s.Addr, s.Port, s.Backends)
			}
		case !reflect.DeepEqual(s.Backends, want):
			t.Errorf("%s %d: %+v, want %+v", s.Addr, s.Port, s.Backends, want)
		}
	}
	if text := strings.Join(got, " "); text != "0.0.0.0/6/30080 10.43.0.1/6/80 10.43.0.1/17/53 ::/6/30080 fd00::1/6/80 fd00::1/17/53" {
		t.Error(text)
	}
}
