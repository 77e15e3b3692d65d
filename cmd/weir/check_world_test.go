// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// object is a piece of a manifest.
type object = map[string]any

// list is a list in a manifest.
type list = []any

// world makes up a cluster and policies for it. The vocabulary is small, so that things meet.
type world struct {
	*rand.Rand
	flags      []string // how policies are read
	options    k8s.Options
	cluster    string
	policies   []string // one document each
	nodes      int
	pods       []string // namespace/name
	addrs      []string // IPv4 addresses of all sorts
	vips       []string // of Services
	addrs6     []string
	namespaces []string
}

func pick[T any](w *world, from ...T) T { return from[w.IntN(len(from))] }

// some picks a few, none perhaps.
func some[T any](w *world, most int, make func() T) []any {
	out := list{}
	for range w.IntN(most + 1) {
		out = append(out, make())
	}
	return out
}

// in says yes once in n times.
func (w *world) in(n int) bool { return w.IntN(n) == 0 }

func document(o object) string {
	text, err := yaml.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func newWorld(r *rand.Rand) *world {
	w := &world{Rand: r, nodes: 2 + r.IntN(5)/4, namespaces: []string{"default", "prod", "dev"}}
	w.drawFlags()
	var docs []string
	for n := 1; n <= w.nodes; n++ {
		docs = append(docs, document(w.node(n)))
		w.addrs = append(w.addrs, fmt.Sprintf("192.0.2.%d", n), fmt.Sprintf("10.244.%d.1", n), fmt.Sprintf("10.244.%d.250", n))
		w.addrs6 = append(w.addrs6, fmt.Sprintf("2001:db8::%d", n))
	}
	docs = append(docs, document(object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": "prod", "labels": object{"env": "prod", "team": ""}}}),
		document(object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": "dev", "labels": object{"env": "dev"}}}))
	if w.in(2) {
		docs = append(docs, document(object{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
			"metadata":  object{"name": "kubernetes", "labels": object{"kubernetes.io/service-name": "kubernetes"}},
			"endpoints": list{object{"addresses": list{pick(w, "192.0.2.1", "192.0.2.2", "203.0.113.6")}}}}))
	}
	for i := range 6 + w.IntN(8) {
		docs = append(docs, document(w.pod(i)))
	}
	for i := range 1 + w.IntN(4) {
		service, slice := w.service(i)
		docs = append(docs, document(service), document(slice))
	}
	for i := range w.IntN(4) {
		docs = append(docs, document(w.cidrGroup(i)))
	}
	w.addrs = append(w.addrs, w.vips...)
	w.addrs = append(w.addrs, "203.0.113.1", "203.0.113.6", "203.0.113.130", "198.51.100.7", "10.9.9.9", "8.8.8.8")
	w.addrs6 = append(w.addrs6, "2001:db8:f::1", "2001:db8:f:1::1")
	w.cluster = strings.Join(docs, "---\n")
	for i := range 1 + w.IntN(9) {
		name := fmt.Sprintf("p%d", i)
		switch w.IntN(12) {
		case 0, 1, 2:
			w.policies = append(w.policies, document(w.audited(w.networkPolicy(name))))
		case 3, 4, 5:
			w.policies = append(w.policies, document(w.audited(w.cilium("CiliumNetworkPolicy", name, pick(w, w.namespaces...)))))
		case 6, 7, 8, 9:
			w.policies = append(w.policies, document(w.audited(w.clusterPolicy(name))))
		default:
			w.policies = append(w.policies, document(w.audited(w.cilium("CiliumClusterwideNetworkPolicy", name, ""))))
		}
	}
	return w
}

// audited puts some policies under audit, and says of some that they are not.
func (w *world) audited(policy object) object {
	if w.in(2) {
		policy["metadata"].(object)["annotations"] = object{k8s.AuditAnnotation: pick(w, "true", "true", "false")}
	}
	return policy
}

func (w *world) node(n int) object {
	o := object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": fmt.Sprintf("n%d", n), "labels": object{"zone": pick(w, "a", "b")}},
		"spec": object{"podCIDRs": list{fmt.Sprintf("10.244.%d.0/24", n), fmt.Sprintf("2001:db8:1:%d::/64", n)}},
		"status": object{"addresses": list{object{"type": "InternalIP", "address": fmt.Sprintf("192.0.2.%d", n)},
			object{"type": "InternalIP", "address": fmt.Sprintf("2001:db8::%d", n)}}}}
	if !w.in(4) {
		o["metadata"].(object)["annotations"] = object{"flannel.alpha.coreos.com/backend-type": "vxlan",
			"flannel.alpha.coreos.com/backend-data": fmt.Sprintf(`{"VNI":1,"VtepMAC":"00:00:5e:00:53:0%d"}`, n)}
	}
	return o
}

func (w *world) pod(i int) object {
	n, ns, name := 1+w.IntN(w.nodes), pick(w, w.namespaces...), fmt.Sprintf("pod%d", i)
	ports := list{}
	for _, port := range []string{"http", "dns"} {
		if !w.in(3) {
			ports = append(ports, object{"name": port, "containerPort": pick(w, 80, 8080, 53), "protocol": pick(w, "TCP", "TCP", "UDP")})
		}
	}
	spec := object{"nodeName": fmt.Sprintf("n%d", n), "containers": list{object{"name": "c", "ports": ports}}}
	addr := fmt.Sprintf("10.244.%d.%d", n, 10+16*w.IntN(8)+i)
	status := object{"podIPs": list{object{"ip": addr}, object{"ip": fmt.Sprintf("2001:db8:1:%d::%d", n, 10+i)}}}
	switch {
	case w.in(12):
		spec["hostNetwork"], status = true, object{"podIP": fmt.Sprintf("192.0.2.%d", n)}
	case w.in(8):
		status = object{"podIP": addr}
	}
	if w.in(4) {
		spec[pick(w, "serviceAccountName", "serviceAccount")] = "robot"
	}
	w.pods, w.addrs = append(w.pods, ns+"/"+name), append(w.addrs, addr)
	return object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": name, "namespace": ns, "labels": w.labels()}, "spec": spec, "status": status}
}

// service makes up a Service and what is behind it. Few endpoints: past bpf.MaxBackends the datapath judges them one by one.
func (w *world) service(i int) (service, slice object) {
	// One name in several namespaces.
	name, ns, addr := fmt.Sprintf("service%d", i%2), w.namespaces[i/2], fmt.Sprintf("10.96.0.%d", i)
	port := object{"name": "main", "port": 80, "protocol": pick(w, "TCP", "UDP")}
	spec := object{"clusterIP": addr, "ports": list{port}}
	if w.in(3) {
		spec["type"], port["nodePort"] = "NodePort", 30080+i
	}
	if w.in(4) {
		spec["internalTrafficPolicy"] = "Local"
	}
	if w.in(2) {
		spec["selector"] = object{"app": pick(w, "a", "b", "c")}
	}
	endpoints := some(w, 3, func() object {
		addr := pick(w, w.addrs...)
		if strings.HasSuffix(addr, ".1") || strings.HasSuffix(addr, ".250") { // a bridge, nobody: no Service has such endpoints
			addr = "192.0.2.1"
		}
		e := object{"addresses": list{addr}}
		if w.in(2) {
			e["nodeName"] = pick(w, "n1", "n2")
		}
		if w.in(4) {
			e["conditions"] = object{"ready": w.in(2), "serving": w.in(2), "terminating": w.in(2)}
		}
		return e
	})
	w.vips = append(w.vips, addr)
	return object{"apiVersion": "v1", "kind": "Service", "metadata": object{"name": name, "namespace": ns, "labels": w.labels()}, "spec": spec},
		object{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
			"metadata": object{"name": name, "namespace": ns, "labels": object{"kubernetes.io/service-name": name}},
			"ports":    list{object{"name": "main", "port": pick(w, 80, 8080, 53), "protocol": port["protocol"]}}}
}

func (w *world) labels() object {
	labels := object{}
	if !w.in(6) {
		labels["app"] = pick(w, "a", "b", "c")
	}
	if !w.in(3) {
		labels["tier"] = pick(w, "x", "y", "")
	}
	return labels
}

// selector selects by keys, which a dialect may prefix.
func (w *world) selector(keys func() (string, []string)) object {
	s := object{}
	if w.in(3) {
		return s
	}
	if !w.in(3) {
		key, values := keys()
		s["matchLabels"] = object{key: pick(w, values...)}
	}
	if w.in(3) {
		key, values := keys()
		e := object{"key": key, "operator": pick(w, "In", "NotIn")}
		if w.in(2) {
			e["operator"] = pick(w, "Exists", "DoesNotExist")
		} else {
			e["values"] = list{pick(w, values...), pick(w, values...)}
		}
		s["matchExpressions"] = list{e}
	}
	return s
}

func (w *world) podKeys() (string, []string) {
	if w.in(3) {
		return "tier", []string{"x", "y", ""}
	}
	return "app", []string{"a", "b", "c", "nobody"}
}

func (w *world) namespaceKeys() (string, []string) {
	if w.in(3) {
		return "kubernetes.io/metadata.name", w.namespaces
	}
	return pick(w, "env", "team"), []string{"prod", "dev", ""}
}

func (w *world) ciliumKeys() (string, []string) {
	prefix := pick(w, "", "", "k8s:", "any:")
	switch w.IntN(10) {
	case 0:
		return prefix + "io.kubernetes.pod.namespace", w.namespaces
	case 1:
		return prefix + "io.cilium.k8s.namespace.labels.env", []string{"prod", "dev"}
	case 2:
		return prefix + pick(w, "io.cilium.k8s.policy.serviceaccount", "io.cilium.k8s.policy.cluster"), []string{"robot", "default"}
	case 3:
		return pick(w, "container:app", "reserved:host", "reserved:world"), []string{"", "a"}
	}
	key, values := w.podKeys()
	return prefix + key, values
}

// cidr is a prefix of one of the families and something to cut from it.
func (w *world) cidr() (string, list) {
	cidrs := [][]string{{"0.0.0.0/0", "10.0.0.0/8", "203.0.113.0/24"}, {"10.244.1.0/24", "10.244.1.64/26"}, {"10.244.0.0/16", "10.244.2.0/24", "10.244.1.0/28"},
		{"203.0.113.9/24", "203.0.113.128/25"}, {"203.0.113.6/32"}, {"203.0.113.0/25", "203.0.113.0/28"}, {"192.0.2.0/24", "192.0.2.1/32"}, {"198.51.100.0/24"}, {"10.9.0.0/16"},
		{"::/0", "2001:db8:f::/64"}, {"2001:db8::/32", "2001:db8:1:1::/64"}, {"2001:db8:f::/48"}}
	c := pick(w, cidrs...)
	var except list
	for _, e := range c[1:] {
		if w.in(2) {
			except = append(except, e)
		}
	}
	return c[0], except
}

func (w *world) networkPolicy(name string) object {
	rule := func(peers string) func() object {
		return func() object {
			r := object{}
			if !w.in(4) {
				r[peers] = some(w, 3, w.networkPeer)
			}
			if !w.in(3) {
				r["ports"] = some(w, 3, w.networkPort)
			}
			return r
		}
	}
	spec := object{"podSelector": w.selector(w.podKeys), "ingress": some(w, 2, rule("from")), "egress": some(w, 2, rule("to"))}
	switch w.IntN(4) {
	case 0:
		spec["policyTypes"] = list{pick(w, "Ingress", "Egress")}
	case 1:
		spec["policyTypes"] = list{"Ingress", "Egress"}
	}
	return object{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": object{"name": name, "namespace": pick(w, w.namespaces...)}, "spec": spec}
}

func (w *world) networkPeer() object {
	switch w.IntN(4) {
	case 0:
		cidr, except := w.cidr()
		block := object{"cidr": cidr}
		if except != nil {
			block["except"] = except
		}
		return object{"ipBlock": block}
	case 1:
		return object{"podSelector": w.selector(w.podKeys)}
	case 2:
		return object{"namespaceSelector": w.selector(w.namespaceKeys)}
	}
	return object{"podSelector": w.selector(w.podKeys), "namespaceSelector": w.selector(w.namespaceKeys)}
}

func (w *world) networkPort() object {
	p := object{}
	if !w.in(3) {
		p["protocol"] = pick(w, "TCP", "UDP", "SCTP")
	}
	switch w.IntN(5) {
	case 0:
		p["port"] = pick(w, "http", "dns")
	case 1:
		p["port"], p["endPort"] = 80, pick(w, 80, 90, 65535)
	case 2, 3:
		p["port"] = pick(w, 80, 8080, 53, 443)
	}
	return p
}

func (w *world) probes(family, n int) []*probe {
	var probes []*probe
	party := func() string {
		switch w.IntN(8) {
		case 0:
			return fmt.Sprintf("node:n%d", 1+w.IntN(w.nodes))
		case 1, 2:
			if family == 6 {
				return pick(w, w.addrs6...)
			}
			return pick(w, w.addrs...)
		}
		return pick(w, w.pods...)
	}
	for i := range n {
		p := pairProbe(party(), party(), pick(w, policy.TCP, policy.TCP, policy.UDP, policy.SCTP), uint16(pick(w, 1, 53, 79, 80, 81, 90, 91, 443, 8079, 8080, 8090, 8472, 30080, 49152, 65535)))
		switch {
		case w.in(10) && family == 4:
			p = pairProbe(p.src, pick(w, w.vips...), pick(w, policy.TCP, policy.UDP), 80)
		case w.in(5):
			icmp, types := policy.ICMP, []int{0, 3, 8, 13}
			if family == 6 {
				icmp, types = policy.ICMPv6, []int{0, 1, 128, 135}
			}
			p = pairProbe(p.src, p.dst, icmp, uint16(pick(w, types...)))
			p.members[3].key = "icmp_type"
		}
		p.line, p.family = i+1, family
		p.members = append(p.members, member{"family", fmt.Appendf(nil, "%d", family)})
		probes = append(probes, p)
	}
	return probes
}
