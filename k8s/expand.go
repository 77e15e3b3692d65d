// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// maxReplicas bounds the pods made of one workload; they are all alike to policy.
const maxReplicas = 10000

// Expand adds to objs what a cluster would have added, so that policy can be tried without one: pods of workloads that
// have none ("web" for the first of a workload called web, then "web-2" and so on), a node for pods without one, an address
// for pods without one. Nodes are the given ones, else two invented ones, node-1 and node-2. The same objs yield the same
// pods and addresses; no address is given twice. objs itself stays as it is. Not for an agent: it enforces what is, not
// what might be.
func Expand(objs *Objects) *Objects {
	out := *objs
	out.Nodes, out.Pods = slices.Clone(objs.Nodes), slices.Clone(objs.Pods)
	out.origins = maps.Clone(objs.origins)
	if out.origins == nil {
		out.origins = map[metav1.Object]Origin{}
	}
	e := expander{out: &out, taken: map[string]bool{}}
	for _, p := range out.Pods {
		e.taken[p.Namespace+"/"+p.Name] = true
	}
	e.addresses = newAddresses(&out)
	e.nodes()
	given := len(out.Pods)
	for _, w := range workloadsOf(objs) {
		if !w.hasPods(out.Pods[:given]) {
			e.workload(w)
		}
	}
	for i := range out.Pods {
		e.place(i)
	}
	return &out
}

type expander struct {
	out       *Objects
	addresses *addresses
	taken     map[string]bool // "namespace/name" of pods
	next      int             // the node that the next pod without one goes to
}

// workload is what the kinds of workloads have in common.
type workload struct {
	kind     string
	object   metav1.Object
	replicas int // -1: one a node
	selector *metav1.LabelSelector
	template *corev1.PodTemplateSpec
}

func workloadsOf(o *Objects) []workload {
	count := func(n *int32) int {
		if n == nil {
			return 1
		}
		return min(int(*n), maxReplicas)
	}
	var all []workload
	deployments := map[string]bool{}
	for _, d := range o.Workloads.Deployments {
		deployments[d.Namespace+"/"+d.Name] = true
		all = append(all, workload{"Deployment", d, count(d.Spec.Replicas), d.Spec.Selector, &d.Spec.Template})
	}
	for _, s := range o.Workloads.StatefulSets {
		all = append(all, workload{"StatefulSet", s, count(s.Spec.Replicas), s.Spec.Selector, &s.Spec.Template})
	}
	for _, d := range o.Workloads.DaemonSets {
		all = append(all, workload{"DaemonSet", d, -1, d.Spec.Selector, &d.Spec.Template})
	}
	for _, r := range o.Workloads.ReplicaSets {
		owned := slices.ContainsFunc(r.OwnerReferences, func(ref metav1.OwnerReference) bool {
			return ref.Kind == "Deployment" && deployments[r.Namespace+"/"+ref.Name]
		})
		if !owned {
			all = append(all, workload{"ReplicaSet", r, count(r.Spec.Replicas), r.Spec.Selector, &r.Spec.Template})
		}
	}
	for _, j := range o.Workloads.Jobs {
		n := count(j.Spec.Parallelism)
		if j.Spec.Completions != nil {
			n = min(n, int(*j.Spec.Completions))
		}
		all = append(all, workload{"Job", j, n, j.Spec.Selector, &j.Spec.Template})
	}
	return all
}

// hasPods says whether some of pods are this workload's: by owner, or because its selector matches them.
func (w *workload) hasPods(pods []*corev1.Pod) bool {
	matches := labels.Nothing()
	if w.selector != nil {
		matches, _ = metav1.LabelSelectorAsSelector(w.selector)
	}
	for _, p := range pods {
		if p.Namespace != w.object.GetNamespace() {
			continue
		}
		for _, ref := range p.OwnerReferences {
			if ref.Kind == w.kind && ref.Name == w.object.GetName() {
				return true
			}
		}
		if matches.Matches(labels.Set(p.Labels)) || w.kind == "Job" && p.Labels["job-name"] == w.object.GetName() {
			return true
		}
	}
	return false
}

// workload adds the pods of w.
func (e *expander) workload(w workload) {
	n := w.replicas
	if n < 0 {
		n = len(e.out.Nodes)
	}
	base := w.object.GetName()
	if e.taken[w.object.GetNamespace()+"/"+base] {
		base += "-" + strings.ToLower(w.kind)
	}
	for i, number := 0, 1; i < n; number++ {
		podName := base
		if number > 1 {
			podName = base + "-" + strconv.Itoa(number)
		}
		key := w.object.GetNamespace() + "/" + podName
		if e.taken[key] {
			continue
		}
		e.taken[key] = true
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: podName, Namespace: w.object.GetNamespace(), Annotations: w.template.Annotations,
			Labels: maps.Clone(w.template.Labels), OwnerReferences: []metav1.OwnerReference{{Kind: w.kind, Name: w.object.GetName()}}}}
		w.template.Spec.DeepCopyInto(&p.Spec)
		p.Status.Phase = corev1.PodRunning
		e.label(w, p, i)
		if w.replicas < 0 {
			p.Spec.NodeName = e.out.Nodes[i].Name
		}
		e.out.Pods = append(e.out.Pods, p)
		e.out.origins[p] = e.out.origins[w.object]
		i++
	}
}

// label gives a pod the labels that the controllers of some kinds add.
func (e *expander) label(w workload, p *corev1.Pod, index int) {
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	switch w.kind {
	case "StatefulSet":
		p.Labels[appsv1.StatefulSetPodNameLabel] = fmt.Sprintf("%s-%d", w.object.GetName(), index)
		p.Labels[appsv1.PodIndexLabel] = strconv.Itoa(index)
	case "Job":
		p.Labels["job-name"], p.Labels["batch.kubernetes.io/job-name"] = w.object.GetName(), w.object.GetName()
	}
}

// nodes makes sure that there are nodes, that those which pods name exist, and that each can hold pods.
func (e *expander) nodes() {
	given := len(e.out.Nodes)
	known := map[string]bool{}
	for _, n := range e.out.Nodes {
		known[n.Name] = true
	}
	add := func(name string) {
		if !known[name] {
			known[name] = true
			e.out.Nodes = append(e.out.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}})
		}
	}
	for _, p := range e.out.Pods {
		if p.Spec.NodeName != "" {
			add(p.Spec.NodeName)
		}
	}
	for i := 1; given == 0 && len(e.out.Nodes) < 2; i++ {
		add("node-" + strconv.Itoa(i))
	}
	for i, n := range e.out.Nodes {
		e.out.Nodes[i] = e.addresses.furnish(n, i < given)
		e.out.origins[e.out.Nodes[i]] = e.out.origins[n]
	}
}

// place gives the pod at i a node and an address, if it lacks them and can have them.
func (e *expander) place(i int) {
	p := e.out.Pods[i]
	addrs := podAddrs(p)
	if p.Spec.NodeName != "" && len(addrs) > 0 {
		return
	}
	origin := e.out.origins[p]
	p = p.DeepCopy()
	e.out.Pods[i] = p
	e.out.origins[p] = origin
	node := e.nodeOf(p)
	p.Spec.NodeName = e.out.Nodes[node].Name
	switch {
	case len(addrs) > 0 || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
		return
	case p.Spec.HostNetwork:
		for _, a := range e.out.Nodes[node].Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a.Address})
			}
		}
	default:
		for _, addr := range e.addresses.next(e.out.Nodes[node]) {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: addr.String()})
		}
	}
	if len(p.Status.PodIPs) > 0 {
		p.Status.PodIP = p.Status.PodIPs[0].IP
	}
}

// nodeOf is the index of the node that a pod runs on, or would: the one that its address is of, else each in turn.
func (e *expander) nodeOf(p *corev1.Pod) int {
	for i, n := range e.out.Nodes {
		if n.Name == p.Spec.NodeName {
			return i
		}
	}
	for _, addr := range podAddrs(p) {
		for i, n := range e.out.Nodes {
			for _, prefix := range podCIDRs(n) {
				if prefix.Contains(addr) {
					return i
				}
			}
		}
	}
	e.next++
	return (e.next - 1) % len(e.out.Nodes)
}
