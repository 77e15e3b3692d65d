// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type selector = metav1.LabelSelector

// Labels that Cilium adds to every pod.
const (
	namespaceLabel        = "io.kubernetes.pod.namespace"
	namespaceLabelsPrefix = "io.cilium.k8s.namespace.labels."
	serviceAccountLabel   = "io.cilium.k8s.policy.serviceaccount"
	clusterLabel          = "io.cilium.k8s.policy.cluster"
)

// ciliumLabels are all labels that a pod is selected by.
func (o *Oracle) ciliumLabels(pod *corev1.Pod) map[string]string {
	labels := map[string]string{}
	for key, value := range pod.Labels {
		if !strings.HasPrefix(key, "io.cilium.k8s.") { // A pod cannot give itself what Cilium derives.
			labels[key] = value
		}
	}
	for key, value := range o.namespaceLabels(pod.Namespace) {
		labels[namespaceLabelsPrefix+key] = value
	}
	labels[namespaceLabel] = pod.Namespace
	labels[clusterLabel] = "default"
	labels[serviceAccountLabel] = pod.Spec.ServiceAccountName
	if pod.Spec.ServiceAccountName == "" {
		labels[serviceAccountLabel] = "default"
	}
	return labels
}

// bareKey strips k8s: and any: from a key; any: is what a key without a prefix means. Keys of other sources stay as they
// are, and since no label of a pod contains a colon they match none.
func bareKey(key string) string {
	if bare, ok := strings.CutPrefix(key, "k8s:"); ok {
		return bare
	}
	return strings.TrimPrefix(key, "any:")
}

// bare is a selector with its keys stripped of their sources.
func bare(s *selector) *selector { return rekeyed(s, bareKey) }

// rekeyed is a selector with its keys put another way. Two that become equal must both hold, so that all of matchLabels turns
// into expressions.
func rekeyed(s *selector, as func(string) string) *selector {
	out := &selector{}
	for key, value := range s.MatchLabels {
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{Key: as(key),
			Operator: metav1.LabelSelectorOpIn, Values: []string{value}})
	}
	for _, e := range s.MatchExpressions {
		e.Key = as(e.Key)
		out.MatchExpressions = append(out.MatchExpressions, e)
	}
	return out
}

// selectsSubject reads an endpointSelector: {} is all pods, in a namespaced policy those of its namespace.
func (o *Oracle) selectsSubject(s *selector, namespace string, at side) bool {
	pod := at.subject.Pod
	if namespace != "" {
		if pod.Namespace != namespace {
			return false
		}
		if _, foreign := s.MatchLabels["k8s:"+namespaceLabel]; foreign { // overwritten with the policy's own
			s = s.DeepCopy()
			delete(s.MatchLabels, "k8s:"+namespaceLabel)
		}
	}
	return matches(bare(s), o.ciliumLabels(pod))
}

// selectsPeer reads an item of fromEndpoints or toEndpoints: it selects pods, those of the policy's own namespace unless it
// speaks of namespaces itself.
func (o *Oracle) selectsPeer(s selector, namespace string, at side) bool {
	anyNamespace := namespace == ""
	for _, key := range keys(s) {
		if key = bareKey(key); key == namespaceLabel || strings.HasPrefix(key, namespaceLabelsPrefix) {
			anyNamespace = true
		}
	}
	pod := at.peer.Pod
	if pod == nil || !anyNamespace && pod.Namespace != namespace {
		return false
	}
	return matches(bare(&s), o.ciliumLabels(pod))
}

func keys(s selector) []string {
	keys := slices.Collect(maps.Keys(s.MatchLabels))
	for _, e := range s.MatchExpressions {
		keys = append(keys, e.Key)
	}
	return keys
}

// reserved says whether a selector speaks of reserved: labels, which entities have, and which entity it names. Only a
// selector that does nothing but name one of the simple ones can be held.
func reserved(s selector) (entity string, speaks bool) {
	for _, key := range keys(s) {
		if strings.HasPrefix(key, "reserved:") {
			speaks = true
		}
	}
	if !speaks || len(s.MatchLabels)+len(s.MatchExpressions) != 1 {
		return "", speaks
	}
	for key, value := range s.MatchLabels {
		if value == "" {
			entity = strings.TrimPrefix(key, "reserved:")
		}
	}
	for _, e := range s.MatchExpressions {
		named := e.Operator == metav1.LabelSelectorOpIn && slices.Contains(e.Values, "")
		if named || e.Operator == metav1.LabelSelectorOpExists {
			entity = strings.TrimPrefix(e.Key, "reserved:")
		}
	}
	switch entity {
	case "host", "remote-node", "kube-apiserver", "world", "world-ipv4", "world-ipv6", "unmanaged", "health", "init", "ingress", "none":
		return entity, true
	}
	return "", true
}
