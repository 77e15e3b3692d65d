// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// Peers that a Cilium policy names by other objects: CIDR groups, Services, nodes.

// cidrPeer is a CIDR as Cilium reads it: never pods, and nodes only by an option, which spares the prefix of everything.
func (t *translator) cidrPeer(prefix netip.Prefix, except []netip.Prefix) policy.Peer {
	return policy.Peer{Kind: policy.PeerCIDR, CIDR: prefix, Except: except, MatchNodes: t.options.CIDRMatchNodes && prefix.Bits() > 0}
}

// cidrSetPeers are the prefixes of an item of fromCIDRSet or toCIDRSet.
func (t *translator) cidrSetPeers(object string, r *CiliumCIDRRule, path string) []policy.Peer {
	if r.CIDR != "" {
		return []policy.Peer{t.cidrPeer(block(r.CIDR, r.Except))}
	}
	var peers []policy.Peer
	found := false
	for _, g := range t.byName.groups {
		if r.CIDRGroupRef != "" && g.Name != r.CIDRGroupRef ||
			r.CIDRGroupSelector != nil && !requirements(r.CIDRGroupSelector, "").Matches(g.selectable()) {
			continue
		}
		found = true
		for _, cidr := range g.Spec.ExternalCIDRs {
			prefix, except := block(cidr, r.Except)
			if rest, some := cut(prefix, except); some {
				peers = append(peers, t.cidrPeer(prefix, rest))
			}
		}
	}
	switch {
	case found:
	case r.CIDRGroupRef != "":
		t.status(object, path+".cidrGroupRef", ReasonUnresolved,
			"there is no CiliumCIDRGroup "+r.CIDRGroupRef+"; it matches nothing until there is. Add it, or correct the name")
	default:
		t.status(object, path+".cidrGroupSelector", ReasonUnresolved,
			"selects no CiliumCIDRGroup; it matches nothing until it does. Correct the selector, or label a group")
	}
	return peers
}

// cut sorts out what is to be cut from prefix: an exception of a group need not lie inside each of its prefixes. some is
// false if nothing is left.
func cut(prefix netip.Prefix, except []netip.Prefix) (rest []netip.Prefix, some bool) {
	for _, e := range except {
		switch {
		case inside(prefix, e):
			return nil, false
		case inside(e, prefix):
			rest = append(rest, e)
		}
	}
	return rest, true
}

// nodePeers are the other nodes that s matches; the own one is the host, and no node to Cilium.
func (t *translator) nodePeers(s *metav1.LabelSelector) []policy.Peer {
	selector := requirements(s, "")
	for i := range selector {
		selector[i].Key = strings.TrimPrefix(selector[i].Key, "any:")
	}
	return t.otherNodes(func(n *policy.Node) bool { return selector.Matches(nodeLabels(n)) })
}

// otherNodes are those of the other nodes that match: the entity if all do, else each by its addresses, so that labels need
// not be part of every node's identity.
func (t *translator) otherNodes(match func(*policy.Node) bool) []policy.Peer {
	var peers []policy.Peer
	all := true
	for i := range t.model.Nodes {
		n := &t.model.Nodes[i]
		switch {
		case n.Name == t.model.Node:
		case match(n):
			peers = append(peers, addressesOf(n)...)
		default:
			all = false
		}
	}
	if all && len(peers) > 0 {
		return []policy.Peer{{Kind: policy.PeerEntity, Entity: policy.EntityRemoteNode}}
	}
	return peers
}

// addressesOf is a node by its addresses.
func addressesOf(n *policy.Node) []policy.Peer {
	var peers []policy.Peer
	for _, addr := range slices.Concat(n.Underlay, n.Overlay) {
		prefix, _ := addr.Prefix(addr.BitLen())
		peers = append(peers, policy.Peer{Kind: policy.PeerCIDR, CIDR: prefix, MatchNodes: true})
	}
	return peers
}

// nodeLabels is what a selector of nodes sees of another node, under every name that a key may have.
func nodeLabels(n *policy.Node) map[string]string {
	labels := map[string]string{"k8s:" + labelCluster: clusterName, "reserved:remote-node": ""}
	if n.APIServer {
		labels["reserved:kube-apiserver"] = ""
	}
	for k, v := range n.Labels {
		labels[k], labels["node:"+k] = v, v
	}
	labels[labelCluster] = clusterName
	return labels
}

// servicePeers are what an item of toServices stands for: the pods that the Services select, or where they select none, the
// addresses of their endpoints, read as CIDRs.
func (t *translator) servicePeers(object string, item *CiliumService, path string) []policy.Peer {
	var peers []policy.Peer
	found := false
	means := item.matcher()
	for _, s := range t.byName.services {
		if s.Spec.Type == corev1.ServiceTypeExternalName || !means(s) {
			continue
		}
		found = true
		if len(s.Spec.Selector) > 0 {
			own := requirements(&metav1.LabelSelector{MatchLabels: s.Spec.Selector}, "")
			peers = append(peers, policy.Peer{Kind: policy.PeerSelector, Selector: append(inNamespace(s.Namespace), own...)})
			continue
		}
		peers = append(peers, t.backendPeers(object, s, path)...)
	}
	if !found {
		t.status(object, path, ReasonUnresolved, "there is no such Service; it matches nothing until there is. Add it, or correct the name, the namespace or the selector")
	}
	return peers
}

// matcher says which Services an item of toServices means. Without a namespace it means all that are called or labelled so;
// where it has a selector too, the name is not read.
func (c *CiliumService) matcher() func(*corev1.Service) bool {
	if by := c.K8sServiceSelector; by != nil {
		selector := requirements(&by.Selector, "")
		for i := range selector {
			if _, key, ok := strings.Cut(selector[i].Key, ":"); ok {
				selector[i].Key = key
			}
		}
		return func(s *corev1.Service) bool {
			return (by.Namespace == "" || by.Namespace == s.Namespace) && selector.Matches(s.Labels)
		}
	}
	by := c.K8sService
	return func(s *corev1.Service) bool {
		return by != nil && (by.Namespace == "" || by.Namespace == s.Namespace) && by.ServiceName == s.Name
	}
}

// backendPeers are the endpoints of a Service without a selector.
func (t *translator) backendPeers(object string, s *corev1.Service, path string) []policy.Peer {
	addrs := t.byName.behind(s.Namespace + "/" + s.Name)
	service := name("Service", s)
	if len(addrs) == 0 {
		t.status(object, path, ReasonUnresolved, service+" has neither a selector nor endpoints; it matches nothing until it has")
	}
	var peers []policy.Peer
	for _, addr := range addrs {
		prefix, _ := addr.Prefix(addr.BitLen())
		peer := t.cidrPeer(prefix, nil)
		peers = append(peers, peer)
		const read = "the endpoints of a Service without a selector are read as CIDRs, and those match no "
		switch kind, holder := t.byName.holder(addr); {
		case kind == "pod":
			t.status(object, path, ReasonDiffers, fmt.Sprintf("%s has the endpoint %s, which is pod %s: %spods. Use toEndpoints", service, addr, holder, read))
		case kind == "node" && !peer.MatchNodes:
			t.status(object, path, ReasonDiffers, fmt.Sprintf("%s has the endpoint %s, which is node %s: %snodes. Use toEntities, or --policy-cidr-match-mode nodes", service, addr, holder, read))
		}
	}
	return peers
}

// lookup finds objects that policies name, in an order that does not depend on the files'.
type lookup struct {
	services []*corev1.Service
	groups   []*CiliumCIDRGroup
	behind   func(service string) []netip.Addr           // the addresses behind a Service, sorted
	holder   func(addr netip.Addr) (kind, holder string) // the pod or node that an address is of
}

// newLookup finds among the objects, and in the model once it has nodes, pods and Services. Its maps are made when they are
// first asked.
func (t *translator) newLookup() *lookup {
	var endpoints map[string][]netip.Addr // by service
	var holders map[netip.Addr][2]string
	return &lookup{
		services: sortedByName(t.objects.Services), groups: sortedByName(t.objects.CiliumCIDRGroups),
		behind: func(service string) []netip.Addr {
			if endpoints == nil {
				endpoints = map[string][]netip.Addr{}
				for key, all := range t.backends {
					for _, e := range all {
						endpoints[key.service] = append(endpoints[key.service], e.addr.Addr())
					}
				}
				for key, addrs := range endpoints {
					endpoints[key] = sortedAddrs(addrs)
				}
			}
			return endpoints[service]
		},
		holder: func(addr netip.Addr) (kind, holder string) {
			if holders == nil {
				holders = holdersOf(t.model)
			}
			return holders[addr][0], holders[addr][1]
		},
	}
}

func sortedByName[T metav1.Object](objects []T) []T {
	return slices.SortedStableFunc(slices.Values(objects), func(a, b T) int {
		return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
	})
}

// sortedAddrs sorts addrs in place, each once.
func sortedAddrs(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// holdersOf are the pods and nodes of a model by their addresses.
func holdersOf(m *policy.Model) map[netip.Addr][2]string {
	holders := map[netip.Addr][2]string{}
	for i := range m.Nodes {
		for _, a := range slices.Concat(m.Nodes[i].Underlay, m.Nodes[i].Overlay) {
			holders[a] = [2]string{"node", m.Nodes[i].Name}
		}
	}
	for i := range m.Pods {
		for _, a := range m.Pods[i].Addrs {
			holders[a] = [2]string{"pod", m.Pods[i].Key()}
		}
	}
	return holders
}
