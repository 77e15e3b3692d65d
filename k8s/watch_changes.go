// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"slices"

	"github.com/weirnet/weir/policy"
)

// mergeChanges is what two changes, one after the other, come to.
func mergeChanges(first, then policy.Changes) policy.Changes {
	if first.Empty() {
		return then
	}
	out := then
	if out.Policies == nil {
		out.Policies = first.Policies
	}
	out.Pods, out.GonePods = mergeLists(first.Pods, first.GonePods, then.Pods, then.GonePods, (*policy.Pod).Key)
	out.NodesChanged, out.GoneNodes = mergeLists(first.NodesChanged, first.GoneNodes, then.NodesChanged, then.GoneNodes,
		func(n *policy.Node) string { return n.Name })
	out.ServicesChanged, out.GoneServices = mergeLists(first.ServicesChanged, first.GoneServices, then.ServicesChanged, then.GoneServices,
		(*policy.Service).Key)
	return out
}

// mergeLists leaves of what came first what nothing later is about.
func mergeLists[T any](came []T, went []string, thenCame []T, thenWent []string, key func(*T) string) ([]T, []string) {
	later := map[string]bool{}
	for i := range thenCame {
		later[key(&thenCame[i])] = true
	}
	for _, k := range thenWent {
		later[k] = true
	}
	outCame, outWent := slices.Clone(thenCame), slices.Clone(thenWent)
	for i := range came {
		if !later[key(&came[i])] {
			outCame = append(outCame, came[i])
		}
	}
	for _, k := range went {
		if !later[k] {
			outWent = append(outWent, k)
		}
	}
	return outCame, outWent
}
