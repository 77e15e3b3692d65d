// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// The types below are those of policy.networking.k8s.io/v1alpha2, with the fields of its experimental channel, and of
// v1beta1, which has the same. Pointers tell what is missing from what is zero.

// ClusterNetworkPolicy is policy.networking.k8s.io ClusterNetworkPolicy.
type ClusterNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   ClusterPolicySpec `json:"spec"`
	Status json.RawMessage   `json:"status,omitempty"`

	// Unknown lists the fields of rules that are none of those below: of a newer version of the API, or mistakes. What the
	// API prescribes for them is decided for each rule.
	Unknown []UnknownField `json:"-"`
}

// UnknownField is a field that the types do not have.
type UnknownField struct {
	Path string // "spec.egress[0].to[0].regions"
	Near string // the field that may have been meant; empty if none comes near
	Why  string // what else is wrong than that it is unknown
}

// ClusterPolicySpec is when the policy is asked, whom it guards, and its rules, the first that matches deciding.
type ClusterPolicySpec struct {
	Tier     string               `json:"tier"`
	Priority *int32               `json:"priority"`
	Subject  *ClusterSubject      `json:"subject"`
	Ingress  []ClusterIngressRule `json:"ingress,omitempty"`
	Egress   []ClusterEgressRule  `json:"egress,omitempty"`
}

// ClusterSubject selects pods; exactly one field is set.
type ClusterSubject struct {
	Namespaces *metav1.LabelSelector `json:"namespaces,omitempty"`
	Pods       *NamespacedPods       `json:"pods,omitempty"`
}

// NamespacedPods are pods of namespaces; a missing namespaceSelector selects every namespace.
type NamespacedPods struct {
	NamespaceSelector metav1.LabelSelector  `json:"namespaceSelector,omitempty"`
	PodSelector       *metav1.LabelSelector `json:"podSelector"`
}

// ClusterIngressRule is about what comes to the subject.
type ClusterIngressRule struct {
	Name      string               `json:"name,omitempty"`
	Action    string               `json:"action"`
	From      []ClusterIngressPeer `json:"from"`
	Protocols []ClusterProtocol    `json:"protocols,omitempty"`
}

// ClusterEgressRule is about what the subject sends.
type ClusterEgressRule struct {
	Name      string              `json:"name,omitempty"`
	Action    string              `json:"action"`
	To        []ClusterEgressPeer `json:"to"`
	Protocols []ClusterProtocol   `json:"protocols,omitempty"`
}

// ClusterIngressPeer is a set of pods; exactly one field is set.
type ClusterIngressPeer struct {
	Namespaces *metav1.LabelSelector `json:"namespaces,omitempty"`
	Pods       *NamespacedPods       `json:"pods,omitempty"`
}

// ClusterEgressPeer is a set of destinations; exactly one field is set.
type ClusterEgressPeer struct {
	Namespaces  *metav1.LabelSelector `json:"namespaces,omitempty"`
	Pods        *NamespacedPods       `json:"pods,omitempty"`
	Nodes       *metav1.LabelSelector `json:"nodes,omitempty"`
	Networks    []string              `json:"networks,omitempty"`
	DomainNames []string              `json:"domainNames,omitempty"`
}

// ClusterProtocol is a set of ports; exactly one field is set.
type ClusterProtocol struct {
	TCP                  *ClusterTransport `json:"tcp,omitempty"`
	UDP                  *ClusterTransport `json:"udp,omitempty"`
	SCTP                 *ClusterTransport `json:"sctp,omitempty"`
	DestinationNamedPort string            `json:"destinationNamedPort,omitempty"`
}

// ClusterTransport narrows a protocol.
type ClusterTransport struct {
	DestinationPort *ClusterPort `json:"destinationPort,omitempty"`
}

// ClusterPort is a port or a range of ports; exactly one field is set.
type ClusterPort struct {
	Number *int32            `json:"number,omitempty"`
	Range  *ClusterPortRange `json:"range,omitempty"`
}

// ClusterPortRange includes both of its ends.
type ClusterPortRange struct {
	Start int32 `json:"start"`
	End   int32 `json:"end"`
}

// clusterRule is an entry of ingress or egress: what an ingress peer can be, an egress peer can be too.
type clusterRule struct {
	path      string // "spec.egress[0]"
	side      string // "to"
	direction policy.Direction
	name      string
	action    string
	peers     []ClusterEgressPeer
	protocols []ClusterProtocol
}

// peer is the path of one of the rule's peers.
func (r *clusterRule) peer(i int) string { return fmt.Sprintf("%s.%s[%d]", r.path, r.side, i) }

// protocol is the path of one of the rule's protocols.
func (r *clusterRule) protocol(i int) string { return fmt.Sprintf("%s.protocols[%d]", r.path, i) }

// rules lists those of both directions, each direction's in their order.
func (s *ClusterPolicySpec) rules() []clusterRule {
	var rules []clusterRule
	for i, in := range s.Ingress {
		r := clusterRule{fmt.Sprintf("spec.ingress[%d]", i), "from", policy.Ingress, in.Name, in.Action, nil, in.Protocols}
		for _, p := range in.From {
			r.peers = append(r.peers, ClusterEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods})
		}
		rules = append(rules, r)
	}
	for i, out := range s.Egress {
		rules = append(rules, clusterRule{fmt.Sprintf("spec.egress[%d]", i), "to", policy.Egress, out.Name, out.Action, out.To, out.Protocols})
	}
	return rules
}

// set counts the fields that are set.
func set(fields ...bool) int {
	n := 0
	for _, is := range fields {
		if is {
			n++
		}
	}
	return n
}

// transport is the protocol that an entry narrows, and its name; nil if it is of another kind.
func (p *ClusterProtocol) transport() (t *ClusterTransport, name string, number uint8) {
	switch {
	case p.TCP != nil:
		return p.TCP, "tcp", policy.TCP
	case p.UDP != nil:
		return p.UDP, "udp", policy.UDP
	case p.SCTP != nil:
		return p.SCTP, "sctp", policy.SCTP
	}
	return nil, "", 0
}
