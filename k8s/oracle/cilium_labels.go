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
	if labels[serviceAccountLabel] == "" {
		labels[serviceAccountLabel] = pod.Spec.DeprecatedServiceAccount
	}
	if labels[serviceAccountLabel] == "" {
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
// speaks of namespaces itself. One that speaks of reserved: labels selects among everybody.
func (o *Oracle) selectsPeer(s selector, namespace string, at side) bool {
	anyNamespace := namespace == ""
	for _, key := range keys(s) {
		if strings.HasPrefix(key, "reserved:") {
			return matches(bare(&s), o.everybodysLabels(at))
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

// everybodysLabels are what the peer is selected by, whatever it is: of what is no pod the entities that it is. Nobody here is
// health, init, ingress or none.
func (o *Oracle) everybodysLabels(at side) map[string]string {
	if at.peer.Pod != nil {
		return o.ciliumLabels(at.peer.Pod)
	}
	labels := map[string]string{}
	if at.peer.Node != "" && !at.host() && o.options.NodeSelectorLabels {
		labels = o.labelsOfNode(at.peer.Node)
	}
	for _, name := range []string{"host", "remote-node", "kube-apiserver", "unmanaged", "world", "world-ipv4", "world-ipv6"} {
		if o.entity(name, at) {
			labels["reserved:"+name] = ""
		}
	}
	return labels
}

func keys(s selector) []string {
	keys := slices.Collect(maps.Keys(s.MatchLabels))
	for _, e := range s.MatchExpressions {
		keys = append(keys, e.Key)
	}
	return keys
}
