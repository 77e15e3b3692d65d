// SPDX-License-Identifier: Apache-2.0

package main

// clusterPolicy makes up a ClusterNetworkPolicy. Priorities are few, so that some are equal.
func (w *world) clusterPolicy(name string) object {
	spec := object{"tier": pick(w, "Admin", "Admin", "Baseline"), "priority": pick(w, 0, 5, 5, 40, 1000), "subject": w.clusterPods()}
	rule := func(peers string, peer func() object) func() object {
		return func() object {
			named := w.in(6)
			r := object{"action": pick(w, "Accept", "Deny", "Pass"), peers: list{w.clusterPeer(named, peer)}}
			if w.in(2) {
				r[peers] = append(r[peers].(list), w.clusterPeer(named, peer))
			}
			if !w.in(3) {
				r["protocols"] = list{w.clusterProtocol(named), w.clusterProtocol(named)}[w.IntN(2):]
			}
			if w.in(60) {
				r["hours"] = "9-17"
			}
			return r
		}
	}
	spec["ingress"] = some(w, 3, rule("from", w.clusterPods))
	spec["egress"] = some(w, 3, rule("to", func() object {
		if w.in(3) {
			cidrs := []string{"0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/24", "10.244.1.64/26", "192.0.2.0/24", "192.0.2.1/32", "203.0.113.0/24", "203.0.113.6/32",
				"::/0", "2001:db8:1:1::/64", "2001:db8:f::/48"}
			first := w.IntN(len(cidrs))
			return object{"networks": list{cidrs[first], cidrs[(first+1+w.IntN(len(cidrs)-1))%len(cidrs)]}}
		}
		return w.clusterPods()
	}))
	return object{"apiVersion": "policy.networking.k8s.io/" + pick(w, "v1alpha2", "v1alpha2", "v1beta1"), "kind": "ClusterNetworkPolicy",
		"metadata": object{"name": name}, "spec": spec}
}

func (w *world) clusterPods() object {
	if w.in(2) {
		return object{"namespaces": w.selector(w.namespaceKeys)}
	}
	pods := object{"podSelector": w.selector(w.podKeys)}
	if !w.in(3) {
		pods["namespaceSelector"] = w.selector(w.namespaceKeys)
	}
	return object{"pods": pods}
}

// clusterPeer is now and then one that nobody can hold. A rule with named ports has peers that have such.
func (w *world) clusterPeer(named bool, peer func() object) object {
	switch {
	case named:
		return w.clusterPods()
	case w.in(30):
		return pick(w, object{}, object{"regions": list{"north"}}, object{"nodes": object{}}, object{"pods": object{"podSelector": object{}, "owners": list{}}})
	}
	return peer()
}

func (w *world) clusterProtocol(named bool) object {
	if named && w.in(2) {
		return object{"destinationNamedPort": pick(w, "http", "dns", "HTTP", "none")}
	}
	if w.in(60) {
		return pick(w, object{}, object{"tcp": object{}}, object{"icmp": object{}}, object{"udp": object{"destinationPort": object{"list": list{1, 2}}}})
	}
	port := object{"number": pick(w, 80, 80, 8080, 53, 443)}
	if w.in(3) {
		start := pick(w, 1, 53, 80, 81)
		port = object{"range": object{"start": start, "end": start + pick(w, 1, 10, 8000, 65535-81)}}
	}
	return object{pick(w, "tcp", "tcp", "udp", "sctp"): object{"destinationPort": port}}
}
