// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// namespaceKey is the label that pods have with the name of their namespace, nameLabel the one that their namespace has.
const (
	namespaceKey = k8s.NamespaceNameLabel
	nameLabel    = k8s.NamespaceLabelPrefix + corev1.LabelMetadataName
)

// aboutNamespace says whether a key is one of the labels that pods have because of their namespace.
func aboutNamespace(key string) bool {
	return key == namespaceKey || strings.HasPrefix(key, k8s.NamespaceLabelPrefix)
}

// split takes a selector apart: what it asks of the namespace, and what of the pod.
func split(selector policy.Selector) (namespace, pod policy.Selector) {
	for _, r := range selector {
		if aboutNamespace(r.Key) {
			namespace = append(namespace, r)
		} else {
			pod = append(pod, r)
		}
	}
	return namespace, pod
}

// pinned are the names of the only namespaces that a selector's pods can be of; nil if it does not say.
func pinned(selector policy.Selector) []string {
	for _, r := range selector {
		if r.Op == policy.In && (r.Key == namespaceKey || r.Key == nameLabel) {
			return r.Values
		}
	}
	return nil
}

// describe writes a requirement as kubectl would.
func describe(r policy.Requirement) string {
	key := strings.TrimPrefix(strings.TrimPrefix(r.Key, k8s.NamespaceLabelPrefix), "own::")
	switch r.Op {
	case policy.Exists:
		return key
	case policy.DoesNotExist:
		return "!" + key
	case policy.NotIn:
		return fmt.Sprintf("%s notin (%s)", key, strings.Join(r.Values, ","))
	}
	if len(r.Values) == 1 {
		return key + "=" + r.Values[0]
	}
	return fmt.Sprintf("%s in (%s)", key, strings.Join(r.Values, ","))
}

// describeAll writes a selector as kubectl would; the requirements on the namespace come last.
func describeAll(selector policy.Selector) string {
	namespace, pod := split(selector)
	var parts []string
	for _, r := range pod {
		parts = append(parts, describe(r))
	}
	text := strings.Join(parts, ",")
	if text == "" {
		text = "every pod"
	}
	if names := pinned(namespace); len(namespace) == 1 && names != nil {
		return text + " of namespace " + strings.Join(names, ", ")
	}
	parts = nil
	for _, r := range namespace {
		parts = append(parts, describe(r))
	}
	if len(parts) > 0 {
		text += " of namespaces with " + strings.Join(parts, ",")
	}
	return text
}

// labelsOf writes the pod's part of a selector.
func labelsOf(selector policy.Selector) string {
	_, pod := split(selector)
	if len(pod) == 0 {
		return "every pod"
	}
	return describeAll(pod)
}

// describePort writes a port of a rule.
func describePort(p policy.PortMatch) string {
	switch {
	case p.Protocol == 0:
		return "every port"
	case p.Name != "":
		return fmt.Sprintf("%s %q", policy.ProtocolName(p.Protocol), p.Name)
	case p.First == p.Last:
		return fmt.Sprintf("%s %d", policy.ProtocolName(p.Protocol), p.First)
	case p.First == 0 && p.Last == 65535:
		return "all of " + policy.ProtocolName(p.Protocol)
	}
	return fmt.Sprintf("%s %d-%d", policy.ProtocolName(p.Protocol), p.First, p.Last)
}

// list joins what it is given without repetition; of more than four it names the first.
func list(items []string) string {
	var out []string
	for _, item := range items {
		if !slices.Contains(out, item) {
			out = append(out, item)
		}
	}
	if len(out) > 4 {
		return fmt.Sprintf("%s and %d more", strings.Join(out[:4], ", "), len(out)-4)
	}
	return strings.Join(out, ", ")
}

// ports writes what containers declare.
func portsOf(ports []containerPort) string {
	var all []string
	for _, p := range ports {
		text := p.String()
		if p.name != "" {
			text += " (" + p.name + ")"
		}
		all = append(all, text)
	}
	return list(all)
}

// tokens cuts a name into its words.
func tokens(name string) []string {
	return strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9') })
}

// says reports whether one of words is among the tokens of a policy's name.
func says(name string, words ...string) bool {
	return slices.ContainsFunc(tokens(name), func(t string) bool { return slices.Contains(words, t) })
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
