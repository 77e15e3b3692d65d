// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

const labelReserved = "reserved:"

// endpointPeers are what an item of fromEndpoints or toEndpoints selects: pods, and where it speaks of reserved: labels, also
// whatever is no pod and has such labels.
func (t *translator) endpointPeers(s *metav1.LabelSelector, namespace string) []policy.Peer {
	selector := peerSelector(s, namespace)
	if !slices.ContainsFunc(selector, func(r policy.Requirement) bool { return strings.HasPrefix(r.Key, labelReserved) }) {
		return []policy.Peer{{Kind: policy.PeerSelector, Selector: selector}}
	}
	if e, ok := oneEntity(selector); ok {
		return t.entity(e)
	}
	var peers []policy.Peer
	if !slices.ContainsFunc(selector, needsReserved) { // pods have no such labels
		peers = append(peers, policy.Peer{Kind: policy.PeerSelector, Selector: selector})
	}
	peers = append(peers, t.reservedNodes(selector)...)
	peers = append(peers, t.reservedWorld(selector, policy.EntityWorldIPv4, netip.PrefixFrom(netip.IPv4Unspecified(), 0))...)
	peers = append(peers, t.reservedWorld(selector, policy.EntityWorldIPv6, netip.PrefixFrom(netip.IPv6Unspecified(), 0))...)
	if selector.Matches(reservedLabels(policy.EntityUnmanaged)) {
		peers = append(peers, policy.Peer{Kind: policy.PeerEntity, Entity: policy.EntityUnmanaged})
	}
	return peers
}

// needsReserved says whether a requirement is met only by what has a reserved: label.
func needsReserved(r policy.Requirement) bool {
	return strings.HasPrefix(r.Key, labelReserved) && (r.Op == policy.In || r.Op == policy.Exists)
}

// oneEntity is the entity that a selector means which does nothing but ask for one label.
func oneEntity(s policy.Selector) (policy.Entity, bool) {
	if len(s) != 1 || !needsReserved(s[0]) || s[0].Op == policy.In && !contains(s[0].Values, "") {
		return "", false
	}
	switch e := policy.Entity(strings.TrimPrefix(s[0].Key, labelReserved)); e {
	case policy.EntityAll, policy.EntityCluster, policy.EntityClusterMesh: // no labels of anybody
		return "", false
	default:
		return e, contains(entities(), string(e))
	}
}

func reservedLabels(entities ...policy.Entity) map[string]string {
	labels := map[string]string{}
	for _, e := range entities {
		labels[labelReserved+string(e)] = ""
	}
	return labels
}

// reservedNodes are the nodes that a selector of reserved: labels matches, the host among them.
func (t *translator) reservedNodes(s policy.Selector) []policy.Peer {
	with := func(n *policy.Node, labels map[string]string) bool {
		if n.APIServer {
			labels[labelReserved+string(policy.EntityKubeAPIServer)] = ""
		}
		return s.Matches(labels)
	}
	var peers []policy.Peer
	for i := range t.model.Nodes {
		if n := &t.model.Nodes[i]; n.Name == t.model.Node && with(n, reservedLabels(policy.EntityHost)) {
			peers = append(peers, policy.Peer{Kind: policy.PeerEntity, Entity: policy.EntityHost})
		}
	}
	return append(peers, t.otherNodes(func(n *policy.Node) bool {
		if t.options.NodeSelectorLabels {
			return with(n, nodeLabels(n))
		}
		return with(n, reservedLabels(policy.EntityRemoteNode))
	})...)
}

// reservedWorld is the part of one family's outside world that a selector matches: the API servers in it, the rest, or both.
func (t *translator) reservedWorld(s policy.Selector, family policy.Entity, everything netip.Prefix) []policy.Peer {
	rest := policy.Peer{Kind: policy.PeerCIDR, CIDR: everything}
	api := s.Matches(reservedLabels(policy.EntityWorld, family, policy.EntityKubeAPIServer))
	var peers []policy.Peer
	for _, addr := range t.apiServer {
		prefix, _ := addr.Prefix(addr.BitLen())
		switch {
		case addr.Is4() != everything.Addr().Is4():
		case api:
			peers = append(peers, policy.Peer{Kind: policy.PeerCIDR, CIDR: prefix})
		default:
			rest.Except = append(rest.Except, prefix)
		}
	}
	if s.Matches(reservedLabels(policy.EntityWorld, family)) {
		peers = append(peers, rest)
	}
	return peers
}
