// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// serviceRecord is a Service and what stands behind it.
type serviceRecord struct {
	object *corev1.Service // nil: there are only slices yet
	slices map[string]*sliceObject
	model  policy.Service
	listed bool // model is part of the whole one
}

// sliceObject is what is kept of an EndpointSlice.
type sliceObject struct {
	namespace, name string
	service         string // "namespace/name"; empty: of none
	ports           []slicePort
	api             *discoveryv1.EndpointSlice // if it says where the Kubernetes API is
}

type slicePort struct {
	key       portKey
	endpoints []endpoint
}

// GetObjectMeta lets a reflector tell slices apart.
func (s *sliceObject) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: s.namespace, Name: s.name}
}

func newSliceObject(s *discoveryv1.EndpointSlice) *sliceObject {
	out := &sliceObject{namespace: s.Namespace, name: s.Name}
	if service := s.Labels[discoveryv1.LabelServiceName]; service != "" && s.AddressType != discoveryv1.AddressTypeFQDN {
		out.service = intern(s.Namespace + "/" + service)
		eachSliceEndpoint(s, func(key portKey, e endpoint) {
			key.service, key.port, e.node = out.service, intern(key.port), intern(e.node)
			at := slices.IndexFunc(out.ports, func(p slicePort) bool { return p.key == key })
			if at < 0 {
				at = len(out.ports)
				out.ports = append(out.ports, slicePort{key: key})
			}
			out.ports[at].endpoints = append(out.ports[at].endpoints, e)
		})
		for i := range out.ports {
			out.ports[i].endpoints = slices.Clip(out.ports[i].endpoints)
		}
	}
	if servesAPI(s) {
		out.api = &discoveryv1.EndpointSlice{AddressType: s.AddressType}
		out.api.Namespace, out.api.Name, out.api.Labels = s.Namespace, s.Name, s.Labels
		for _, e := range s.Endpoints {
			out.api.Endpoints = append(out.api.Endpoints, discoveryv1.Endpoint{Addresses: e.Addresses})
		}
	}
	return out
}

// newServiceObject is what is kept of a Service.
func newServiceObject(s *corev1.Service) *corev1.Service {
	out := &corev1.Service{}
	out.Namespace, out.Name, out.Labels = intern(s.Namespace), s.Name, s.Labels
	out.Spec.Type, out.Spec.Selector, out.Spec.ClusterIP, out.Spec.ClusterIPs, out.Spec.ExternalIPs =
		s.Spec.Type, s.Spec.Selector, s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.ExternalIPs
	out.Spec.InternalTrafficPolicy = s.Spec.InternalTrafficPolicy
	for _, p := range s.Spec.Ports {
		out.Spec.Ports = append(out.Spec.Ports, corev1.ServicePort{Name: intern(p.Name), Protocol: p.Protocol, Port: p.Port, NodePort: p.NodePort})
	}
	for _, i := range s.Status.LoadBalancer.Ingress {
		out.Status.LoadBalancer.Ingress = append(out.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: i.IP, IPMode: i.IPMode})
	}
	return out
}

func (m *mirror) service(key string) *serviceRecord {
	s := m.services[key]
	if s == nil {
		s = &serviceRecord{}
		m.services[key] = s
	}
	return s
}

func (m *mirror) putService(s *corev1.Service) {
	key := s.Namespace + "/" + s.Name
	r := m.service(key)
	if r.object != nil && reflect.DeepEqual(r.object, s) {
		return
	}
	r.object = s
	m.lookup.services = nil
	m.servicesDirty[key] = true
}

func (m *mirror) removeService(key string) {
	if r := m.services[key]; r != nil && r.object != nil {
		r.object = nil
		m.lookup.services = nil
		m.servicesDirty[key] = true
	}
}

func (m *mirror) putSlice(s *sliceObject) {
	id := s.namespace + "/" + s.name
	old := m.sliceOf[id]
	if old != nil && reflect.DeepEqual(old, s) {
		return
	}
	m.unlinkSlice(id, old)
	m.sliceOf[id] = s
	if s.service != "" {
		r := m.service(s.service)
		if r.slices == nil {
			r.slices = map[string]*sliceObject{}
		}
		r.slices[s.name] = s
		m.servicesDirty[s.service] = true
	}
	if s.api != nil {
		m.nodes.api[s.name], m.nodes.dirty = s.api, true
	}
}

func (m *mirror) removeSlice(id string) {
	m.unlinkSlice(id, m.sliceOf[id])
	delete(m.sliceOf, id)
}

func (m *mirror) unlinkSlice(id string, s *sliceObject) {
	if s == nil {
		return
	}
	if s.service != "" {
		delete(m.services[s.service].slices, s.name)
		m.servicesDirty[s.service] = true
	}
	if s.api != nil {
		delete(m.nodes.api, s.name)
		m.nodes.dirty = true
	}
}

// behind are the addresses behind a Service, sorted.
func (m *mirror) behind(service string) []netip.Addr {
	r := m.services[service]
	if r == nil {
		return nil
	}
	var addrs []netip.Addr
	for _, s := range r.slices {
		for _, p := range s.ports {
			for _, e := range p.endpoints {
				addrs = append(addrs, e.addr.Addr())
			}
		}
	}
	return sortedAddrs(addrs)
}

// flushServices translates the Services that have changed.
func (m *mirror) flushServices(c *policy.Changes) {
	for key := range m.servicesDirty {
		r := m.services[key]
		m.concerned |= dependsServices
		was, before := r.listed, r.model
		r.listed = false
		if r.object != nil {
			r.model, r.listed = translateService(r.object, m.node, func(port portKey) []endpoint {
				var all []endpoint
				for _, s := range r.slices {
					for i := range s.ports {
						if s.ports[i].key == port {
							all = append(all, s.ports[i].endpoints...)
						}
					}
				}
				return all
			})
		} else if len(r.slices) == 0 {
			delete(m.services, key)
		}
		switch {
		case r.listed && !(was && reflect.DeepEqual(before, r.model)):
			c.ServicesChanged = append(c.ServicesChanged, r.model)
		case was && !r.listed:
			c.GoneServices = append(c.GoneServices, key)
		}
	}
	clear(m.servicesDirty)
	slices.SortFunc(c.ServicesChanged, func(a, b policy.Service) int { return compareNames(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.Sort(c.GoneServices)
}
