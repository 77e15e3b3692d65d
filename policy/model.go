// SPDX-License-Identifier: Apache-2.0

package policy

import "net/netip"

// Model is everything that policy on one node depends on, free of any source's own types. It is a value: sources build a
// new one on every change and hand it over whole. Compile does not depend on the order of its slices.
type Model struct {
	Node     string // name of the node this model is for; one of Nodes
	Nodes    []Node
	Pods     []Pod
	Policies []Policy
	Services []Service
	Options  Options
}

// Options are the switches of interpretation. The zero value is the default.
type Options struct {
	// HostByRule takes away the node's standing permission to reach its own pods (kubelet probes): then only rules
	// that admit the host do.
	HostByRule bool
}

// Node is a member of the cluster.
type Node struct {
	Name   string
	Labels map[string]string
	// Underlay lists the addresses under which the node sends and receives overlay packets: its InternalIPs, and the
	// CNI's public-ip where that differs.
	Underlay []netip.Addr
	// Overlay lists the node's own addresses inside the overlay: of its VTEP, of its bridge. They are the node itself.
	Overlay  []netip.Addr
	PodCIDRs []netip.Prefix
	VTEPMAC  [6]byte // inner source MAC of what it sends; zero: not known, not checked
	// APIServer says that the Kubernetes API is served from this node's addresses.
	APIServer bool
	// Direct says that podCIDRs of this node are reached without the tunnel (host-gw, DirectRouting): plain packets
	// from them are no forgery. The loader sets it from the routes; sources leave it false.
	Direct bool
}

// Pod is a running pod with addresses of its own. Pods in the host's network are not listed: they are their node.
type Pod struct {
	Namespace, Name string
	UID             string // tells a pod from an earlier one of the same name; may be empty
	Node            string
	// Labels is all that selectors can see, keys without a source prefix: the pod's own labels, and the derived ones
	// io.kubernetes.pod.namespace, io.cilium.k8s.namespace.labels.*, io.cilium.k8s.policy.serviceaccount,
	// io.cilium.k8s.policy.cluster. A label of its own under the name of a derived one is called own::NAME.
	Labels map[string]string
	Addrs  []netip.Addr // at most one per family
	Ports  []NamedPort  // the named ports only
}

// Key is the pod's name for people: "namespace/name".
func (p *Pod) Key() string { return p.Namespace + "/" + p.Name }

// NamedPort is a container port with a name.
type NamedPort struct {
	Name     string
	Protocol uint8 // IP protocol number
	Port     uint16
}

// IP protocol numbers that policy knows by name.
const (
	ICMP   uint8 = 1
	TCP    uint8 = 6
	UDP    uint8 = 17
	ICMPv6 uint8 = 58
	SCTP   uint8 = 132
)

// Direction is the direction of a rule, seen from the pod that it guards. The numbers are those of enum direction.
type Direction uint8

// Directions.
const (
	Ingress Direction = iota
	Egress
)

// Action is what a rule does with what it matches. In TierNormal any matching Deny beats any Allow; in the other tiers the
// first rule that matches decides, and Pass ends its tier without a decision. TierNormal has no Pass.
type Action uint8

// Actions.
const (
	Allow Action = iota
	Deny
	Pass
)

// Tier is when a policy is asked: TierAdmin first, TierBaseline only about pods that no policy of TierNormal isolates in
// that direction, and only if no rule of TierNormal matches. What no tier decides is allowed, unless the pod is isolated.
type Tier uint8

// Tiers. Policies of TierAdmin and TierBaseline are ordered and isolate nobody; those of TierNormal have no order.
const (
	TierNormal Tier = iota
	TierAdmin
	TierBaseline
)

// MaxPriority is the last Priority that a policy may have.
const MaxPriority = 1000

// Policy is one policy object, or one of the specs of an object that has several.
type Policy struct {
	// Key names the object for people and metrics: "CiliumNetworkPolicy default/frontend-to-backend".
	Key string
	// Namespace is the object's; empty for a cluster-wide one. It is charged for what its policies cost.
	Namespace string `json:",omitempty"`
	// Audit says that the policy is under audit: it enforces nothing; what it would deny is found out beside the verdict.
	Audit bool `json:",omitempty"`
	Tier  Tier `json:",omitempty"`
	// Priority orders the policies of an ordered tier, the lowest first; equal ones go by Key. TierNormal does not read it.
	Priority int32    `json:",omitempty"`
	Subject  Selector // of pods; the namespace is already a requirement of it
	// Isolates says, by direction, whether a pod that Subject matches is denied all that no rule admits.
	Isolates [2]bool
	// Closed says, by direction, that nothing admits anything to a pod that Subject matches, whatever policy it stands in:
	// what stands for policies that are too large. The node's standing permission holds unless a rule denies the host.
	Closed [2]bool `json:",omitzero"`
	Rules  []Rule  // in an ordered tier, the first of a direction that matches decides
}

// Rule admits or denies, in one direction, traffic between the policy's subjects and Peers on Ports. Peers are ORed, Ports
// are ORed, and both must match.
type Rule struct {
	// Path is the rule's place in its object: "spec.ingress[0]". Policy.Key and Path together name a rule for ever:
	// counters keep their meaning as long as these two stay.
	Path      string
	Direction Direction
	Action    Action
	Peers     []Peer      // none: matches nothing
	Ports     []PortMatch // none: matches nothing; AnyPort matches everything
}

// PeerKind says which fields of a Peer count.
type PeerKind uint8

// Peer kinds.
const (
	PeerAny      PeerKind = iota // every address: pods, nodes, outside
	PeerSelector                 // pods that Selector matches
	PeerEntity                   // the reserved identities that Entity stands for
	PeerCIDR                     // addresses inside CIDR and outside all of Except
)

// Peer is one alternative of the other side of a rule.
type Peer struct {
	Kind     PeerKind
	Selector Selector
	Entity   Entity
	CIDR     netip.Prefix // masked
	Except   []netip.Prefix
	// MatchPods and MatchNodes widen a CIDR from the outside world to the addresses of pods and of nodes. A node's overlay
	// addresses are in every CIDR that its underlay ones are in, besides their own.
	MatchPods, MatchNodes bool
}

// Entity is a set of reserved identities, under Cilium's name for it.
type Entity string

// Entities. Cluster is all pods and all of the cluster's reserved identities; World is all outside; All is both.
const (
	EntityAll           Entity = "all"
	EntityWorld         Entity = "world"
	EntityWorldIPv4     Entity = "world-ipv4"
	EntityWorldIPv6     Entity = "world-ipv6"
	EntityCluster       Entity = "cluster"
	EntityClusterMesh   Entity = "cluster-mesh"
	EntityHost          Entity = "host"
	EntityRemoteNode    Entity = "remote-node"
	EntityKubeAPIServer Entity = "kube-apiserver"
	EntityHealth        Entity = "health"
	EntityInit          Entity = "init"
	EntityIngress       Entity = "ingress"
	EntityUnmanaged     Entity = "unmanaged"
	EntityNone          Entity = "none"
)

// PortMatch is a range of ports of one protocol, or a named port.
type PortMatch struct {
	// Protocol is an IP protocol number; 0 stands for every protocol, ports or none, and then the rest is not read.
	Protocol uint8
	// First and Last bound the ports, both inclusive; for ICMP and ICMPv6 they bound the type.
	First, Last uint16
	// Name, if not empty, stands for the container port of that name and protocol: of the subject at ingress, of each
	// peer pod at egress. Letter case does not count. RangeTo, if above the resolved port, makes it a range from there
	// (ingress only).
	Name    string
	RangeTo uint16
}

// AnyPort matches every protocol and port.
var AnyPort = PortMatch{}

// Service is a Service address and what stands behind it.
type Service struct {
	Namespace, Name string
	Addrs           []netip.Addr // ClusterIPs, external and load-balancer addresses
	Ports           []ServicePort
	NodePorts       bool // also reachable under every node's address
}

// Key is the Service's name for people: "namespace/name".
func (s *Service) Key() string { return s.Namespace + "/" + s.Name }

// ServicePort is one port of a Service with its ready backends.
type ServicePort struct {
	Protocol uint8
	Port     uint16
	NodePort uint16 // 0: none
	Backends []netip.AddrPort
}

// Operator is the operator of a Requirement.
type Operator uint8

// Operators. An absent key matches NotIn and DoesNotExist.
const (
	In Operator = iota
	NotIn
	Exists
	DoesNotExist
)

// Requirement is one condition on the label Key.
type Requirement struct {
	Key    string
	Op     Operator
	Values []string // of In and NotIn
}

// Selector is a conjunction of requirements; the empty one matches everything.
type Selector []Requirement

// Matches says whether labels meet every requirement.
func (s Selector) Matches(labels map[string]string) bool {
	for i := range s {
		if !s[i].matches(labels) {
			return false
		}
	}
	return true
}

func (r *Requirement) matches(labels map[string]string) bool {
	value, present := labels[r.Key]
	switch r.Op {
	case Exists:
		return present
	case DoesNotExist:
		return !present
	case NotIn:
		return !present || !contains(r.Values, value)
	default:
		return present && contains(r.Values, value)
	}
}

func contains(values []string, value string) bool {
	for _, v := range values {
		if v == value {
			return true
		}
	}
	return false
}
