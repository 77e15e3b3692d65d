// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// selectors finds subjects and peers that are nobody. A set without pods says nothing about selectors, and one that could
// be read in part only does not say what it lacks.
func (s *scene) selectors() {
	if s.partial || len(s.groups)+len(s.hosts) == 0 {
		return
	}
	for _, g := range s.policies {
		if severity, why, nobody := s.nobody(g.Subject); nobody && narrow(g.Subject) {
			s.report(subjectNothing, severity, g.Key, s.subjectPath(g), "guards no pod: %s%s", why, s.subjectElsewhere(g))
		}
		for i := range g.Rules {
			r := &g.Rules[i]
			merged := s.mistakenOr(g, r, g.places[i])
			for j, peer := range r.Peers {
				if peer.Kind != policy.PeerSelector || slices.Contains(merged, j) {
					continue
				}
				if severity, why, nobody := s.nobody(peer.Selector); nobody {
					s.report(peerNothing, severity, g.Key, g.places[i].peers[j], "matches no pod: %s", why+s.elsewhere(g, peer.Selector))
				}
			}
		}
	}
}

// nobody says whether a selector selects no pod although it should, why, and how sure that is.
func (s *scene) nobody(selector policy.Selector) (severity Severity, why string, nobody bool) {
	if len(s.matching(selector)) > 0 {
		return 0, "", false
	}
	if slices.ContainsFunc(s.hosts, func(g *group) bool { return selector.Matches(g.labels) }) {
		return Warning, "only pods in the host's network have these labels, and to policy those are their node", true
	}
	ofNamespace, ofPod := split(selector)
	for _, r := range ofPod {
		if strings.HasPrefix(r.Key, "reserved:") {
			return Warning, fmt.Sprintf("%s is a label of Cilium's own endpoints and no pod's; weir guards pods", r.Key), true
		}
	}
	var candidates []string
	for name, labels := range s.namespaces {
		if ofNamespace.Matches(labels) {
			candidates = append(candidates, name)
		}
	}
	slices.Sort(candidates)
	if len(candidates) == 0 {
		return s.noNamespace(selector, ofNamespace)
	}
	var pods []*group
	hidden := false
	for _, name := range candidates {
		pods = append(pods, s.inside[name]...)
		hidden = hidden || s.hidden[name]
	}
	switch {
	case len(ofPod) == 0:
		return 0, "", false // of an empty namespace, for pods to come
	case len(pods) == 0:
		return Note, fmt.Sprintf("the set has no workload in namespace %s", list(candidates)), !allOfSystem(candidates)
	}
	why = missingLabels(ofPod, pods, candidates)
	if hidden {
		return Note, why + "; but objects there that are not read, such as CronJobs or custom resources, may make such pods", true
	}
	return Warning, why, true
}

// noNamespace is nobody's answer for a selector that no namespace of the set fits.
func (s *scene) noNamespace(selector, ofNamespace policy.Selector) (Severity, string, bool) {
	known := sortedKeys(s.namespaces)
	if names := pinned(selector); names != nil {
		if allOfSystem(names) {
			return 0, "", false // DNS and the like, which hardly a set of manifests has
		}
		for _, name := range names {
			if near := k8s.Nearest(name, known); near != "" && s.namespaces[name] == nil {
				return Note, fmt.Sprintf("the set has no namespace %s; did you mean %s?", name, near), true
			}
		}
		for _, name := range names {
			if s.namespaces[name] != nil {
				return Warning, fmt.Sprintf("namespace %s does not have the other labels that are asked for", name), true
			}
		}
		return Note, "the set has no namespace " + strings.Join(names, ", "), true
	}
	for _, r := range ofNamespace {
		if slices.ContainsFunc(known, func(n string) bool { return (policy.Selector{r}).Matches(s.namespaces[n]) }) {
			continue
		}
		key := strings.TrimPrefix(r.Key, k8s.NamespaceLabelPrefix)
		for _, n := range known {
			if value, has := s.namespaces[n][r.Key]; has && r.Op == policy.In && !builtin(key) {
				return Warning, fmt.Sprintf("no namespace of the set has the label %s; namespace %s has %s=%s", describe(r), n, key, value), true
			}
		}
		if r.Op == policy.NotIn || r.Op == policy.DoesNotExist {
			return Warning, fmt.Sprintf("every namespace of the set is excluded by %s", describe(r)), true
		}
		if len(s.labelled) < len(known) || len(known) < 2 {
			return Note, fmt.Sprintf("no namespace of the set has the label %s, as far as there are Namespace objects", describe(r)), true
		}
		return Warning, fmt.Sprintf("no namespace of the set has the label %s", describe(r)), true
	}
	return Warning, "no namespace of the set has all the labels that are asked for", true
}

func builtin(key string) bool { return strings.HasPrefix(key, "kubernetes.io/") }

// missingLabels says what keeps pods from having the labels that are asked for.
func missingLabels(asked policy.Selector, pods []*group, namespaces []string) string {
	where := "namespace " + list(namespaces)
	for _, r := range asked {
		one := policy.Selector{r}
		if slices.ContainsFunc(pods, func(g *group) bool { return one.Matches(g.labels) }) {
			continue
		}
		text := fmt.Sprintf("no pod of %s has the label %s", where, describe(r))
		if r.Op == policy.NotIn || r.Op == policy.DoesNotExist {
			text = fmt.Sprintf("every pod of %s is excluded by %s", where, describe(r))
		}
		return text + similar(r, pods)
	}
	text := "no pod of " + where + " has all of the labels " + describeAll(asked)
	for i := range asked {
		rest := slices.Delete(slices.Clone(asked), i, i+1)
		for _, g := range pods {
			if rest.Matches(g.labels) {
				return fmt.Sprintf("%s; %s has all but %s", text, g.owner, describe(asked[i]))
			}
		}
	}
	return text
}

// similar proposes a label that some pod has and that the requirement may have meant.
func similar(r policy.Requirement, pods []*group) string {
	if r.Op != policy.In && r.Op != policy.Exists {
		return ""
	}
	var values, keys, others []string
	for _, g := range pods {
		for key, value := range g.labels {
			if aboutNamespace(key) || strings.HasPrefix(key, "io.cilium.k8s.") || strings.Contains(key, ":") {
				continue
			}
			if key == r.Key {
				values = append(values, value)
			}
			keys = append(keys, key)
			if slices.Contains(r.Values, value) {
				others = append(others, key+"="+value)
			}
		}
	}
	slices.Sort(others)
	for _, wanted := range r.Values {
		if near := k8s.Nearest(wanted, values); near != "" {
			return fmt.Sprintf("; did you mean %s=%s?", r.Key, near)
		}
	}
	if len(others) > 0 {
		return fmt.Sprintf("; did you mean %s?", others[0])
	}
	if near := k8s.Nearest(r.Key, keys); near != "" && near != r.Key {
		return fmt.Sprintf("; did you mean the key %s?", near)
	}
	slices.Sort(values)
	if values = slices.Compact(values); len(values) > 0 {
		return fmt.Sprintf("; the values of %s there are %s", r.Key, list(values))
	}
	return ""
}

// elsewhere hints at pods of other namespaces than the policy's own that have the labels asked for.
func (s *scene) elsewhere(g *guard, selector policy.Selector) string {
	_, ofPod := split(selector)
	if len(ofPod) == 0 {
		return ""
	}
	var in []string
	for _, other := range s.groups {
		if ofPod.Matches(other.labels) && !slices.Contains(in, other.namespace) {
			in = append(in, other.namespace)
		}
	}
	slices.Sort(in)
	switch names := pinned(selector); {
	case len(in) == 0:
		return ""
	case len(in) == 1 && in[0] == g.namespace:
		return "; pods of the policy's own namespace have these labels: leave the namespace out if you mean those"
	case len(names) == 1 && names[0] == g.namespace:
		return fmt.Sprintf("; pods of namespace %s have these labels: name the namespace in the same entry if you mean those", list(in))
	}
	return fmt.Sprintf("; pods with these labels are in namespace %s", list(in))
}

// subjectElsewhere hints at pods of another namespace that a policy's selector would select there.
func (s *scene) subjectElsewhere(g *guard) string {
	_, ofPod := split(g.Subject)
	for _, other := range s.groups {
		if g.namespace != "" && g.namespace != other.namespace && ofPod.Matches(other.labels) {
			return fmt.Sprintf("; %s would be selected if the policy were in namespace %s", other.owner, other.namespace)
		}
	}
	return ""
}

// mistakenOr finds entries that select namespaces beside entries that select pods where only both together make sense: the
// pods that are asked for are in those namespaces and not in the policy's own. It gives back the latter entries.
func (s *scene) mistakenOr(g *guard, r *policy.Rule, at places) []int {
	var mistaken []int
	for i, pods := range r.Peers {
		ofNamespace, ofPod := split(pods.Selector)
		if pods.Kind != policy.PeerSelector || g.namespace == "" || len(ofPod) == 0 || len(s.matching(pods.Selector)) > 0 ||
			len(ofNamespace) != 1 || !slices.Equal(pinned(pods.Selector), []string{g.namespace}) {
			continue
		}
		for j, namespaces := range r.Peers {
			wanted, rest := split(namespaces.Selector)
			if namespaces.Kind != policy.PeerSelector || len(rest) > 0 || len(wanted) == 0 || slices.Equal(pinned(namespaces.Selector), []string{g.namespace}) {
				continue
			}
			both := slices.Concat(wanted, ofPod)
			if found := s.matching(both); len(found) > 0 {
				mistaken = append(mistaken, i)
				s.report(orInsteadOfAnd, Warning, g.Key, at.peers[i],
					"two entries where one is meant: %s selects every pod of its namespaces, and %s nobody in namespace %s; %s has these labels: put both selectors into one entry",
					at.peers[j], at.peers[i], g.namespace, found[0].owner)
				break
			}
		}
	}
	return mistaken
}

// allOfSystem says whether namespaces are those that every cluster has and hardly a set of manifests.
func allOfSystem(namespaces []string) bool {
	return !slices.ContainsFunc(namespaces, func(n string) bool { return !strings.HasPrefix(n, "kube-") })
}
