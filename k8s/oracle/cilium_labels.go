// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"maps"
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
	labels := maps.Clone(pod.Labels)
	if labels == nil {
		labels = map[string]string{}
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

// bare is a selector with its keys stripped of their sources. Two that become equal must both hold, so that all of
// matchLabels turns into expressions.
func bare(s *selector) *selector {
	out := &selector{}
	for key, value := range s.MatchLabels {
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{Key: bareKey(key),
			Operator: metav1.LabelSelectorOpIn, Values: []string{value}})
	}
	for _, e := range s.MatchExpressions {
		e.Key = bareKey(e.Key)
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
	keys := []string{}
	for key := range s.MatchLabels {
		keys = append(keys, key)
	}
	for _, e := range s.MatchExpressions {
		keys = append(keys, e.Key)
	}
	anyNamespace := namespace == ""
	for _, key := range keys {
		if strings.HasPrefix(key, "reserved:") {
			return o.selectsReserved(&s, at)
		}
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

// selectsReserved reads a selector that speaks of reserved: labels, which entities have. Namespaces are left alone then.
func (o *Oracle) selectsReserved(s *selector, at side) bool {
	labels := map[string]string{}
	if at.peer.Pod != nil {
		labels = o.ciliumLabels(at.peer.Pod)
	}
	for _, entity := range []string{"host", "remote-node", "kube-apiserver", "world", "unmanaged"} {
		if o.entity(entity, at) {
			labels["reserved:"+entity] = ""
		}
	}
	return matches(bare(s), labels)
}
