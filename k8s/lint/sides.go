// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirnet/weir/policy"
)

// sides finds policies that guard the client where the server is meant, or the other way round. No single sign is proof:
// names are free, containers need not declare their ports, and a client may well declare the port of its server. What it
// takes is
//
//   - a name like client-to-server, of whose two halves the first fits the server's side of the rule only and the second the
//     client's only, where no other rule of the policy fits the name; or
//   - half of that, and a port that only the wrong side declares, and a server that nobody guards; or
//   - without any name, a rule whose ports only the wrong side declares, while every port that the guarded pods do declare is
//     closed to everybody, and a server that nobody guards.
func (s *scene) sides() {
	for _, g := range s.policies {
		for i := range g.Rules {
			r := &g.Rules[i]
			if r.Action != policy.Allow || !effective(r) || !onlySelectors(r) || !narrow(g.Subject) || overlap(g.subjects, g.peers[i]) {
				continue
			}
			named, phrase := s.misnamed(g, i)
			port, closed := s.foreignPort(g, i)
			open := s.openServer(g, i)
			sure := named == 2 || port && open && (named == 1 || closed && r.Direction == policy.Ingress)
			if !sure {
				continue
			}
			var because []string
			if named > 0 {
				because = append(because, "its name says "+phrase)
			}
			if port {
				because = append(because, fmt.Sprintf("only %s declares %s", s.sideName(g, i, r.Direction == policy.Ingress), describePorts(r)))
			}
			g.suspect = append(g.suspect, i)
			s.report(guardsOtherSide, Warning, g.Key, s.subjectPath(g), "%s", s.swapped(g, i, strings.Join(because, " and "), open, port && closed))
		}
	}
}

// swapped explains the finding in terms of the policy's own fields.
func (s *scene) swapped(g *guard, i int, because string, open, closed bool) string {
	r := &g.Rules[i]
	subject, peer := labelsOf(g.Subject), labelsOf(r.Peers[0].Selector)
	field := strings.TrimPrefix(g.places[i].peers[0], r.Path+".")
	own := strings.TrimPrefix(s.subjectPath(g), g.root+".")
	text := fmt.Sprintf("guards the ingress of %s and admits %s there (%s), but %s", subject, peer, r.Path, because)
	server := peer
	if r.Direction == policy.Egress {
		text = fmt.Sprintf("guards the egress of %s and admits %s there (%s), but %s", subject, peer, r.Path, because)
		server = subject
	}
	if open {
		text += fmt.Sprintf("; %s stays open to everyone", server)
	}
	if closed && r.Direction == policy.Ingress {
		var ports []containerPort
		for _, pods := range g.subjects {
			ports = append(ports, pods.ports...)
		}
		text += fmt.Sprintf("; nobody is admitted to %s of %s", portsOf(ports), subject)
	}
	return text + fmt.Sprintf("; if the two are swapped, write %s: %s and %s: %s", own, peer, field, subject)
}

// sideName is the workloads of the peers, or those of the subjects.
func (s *scene) sideName(g *guard, i int, peers bool) string {
	side := g.subjects
	if peers {
		side = g.peers[i]
	}
	var names []string
	for _, pods := range side {
		names = append(names, pods.owner)
	}
	return list(names)
}

func describePorts(r *policy.Rule) string {
	var ports []string
	for _, p := range r.Ports {
		ports = append(ports, describePort(p))
	}
	return list(ports)
}

func onlySelectors(r *policy.Rule) bool {
	return !slices.ContainsFunc(r.Peers, func(p policy.Peer) bool { return p.Kind != policy.PeerSelector })
}

// narrow says whether a selector asks for more than a namespace.
func narrow(selector policy.Selector) bool {
	_, ofPod := split(selector)
	return len(ofPod) > 0
}

func overlap(a, b []*group) bool {
	return slices.ContainsFunc(a, func(g *group) bool { return slices.Contains(b, g) })
}

// foreignPort says whether all ports of a rule are declared by those who would have to be clients and by none of those who
// would have to serve them, and whether nobody may reach what the latter do declare.
func (s *scene) foreignPort(g *guard, i int) (foreign, closed bool) {
	r := &g.Rules[i]
	servers, clients := g.subjects, g.peers[i]
	if r.Direction == policy.Egress {
		servers, clients = clients, servers
	}
	if len(servers) == 0 || len(clients) == 0 {
		return false, false
	}
	for _, p := range r.Ports {
		if p.Protocol == 0 || p.Name == "" && p.First != p.Last {
			return false, false
		}
		for _, server := range servers {
			if len(server.ports) == 0 || server.declares(p) {
				return false, false
			}
		}
	}
	for _, client := range clients {
		if !slices.ContainsFunc(r.Ports, client.declares) {
			return false, false
		}
	}
	for _, server := range servers {
		for _, port := range server.ports {
			if slices.ContainsFunc(server.admitting(policy.Ingress), func(r *policy.Rule) bool { return slices.ContainsFunc(r.Ports, port.within) }) {
				return true, false
			}
		}
	}
	return true, true
}

// declares says whether some container of the pods declares a port of a rule.
func (g *group) declares(p policy.PortMatch) bool {
	return slices.ContainsFunc(g.ports, func(c containerPort) bool { return c.within(p) })
}

// within says whether a rule's port covers the container's.
func (c containerPort) within(p policy.PortMatch) bool {
	switch {
	case p.Protocol == 0:
		return true
	case p.Protocol != c.protocol:
		return false
	case p.Name != "":
		return c.name != "" && strings.EqualFold(p.Name, c.name)
	}
	return p.First <= c.port && c.port <= p.Last
}

// openServer says whether the side that would have to be guarded is open to everyone: no policy isolates it for ingress.
func (s *scene) openServer(g *guard, i int) bool {
	side := g.peers[i]
	if g.Rules[i].Direction == policy.Egress {
		side = g.subjects
	}
	return len(side) > 0 && !slices.ContainsFunc(side, func(pods *group) bool { return pods.isolated(policy.Ingress) })
}

// misnamed says how much of the policy's name speaks against a rule, and how the name is understood: 2 if both halves do, 1
// if one does and the other says nothing. It is 0 if some rule of the policy agrees with the name.
func (s *scene) misnamed(g *guard, i int) (against int, phrase string) {
	_, name, _ := strings.Cut(g.Key, " ")
	if _, own, namespaced := strings.Cut(name, "/"); namespaced {
		name = own
	}
	client, server, exact := sidesOf(name)
	for j := range g.Rules {
		if r := &g.Rules[j]; onlySelectors(r) && effective(r) {
			if a, b := s.called(g, j, client, server); a == agrees && b != contradicts || b == agrees && a != contradicts {
				return 0, ""
			}
		}
	}
	if !exact && g.Rules[i].Direction == policy.Egress {
		return 0, "" // "web-allow-db" may well let web reach db
	}
	a, b := s.called(g, i, client, server)
	switch {
	case a == contradicts && b == contradicts:
		against = 2
	case (a == contradicts || b == contradicts) && exact:
		against = 1
	}
	var words []string
	if len(client) > 0 {
		words = append(words, "from "+strings.Join(client, "-"))
	}
	if len(server) > 0 {
		words = append(words, "to "+strings.Join(server, "-"))
	}
	return against, strings.Join(words, " ")
}

// What a half of a name says about a side of a rule.
const (
	silent = iota
	agrees
	contradicts // it fits the other side only
)

// called compares the halves of a name with the sides of a rule.
func (s *scene) called(g *guard, i int, client, server []string) (forClient, forServer int) {
	subjects, peers := namesOf(g.Subject, g.subjects), []string(nil)
	for _, p := range g.Rules[i].Peers {
		peers = append(peers, namesOf(p.Selector, nil)...)
		for _, namespace := range pinned(p.Selector) {
			if namespace != g.namespace {
				peers = append(peers, namespace)
			}
		}
	}
	for _, pods := range g.peers[i] {
		peers = append(peers, workloadName(pods))
	}
	clients, servers := peers, subjects
	if g.Rules[i].Direction == policy.Egress {
		clients, servers = subjects, peers
	}
	judge := func(words, own, other []string) int {
		switch here, there := fits(words, own), fits(words, other); {
		case here:
			return agrees
		case there:
			return contradicts
		}
		return silent
	}
	return judge(client, clients, servers), judge(server, servers, clients)
}

// namesOf are the names that people may call the pods of a selector by: the values of its labels, and the workloads.
func namesOf(selector policy.Selector, pods []*group) []string {
	var names []string
	_, ofPod := split(selector)
	for _, r := range ofPod {
		if r.Op == policy.In && len(r.Values) == 1 {
			names = append(names, r.Values[0])
		}
	}
	for _, g := range pods {
		names = append(names, workloadName(g))
	}
	return names
}

// parties are all names that people may call those by whom a policy is about.
func (s *scene) parties(g *guard) []string {
	names := append(namesOf(g.Subject, g.subjects), g.namespace)
	for i := range g.Rules {
		for _, p := range g.Rules[i].Peers {
			names = append(names, namesOf(p.Selector, nil)...)
			names = append(names, pinned(p.Selector)...)
		}
	}
	return names
}

func workloadName(g *group) string {
	return g.owner[strings.LastIndex(g.owner, "/")+1:]
}

// fits says whether words are one of names, or the one has all the words of the other.
func fits(words, names []string) bool {
	if len(words) == 0 {
		return false
	}
	for _, name := range names {
		own := tokens(name)
		if len(own) > 0 && (all(own, words) || all(words, own)) {
			return true
		}
	}
	return false
}

func all(words, among []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !slices.Contains(among, w) })
}

// sidesOf reads who is to reach whom out of a policy's name: a-to-b, b-from-a, from-a-to-b, to-b-from-a, a-2-b and, not as
// exact, b-allow-a. What is not said is empty.
func sidesOf(name string) (client, server []string, exact bool) {
	const unsaid, from, to, allow = 0, 1, 2, 3
	parts := [4][]string{}
	at, met := unsaid, [4]bool{}
	for i, word := range tokens(name) {
		switch {
		case word == "from":
			at = from
		case word == "to" || word == "2" && i > 0:
			at = to
		case (word == "allow" || word == "allows") && i > 0 && !met[from] && !met[to]:
			at = allow
		case noise(word):
		default:
			parts[at] = append(parts[at], word)
		}
		met[at] = true
	}
	switch {
	case met[from] && met[to]:
		return parts[from], parts[to], true
	case met[to]:
		return slices.Concat(parts[unsaid], parts[allow]), parts[to], true
	case met[from]:
		return parts[from], slices.Concat(parts[unsaid], parts[allow]), true
	case met[allow]:
		return parts[allow], parts[unsaid], false
	}
	return nil, nil, false
}

// noise are words of policies' names that name nobody.
func noise(word string) bool {
	return slices.Contains([]string{"allow", "allows", "deny", "permit", "restrict", "limit", "only", "policy", "netpol", "np", "cnp", "ccnp", "network",
		"traffic", "access", "ingress", "egress", "rule", "default", "connections", "the", "all", "any", "tcp", "udp", "port", "ports", "l3", "l4"}, word)
}
