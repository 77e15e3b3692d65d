// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The types below cover every field of the spec of cilium.io/v2 as of Cilium 1.20, so that a field missing here is one that
// Cilium would not know either. A list that is missing is nil and a list that is written but empty is not: the two mean
// different things (fromEndpoints missing is anyone, [] is no one).

// CiliumNetworkPolicy is cilium.io/v2 CiliumNetworkPolicy.
type CiliumNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   *CiliumRule     `json:"spec,omitempty"`
	Specs  []*CiliumRule   `json:"specs,omitempty"`
	Status json.RawMessage `json:"status,omitempty"`
}

// CiliumClusterwideNetworkPolicy is cilium.io/v2 CiliumClusterwideNetworkPolicy.
type CiliumClusterwideNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   *CiliumRule     `json:"spec,omitempty"`
	Specs  []*CiliumRule   `json:"specs,omitempty"`
	Status json.RawMessage `json:"status,omitempty"`
}

// CiliumRule is one spec.
type CiliumRule struct {
	EndpointSelector  *metav1.LabelSelector   `json:"endpointSelector,omitempty"`
	NodeSelector      *metav1.LabelSelector   `json:"nodeSelector,omitempty"`
	Ingress           []CiliumIngressRule     `json:"ingress,omitempty"`
	IngressDeny       []CiliumIngressDenyRule `json:"ingressDeny,omitempty"`
	Egress            []CiliumEgressRule      `json:"egress,omitempty"`
	EgressDeny        []CiliumEgressDenyRule  `json:"egressDeny,omitempty"`
	EnableDefaultDeny *CiliumDefaultDeny      `json:"enableDefaultDeny,omitempty"`
	Labels            []CiliumLabel           `json:"labels,omitempty"`
	Description       string                  `json:"description,omitempty"`
	Log               *CiliumLog              `json:"log,omitempty"`
}

// CiliumDefaultDeny overrides, by direction, whether the rules isolate the pods they select; nil: they do.
type CiliumDefaultDeny struct {
	Ingress *bool `json:"ingress,omitempty"`
	Egress  *bool `json:"egress,omitempty"`
}

// CiliumLabel is a name tag of a rule, without effect on traffic.
type CiliumLabel struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Source string `json:"source,omitempty"`
}

// CiliumLog is a text for flow logs, without effect on traffic.
type CiliumLog struct {
	Value string `json:"value,omitempty"`
}

// CiliumIngressPeers are the ways to name the sources of a rule; at most one may be used.
type CiliumIngressPeers struct {
	FromEndpoints []metav1.LabelSelector `json:"fromEndpoints,omitempty"`
	FromRequires  []json.RawMessage      `json:"fromRequires,omitempty"`
	FromCIDR      []string               `json:"fromCIDR,omitempty"`
	FromCIDRSet   []CiliumCIDRRule       `json:"fromCIDRSet,omitempty"`
	FromEntities  []string               `json:"fromEntities,omitempty"`
	FromGroups    []CiliumGroups         `json:"fromGroups,omitempty"`
	FromNodes     []metav1.LabelSelector `json:"fromNodes,omitempty"`
}

// CiliumIngressRule admits.
type CiliumIngressRule struct {
	CiliumIngressPeers `json:",inline"`
	ToPorts            []CiliumPortRule      `json:"toPorts,omitempty"`
	ICMPs              []CiliumICMPRule      `json:"icmps,omitempty"`
	Authentication     *CiliumAuthentication `json:"authentication,omitempty"`
}

// CiliumIngressDenyRule denies.
type CiliumIngressDenyRule struct {
	CiliumIngressPeers `json:",inline"`
	ToPorts            []CiliumPortDenyRule `json:"toPorts,omitempty"`
	ICMPs              []CiliumICMPRule     `json:"icmps,omitempty"`
}

// CiliumEgressPeers are the ways to name the destinations of a rule; at most one may be used.
type CiliumEgressPeers struct {
	ToEndpoints []metav1.LabelSelector `json:"toEndpoints,omitempty"`
	ToRequires  []json.RawMessage      `json:"toRequires,omitempty"`
	ToCIDR      []string               `json:"toCIDR,omitempty"`
	ToCIDRSet   []CiliumCIDRRule       `json:"toCIDRSet,omitempty"`
	ToEntities  []string               `json:"toEntities,omitempty"`
	ToServices  []CiliumService        `json:"toServices,omitempty"`
	ToGroups    []CiliumGroups         `json:"toGroups,omitempty"`
	ToNodes     []metav1.LabelSelector `json:"toNodes,omitempty"`
}

// CiliumEgressRule admits.
type CiliumEgressRule struct {
	CiliumEgressPeers `json:",inline"`
	ToPorts           []CiliumPortRule      `json:"toPorts,omitempty"`
	ToFQDNs           []CiliumFQDN          `json:"toFQDNs,omitempty"`
	ICMPs             []CiliumICMPRule      `json:"icmps,omitempty"`
	Authentication    *CiliumAuthentication `json:"authentication,omitempty"`
}

// CiliumEgressDenyRule denies.
type CiliumEgressDenyRule struct {
	CiliumEgressPeers `json:",inline"`
	ToPorts           []CiliumPortDenyRule `json:"toPorts,omitempty"`
	ICMPs             []CiliumICMPRule     `json:"icmps,omitempty"`
}

// CiliumCIDRRule is a prefix and what is cut from it, or a group of prefixes; exactly one of the first three is set.
type CiliumCIDRRule struct {
	CIDR              string                `json:"cidr,omitempty"`
	CIDRGroupRef      string                `json:"cidrGroupRef,omitempty"`
	CIDRGroupSelector *metav1.LabelSelector `json:"cidrGroupSelector,omitempty"`
	Except            []string              `json:"except,omitempty"`
}

// CiliumGroups names peers by a cloud provider's groups.
type CiliumGroups struct {
	AWS *CiliumAWSGroup `json:"aws,omitempty"`
}

// CiliumAWSGroup is a set of AWS security groups.
type CiliumAWSGroup struct {
	Labels              map[string]string `json:"labels,omitempty"`
	SecurityGroupsIDs   []string          `json:"securityGroupsIds,omitempty"`
	SecurityGroupsNames []string          `json:"securityGroupsNames,omitempty"`
	Region              string            `json:"region,omitempty"`
}

// CiliumService names Services, by name or by their labels.
type CiliumService struct {
	K8sServiceSelector *CiliumServiceSelector `json:"k8sServiceSelector,omitempty"`
	K8sService         *CiliumServiceName     `json:"k8sService,omitempty"`
}

// CiliumServiceSelector selects Services by label.
type CiliumServiceSelector struct {
	Selector  metav1.LabelSelector `json:"selector"`
	Namespace string               `json:"namespace,omitempty"`
}

// CiliumServiceName names one Service.
type CiliumServiceName struct {
	ServiceName string `json:"serviceName,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
}

// CiliumFQDN names peers by DNS name; exactly one field is set.
type CiliumFQDN struct {
	MatchName    string `json:"matchName,omitempty"`
	MatchPattern string `json:"matchPattern,omitempty"`
}

// CiliumAuthentication asks for mutual authentication.
type CiliumAuthentication struct {
	Mode string `json:"mode"`
}

// CiliumPortRule is ports, and what more is asked of a connection to them.
type CiliumPortRule struct {
	Ports          []CiliumPort    `json:"ports,omitempty"`
	TerminatingTLS *CiliumTLS      `json:"terminatingTLS,omitempty"`
	OriginatingTLS *CiliumTLS      `json:"originatingTLS,omitempty"`
	ServerNames    []string        `json:"serverNames,omitempty"`
	Listener       *CiliumListener `json:"listener,omitempty"`
	Rules          *CiliumL7Rules  `json:"rules,omitempty"`
}

// CiliumPortDenyRule is ports.
type CiliumPortDenyRule struct {
	Ports []CiliumPort `json:"ports,omitempty"`
}

// CiliumPort is a port number or name in a string, with an optional end of a range.
type CiliumPort struct {
	Port     string `json:"port,omitempty"`
	EndPort  int32  `json:"endPort,omitempty"`
	Protocol string `json:"protocol,omitempty"`
}

// CiliumSecret names a Secret.
type CiliumSecret struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// CiliumTLS says with which keys a proxy ends or begins TLS.
type CiliumTLS struct {
	Secret      *CiliumSecret `json:"secret"`
	TrustedCA   string        `json:"trustedCA,omitempty"`
	Certificate string        `json:"certificate,omitempty"`
	PrivateKey  string        `json:"privateKey,omitempty"`
}

// CiliumListener sends a connection through an Envoy listener.
type CiliumListener struct {
	EnvoyConfig *CiliumEnvoyConfig `json:"envoyConfig"`
	Name        string             `json:"name"`
	Priority    uint8              `json:"priority,omitempty"`
}

// CiliumEnvoyConfig names an Envoy configuration.
type CiliumEnvoyConfig struct {
	Kind string `json:"kind,omitempty"`
	Name string `json:"name"`
}

// CiliumL7Rules narrow a rule to requests.
type CiliumL7Rules struct {
	HTTP []CiliumHTTPRule `json:"http,omitempty"`
	DNS  []CiliumFQDN     `json:"dns,omitempty"`
}

// CiliumHTTPRule matches HTTP requests.
type CiliumHTTPRule struct {
	Path          string              `json:"path,omitempty"`
	Method        string              `json:"method,omitempty"`
	Host          string              `json:"host,omitempty"`
	Headers       []string            `json:"headers,omitempty"`
	HeaderMatches []CiliumHeaderMatch `json:"headerMatches,omitempty"`
}

// CiliumHeaderMatch matches an HTTP header.
type CiliumHeaderMatch struct {
	Mismatch string        `json:"mismatch,omitempty"`
	Name     string        `json:"name"`
	Secret   *CiliumSecret `json:"secret,omitempty"`
	Value    string        `json:"value,omitempty"`
}

// CiliumICMPRule is a list of ICMP types.
type CiliumICMPRule struct {
	Fields []CiliumICMPField `json:"fields,omitempty"`
}

// CiliumICMPField is one ICMP type, by number or name, of one family.
type CiliumICMPField struct {
	Family string              `json:"family,omitempty"`
	Type   *intstr.IntOrString `json:"type"`
}
