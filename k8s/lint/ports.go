// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// rulePorts compares the ports of rules with what the containers of the pods that receive declare.
func (s *scene) rulePorts() {
	if s.partial {
		return
	}
	for _, g := range s.policies {
		for i := range g.Rules {
			r := &g.Rules[i]
			receivers := g.subjects
			if r.Direction == policy.Egress {
				receivers = g.peers[i]
				if !onlySelectors(r) {
					s.namesForOutside(g, i)
					continue
				}
			}
			if len(receivers) == 0 || len(r.Peers) == 0 {
				continue // nobody receives anything, which other rules say
			}
			for j, place := range firstOf(g.places[i].ports) {
				ports := samePlace(r.Ports, g.places[i].ports, j)
				if ports[0].Name != "" {
					s.namedPort(g, place, ports, receivers)
				} else if r.Action == policy.Allow && !slices.Contains(g.suspect, i) {
					s.numberedPort(g, place, ports, receivers)
				}
			}
		}
	}
}

// firstOf leads from the index of the first port of each place to that place.
func firstOf(places []string) map[int]string {
	first := map[int]string{}
	for i, place := range places {
		if slices.Index(places, place) == i {
			first[i] = place
		}
	}
	return first
}

// samePlace are the ports that stand where the one at i does: one entry may mean several protocols.
func samePlace(ports []policy.PortMatch, places []string, i int) []policy.PortMatch {
	var same []policy.PortMatch
	for j := range ports {
		if places[j] == places[i] {
			same = append(same, ports[j])
		}
	}
	return same
}

// namedPort looks for a name that none of those who receive has.
func (s *scene) namedPort(g *guard, place string, ports []policy.PortMatch, receivers []*group) {
	var declared []containerPort
	otherwise := ""
	for _, pods := range receivers {
		if slices.ContainsFunc(ports, pods.declares) {
			return
		}
		declared = append(declared, pods.ports...)
		for _, c := range pods.ports {
			if c.name != "" && strings.EqualFold(c.name, ports[0].Name) {
				otherwise = fmt.Sprintf("; %s declares it as %s %q: correct the protocol", pods.owner, policy.ProtocolName(c.protocol), c.name)
			}
		}
	}
	if otherwise == "" {
		var names []string
		for _, c := range declared {
			names = append(names, c.name)
		}
		names = slices.DeleteFunc(names, func(n string) bool { return n == "" })
		slices.Sort(names)
		switch near := k8s.Nearest(ports[0].Name, names); {
		case near != "":
			otherwise = fmt.Sprintf("; did you mean %q?", near)
		case len(names) > 0:
			otherwise = "; their ports are called " + list(names)
		case len(declared) > 0:
			otherwise = fmt.Sprintf("; their ports have no names (%s): name one or write its number", portsOf(declared))
		default:
			otherwise = "; their containers declare no ports: declare it or write its number"
		}
	}
	s.report(namedPortMissing, Warning, g.Key, place, "no pod that receives has a port called %q (%s), so this matches nothing%s",
		ports[0].Name, owners(receivers), otherwise)
}

// namesForOutside finds named ports towards peers that are no pods: those have no names, so the model has nothing of it.
func (s *scene) namesForOutside(g *guard, i int) {
	r := &g.Rules[i]
	if s.unsupported(g.Key, r.Path) || slices.ContainsFunc(r.Peers, func(p policy.Peer) bool {
		return p.Kind == policy.PeerSelector || p.Kind == policy.PeerAny || p.Kind == policy.PeerCIDR && p.MatchPods
	}) {
		return
	}
	fields, _ := at(s.tree(g.Key), r.Path).(map[string]any)
	entries, _ := fields["toPorts"].([]any)
	for j := range entries {
		ports, _ := at(entries[j], "ports").([]any)
		for k := range ports {
			name, _ := at(ports[k], "port").(string)
			if _, err := strconv.ParseUint(name, 0, 16); name != "" && err != nil {
				s.report(namedPortMissing, Warning, g.Key, fmt.Sprintf("%s.toPorts[%d].ports[%d]", r.Path, j, k),
					"peers that are no pods have no port called %q, so this matches nothing; write its number", name)
			}
		}
	}
}

// numberedPort looks for a number that none of those who receive declares although they declare others.
func (s *scene) numberedPort(g *guard, place string, ports []policy.PortMatch, receivers []*group) {
	var declared []containerPort
	for _, pods := range receivers {
		if len(pods.ports) == 0 || slices.ContainsFunc(ports, pods.declares) {
			return
		}
		declared = append(declared, pods.ports...)
	}
	p := ports[0]
	if !withPorts(p.Protocol) || p.First == 0 && p.Last == 65535 {
		return
	}
	if service, target, ok := s.behindService(ports, receivers); ok {
		s.report(servicePort, Warning, g.Key, place, "%d is the port of %s, whose pods receive on %s: policy sees the pod's port, write %s", p.First, service, target, target)
		return
	}
	s.report(portUndeclared, Note, g.Key, place, "no container of %s declares %s, only %s; correct it, unless they listen there undeclared",
		owners(receivers), describePort(p), portsOf(declared))
}

func withPorts(protocol uint8) bool {
	return protocol == policy.TCP || protocol == policy.UDP || protocol == policy.SCTP
}

func owners(groups []*group) string {
	var names []string
	for _, g := range groups {
		names = append(names, g.owner)
	}
	return list(names)
}

// behindService finds a Service in front of all receivers that has the port of a rule and forwards it to another one, which
// they declare.
func (s *scene) behindService(ports []policy.PortMatch, receivers []*group) (service, target string, ok bool) {
	for _, svc := range s.in.Objects.Services {
		if len(svc.Spec.Selector) == 0 || slices.ContainsFunc(receivers, func(g *group) bool { return !fronts(svc, g) }) {
			continue
		}
		for _, port := range svc.Spec.Ports {
			for _, p := range ports {
				if p.First != p.Last || int32(p.First) != port.Port || p.Protocol != k8s.ProtocolNumber(port.Protocol) {
					continue
				}
				for _, c := range receivers[0].ports {
					byName := port.TargetPort.Type == intstr.String && port.TargetPort.StrVal != "" && port.TargetPort.StrVal == c.name
					byNumber := port.TargetPort.Type == intstr.Int && port.TargetPort.IntVal == int32(c.port)
					if (byName || byNumber) && c.protocol == p.Protocol && c.port != p.First {
						return "Service " + svc.Namespace + "/" + svc.Name, strconv.Itoa(int(c.port)), true
					}
				}
			}
		}
	}
	return "", "", false
}

// fronts says whether pods stand behind a Service.
func fronts(svc *corev1.Service, g *group) bool {
	if svc.Namespace != g.namespace || len(svc.Spec.Selector) == 0 {
		return false
	}
	for key, value := range svc.Spec.Selector {
		if has, ok := g.labels[key]; !ok || has != value {
			return false
		}
	}
	return true
}

// podPorts finds declared ports of isolated pods that nobody may reach although others of the same pods can be reached.
func (s *scene) podPorts() {
	for _, pods := range s.groups {
		rules := pods.admitting(policy.Ingress)
		suspect := slices.ContainsFunc(pods.guards, func(g *guard) bool { return len(g.suspect) > 0 })
		if !pods.isolated(policy.Ingress) || len(rules) == 0 || suspect {
			continue
		}
		admitted := func(c containerPort) bool {
			return slices.ContainsFunc(rules, func(r *policy.Rule) bool { return slices.ContainsFunc(r.Ports, c.within) })
		}
		if !slices.ContainsFunc(pods.ports, admitted) {
			continue
		}
		for _, c := range pods.ports {
			if !admitted(c) {
				s.report(portUnadmitted, Note, pods.owner, c.path, "no rule of %s admits %s; add it to one if somebody is to reach it", s.guardsOf(pods, policy.Ingress), c)
			}
		}
	}
}

func (s *scene) guardsOf(pods *group, d policy.Direction) string {
	var names []string
	for _, g := range pods.guards {
		if g.Isolates[d] {
			names = append(names, g.Key)
		}
	}
	return list(names)
}

// podCIDRs finds CIDR rules that mean pods of this set and match only what is outside.
func (s *scene) podCIDRs() {
	for _, g := range s.policies {
		for i := range g.Rules {
			for j, peer := range g.Rules[i].Peers {
				if place := g.places[i].peers[j]; peer.Kind != policy.PeerCIDR || peer.MatchPods || !strings.Contains(place, "CIDR") {
					continue
				}
				if what := s.ofPods(peer.CIDR); what != "" {
					s.report(cidrNamesPods, Warning, g.Key, g.places[i].peers[j], "%s is of %s, and CIDR rules never match pods; select them by their labels", peer.CIDR, what)
				}
			}
		}
	}
}

// ofPods names whose pods all addresses of a prefix belong to, as far as the set itself says.
func (s *scene) ofPods(prefix netip.Prefix) string {
	for _, n := range s.in.Objects.Nodes {
		for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
			if cidr, err := netip.ParsePrefix(text); err == nil && prefixWithin(prefix, cidr.Masked()) {
				return "the pods of Node " + n.Name
			}
		}
	}
	for _, pod := range s.in.Objects.Pods {
		if addr, err := netip.ParseAddr(pod.Status.PodIP); err == nil && prefix.IsSingleIP() && prefix.Addr() == addr && !pod.Spec.HostNetwork {
			return "Pod " + pod.Namespace + "/" + pod.Name
		}
	}
	return ""
}
