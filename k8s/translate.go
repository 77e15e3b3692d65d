// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// ErrNoNode says that a set of objects does not describe the node it is to be enforced on.
var ErrNoNode = errors.New("no such Node")

// Options are the switches of translation. The zero value is the default.
type Options struct {
	Policy policy.Options
	// IPBlockCilium reads a NetworkPolicy's ipBlock as Cilium does: it never matches pods and nodes.
	IPBlockCilium bool
	// ICMPZeroIsEchoReply reads ICMP type 0 of a Cilium policy as what it is. Cilium reads it as every type.
	ICMPZeroIsEchoReply bool
	// CIDRMatchNodes lets CIDRs of Cilium policies match nodes too, except for a prefix of everything.
	CIDRMatchNodes bool
	// NodeSelectorLabels admits fromNodes and toNodes. Without it, a set with an object that has them is refused.
	NodeSelectorLabels bool
}

// Status tells the author of an object what weir makes of a field that it does not enforce as written.
type Status struct {
	Object  string // "CiliumNetworkPolicy default/web"
	Path    string // "spec.egress[0].toFQDNs"
	Reason  string // one of the Reason constants
	Message string // what happens instead, and what to do
}

// Reasons of a Status.
const (
	ReasonUnsupported = "Unsupported" // the rule admits nothing, or denies more than it says
	ReasonDiffers     = "Differs"     // weir, or Cilium, reads this otherwise than it looks
	ReasonUnresolved  = "Unresolved"  // what the field names is not among the objects; it matches nothing until it is
	ReasonInvalid     = "Invalid"     // the field cannot be read, or says what another object says already; the rest of the object holds
	ReasonAudited     = "Audited"     // as asked for: the object is under audit and enforces nothing
)

// Labels that every pod has besides its own. No pod can give itself one: its own labels under these names are called
// own::NAME, which no key of a Cilium policy can be, and only the podSelectors of NetworkPolicies find them.
const (
	labelOwn            = "own::"
	labelNamespace      = "io.kubernetes.pod.namespace"
	labelNamespaceLabel = "io.cilium.k8s.namespace.labels."
	labelServiceAccount = "io.cilium.k8s.policy.serviceaccount"
	labelCluster        = "io.cilium.k8s.policy.cluster"
	labelCilium         = "io.cilium.k8s."
	clusterName         = "default"
)

// Translate makes the model for node out of objs. Statuses name what is not enforced as written; policies that have one
// still isolate their subjects, and a rule that cannot be enforced exactly admits nothing. The model is the same for the
// same objects, whatever their order.
func Translate(objs *Objects, node string, opts Options) (*policy.Model, []Status, error) {
	t := translator{objects: objs, options: opts, model: &policy.Model{Node: node, Options: opts.Policy}}
	t.byName = t.newLookup()
	t.nodes()
	if err := t.own(node); err != nil {
		return nil, nil, err
	}
	t.pods()
	t.withoutPods()
	m := t.model
	sort.Slice(m.Nodes, func(i, j int) bool { return m.Nodes[i].Name < m.Nodes[j].Name })
	sort.Slice(m.Pods, func(i, j int) bool { return m.Pods[i].Key() < m.Pods[j].Key() })
	t.services()
	for _, p := range objs.NetworkPolicies {
		t.policy(p)
	}
	for _, p := range objs.CiliumNetworkPolicies {
		t.policy(p)
	}
	for _, p := range objs.CiliumClusterwideNetworkPolicies {
		t.policy(p)
	}
	for _, p := range objs.ClusterNetworkPolicies {
		t.policy(p)
	}
	if len(t.problems) > 0 {
		return nil, nil, errors.Join(t.problems...)
	}
	sort.SliceStable(m.Policies, func(i, j int) bool { return m.Policies[i].Key < m.Policies[j].Key })
	sort.SliceStable(t.statuses, func(i, j int) bool { return t.statuses[i].Object < t.statuses[j].Object })
	return m, t.statuses, nil
}

// policy translates one policy object.
func (t *translator) policy(object metav1.Object) {
	first := len(t.model.Policies)
	kind := ""
	switch p := object.(type) {
	case *networkingv1.NetworkPolicy:
		kind = "NetworkPolicy"
		t.networkPolicy(p)
	case *CiliumNetworkPolicy:
		kind = "CiliumNetworkPolicy"
		t.ciliumPolicy(p, kind, p.Spec, p.Specs)
	case *CiliumClusterwideNetworkPolicy:
		kind = "CiliumClusterwideNetworkPolicy"
		t.ciliumPolicy(p, kind, p.Spec, p.Specs)
	case *ClusterNetworkPolicy:
		kind = "ClusterNetworkPolicy"
		t.clusterPolicy(p)
	}
	if isAudited(object) {
		t.audit(name(kind, object), t.model.Policies[first:])
	}
}

type translator struct {
	objects   *Objects
	options   Options
	model     *policy.Model
	apiServer []netip.Addr // where the Kubernetes API is served and no node is
	backends  map[portKey][]endpoint
	byName    *lookup
	facts     factCache // may be nil
	statuses  []Status
	problems  []error
	// lenient: what is wrong with one object is its status, and nobody else's concern. Where it is false, problems are told.
	lenient bool
}

func (t *translator) problem(object metav1.Object, objectName, path, format string, args ...any) {
	t.problems = append(t.problems, &Problem{Origin: t.objects.Origin(object), Object: objectName, Path: path, Message: fmt.Sprintf(format, args...)})
}

// own makes sure that the node is there.
func (t *translator) own(node string) error {
	names := make([]string, 0, len(t.model.Nodes))
	for i := range t.model.Nodes {
		if t.model.Nodes[i].Name == node {
			return nil
		}
		names = append(names, t.model.Nodes[i].Name)
	}
	sort.Strings(names)
	existing := "there is none at all"
	if len(names) > 0 {
		existing = "there are " + strings.Join(names, ", ")
	}
	return fmt.Errorf("find Node %q among the objects: %w; %s", node, ErrNoNode, existing)
}

// apiService is the Service in the namespace default that every cluster has for its own API.
const apiService = "kubernetes"

func servesAPI(s *discoveryv1.EndpointSlice) bool {
	return s.Namespace == metav1.NamespaceDefault && (s.Labels[discoveryv1.LabelServiceName] == apiService || s.Name == apiService)
}

// apiServers are the addresses behind the Service that every cluster has for its own API.
func (t *translator) apiServers() map[netip.Addr]bool {
	addrs := map[netip.Addr]bool{}
	add := func(text string) {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs[addr] = true
		}
	}
	for _, s := range t.objects.EndpointSlices {
		if servesAPI(s) {
			for _, e := range s.Endpoints {
				for _, a := range e.Addresses {
					add(a)
				}
			}
		}
	}
	for _, e := range t.objects.Endpoints {
		if e.Namespace == metav1.NamespaceDefault && e.Name == apiService {
			for _, subset := range e.Subsets {
				for _, a := range subset.Addresses {
					add(a.IP)
				}
			}
		}
	}
	return addrs
}

func (t *translator) pods() {
	known := map[string]bool{}
	for i := range t.model.Nodes {
		known[t.model.Nodes[i].Name] = true
	}
	namespaces := map[string]map[string]string{}
	for _, ns := range t.objects.Namespaces {
		namespaces[ns.Name] = ns.Labels
	}
	for _, p := range t.objects.Pods {
		if p.Spec.NodeName != "" && !known[p.Spec.NodeName] {
			t.problem(p, name("Pod", p), "spec.nodeName", "no Node is called %s; add it or correct the name", p.Spec.NodeName)
			continue
		}
		if p.Spec.NodeName == "" && len(p.Spec.Containers) == 0 {
			t.problem(p, name("Pod", p), "spec", "missing; a pod that is not known to run is not guarded")
			continue
		}
		addrs := podAddrs(p)
		if len(addrs) == 0 || !ownsAddress(p) {
			continue
		}
		if p.Spec.NodeName == "" {
			t.problem(p, name("Pod", p), "spec.nodeName", "missing, yet the pod has the address %s; say on which node it runs", addrs[0])
			continue
		}
		t.model.Pods = append(t.model.Pods, policy.Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Node: p.Spec.NodeName,
			Labels: podLabels(p, namespaces[p.Namespace]), Addrs: addrs, Ports: namedPorts(p)})
	}
}

// withoutPods takes back the overlay addresses that were only assumed and turned out to be some pod's.
func (t *translator) withoutPods() {
	taken := map[netip.Addr]bool{}
	for i := range t.model.Pods {
		for _, addr := range t.model.Pods[i].Addrs {
			taken[addr] = true
		}
	}
	for i := range t.model.Nodes {
		var kept []netip.Addr
		for _, addr := range t.model.Nodes[i].Overlay {
			if !taken[addr] {
				kept = append(kept, addr)
			}
		}
		t.model.Nodes[i].Overlay = kept
	}
}

// podLabels is all that selectors can see of a pod.
func podLabels(p *corev1.Pod, namespace map[string]string) map[string]string {
	own := make(map[string]string, len(p.Labels))
	for k, v := range p.Labels {
		own[ownKey(k)] = v
	}
	return allLabels(own, accountOf(p), p.Namespace, namespace)
}

// accountOf is a pod's service account. The older name of the field is one that the API server still takes.
func accountOf(p *corev1.Pod) string {
	return cmp.Or(p.Spec.ServiceAccountName, p.Spec.DeprecatedServiceAccount, "default")
}

// allLabels is all that selectors can see of a pod with these labels of its own.
func allLabels(own map[string]string, account, namespace string, namespaceLabels map[string]string) map[string]string {
	labels := make(map[string]string, len(own)+len(namespaceLabels)+4)
	maps.Copy(labels, own)
	for k, v := range namespaceLabels {
		labels[intern(labelNamespaceLabel+k)] = v
	}
	labels[labelNamespaceLabel+corev1.LabelMetadataName] = namespace
	labels[labelNamespace] = namespace
	labels[labelCluster] = clusterName
	labels[labelServiceAccount] = account
	return labels
}

// isDerived says whether a label comes from elsewhere than the pod's own labels.
func isDerived(key string) bool { return key == labelNamespace || strings.HasPrefix(key, labelCilium) }

// ownKey is what a pod's own label is called among its labels.
func ownKey(key string) string {
	if isDerived(key) {
		return labelOwn + key
	}
	return key
}

// namedPorts are the ports of a pod's running containers that have a name; of equal names the first counts.
func namedPorts(p *corev1.Pod) []policy.NamedPort {
	var ports []policy.NamedPort
	seen := map[policy.NamedPort]bool{}
	add := func(containers []corev1.Container, every bool) {
		for i := range containers {
			c := &containers[i]
			sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
			if !every && !sidecar {
				continue
			}
			for _, port := range c.Ports {
				key := policy.NamedPort{Name: port.Name, Protocol: ProtocolNumber(port.Protocol)}
				if port.Name == "" || seen[key] {
					continue
				}
				seen[key] = true
				ports = append(ports, policy.NamedPort{Name: port.Name, Protocol: key.Protocol, Port: uint16(port.ContainerPort)})
			}
		}
	}
	add(p.Spec.Containers, true)
	add(p.Spec.InitContainers, false)
	return ports
}

// ProtocolNumber is the IP protocol number of a port; TCP if it does not say.
func ProtocolNumber(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolUDP:
		return policy.UDP
	case corev1.ProtocolSCTP:
		return policy.SCTP
	default:
		return policy.TCP
	}
}

func (t *translator) status(object, path, reason, message string) {
	t.statuses = append(t.statuses, Status{Object: object, Path: path, Reason: reason, Message: message})
}

func appendNew(addrs []netip.Addr, addr netip.Addr) []netip.Addr {
	for _, a := range addrs {
		if a == addr {
			return addrs
		}
	}
	return append(addrs, addr)
}

// keysOf are the keys of m, sorted.
func keysOf(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
