// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Reasons for packets to a Service address.
const (
	Service       = "service"
	ServiceMixed  = "service_mixed"
	DeniedService = "denied_service"
)

// backend is what a packet to a Service may be sent to.
type backend struct {
	party Party
	port  uint16
}

// services finds the endpoints behind the address and port that a packet is for; found is false if they are no Service's.
// A Service has its cluster, external and load-balancer addresses, and at its nodePort every InternalIP and all addresses
// of the own node.
func (o *Oracle) services(s side) (backends []backend, found bool) {
	peer, packet := s.peer, s.packet
	nodePorts := s.host() || peer.Node != "" && o.owners[peer.Addr].Node == peer.Node
	for _, svc := range o.objects.Services {
		if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone {
			continue // a name, or a list of names, and no address
		}
		texts := slices.Concat([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs, svc.Spec.ExternalIPs)
		for _, i := range svc.Status.LoadBalancer.Ingress {
			if i.IPMode == nil || *i.IPMode == corev1.LoadBalancerIPModeVIP {
				texts = append(texts, i.IP)
			} // else the load balancer itself has the address
		}
		own := slices.ContainsFunc(texts, func(text string) bool {
			addr, err := netip.ParseAddr(text)
			return err == nil && addr.Unmap() == peer.Addr
		})
		for _, p := range svc.Spec.Ports {
			at := own && uint16(p.Port) == packet.Port || nodePorts && p.NodePort != 0 && uint16(p.NodePort) == packet.Port
			if at && protocolNumber(p.Protocol) == packet.Protocol {
				found = true
				for _, b := range o.reachable(svc, p, s.subject.Pod.Spec.NodeName) {
					if b.party.Addr.Is4() == peer.Addr.Is4() {
						backends = append(backends, b)
					}
				}
			}
		}
	}
	return backends, found
}

// reachable are the endpoints that a pod on node may be sent to: with the internal traffic policy Local those on the node, and
// all where an address of the outside leads to the Service, too.
func (o *Oracle) reachable(s *corev1.Service, p corev1.ServicePort, node string) []backend {
	if s.Spec.InternalTrafficPolicy == nil || *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyCluster {
		return o.backends(s, p, "")
	}
	used := o.backends(s, p, node)
	if slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort != 0 }) || len(s.Spec.ExternalIPs)+len(s.Status.LoadBalancer.Ingress) > 0 {
		used = append(used, o.backends(s, p, "")...)
	}
	return used
}

// backends are the ready endpoints of a Service port, or if a family has none those that still serve while they terminate;
// of one node, if node is not empty.
func (o *Oracle) backends(s *corev1.Service, p corev1.ServicePort, node string) (used []backend) {
	var ready, leaving []backend
	sliced := false
	for _, slice := range o.objects.EndpointSlices {
		if slice.Namespace != s.Namespace || slice.Labels[discoveryv1.LabelServiceName] != s.Name {
			continue
		}
		sliced = true
		for _, port := range slice.Ports {
			name, protocol := "", corev1.ProtocolTCP
			if port.Name != nil {
				name = *port.Name
			}
			if port.Protocol != nil {
				protocol = *port.Protocol
			}
			if port.Port == nil || name != p.Name || protocolNumber(protocol) != protocolNumber(p.Protocol) {
				continue
			}
			for _, e := range slice.Endpoints {
				isReady := e.Conditions.Ready == nil || *e.Conditions.Ready
				serves := e.Conditions.Serving == nil || *e.Conditions.Serving
				terminates := e.Conditions.Terminating != nil && *e.Conditions.Terminating
				switch {
				case len(e.Addresses) == 0, node != "" && (e.NodeName == nil || *e.NodeName != node):
				case isReady:
					ready = o.addBackend(ready, e.Addresses[0], *port.Port)
				case serves && terminates:
					leaving = o.addBackend(leaving, e.Addresses[0], *port.Port)
				}
			}
		}
	}
	for _, e := range o.objects.Endpoints { // the older kind, where there is no slice
		if sliced || node != "" || e.Namespace != s.Namespace || e.Name != s.Name {
			continue
		}
		for _, subset := range e.Subsets {
			for _, port := range subset.Ports {
				if port.Name != p.Name || protocolNumber(port.Protocol) != protocolNumber(p.Protocol) {
					continue
				}
				for _, a := range subset.Addresses {
					ready = o.addBackend(ready, a.IP, port.Port)
				}
			}
		}
	}
	for _, b := range leaving {
		if !slices.ContainsFunc(ready, func(r backend) bool { return r.party.Addr.Is4() == b.party.Addr.Is4() }) {
			used = append(used, b)
		}
	}
	return append(used, ready...)
}

func (o *Oracle) addBackend(backends []backend, text string, port int32) []backend {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return backends
	}
	party, known := o.owners[addr.Unmap()]
	if !known {
		party = Party{Addr: addr.Unmap()}
	}
	return append(backends, backend{party, uint16(port)})
}

// judgeService weighs what the sender's policies say of each endpoint: all admitted, none, or some. In the last case the
// one that is chosen is judged once it is chosen; but one on the sender's own node's addresses no hook would see again.
func (o *Oracle) judgeService(s side, backends []backend) *Judgement {
	admitted, refusedHost := 0, false
	for _, b := range backends {
		each := side{subject: s.subject, peer: b.party, packet: Packet{s.packet.Protocol, b.port}, egress: true, audit: s.audit}
		if o.policies(each).Allow {
			admitted++
		} else if each.host() {
			refusedHost = true
		}
	}
	switch {
	case admitted == 0 || admitted < len(backends) && refusedHost:
		return &Judgement{Allow: false, Reason: DeniedService}
	case admitted == len(backends):
		return &Judgement{Allow: true, Reason: Service}
	}
	return &Judgement{Allow: true, Reason: ServiceMixed}
}
