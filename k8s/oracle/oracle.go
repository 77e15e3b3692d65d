// SPDX-License-Identifier: Apache-2.0

// Package oracle judges packets straight from the API objects, the slow and obvious way: for every packet it reads every
// policy from the first line to the last. It shares no code with the translation and the compiler that it is there to
// check; what it says is meant to be compared with the prose of the APIs, sentence by sentence.
package oracle

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/k8s"
)

// IP protocol numbers.
const (
	icmp   uint8 = 1
	tcp    uint8 = 6
	udp    uint8 = 17
	icmpv6 uint8 = 58
	sctp   uint8 = 132
)

// Reasons, under the names that the datapath has for them.
const (
	Allowed       = "allowed"
	NotIsolated   = "not_isolated"
	Self          = "self"
	DeniedDefault = "denied_default"
	DeniedRule    = "denied_rule"
)

// HostRule names the standing permission of a node to reach its own pods.
const HostRule = "weir host reaches its pods"

// Options are the switches of interpretation. The zero value is the default.
type Options struct {
	// HostByRule takes away the node's standing permission to reach its own pods.
	HostByRule bool
	// IPBlockCilium reads a NetworkPolicy's ipBlock as Cilium does: it matches neither pods nor nodes.
	IPBlockCilium bool
	// ICMPTypeZeroExact reads ICMP type 0 as echo reply only, not as every type.
	ICMPTypeZeroExact bool
	// CIDRMatchNodes lets what Cilium reads as a CIDR match nodes too.
	CIDRMatchNodes bool
	// NodeSelectorLabels gives other nodes their labels.
	NodeSelectorLabels bool
}

// Party is one end of a packet: a pod, a node, or an address that is neither.
type Party struct {
	Pod  *corev1.Pod // with an address of its own; a pod in the host's network is its Node
	Node string
	Addr netip.Addr // what the packet carries
}

// Packet is the first packet of a connection.
type Packet struct {
	Protocol uint8
	Port     uint16 // destination port; of ICMP and ICMPv6 the type
}

// Judgement is what the policies of one pod say about a packet.
type Judgement struct {
	Allow  bool
	Reason string
	// Rules are all rules that could be named for it: every deny rule that matches, else every allow rule.
	Rules []string
	// Audit is what would be judged if no policy were under audit, where that denies what is allowed; else nil.
	Audit *Judgement
}

// Oracle answers for one set of objects.
type Oracle struct {
	objects    *k8s.Objects
	options    Options
	namespaces map[string]map[string]string // name → labels
	owners     map[netip.Addr]Party         // of pods' addresses and nodes' InternalIPs
	underlay   map[string][]netip.Addr      // node → its InternalIPs
	nodeLabels map[string]map[string]string
	podCIDRs   []netip.Prefix
	apiAddrs   map[netip.Addr]bool // the Kubernetes API is served from
	apiNodes   map[string]bool     // a node that has one of them
}

// New reads what objects say about namespaces, nodes and the API server; policies are read anew for every packet.
func New(objects *k8s.Objects, options Options) *Oracle {
	o := &Oracle{objects: objects, options: options, namespaces: map[string]map[string]string{}, underlay: map[string][]netip.Addr{},
		owners: map[netip.Addr]Party{}, nodeLabels: map[string]map[string]string{}, apiAddrs: map[netip.Addr]bool{}, apiNodes: map[string]bool{}}
	for _, n := range objects.Namespaces {
		o.namespaces[n.Name] = n.Labels
	}
	for _, slice := range objects.EndpointSlices {
		if slice.Namespace == "default" && (slice.Labels["kubernetes.io/service-name"] == "kubernetes" || slice.Name == "kubernetes") {
			for _, endpoint := range slice.Endpoints {
				o.addAPIServer(endpoint.Addresses...)
			}
		}
	}
	for _, e := range objects.Endpoints {
		if e.Namespace == "default" && e.Name == "kubernetes" {
			for _, subset := range e.Subsets {
				for _, a := range subset.Addresses {
					o.addAPIServer(a.IP)
				}
			}
		}
	}
	for _, n := range objects.Nodes {
		o.nodeLabels[n.Name] = n.Labels
		for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				o.podCIDRs = append(o.podCIDRs, prefix)
			}
		}
		var addrs []string
		for _, key := range []string{"public-ip", "public-ip-overwrite", "public-ipv6", "public-ipv6-overwrite"} {
			addrs = append(addrs, n.Annotations["flannel.alpha.coreos.com/"+key])
		}
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				addrs = append(addrs, a.Address)
			}
		}
		for _, text := range addrs {
			if addr, err := netip.ParseAddr(text); err == nil {
				o.owners[addr.Unmap()] = Party{Node: n.Name, Addr: addr.Unmap()}
				o.underlay[n.Name] = append(o.underlay[n.Name], addr.Unmap())
				o.apiNodes[n.Name] = o.apiNodes[n.Name] || o.apiAddrs[addr]
			}
		}
	}
	for _, p := range objects.Pods {
		if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		texts := []string{p.Status.PodIP}
		for _, ip := range p.Status.PodIPs {
			texts = append(texts, ip.IP)
		}
		for _, text := range texts {
			if addr, err := netip.ParseAddr(text); err == nil {
				o.owners[addr.Unmap()] = Party{Pod: p, Addr: addr.Unmap()}
			}
		}
	}
	return o
}

func (o *Oracle) addAPIServer(texts ...string) {
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			o.apiAddrs[addr] = true
		}
	}
}

// unmanaged says that a party is an address of some node's podCIDR that no pod and no node is known to have.
func (o *Oracle) unmanaged(p Party) bool {
	if p.Pod != nil || p.Node != "" {
		return false
	}
	for _, prefix := range o.podCIDRs {
		if prefix.Contains(p.Addr) {
			return true
		}
	}
	return false
}

// world says that a party is outside the cluster.
func (o *Oracle) world(p Party) bool { return p.Pod == nil && p.Node == "" && !o.unmanaged(p) }

// opinion is what a set of policies says about a packet on one side of it, before it is weighed.
type opinion struct {
	selected     bool // some policy has rules for the subject in this direction
	isolated     bool
	allows, deny []string
}

// Judge says what the sender's and the receiver's policies make of a packet. A side that is no pod has no policies: nil.
// The sides are judged apart: ingress does not care that egress is denied.
func (o *Oracle) Judge(src, dst Party, packet Packet) (egress, ingress *Judgement) {
	if src.Pod != nil {
		egress = o.planes(side{subject: src, peer: dst, packet: packet, egress: true})
	}
	if dst.Pod != nil {
		ingress = o.planes(side{subject: dst, peer: src, packet: packet})
	}
	return egress, ingress
}

// planes judges without the policies under audit, which enforce nothing, and then, if that allows, with them.
func (o *Oracle) planes(s side) *Judgement {
	j := o.judge(s)
	if s.audit = true; j.Allow {
		if would := o.judge(s); !would.Allow {
			j.Audit = would
		}
	}
	return j
}

// counts says that a policy has a say: one whose object is annotated weirnet.github.io/audit: "true" only in an audit.
func (s side) counts(policy metav1.Object) bool {
	return s.audit || policy.GetAnnotations()["weirnet.github.io/audit"] != "true"
}

// side is a packet seen from one of its ends.
type side struct {
	subject, peer Party
	packet        Packet
	egress        bool
	audit         bool // policies under audit count, too
}

// destination is the party whose container ports give named ports their meaning.
func (s side) destination() Party {
	if s.egress {
		return s.peer
	}
	return s.subject
}

// host says that the peer is the node that the subject runs on.
func (s side) host() bool {
	return s.peer.Node != "" && s.peer.Node == s.subject.Pod.Spec.NodeName
}

func (o *Oracle) judge(s side) *Judgement {
	if s.peer.Pod != nil && s.peer.Pod.Namespace == s.subject.Pod.Namespace && s.peer.Pod.Name == s.subject.Pod.Name {
		return &Judgement{Allow: true, Reason: Self} // A pod always reaches itself.
	}
	if s.egress {
		if backends, found := o.services(s); found && o.selected(s) {
			return o.judgeService(s, backends)
		}
	}
	return o.policies(s)
}

// opinions asks all policies that are without order.
func (o *Oracle) opinions(s side) opinion {
	var all opinion
	o.networkPolicies(s, &all)
	o.ciliumPolicies(s, &all)
	return all
}

// selected says that some policy has a say in what the subject does in this direction.
func (o *Oracle) selected(s side) bool { return o.opinions(s).selected || o.clusterSelected(s) }

// policies weighs what the policies say about a packet between two parties: the admin tier's, then those that isolate, then
// the baseline tier's, which counts only where nothing isolates.
func (o *Oracle) policies(s side) *Judgement {
	if decided := o.clusterTier("Admin", s); decided != nil {
		return decided
	}
	all := o.opinions(s)
	switch {
	case len(all.deny) > 0: // Any matching deny beats any allow.
		return &Judgement{Allow: false, Reason: DeniedRule, Rules: all.deny}
	case len(all.allows) > 0:
		return &Judgement{Allow: true, Reason: Allowed, Rules: all.allows}
	case !all.isolated:
		if decided := o.clusterTier("Baseline", s); decided != nil {
			return decided
		}
		return &Judgement{Allow: true, Reason: NotIsolated}
	case !s.egress && s.host() && !o.options.HostByRule: // The pod's own node always reaches it.
		return &Judgement{Allow: true, Reason: Allowed, Rules: []string{HostRule}}
	}
	return &Judgement{Allow: false, Reason: DeniedDefault}
}
