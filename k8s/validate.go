// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The checks here are those of the API server, as far as weir depends on what they check.

// list turns the API machinery's findings into problems of this object.
func (c *checker) list(found field.ErrorList) {
	for _, e := range found {
		c.bad(e.Field, "%s", e.ErrorBody())
	}
}

// metadata checks an object's name and labels and fills in the namespace default.
func (c *checker) metadata(k kind, object metav1.Object) {
	switch {
	case object.GetName() == "" && object.GetGenerateName() != "":
		c.bad("metadata.name", "missing; generateName alone does not name an object")
	case object.GetName() == "":
		c.bad("metadata.name", "missing, every object must have one")
	default:
		valid := validation.IsDNS1123Subdomain
		if k.name == "Namespace" || k.name == "Service" {
			valid = validation.IsDNS1123Label
		}
		for _, message := range valid(object.GetName()) {
			c.bad("metadata.name", "%q: %s", object.GetName(), message)
		}
	}
	switch {
	case !k.namespaced && object.GetNamespace() != "":
		c.bad("metadata.namespace", "a %s belongs to no namespace, remove it", k.name)
	case k.namespaced && object.GetNamespace() == "":
		object.SetNamespace(metav1.NamespaceDefault)
	default:
		if k.namespaced {
			for _, message := range validation.IsDNS1123Label(object.GetNamespace()) {
				c.bad("metadata.namespace", "%q: %s", object.GetNamespace(), message)
			}
		}
	}
	c.list(metavalidation.ValidateLabels(object.GetLabels(), field.NewPath("metadata", "labels")))
	if strings.HasSuffix(k.name, "NetworkPolicy") {
		c.audit(object)
	}
}

func (c *checker) selector(s *metav1.LabelSelector, path string) {
	c.list(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, field.NewPath(path)))
}

// addr parses an address as the API server does: no leading zeros, no zone, no IPv4 in IPv6.
func (c *checker) addr(text, path string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		c.bad(path, "%q is not an IP address such as 192.0.2.1 or 2001:db8::1", text)
		return netip.Addr{}, false
	}
	return addr, true
}

func (c *checker) prefix(text, path string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err == nil && !prefix.Addr().Is4In6():
		return prefix.Masked(), true
	case !strings.Contains(text, "/"):
		if addr, err := netip.ParseAddr(text); err == nil {
			c.bad(path, "%q has no mask, write %s/%d", text, text, addr.BitLen())
			return netip.Prefix{}, false
		}
	}
	c.bad(path, "%q is not a CIDR such as 192.0.2.0/24 or 2001:db8::/64", text)
	return netip.Prefix{}, false
}

func (c *checker) number(n int32, path string) {
	if n < 1 || n > 65535 {
		c.bad(path, "%d is not a port, must be 1 to 65535", n)
	}
}

func (c *checker) protocol(p *corev1.Protocol, path string) {
	if p == nil {
		return
	}
	switch *p {
	case "", corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		c.bad(path, "unknown protocol %q, must be TCP, UDP or SCTP", *p)
	}
}

func (c *checker) node(n *corev1.Node) {
	for i, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			c.addr(a.Address, fmt.Sprintf("status.addresses[%d].address", i))
		}
	}
	if n.Spec.PodCIDR != "" {
		c.prefix(n.Spec.PodCIDR, "spec.podCIDR")
	}
	for i, cidr := range n.Spec.PodCIDRs {
		c.prefix(cidr, fmt.Sprintf("spec.podCIDRs[%d]", i))
	}
	if len(n.Spec.PodCIDRs) > 0 && n.Spec.PodCIDR != "" && n.Spec.PodCIDRs[0] != n.Spec.PodCIDR {
		c.bad("spec.podCIDRs[0]", "is %s, must be the same as spec.podCIDR (%s)", n.Spec.PodCIDRs[0], n.Spec.PodCIDR)
	}
	for _, p := range (nodeObjects{}).factsOf(n).problems {
		c.bad(p.path, "%s", p.message)
	}
}

func (c *checker) pod(p *corev1.Pod) {
	if p.Status.PodIP != "" {
		c.addr(p.Status.PodIP, "status.podIP")
	}
	families := map[bool]bool{}
	for i, ip := range p.Status.PodIPs {
		path := fmt.Sprintf("status.podIPs[%d].ip", i)
		if addr, ok := c.addr(ip.IP, path); ok {
			if families[addr.Is4()] {
				c.bad(path, "%s is a second address of its family, at most one of each", addr)
			}
			families[addr.Is4()] = true
		}
	}
	if p.Status.PodIP != "" && len(p.Status.PodIPs) > 0 && p.Status.PodIPs[0].IP != p.Status.PodIP {
		c.bad("status.podIPs[0].ip", "is %s, must be the same as status.podIP (%s)", p.Status.PodIPs[0].IP, p.Status.PodIP)
	}
	c.podSpec(&p.Spec, "spec")
}

func (c *checker) podSpec(s *corev1.PodSpec, path string) {
	c.containers(s.InitContainers, path+".initContainers")
	c.containers(s.Containers, path+".containers")
}

func (c *checker) containers(containers []corev1.Container, path string) {
	for i := range containers {
		names := map[string]bool{}
		for j, port := range containers[i].Ports {
			at := fmt.Sprintf("%s[%d].ports[%d]", path, i, j)
			c.number(port.ContainerPort, at+".containerPort")
			c.protocol(&port.Protocol, at+".protocol")
			if port.Name == "" {
				continue
			}
			for _, message := range validation.IsValidPortName(port.Name) {
				c.bad(at+".name", "%q: %s", port.Name, message)
			}
			if names[port.Name] {
				c.bad(at+".name", "%q names another port of this container already", port.Name)
			}
			names[port.Name] = true
		}
	}
}

// workload checks what Expand makes pods of. The selector of a Job is the cluster's own to make.
func (c *checker) workload(s *metav1.LabelSelector, t *corev1.PodTemplateSpec, selects bool) {
	c.list(metavalidation.ValidateLabels(t.Labels, field.NewPath("spec", "template", "metadata", "labels")))
	c.podSpec(&t.Spec, "spec.template.spec")
	switch {
	case s != nil:
		before := len(c.problems)
		c.selector(s, "spec.selector")
		if parsed, err := metav1.LabelSelectorAsSelector(s); len(c.problems) == before && err == nil && selects && !parsed.Matches(labels.Set(t.Labels)) {
			c.bad("spec.selector", "does not match spec.template.metadata.labels")
		}
	case selects:
		c.bad("spec.selector", "missing, it must match spec.template.metadata.labels")
	}
}

func (c *checker) service(s *corev1.Service) {
	if ip := s.Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
		c.addr(ip, "spec.clusterIP")
	}
	for i, ip := range s.Spec.ClusterIPs {
		if ip != corev1.ClusterIPNone {
			c.addr(ip, fmt.Sprintf("spec.clusterIPs[%d]", i))
		}
	}
	for i, ip := range s.Spec.ExternalIPs {
		c.addr(ip, fmt.Sprintf("spec.externalIPs[%d]", i))
	}
	for i, ingress := range s.Status.LoadBalancer.Ingress {
		if ingress.IP != "" {
			c.addr(ingress.IP, fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i))
		}
	}
	for i, port := range s.Spec.Ports {
		path := fmt.Sprintf("spec.ports[%d]", i)
		c.number(port.Port, path+".port")
		c.protocol(&port.Protocol, path+".protocol")
		if port.NodePort != 0 {
			c.number(port.NodePort, path+".nodePort")
		}
	}
}

func (c *checker) endpoints(e *endpoints) {
	for i, subset := range e.Subsets {
		for j, a := range subset.Addresses {
			c.addr(a.IP, fmt.Sprintf("subsets[%d].addresses[%d].ip", i, j))
		}
		for j, port := range subset.Ports {
			c.number(port.Port, fmt.Sprintf("subsets[%d].ports[%d].port", i, j))
			c.protocol(&port.Protocol, fmt.Sprintf("subsets[%d].ports[%d].protocol", i, j))
		}
	}
}

func (c *checker) endpointSlice(s *discoveryv1.EndpointSlice) {
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		for i, endpoint := range s.Endpoints {
			for j, a := range endpoint.Addresses {
				path := fmt.Sprintf("endpoints[%d].addresses[%d]", i, j)
				if addr, ok := c.addr(a, path); ok && addr.Is4() != (s.AddressType == discoveryv1.AddressTypeIPv4) {
					c.bad(path, "%s is not of addressType %s", addr, s.AddressType)
				}
			}
		}
	case discoveryv1.AddressTypeFQDN:
	case "":
		c.bad("addressType", "missing, must be IPv4, IPv6 or FQDN")
	default:
		c.bad("addressType", "unknown type %q, must be IPv4, IPv6 or FQDN", s.AddressType)
	}
	for i, port := range s.Ports {
		if port.Port != nil {
			c.number(*port.Port, fmt.Sprintf("ports[%d].port", i))
		}
		c.protocol(port.Protocol, fmt.Sprintf("ports[%d].protocol", i))
	}
}
