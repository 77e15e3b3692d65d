// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"net/netip"
	"slices"
	"sort"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weirnet/weir/policy"
)

// endpoint is one address and port behind a Service.
type endpoint struct {
	addr     netip.AddrPort
	node     string // that it is on, as far as the slice says
	fallback bool   // terminating but still serving: counts only while nothing is ready
}

// portKey is how a Service port finds its endpoints.
type portKey struct {
	service  string // "namespace/name"
	port     string // the port's name
	protocol uint8
}

func (t *translator) services() {
	t.backends = t.endpoints()
	for _, s := range t.objects.Services {
		service, listed := translateService(s, t.model.Node, func(key portKey) []endpoint { return t.backends[key] })
		if listed {
			t.model.Services = append(t.model.Services, service)
		}
	}
	sort.Slice(t.model.Services, func(i, j int) bool {
		a, b := &t.model.Services[i], &t.model.Services[j]
		return a.Namespace < b.Namespace || a.Namespace == b.Namespace && a.Name < b.Name
	})
}

// translateService is a Service with what stands behind its ports; listed is false if no address leads to it.
func translateService(s *corev1.Service, node string, behind func(portKey) []endpoint) (service policy.Service, listed bool) {
	service = policy.Service{Namespace: s.Namespace, Name: s.Name}
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return service, false // nobody translates its addresses, whatever else it says
	}
	texts := append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...)
	texts = append(texts, s.Spec.ExternalIPs...)
	for _, ingress := range s.Status.LoadBalancer.Ingress {
		if ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP {
			texts = append(texts, ingress.IP)
		} // else packets go to the load balancer, as to any address outside
	}
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			service.Addrs = appendNew(service.Addrs, addr)
		}
	}
	for _, p := range s.Spec.Ports {
		protocol := ProtocolNumber(p.Protocol)
		port := policy.ServicePort{Protocol: protocol, Port: uint16(p.Port), NodePort: uint16(p.NodePort)}
		service.NodePorts = service.NodePorts || p.NodePort != 0
		port.Backends = reachable(s, node, behind(portKey{s.Namespace + "/" + s.Name, p.Name, protocol}))
		service.Ports = append(service.Ports, port)
	}
	return service, len(service.Addrs) > 0 || service.NodePorts
}

// reachable are the endpoints that a packet of a pod on node may be sent to. With the internal traffic policy Local they are
// those on the node, but for addresses of the outside, from where pods are sent to any of them.
func reachable(s *corev1.Service, node string, all []endpoint) []netip.AddrPort {
	if s.Spec.InternalTrafficPolicy == nil || *s.Spec.InternalTrafficPolicy != corev1.ServiceInternalTrafficPolicyLocal {
		return backends(all)
	}
	var local []endpoint
	for _, e := range all {
		if e.node == node {
			local = append(local, e)
		}
	}
	chosen := backends(local)
	outside := len(s.Spec.ExternalIPs) > 0 || len(s.Status.LoadBalancer.Ingress) > 0
	for _, p := range s.Spec.Ports {
		outside = outside || p.NodePort != 0
	}
	if outside {
		chosen = append(chosen, backends(all)...)
		slices.SortFunc(chosen, netip.AddrPort.Compare)
		chosen = slices.Compact(chosen)
	}
	return chosen
}

// backends are the ready ones, else those that still serve while they terminate: what kube-proxy sends to, in each family
// (CategorizeEndpoints of pkg/proxy/topology.go).
func backends(all []endpoint) []netip.AddrPort {
	chosen := map[netip.AddrPort]bool{}
	ready := map[bool]bool{} // by family
	for _, e := range all {
		if !e.fallback {
			chosen[e.addr], ready[e.addr.Addr().Is4()] = true, true
		}
	}
	for _, e := range all {
		if e.fallback && !ready[e.addr.Addr().Is4()] {
			chosen[e.addr] = true
		}
	}
	var addrs []netip.AddrPort
	for addr := range chosen {
		addrs = append(addrs, addr)
	}
	sort.Slice(addrs, func(i, j int) bool { return addrs[i].Compare(addrs[j]) < 0 })
	return addrs
}

// endpoints collects what stands behind each Service port: from EndpointSlices, and from Endpoints where there are none.
func (t *translator) endpoints() map[portKey][]endpoint {
	found := map[portKey][]endpoint{}
	sliced := map[string]bool{}
	for _, s := range t.objects.EndpointSlices {
		service := s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
		if s.Labels[discoveryv1.LabelServiceName] == "" || s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		sliced[service] = true
		eachSliceEndpoint(s, func(key portKey, e endpoint) { found[key] = append(found[key], e) })
	}
	for _, e := range t.objects.Endpoints {
		service := e.Namespace + "/" + e.Name
		if sliced[service] {
			continue
		}
		for _, subset := range e.Subsets {
			for _, p := range subset.Ports {
				key := portKey{service: service, port: p.Name, protocol: ProtocolNumber(p.Protocol)}
				for _, a := range subset.Addresses {
					if addr, err := netip.ParseAddr(a.IP); err == nil {
						found[key] = append(found[key], endpoint{addr: netip.AddrPortFrom(addr, uint16(p.Port))})
					}
				}
			}
		}
	}
	return found
}

// eachSliceEndpoint reads the endpoints of a slice that belongs to a Service.
func eachSliceEndpoint(s *discoveryv1.EndpointSlice, each func(portKey, endpoint)) {
	for _, p := range s.Ports {
		if p.Port == nil {
			continue
		}
		key := portKey{service: s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName], protocol: policy.TCP}
		if p.Name != nil {
			key.port = *p.Name
		}
		if p.Protocol != nil {
			key.protocol = ProtocolNumber(*p.Protocol)
		}
		for i := range s.Endpoints {
			if e, ok := sliceEndpoint(&s.Endpoints[i], uint16(*p.Port)); ok {
				each(key, e)
			}
		}
	}
}

// sliceEndpoint reads one endpoint. Of several addresses kube-proxy uses the first. A condition that is not given counts as
// ready and serving.
func sliceEndpoint(e *discoveryv1.Endpoint, port uint16) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return endpoint{}, false
	}
	is := func(condition *bool, missing bool) bool {
		if condition == nil {
			return missing
		}
		return *condition
	}
	ready := is(e.Conditions.Ready, true)
	serving, terminating := is(e.Conditions.Serving, true), is(e.Conditions.Terminating, false)
	node := ""
	if e.NodeName != nil {
		node = *e.NodeName
	}
	return endpoint{addr: netip.AddrPortFrom(addr, port), node: node, fallback: !ready}, ready || serving && terminating
}
