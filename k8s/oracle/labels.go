// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// matches says whether labels meet a selector: matchLabels and matchExpressions are ANDed, {} matches everything.
func matches(selector *metav1.LabelSelector, labels map[string]string) bool {
	for key, want := range selector.MatchLabels {
		if value, present := labels[key]; !present || value != want {
			return false
		}
	}
	for _, e := range selector.MatchExpressions {
		value, present := labels[e.Key]
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			if !present || !slices.Contains(e.Values, value) {
				return false
			}
		case metav1.LabelSelectorOpNotIn: // An object without the key matches.
			if present && slices.Contains(e.Values, value) {
				return false
			}
		case metav1.LabelSelectorOpExists:
			if !present {
				return false
			}
		case metav1.LabelSelectorOpDoesNotExist:
			if present {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// namespaceLabels are the labels of a namespace; every namespace has its name for one, also if no object describes it.
func (o *Oracle) namespaceLabels(name string) map[string]string {
	labels := maps.Clone(o.namespaces[name])
	if labels == nil {
		labels = map[string]string{}
	}
	labels["kubernetes.io/metadata.name"] = name
	return labels
}
