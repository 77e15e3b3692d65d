// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// ciliumPolicy translates one object. The namespace of a clusterwide one is empty.
func (t *translator) ciliumPolicy(p metav1.Object, kind string, spec *CiliumRule, specs []*CiliumRule) {
	if spec != nil {
		t.ciliumSpec(p, kind, spec, "spec")
	}
	for i, s := range specs {
		t.ciliumSpec(p, kind, s, fmt.Sprintf("specs[%d]", i))
	}
}

func (t *translator) ciliumSpec(p metav1.Object, kind string, spec *CiliumRule, path string) {
	object, namespace := name(kind, p), p.GetNamespace()
	if spec.EndpointSelector == nil {
		t.status(object, path+".nodeSelector", ReasonUnsupported,
			"policy for nodes is not enforced: weir guards pods; guard the node itself with its own firewall")
		return
	}
	out := policy.Policy{Key: object, Namespace: namespace, Subject: subject(spec.EndpointSelector, namespace)}
	out.Isolates[policy.Ingress] = len(spec.Ingress)+len(spec.IngressDeny) > 0
	out.Isolates[policy.Egress] = len(spec.Egress)+len(spec.EgressDeny) > 0
	if d := spec.EnableDefaultDeny; d != nil {
		out.Isolates[policy.Ingress] = out.Isolates[policy.Ingress] && (d.Ingress == nil || *d.Ingress)
		out.Isolates[policy.Egress] = out.Isolates[policy.Egress] && (d.Egress == nil || *d.Egress)
	}
	for _, r := range rulesOf(spec, path) {
		byNode := len(r.nodes) > 0 && !t.options.NodeSelectorLabels
		if byNode && !t.lenient {
			t.problem(p, object, r.field("Nodes"), "needs --node-selector-labels; or use the entity remote-node")
			continue
		}
		rule := policy.Rule{Path: r.path, Direction: r.direction, Action: r.action}
		rule.Ports = t.ciliumPorts(object, &r)
		rule.Peers = t.ciliumPeers(object, &r, namespace)
		not := unsupported(&r)
		if byNode {
			rule.Peers = nil
			not = append(not, unenforceable{r.field("Nodes"), "selecting nodes needs --node-selector-labels", "Use the entity remote-node.",
				policy.Peer{Kind: policy.PeerEntity, Entity: policy.EntityRemoteNode}, "every other node"})
		}
		for _, u := range not {
			if r.action == policy.Allow {
				rule.Peers = nil
				t.status(object, u.path, ReasonUnsupported, u.why+"; the rule admits nothing. "+u.remedy)
				continue
			}
			rule.Peers = append(rule.Peers, u.atMost)
			t.status(object, u.path, ReasonUnsupported, u.why+"; the rule denies more than it says: "+u.instead+". "+u.remedy)
		}
		out.Rules = append(out.Rules, rule)
	}
	t.model.Policies = append(t.model.Policies, out)
}

// subject is the selector of the pods that a policy guards. A policy guards pods of its own namespace only: another one
// that it asks for with the prefix k8s: is overruled.
func subject(s *metav1.LabelSelector, namespace string) policy.Selector {
	if namespace == "" {
		return ciliumSelector(s)
	}
	own := metav1.LabelSelector{MatchLabels: map[string]string{}, MatchExpressions: s.MatchExpressions}
	for k, v := range s.MatchLabels {
		if k != "k8s:"+labelNamespace {
			own.MatchLabels[k] = v
		}
	}
	return append(inNamespace(namespace), ciliumSelector(&own)...)
}

// peerSelector is the selector of the pods that a peer names: of the policy's namespace, unless it speaks about namespaces
// itself. Clusterwide, all pods have a namespace.
func peerSelector(s *metav1.LabelSelector, namespace string) policy.Selector {
	out := ciliumSelector(s)
	for _, r := range out {
		if r.Key == labelNamespace || strings.HasPrefix(r.Key, labelNamespaceLabel) || strings.HasPrefix(r.Key, "reserved:") {
			return out
		}
	}
	if namespace == "" {
		return out
	}
	return append(inNamespace(namespace), out...)
}

// ciliumSelector turns a selector into a conjunction. Pods have labels of the source k8s, which the prefixes k8s: and any:
// and none at all match; a key with another prefix stays as it is, and no pod has it.
func ciliumSelector(s *metav1.LabelSelector) policy.Selector {
	out := requirements(s, "")
	for i := range out {
		if source, key, ok := strings.Cut(out[i].Key, ":"); ok && (source == "k8s" || source == "any") {
			out[i].Key = key
		}
	}
	return out
}

// ciliumPeers are the peers of a rule, but for what is unsupported. Missing peers stand for everyone if the rule has ports;
// an empty list stands for no one.
func (t *translator) ciliumPeers(object string, r *ciliumRule, namespace string) []policy.Peer {
	if noOne(r) {
		return nil
	}
	var peers []policy.Peer
	for i := range r.endpoints {
		peers = append(peers, t.endpointPeers(&r.endpoints[i], namespace)...)
	}
	for _, cidr := range r.cidrs {
		peers = append(peers, t.cidrPeer(block(cidr, nil)))
	}
	for i := range r.cidrSets {
		peers = append(peers, t.cidrSetPeers(object, &r.cidrSets[i], fmt.Sprintf("%s[%d]", r.field("CIDRSet"), i))...)
	}
	for i := range r.nodes {
		peers = append(peers, t.nodePeers(&r.nodes[i])...)
	}
	for i := range r.services {
		peers = append(peers, t.servicePeers(object, &r.services[i], fmt.Sprintf("%s[%d]", r.field("Services"), i))...)
	}
	for i, e := range r.entities {
		if e == string(policy.EntityKubeAPIServer) && !t.knowsAPIServer() {
			t.status(object, fmt.Sprintf("%s[%d]", r.field("Entities"), i), ReasonUnresolved,
				"no EndpointSlice of the Service default/kubernetes says where the API is; it matches nothing until one does. Add it")
		}
		peers = append(peers, t.entity(policy.Entity(e))...)
	}
	if named(r) || len(r.ports)+len(r.icmps) == 0 {
		return peers
	}
	return []policy.Peer{{Kind: policy.PeerAny}}
}

// entity is the peer that an entity stands for. The API server may be outside the cluster, where it is no node.
func (t *translator) entity(e policy.Entity) []policy.Peer {
	peers := []policy.Peer{{Kind: policy.PeerEntity, Entity: e}}
	switch e {
	case policy.EntityKubeAPIServer, policy.EntityCluster, policy.EntityClusterMesh:
		for _, addr := range t.apiServer {
			prefix, _ := addr.Prefix(addr.BitLen())
			peers = append(peers, policy.Peer{Kind: policy.PeerCIDR, CIDR: prefix})
		}
	}
	return peers
}

// knowsAPIServer says whether the objects tell where the Kubernetes API is served.
func (t *translator) knowsAPIServer() bool {
	return len(t.apiServer) > 0 || slices.ContainsFunc(t.model.Nodes, func(n policy.Node) bool { return n.APIServer })
}

// noOne says whether one of the lists of peers is written and empty.
func noOne(r *ciliumRule) bool {
	return r.endpoints != nil && len(r.endpoints) == 0 || r.nodes != nil && len(r.nodes) == 0 || r.cidrs != nil && len(r.cidrs) == 0 ||
		r.cidrSets != nil && len(r.cidrSets) == 0 || r.entities != nil && len(r.entities) == 0 || r.groups != nil && len(r.groups) == 0 ||
		r.services != nil && len(r.services) == 0 || r.fqdns != nil && len(r.fqdns) == 0
}

// named says whether the rule names its peers in any way.
func named(r *ciliumRule) bool {
	return len(r.endpoints)+len(r.nodes)+len(r.cidrs)+len(r.cidrSets)+len(r.entities)+len(r.groups)+len(r.services)+len(r.fqdns) > 0
}

// ciliumPorts are the ports of a rule; without toPorts and icmps there is no limit. An entry without ports matches nothing.
func (t *translator) ciliumPorts(object string, r *ciliumRule) []policy.PortMatch {
	if len(r.ports)+len(r.icmps) == 0 {
		return []policy.PortMatch{policy.AnyPort}
	}
	var matches []policy.PortMatch
	for i, entry := range r.ports {
		for j := range entry.Ports {
			p := &entry.Ports[j]
			t.oddPort(object, r, p, fmt.Sprintf("%s.toPorts[%d].ports[%d]", r.path, i, j))
			if !r.nameless(p) {
				matches = append(matches, ciliumPort(p, r.direction)...)
			}
		}
	}
	for i, entry := range r.icmps {
		for j, f := range entry.Fields {
			n, _ := icmpType(f)
			m := policy.PortMatch{Protocol: policy.ICMP, First: n, Last: n}
			if f.Family == "IPv6" {
				m.Protocol = policy.ICMPv6
			}
			if n == 0 {
				reading := "as every type, like Cilium; write the types you mean to admit"
				if t.options.ICMPZeroIsEchoReply {
					reading = "as type 0 (echo reply); Cilium reads it as every type"
				} else {
					m.Last = 255
				}
				t.status(object, fmt.Sprintf("%s.icmps[%d].fields[%d].type", r.path, i, j), ReasonDiffers, "type 0 is read "+reading)
			}
			matches = append(matches, m)
		}
	}
	return matches
}

// nameless says whether a port is a name where peers have none: at egress each peer pod has its own, CIDRs and entities have
// none, though pods be among them.
func (r *ciliumRule) nameless(p *CiliumPort) bool {
	return r.direction == policy.Egress && isServiceName(p.Port) && len(r.cidrs)+len(r.cidrSets)+len(r.entities) > 0
}

// oddPort tells of an end of a range that means nothing.
func (t *translator) oddPort(object string, r *ciliumRule, p *CiliumPort, path string) {
	n, err := strconv.ParseUint(p.Port, 0, 16)
	named := isServiceName(p.Port)
	switch {
	case p.EndPort == 0:
	case named && r.direction == policy.Egress:
		t.status(object, path+".endPort", ReasonDiffers, "is ignored after a port name at egress. Write numbers")
	case !named && err == nil && n == 0:
		t.status(object, path+".endPort", ReasonDiffers, "is ignored, since port 0 is every port. Remove it, or write where the range begins")
	case !named && err == nil && p.EndPort < int32(n):
		t.status(object, path+".endPort", ReasonDiffers, fmt.Sprintf("is below port %d and ignored. Correct it, or remove it", n))
	}
}

func ciliumPort(p *CiliumPort, direction policy.Direction) []policy.PortMatch {
	if number, ok := extended()[p.Protocol]; ok {
		return []policy.PortMatch{{Protocol: number, Last: 65535}}
	}
	protocols := []uint8{policy.TCP, policy.UDP, policy.SCTP}
	if number, ok := ciliumProtocols()[p.Protocol]; ok {
		protocols = []uint8{number}
	}
	var m policy.PortMatch
	if isServiceName(p.Port) {
		m.Name = strings.ToLower(p.Port)
		if direction == policy.Ingress {
			m.RangeTo = uint16(p.EndPort)
		}
	} else {
		n, _ := strconv.ParseUint(p.Port, 0, 16)
		m.First, m.Last = uint16(n), uint16(n)
		switch {
		case n == 0:
			m.Last = 65535
		case p.EndPort > int32(n):
			m.Last = uint16(p.EndPort)
		}
	}
	matches := make([]policy.PortMatch, 0, len(protocols))
	for _, number := range protocols {
		m.Protocol = number
		matches = append(matches, m)
	}
	return matches
}
