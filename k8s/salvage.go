// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A cluster's policy object that something is wrong with concerns its subjects, and nobody else:
//   - A rule that cannot be read admits nothing; if it denies, it denies everyone.
//   - Where it is not a rule, the pods that the object selects are isolated in the directions that it asks for, in both if
//     it cannot be told, and no rule admits anything. If it cannot be told whom a namespaced object selects, it is taken
//     for every pod of its namespace.
//   - A cluster-wide object that does not say whom it selects, or in which order it is asked, is not enforced; the version
//     of it that could be read last stays in force.

// salvage reads of an object what can be read; nil if that is nothing.
func (r *reader) salvage(ref PolicyRef, tree map[string]any, problems []*Problem) (metav1.Object, []Status) {
	s := salvager{reader: r, cilium: strings.HasPrefix(r.kind.name, "Cilium"), ordered: r.kind.name == "ClusterNetworkPolicy", problems: problems}
	mended := map[string]any{"apiVersion": tree["apiVersion"], "kind": tree["kind"]}
	s.metadata(mended, tree)
	if specs, written := tree["specs"]; written && s.cilium {
		list, ok := specs.([]any)
		if !ok {
			list = []any{nil}
		}
		var kept []any
		for i := range list {
			if spec := s.spec(list[i], fmt.Sprintf("specs[%d]", i)); spec != nil {
				kept = append(kept, spec)
			}
		}
		if len(kept) > 0 {
			mended["specs"] = kept
		}
	}
	if spec, written := tree["spec"]; written || mended["specs"] == nil {
		if spec := s.spec(spec, "spec"); spec != nil {
			mended["spec"] = spec
		}
	}
	var object metav1.Object
	switch {
	case s.lost:
	case mended["spec"] == nil && mended["specs"] == nil: // it is about no pod
		object = r.kind.make()
		object.SetNamespace(ref.Namespace)
		object.SetName(ref.Name)
	default:
		var still []*Problem
		object, still = r.decode(mended)
		problems = append(problems, still...)
	}
	if p, ok := object.(*ClusterNetworkPolicy); ok {
		for path, why := range s.closed {
			p.Unknown = append(p.Unknown, UnknownField{Path: path, Why: why})
		}
		slices.SortFunc(p.Unknown, func(a, b UnknownField) int { return strings.Compare(a.Path, b.Path) })
	}
	var refused []Status
	for _, p := range problems {
		if told := (Status{ref.Object(), p.Path, ReasonRefused, p.Message + "; " + s.outcome(object, p.Path)}); !slices.Contains(refused, told) {
			refused = append(refused, told)
		}
	}
	return object, refused
}

// salvager mends the tree of a policy object.
type salvager struct {
	*reader
	cilium, ordered bool
	problems        []*Problem
	closed          map[string]string // rules of a ClusterNetworkPolicy that fail closed, and why
	wide            bool              // more than single rules is wrong
	lost            bool              // it cannot be told whom it is about
	nobody          bool              // it is about nodes
}

// outcome is what becomes of the object because of what is wrong at path.
func (s *salvager) outcome(object metav1.Object, path string) string {
	switch {
	case object == nil:
		return "the object is not enforced, or as it was last read"
	case strings.HasPrefix(path, "metadata."):
		return "the policy is enforced without it"
	case s.nobody:
		return "the policy is about no pod, and is not enforced"
	case s.wide:
		return "the pods that it selects are isolated, and none of its rules admits anything"
	}
	return "the rule admits nothing, or denies everyone if it denies"
}

// wrong lists the problems at path and below it.
func (s *salvager) wrong(path string) (messages []string) {
	for _, p := range s.problems {
		if under(p.Path, []string{path}) {
			messages = append(messages, p.Message)
		}
	}
	return messages
}

// metadata leaves out what is wrong with labels and annotations: a policy whose annotation cannot be read is enforced.
func (s *salvager) metadata(mended, tree map[string]any) {
	meta, _ := tree["metadata"].(map[string]any)
	kept := map[string]any{"name": meta["name"]}
	if s.kind.namespaced {
		kept["namespace"] = meta["namespace"]
	}
	if annotations := meta["annotations"]; annotations != nil && len(s.wrong("metadata.annotations")) == 0 {
		kept["annotations"] = annotations
	}
	mended["metadata"] = kept
}

var ruleOf = regexp.MustCompile(`^(ingressDeny|ingress|egressDeny|egress)(\[(\d+)\])?`)

// spec mends what is at path.
func (s *salvager) spec(value any, path string) map[string]any {
	from, _ := value.(map[string]any)
	wide := from == nil
	for _, p := range s.problems {
		rest, inside := strings.CutPrefix(p.Path, path+".")
		switch {
		case p.Path == "" || !strings.HasPrefix(p.Path, "spec") && !strings.HasPrefix(p.Path, "metadata"):
			wide = true // it is the object, or a field that nobody knows
		case p.Path == path:
			wide = true
		case inside && !ruleOf.MatchString(rest):
			wide = true
		}
	}
	if wide {
		return s.isolating(from, path)
	}
	out := map[string]any{}
	for key, value := range from {
		out[key] = value
		if ruleOf.FindString(key) == key {
			out[key] = s.rules(value, key, path+"."+key)
		}
	}
	return out
}

// rules mends a list of rules.
func (s *salvager) rules(value any, list, path string) any {
	rules, ok := value.([]any)
	if !ok {
		return []any{s.shut(nil, list, path+"[0]", s.wrong(path))}
	}
	out := slices.Clone(rules)
	for i := range out {
		at := fmt.Sprintf("%s[%d]", path, i)
		if wrong := s.wrong(at); len(wrong) > 0 {
			out[i] = s.shut(out[i], list, at, wrong)
		}
	}
	return out
}

// shut is a rule that fails closed, in place of one that cannot be read.
func (s *salvager) shut(rule any, list, path string, why []string) any {
	peers := "from"
	if strings.HasPrefix(list, "egress") {
		peers = "to"
	}
	from, _ := rule.(map[string]any)
	switch {
	case s.ordered:
		if s.closed == nil {
			s.closed = map[string]string{}
		}
		s.closed[path+"."+peers] = strings.Join(why, "; ")
		action, _ := from["action"].(string)
		if !slices.Contains([]string{"Accept", "Deny", "Pass"}, action) {
			action = "Deny"
		}
		return map[string]any{"action": action, peers: []any{map[string]any{"namespaces": map[string]any{}}}}
	case s.cilium && strings.HasSuffix(list, "Deny"):
		return map[string]any{peers + "Entities": []any{"all"}}
	case s.cilium:
		return map[string]any{peers + "Endpoints": []any{}}
	}
	nobody := []any{map[string]any{"key": "weir", "operator": "Exists"}, map[string]any{"key": "weir", "operator": "DoesNotExist"}}
	return map[string]any{peers: []any{map[string]any{"podSelector": map[string]any{"matchExpressions": nobody}}}}
}

// isolating is a spec that isolates what the one at path selects, as it asks, and admits nothing.
func (s *salvager) isolating(from map[string]any, path string) map[string]any {
	s.wide = true
	readable := func(field string) any {
		if value := from[field]; value != nil && len(s.wrong(path+"."+field)) == 0 {
			return value
		}
		return nil
	}
	if s.ordered {
		return s.ordering(from, path, readable)
	}
	out := map[string]any{}
	subject := "podSelector"
	if s.cilium {
		subject = "endpointSelector"
		if from["nodeSelector"] != nil && from["endpointSelector"] == nil {
			s.nobody = true
			return nil
		}
	}
	if out[subject] = readable(subject); out[subject] == nil {
		if s.lost = s.lost || !s.kind.namespaced; s.lost {
			return nil
		}
		out[subject] = map[string]any{}
	}
	if !s.cilium {
		if out["policyTypes"] = readable("policyTypes"); out["policyTypes"] == nil {
			out["policyTypes"] = []any{"Ingress", "Egress"}
		}
		return out
	}
	for _, list := range []string{"ingress", "ingressDeny", "egress", "egressDeny"} {
		value, there := from[list]
		switch {
		case !there:
		case strings.HasSuffix(list, "Deny"):
			out[list] = s.rules(value, list, path+"."+list)
		default:
			out[list] = []any{s.shut(nil, list, path+"."+list, nil)}
		}
	}
	if len(out) == 1 {
		out["ingress"] = []any{s.shut(nil, "ingress", path+".ingress", nil)}
		out["egress"] = []any{s.shut(nil, "egress", path+".egress", nil)}
	}
	if d := readable("enableDefaultDeny"); d != nil {
		out["enableDefaultDeny"] = d
	}
	return out
}

// ordering is isolating for a policy of an ordered tier, which isolates nobody: all its rules fail closed.
func (s *salvager) ordering(from map[string]any, path string, readable func(string) any) map[string]any {
	out := map[string]any{}
	for _, field := range []string{"tier", "priority", "subject"} {
		if out[field] = readable(field); out[field] == nil {
			s.lost = true
			return nil
		}
	}
	for _, list := range []string{"ingress", "egress"} {
		value, there := from[list]
		if !there {
			continue
		}
		rules, ok := value.([]any)
		if !ok {
			rules = []any{nil}
		}
		shut := make([]any, len(rules))
		for i := range rules {
			at := fmt.Sprintf("%s.%s[%d]", path, list, i)
			why := s.wrong(at)
			if len(why) == 0 {
				why = []string{"the object has a field that cannot be read"}
			}
			shut[i] = s.shut(rules[i], list, at, why)
		}
		out[list] = shut
	}
	return out
}
