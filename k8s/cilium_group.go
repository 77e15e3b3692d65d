// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CiliumCIDRGroup is cilium.io/v2 (and v2alpha1) CiliumCIDRGroup: prefixes under a name and labels that policies find them by.
type CiliumCIDRGroup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   CiliumCIDRGroupSpec `json:"spec"`
	Status json.RawMessage     `json:"status,omitempty"`
}

// CiliumCIDRGroupSpec is what a group consists of.
type CiliumCIDRGroupSpec struct {
	ExternalCIDRs []string `json:"externalCIDRs"`
}

func (c *checker) cidrGroup(g *CiliumCIDRGroup) {
	if g.Spec.ExternalCIDRs == nil {
		c.bad("spec.externalCIDRs", "missing; [] is a group of nothing")
	}
	for i, text := range g.Spec.ExternalCIDRs {
		c.prefix(text, fmt.Sprintf("spec.externalCIDRs[%d]", i))
	}
}

// groupLabel begins the label that every group has with its own name.
const groupLabel = "io.cilium.policy.cidrgroupname/"

// labels of a group as a cidrGroupSelector sees them: those that Cilium keeps for itself are not the author's to set.
func (g *CiliumCIDRGroup) selectable() map[string]string {
	labels := map[string]string{groupLabel + g.Name: ""}
	for k, v := range g.Labels {
		if !strings.HasPrefix(k, labelCilium) {
			labels[k] = v
		}
	}
	return labels
}
