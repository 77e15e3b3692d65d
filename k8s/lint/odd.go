// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// invalid tells what keeps objects from being read at all.
func (s *scene) invalid() {
	for _, p := range s.problems {
		f := Finding{Rule: invalidObject, Severity: Error, Object: p.Object, Path: p.Path, File: p.File, Document: p.Document, Message: p.Message}
		f.Line = s.in.Line(p.Origin, p.Object, p.Path)
		if at := regexp.MustCompile(`^not valid YAML: line (\d+)`).FindStringSubmatch(p.Message); at != nil {
			line, _ := strconv.Atoi(at[1])
			f.Line = min(line, s.in.Lines(p.File)) // what is missing at the end is said to be missing behind it
		}
		s.findings = append(s.findings, f)
	}
}

// statuses tells what is not enforced as written. What leaves a rule without effect is more than a note, unless it is that
// the set has nothing that a rule names: it may be the policies alone.
func (s *scene) statuses() {
	idle := map[string][]string{} // rules that match nothing, by object
	for _, g := range s.policies {
		for i := range g.Rules {
			if !effective(&g.Rules[i]) {
				idle[g.Key] = append(idle[g.Key], g.Rules[i].Path)
			}
		}
	}
	for _, status := range s.status {
		if status.Path == "metadata.annotations["+k8s.AuditAnnotation+"]" {
			continue // as asked for
		}
		rule, severity := readDifferently, Note
		if slices.ContainsFunc(idle[status.Object], func(path string) bool { return below(status.Path, path) }) {
			severity = Warning
		}
		switch status.Reason {
		case k8s.ReasonUnsupported:
			rule, severity = unsupportedField, Error
		case k8s.ReasonUnresolved:
			rule = unresolved
			if s.partial || len(s.groups)+len(s.hosts) == 0 {
				severity = Note
			}
		}
		s.report(rule, severity, status.Object, status.Path, "%s", status.Message)
	}
}

// odd finds rules and policies that say something else than they look like.
func (s *scene) odd() {
	for _, g := range s.policies {
		for i := range g.Rules {
			s.oddRule(g, i)
		}
		s.oddTypes(g)
		s.otherDirection(g)
		s.foreignSubject(g)
		s.lonelyDeny(g)
		s.withoutEffect(g)
	}
}

// oddRule looks for rules without content.
func (s *scene) oddRule(g *guard, i int) {
	r := &g.Rules[i]
	fields, _ := at(s.tree(g.Key), r.Path).(map[string]any)
	cilium, kubernetes := strings.HasPrefix(g.Key, "Cilium"), strings.HasPrefix(g.Key, "NetworkPolicy ")
	_, name, _ := strings.Cut(g.Key, " ")
	opens, closes := intent(name)
	what := map[policy.Action]string{policy.Allow: "admits", policy.Deny: "denies", policy.Pass: "passes on"}[r.Action]
	switch {
	case s.unsupported(g.Key, r.Path):
		// statuses tells
	case len(fields) == 0 && cilium && r.Action == policy.Allow:
		side := map[policy.Direction]string{policy.Ingress: "fromEntities", policy.Egress: "toEntities"}[r.Direction]
		switch {
		case opens:
			s.report(emptyAdmitsNobody, Warning, g.Key, r.Path, "admits nobody, but the policy's name says that it allows something; to admit everyone write %s: [all]", side)
		case g.count(r.Direction) > 1:
			s.report(emptyAdmitsNobody, Note, g.Key, r.Path, "admits nobody and changes nothing beside other rules; remove it, or write %s: [all] to admit everyone", side)
		case !closes:
			s.report(emptyAdmitsNobody, Note, g.Key, r.Path, "isolates and admits nobody, unlike in a NetworkPolicy; to admit everyone write %s: [all]", side)
		}
	case !effective(r) && !s.told(g.Key, r.Path):
		s.report(matchesNothing, Warning, g.Key, r.Path, "%s nothing: %s; leave a list out to mean everyone or every port, or fill it", what, emptyPart(r, fields))
	case kubernetes && r.Action == policy.Allow && len(r.Peers) == 1 && everyone(&r.Peers[0]) && len(r.Ports) == 1 && r.Ports[0].Protocol == 0:
		if closes {
			s.report(emptyAdmitsAll, Warning, g.Key, r.Path, "admits everybody on every port, but the policy's name says that it denies something; to admit nobody leave the rule out")
		} else if types, _ := at(s.tree(g.Key), g.root+".policyTypes").([]any); !opens && len(types) == 0 {
			s.report(emptyAdmitsAll, Note, g.Key, r.Path, "admits everybody on every port; name peers or ports if that is too much")
		}
	}
}

// intent is what a policy's name says that it is for; nothing if it says both.
func intent(name string) (opens, closes bool) {
	opens = says(name, "allow", "allows", "open", "permit")
	closes = says(name, "deny", "denies", "isolate", "isolated", "isolation", "lock", "lockdown", "block", "restrict", "drop", "none")
	if opens == closes {
		return !opens && says(name, "all", "any", "everyone", "public"), false
	}
	return opens, closes
}

// count is the number of a policy's rules in a direction.
func (g *guard) count(d policy.Direction) int {
	n := 0
	for i := range g.Rules {
		if g.Rules[i].Direction == d {
			n++
		}
	}
	return n
}

// emptyPart says which part of a rule matches nothing.
func emptyPart(r *policy.Rule, fields map[string]any) string {
	for _, key := range sortedKeys(fields) {
		if list, ok := fields[key].([]any); ok && len(list) == 0 {
			return key + " is written and empty"
		}
	}
	if len(r.Ports) == 0 {
		return "no entry of its ports can match"
	}
	return "it names no peers and no ports"
}

// oddTypes compares a NetworkPolicy's rules with its policyTypes.
func (s *scene) oddTypes(g *guard) {
	spec, _ := at(s.tree(g.Key), g.root).(map[string]any)
	if !strings.HasPrefix(g.Key, "NetworkPolicy ") {
		return
	}
	types, _ := spec["policyTypes"].([]any)
	for d, section := range []string{"ingress", "egress"} {
		rules, _ := spec[section].([]any)
		if len(rules) > 0 && !g.Isolates[d] {
			capital := strings.ToUpper(section[:1]) + section[1:]
			s.report(rulesWithoutType, Warning, g.Key, g.root+"."+section, "has no effect: policyTypes does not name %s; add it, or remove the rules", capital)
		}
	}
	ingress, _ := spec["ingress"].([]any)
	if len(types) > 0 || len(ingress) > 0 || !g.Isolates[policy.Egress] {
		return
	}
	severity, but := Note, "; other policies admit some"
	for _, pods := range g.subjects {
		if len(pods.admitting(policy.Ingress)) == 0 {
			severity, but = Warning, "; nothing admits any to "+pods.owner
		}
	}
	if len(g.subjects) == 0 {
		severity, but = Warning, ""
	}
	s.report(impliedIngress, severity, g.Key, g.root, "without policyTypes it isolates for ingress too%s; write policyTypes: [Egress] if only egress is meant", but)
}

// otherDirection compares the directions that a policy isolates with the one that its name begins or ends with, unless that
// is what somebody concerned is called: ingress-nginx, egress-gateway.
func (s *scene) otherDirection(g *guard) {
	_, name, _ := strings.Cut(g.Key, " ")
	words := tokens(name[strings.LastIndex(name, "/")+1:])
	for d, word := range []string{"ingress", "egress"} {
		other := []string{"egress", "ingress"}[d]
		named := len(words) > 1 && (words[len(words)-1] == word || words[0] == word) && !slices.Contains(words, other)
		if !named || g.Isolates[d] || !g.Isolates[1-d] || g.count(policy.Direction(d)) > 0 || word == "ingress" && slices.Contains(words, "to") {
			continue
		}
		if slices.ContainsFunc(s.parties(g), func(name string) bool { return slices.Contains(tokens(name), word) }) {
			continue
		}
		remedy := "write rules for " + word
		if strings.HasPrefix(g.Key, "NetworkPolicy ") {
			remedy = "write policyTypes: [" + strings.ToUpper(word[:1]) + word[1:] + "]"
		}
		s.report(guardsOtherSide, Warning, g.Key, g.root, "isolates for %s only, but its name says %s; %s", other, word, remedy)
	}
}

// foreignSubject finds policies of a namespace whose selector asks for another one in the way that is overruled.
func (s *scene) foreignSubject(g *guard) {
	const key = "k8s:" + namespaceKey
	labels, _ := at(s.tree(g.Key), g.root+".endpointSelector.matchLabels").(map[string]any)
	if asked, _ := labels[key].(string); asked != "" && g.namespace != "" && asked != g.namespace {
		s.report(readDifferently, Warning, g.Key, g.root+".endpointSelector.matchLabels["+key+"]",
			"asks for namespace %s, but a policy guards pods of its own only and this label is overruled: it guards %s of %s; move the policy", asked, labelsOf(g.Subject), g.namespace)
	}
}

// lonelyDeny finds directions with deny rules in which no policy admits anything.
func (s *scene) lonelyDeny(g *guard) {
	for d, section := range []string{"ingress", "egress"} {
		direction := policy.Direction(d)
		var deny, allow bool
		path := ""
		for i := range g.Rules {
			if r := &g.Rules[i]; r.Direction == direction && r.Action == policy.Deny {
				deny, path = true, r.Path[:strings.LastIndex(r.Path, "[")]
			} else if r.Direction == direction {
				allow = true
			}
		}
		if !deny || allow || !g.Isolates[direction] || s.lockdown(g, direction) {
			continue
		}
		if len(g.subjects) == 0 || slices.ContainsFunc(g.subjects, func(pods *group) bool { return len(pods.admitting(direction)) > 0 }) {
			continue
		}
		s.report(denyIsolates, Warning, g.Key, path,
			"isolates for %s, and no policy admits any to %s: everything is denied, not only this; add a rule that admits, or enableDefaultDeny: {%s: false}", section, owners(g.subjects), section)
	}
}

// lockdown says whether the deny rules of a direction deny everything by themselves: then that is what is meant.
func (s *scene) lockdown(g *guard, d policy.Direction) bool {
	return slices.ContainsFunc(g.Rules, func(r policy.Rule) bool {
		return r.Direction == d && r.Action == policy.Deny && slices.ContainsFunc(r.Peers, func(p policy.Peer) bool { return everyone(&p) }) &&
			slices.ContainsFunc(r.Ports, func(p policy.PortMatch) bool { return p.Protocol == 0 })
	})
}

// withoutEffect finds policies that isolate nobody and whose rules change nothing. In an ordered tier, a rule that admits may
// forestall a later one.
func (s *scene) withoutEffect(g *guard) {
	if g.Isolates[policy.Ingress] || g.Isolates[policy.Egress] || g.Tier != policy.TierNormal && len(g.Rules) > 0 {
		return
	}
	var idle []string
	for i := range g.Rules {
		r := &g.Rules[i]
		if s.unsupported(g.Key, r.Path) || r.Action != policy.Allow && effective(r) {
			return
		}
		// What it admits counts where another policy isolates, or denies in the baseline tier.
		if len(g.subjects) == 0 || slices.ContainsFunc(g.subjects, func(pods *group) bool { return pods.isolated(r.Direction) || pods.baseline(r.Direction) }) {
			return
		}
		idle = append(idle, r.Path)
	}
	if len(idle) == 0 {
		if spec, _ := at(s.tree(g.Key), g.root).(map[string]any); g.typed(spec) {
			return // rules-without-type says so
		}
		s.report(noEffect, Warning, g.Key, g.root, "has no rules and isolates in no direction, so it does nothing; write ingress: or egress: with rules")
		return
	}
	s.report(noEffect, Warning, g.Key, g.root, "isolates in no direction, and no other policy isolates %s, so what it admits (%s) was never denied; remove it, or let it isolate",
		owners(g.subjects), list(idle))
}

// typed says whether the policy has rules in a direction that its policyTypes leave out.
func (g *guard) typed(spec map[string]any) bool {
	return strings.HasPrefix(g.Key, "NetworkPolicy ") && (fmt.Sprint(spec["ingress"]) != "<nil>" || fmt.Sprint(spec["egress"]) != "<nil>")
}
