// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
)

// drawFlags decides how policies are read: half of the time by default.
func (w *world) drawFlags() {
	if w.in(2) {
		for _, f := range []string{"--allow-localhost=policy", "--policy-cidr-match-mode=nodes", "--ipblock-match=world", "--cilium-compat=false"} {
			if w.in(2) {
				w.flags = append(w.flags, f)
			}
		}
	}
	w.flags = append(w.flags, "--node-selector-labels") // else a policy with such a rule is no policy
	set := flag.NewFlagSet("world", flag.PanicOnError)
	reading := newPolicyFlags(set)
	err := set.Parse(w.flags)
	if err == nil {
		w.options, err = reading.options()
	}
	if err != nil {
		panic(err)
	}
}

// cidrGroup makes up a group of CIDRs. Some policies ask for one more than there are.
func (w *world) cidrGroup(i int) object {
	return object{"apiVersion": pick(w, "cilium.io/v2", "cilium.io/v2alpha1"), "kind": "CiliumCIDRGroup",
		"metadata": object{"name": fmt.Sprintf("group%d", i), "labels": w.labels()},
		"spec":     object{"externalCIDRs": some(w, 3, func() string { cidr, _ := w.cidr(); return cidr })}}
}

// cilium makes up a policy of a cilium.io kind; namespace is empty for a clusterwide one.
func (w *world) cilium(kind, name, namespace string) object {
	o := object{"apiVersion": "cilium.io/v2", "kind": kind, "metadata": object{"name": name}}
	if namespace != "" {
		o["metadata"].(object)["namespace"] = namespace
	}
	o["spec"] = w.ciliumSpec()
	if w.in(4) {
		o["specs"] = list{w.ciliumSpec(), w.ciliumSpec()}
	}
	return o
}

func (w *world) ciliumSpec() object {
	spec := object{"endpointSelector": w.selector(w.ciliumKeys)}
	sections := []string{"ingress", "egress", "ingressDeny", "egressDeny"}
	for _, section := range sections {
		if w.in(2) {
			spec[section] = some(w, 2, func() object { return w.ciliumRule(section) })
		}
	}
	for _, section := range sections {
		if rules, ok := spec[section].(list); ok && len(rules) > 0 {
			if w.in(4) {
				spec["enableDefaultDeny"] = object{pick(w, "ingress", "egress"): w.in(2)}
			}
			return spec
		}
	}
	spec[pick(w, sections...)] = list{object{}} // a spec without rules is refused
	return spec
}

func (w *world) ciliumRule(section string) object {
	deny := len(section) > len("ingress")
	side := "from"
	if section[0] == 'e' {
		side = "to"
	}
	r := object{}
	w.ciliumPeers(r, side)
	switch w.IntN(6) {
	case 0, 1, 2:
		r["toPorts"] = some(w, 2, func() object { return w.ciliumPortRule(deny) })
	case 3:
		r["icmps"] = some(w, 2, w.ciliumICMP)
	}
	if w.in(30) && !deny {
		r["authentication"] = object{"mode": pick(w, "required", "disabled")}
	}
	return r
}

func (w *world) ciliumPeers(r object, side string) {
	switch w.IntN(14) {
	case 0, 1, 2, 3:
		keys := w.ciliumKeys
		if w.in(6) {
			keys = w.reservedKeys
		}
		r[side+"Endpoints"] = some(w, 3, func() object { return w.selector(keys) })
	case 4:
		r[side+"CIDR"] = some(w, 2, func() string { cidr, _ := w.cidr(); return cidr })
	case 5, 6:
		r[side+"CIDRSet"] = some(w, 2, func() object {
			cidr, except := w.cidr()
			set := object{"cidr": cidr}
			switch w.IntN(5) {
			case 0:
				set = object{"cidrGroupRef": fmt.Sprintf("group%d", w.IntN(4))}
			case 1:
				set = object{"cidrGroupSelector": w.selector(w.podKeys)}
			default:
				return withExcept(set, except)
			}
			_, except = w.cidr() // of a group, the exceptions may lie anywhere
			return withExcept(set, except)
		})
	case 7, 8, 9:
		r[side+"Entities"] = some(w, 2, func() string {
			return pick(w, "all", "world", "world-ipv4", "world-ipv6", "cluster", "cluster-mesh", "host", "remote-node", "kube-apiserver",
				"health", "init", "ingress", "unmanaged", "none")
		})
	case 10:
		r[side+"Nodes"] = some(w, 2, func() object { return w.selector(w.nodeKeys) })
	case 11, 12:
		if side == "to" {
			r["toServices"] = some(w, 2, w.ciliumService)
		} else if w.in(8) {
			r["fromGroups"] = list{object{"aws": object{"region": "a"}}}
		}
	}
}

func withExcept(set object, except list) object {
	if except != nil {
		set["except"] = except
	}
	return set
}

func (w *world) reservedKeys() (string, []string) {
	if w.in(4) {
		return w.ciliumKeys()
	}
	return "reserved:" + pick(w, "host", "remote-node", "kube-apiserver", "world", "world-ipv4", "world-ipv6", "unmanaged", "health", "all"), []string{"", "", "a"}
}

func (w *world) nodeKeys() (string, []string) {
	switch w.IntN(6) {
	case 0, 1:
		return pick(w, "reserved:kube-apiserver", "reserved:remote-node", "reserved:host"), []string{""}
	case 2:
		return pick(w, "io.cilium.k8s.policy.cluster", "k8s:zone"), []string{"default", "a"}
	}
	return pick(w, "", "any:", "node:") + "zone", []string{"a", "b"}
}

func (w *world) ciliumService() object {
	item := object{}
	if !w.in(3) {
		item["k8sService"] = object{"serviceName": fmt.Sprintf("service%d", w.IntN(3))}
	}
	if w.in(2) {
		item["k8sServiceSelector"] = object{"selector": w.selector(w.ciliumKeys)}
	}
	for _, by := range item {
		if w.in(2) {
			by.(object)["namespace"] = pick(w, w.namespaces...)
		}
	}
	return item
}

func (w *world) ciliumPortRule(deny bool) object {
	ports := some(w, 3, func() object {
		p := object{"port": pick(w, "80", "80", "8080", "53", "443", "0", "http", "DNS", "79")}
		if !w.in(3) {
			p["protocol"] = pick(w, "TCP", "UDP", "SCTP", "ANY")
		}
		if w.in(4) {
			p["endPort"] = pick(w, 0, 1, 80, 90, 8090, 65535)
		}
		return p
	})
	r := object{}
	if len(ports) > 0 || w.in(2) {
		r["ports"] = ports
	}
	if w.in(30) && !deny {
		r["serverNames"] = list{"example.com"}
	}
	return r
}

func (w *world) ciliumICMP() object {
	return object{"fields": some(w, 2, func() object {
		f := object{"type": pick[any](w, 0, 8, 13, 3, "8", "EchoRequest")}
		if w.in(2) {
			f["family"] = pick(w, "IPv4", "IPv6")
			if f["family"] == "IPv6" {
				f["type"] = pick[any](w, 0, 128, 135, 1, fmt.Sprint(128), "EchoRequest", "NeighborSolicitation")
			}
		}
		return f
	})}
}
