// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/policy"
)

// workload is what a pod is one of several of.
type workload struct{ kind, namespace, name string }

// ownerOf is the workload that owns a pod, as far as the pod tells; false if nobody does. ReplicaSets of Deployments and
// Jobs of CronJobs have names that change with every revision and run: these stand for what made them.
func ownerOf(pod *corev1.Pod) (workload, bool) {
	for _, ref := range pod.OwnerReferences {
		w := workload{ref.Kind, pod.Namespace, ref.Name}
		switch ref.Kind {
		case "Node":
			continue // a static pod
		case "ReplicaSet":
			hash := pod.Labels["pod-template-hash"]
			if deployment, ok := strings.CutSuffix(ref.Name, "-"+hash); ok && hash != "" {
				w.kind, w.name = "Deployment", deployment
			}
		case "Job":
			if run := regexp.MustCompile(`-\d{8,}$`).FindString(ref.Name); run != "" {
				w.kind, w.name = "CronJob", strings.TrimSuffix(ref.Name, run)
			}
		}
		return w, true
	}
	return workload{}, false
}

// workloads names, for two sets, the workload of each pod: "namespace/name", with the kind where two kinds share that. Pods
// that nobody owns are grouped by equal labels and called after the first of them.
func workloads(old, now *cluster) policy.Grouping {
	names := map[string]string{} // pod → workload
	owned := map[workload][]string{}
	bare := map[string][]string{} // labels before and after → pods
	for _, key := range slices.Sorted(maps.Keys(merged(old.pods, now.pods))) {
		pod := now.pods[key]
		if pod == nil {
			pod = old.pods[key]
		}
		if w, ok := ownerOf(pod); ok {
			owned[w] = append(owned[w], key)
			continue
		}
		alike := pod.Namespace
		for _, c := range []*cluster{old, now} {
			if other := c.pods[key]; other != nil {
				alike += fmt.Sprintf(" %q", other.Labels) // maps print sorted
			} else {
				alike += fmt.Sprintf(" %q", pod.Labels)
			}
		}
		bare[alike] = append(bare[alike], key)
	}
	taken := map[string]int{}
	for w := range owned {
		taken[w.namespace+"/"+w.name]++
	}
	for _, pods := range bare {
		taken[pods[0]]++
	}
	for w, pods := range owned {
		name := w.namespace + "/" + w.name
		if taken[name] > 1 {
			name += " (" + w.kind + ")"
		}
		for _, pod := range pods {
			names[pod] = name
		}
	}
	for _, pods := range bare {
		name := pods[0]
		switch {
		case len(pods) > 1:
			name += fmt.Sprintf(" (and %d with its labels)", len(pods)-1)
		case taken[name] > 1:
			name += " (Pod)"
		}
		for _, pod := range pods {
			names[pod] = name
		}
	}
	return func(p *policy.Pod) string { return names[p.Key()] }
}

// merged has the keys of both maps.
func merged[V any](a, b map[string]V) map[string]V {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}
