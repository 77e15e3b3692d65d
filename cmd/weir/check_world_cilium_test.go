// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

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
	switch w.IntN(12) {
	case 0, 1, 2, 3:
		r[side+"Endpoints"] = some(w, 3, func() object { return w.selector(w.ciliumKeys) })
	case 4:
		r[side+"CIDR"] = some(w, 2, func() string { cidr, _ := w.cidr(); return cidr })
	case 5, 6:
		r[side+"CIDRSet"] = some(w, 2, func() object {
			if w.in(20) {
				return object{"cidrGroupRef": "group"}
			}
			cidr, except := w.cidr()
			set := object{"cidr": cidr}
			if except != nil {
				set["except"] = except
			}
			return set
		})
	case 7, 8, 9:
		r[side+"Entities"] = some(w, 2, func() string {
			return pick(w, "all", "world", "world-ipv4", "world-ipv6", "cluster", "cluster-mesh", "host", "remote-node", "kube-apiserver",
				"health", "init", "ingress", "unmanaged", "none")
		})
	case 10:
		if w.in(4) {
			r[side+"Nodes"] = some(w, 1, func() object { return w.selector(w.podKeys) })
		} else if w.in(4) && side == "to" {
			r["toServices"] = list{object{"k8sService": object{"serviceName": "web", "namespace": "default"}}}
		}
	}
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
