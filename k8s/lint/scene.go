// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// scene is all that findings are drawn from.
type scene struct {
	in       *k8s.Inspection
	objects  map[string]metav1.Object // by name
	policies []*guard
	groups   []*group            // of pods that policy guards
	inside   map[string][]*group // groups by namespace
	names    []string            // of namespaces
	hosts    []*group            // of pods in the host's network, which it does not
	// namespaces are the labels that the pods of a namespace have because they are in it.
	namespaces map[string]map[string]string
	labelled   map[string]bool // namespaces with an object of their own, so that all their labels are known
	hidden     map[string]bool // namespaces with workloads that are not read: CronJobs, custom resources
	status     []k8s.Status
	statusOf   map[string][]k8s.Status // by object
	problems   []*k8s.Problem
	partial    bool

	varies   map[string]bool // rules that are about other nodes on each node, by object and path
	trees    map[string]any  // of objects, by name
	findings []Finding
	ignored  int
}

// guard is a policy, whom it guards and who else is concerned.
type guard struct {
	*policy.Policy
	root      string // "spec", "specs[1]"
	content   string // all that it says
	audited   bool   // it enforces nothing, so nothing of others rests on it
	namespace string // that it belongs to; empty: all
	subjects  []*group
	peers     [][]*group // of rules, as far as they are pods
	places    []places   // of rules
	suspect   []int      // rules that guard the other side
	shadowed  []int      // rules that a deny rule takes all from
}

// group is pods that are alike to policy: of one workload, with the same labels and ports.
type group struct {
	labels    map[string]string
	namespace string
	ports     []containerPort
	owner     string // "Deployment default/web", the object that the ports are declared in
	guards    []*guard
}

// containerPort is a port that a container declares.
type containerPort struct {
	path     string // in the owner
	name     string
	protocol uint8
	port     uint16
}

func (p containerPort) String() string {
	return fmt.Sprintf("%s %d", policy.ProtocolName(p.protocol), p.port)
}

func newScene(in *k8s.Inspection, opts k8s.Options) (*scene, error) {
	s := &scene{in: in, objects: map[string]metav1.Object{}, namespaces: map[string]map[string]string{}, labelled: map[string]bool{},
		inside: map[string][]*group{}, hidden: map[string]bool{}, varies: map[string]bool{}, trees: map[string]any{}, problems: in.Problems}
	for name, object := range in.Objects.All() {
		s.objects[name] = object
	}
	objs := k8s.Expand(oneOfEach(in.Objects))
	s.pods(objs)
	s.names = sortedKeys(s.namespaces)
	model, statuses, err := s.translate(objs, opts)
	if found := k8s.Problems(err); len(found) > 0 {
		// What is wrong with some objects only translation sees; the others have a right to be judged.
		s.problems = append(slices.Clone(s.problems), found...)
		var names []string
		for _, p := range found {
			names = append(names, p.Object)
		}
		model, statuses, err = s.translate(objs.Without(names), opts)
	}
	if err != nil {
		return nil, fmt.Errorf("translate manifests: %w", err)
	}
	s.status, s.statusOf = statuses, map[string][]k8s.Status{}
	for _, status := range statuses {
		s.statusOf[status.Object] = append(s.statusOf[status.Object], status)
	}
	s.partial = len(s.problems) > 0
	for i := range model.Policies {
		s.policies = append(s.policies, s.guard(&model.Policies[i]))
	}
	return s, nil
}

// translate makes a model that holds on every node. Rules about nodes are about the others only; what two nodes see taken
// together are all of them, and what both are told holds for all.
func (s *scene) translate(objs *k8s.Objects, opts k8s.Options) (*policy.Model, []k8s.Status, error) {
	model, statuses, err := k8s.Translate(objs, objs.Nodes[0].Name, opts)
	if err != nil || len(objs.Nodes) == 1 {
		return model, statuses, err
	}
	other, told, err := k8s.Translate(objs, objs.Nodes[1].Name, opts)
	if err != nil {
		return nil, nil, err
	}
	for i := range model.Policies {
		for j := range model.Policies[i].Rules {
			r, also := &model.Policies[i].Rules[j], other.Policies[i].Rules[j].Peers
			if reflect.DeepEqual(r.Peers, also) {
				continue
			}
			r.Peers = slices.Concat(r.Peers, also)
			s.varies[model.Policies[i].Key+" "+r.Path] = true
		}
	}
	return model, slices.DeleteFunc(statuses, func(status k8s.Status) bool { return !slices.Contains(told, status) }), nil
}

// oneOfEach asks every workload for a pod, also those that are scaled down, and for one only where they are all alike.
func oneOfEach(objs *k8s.Objects) *k8s.Objects {
	out := *objs
	one := int32(1)
	w := &out.Workloads
	w.Deployments = slices.Clone(w.Deployments)
	for i, d := range w.Deployments {
		scaled := *d
		scaled.Spec.Replicas = &one
		w.Deployments[i] = &scaled
	}
	w.ReplicaSets = slices.Clone(w.ReplicaSets)
	for i, r := range w.ReplicaSets {
		scaled := *r
		scaled.Spec.Replicas = &one
		w.ReplicaSets[i] = &scaled
	}
	w.StatefulSets = slices.Clone(w.StatefulSets)
	for i, set := range w.StatefulSets {
		if set.Spec.Replicas != nil && *set.Spec.Replicas == 0 {
			scaled := *set
			scaled.Spec.Replicas = &one
			w.StatefulSets[i] = &scaled
		}
	}
	w.Jobs = slices.Clone(w.Jobs)
	for i, j := range w.Jobs {
		scaled := *j
		scaled.Spec.Parallelism, scaled.Spec.Completions = &one, nil
		w.Jobs[i] = &scaled
	}
	return &out
}

// pods groups the pods of objs and collects the namespaces.
func (s *scene) pods(objs *k8s.Objects) {
	own := map[string]map[string]string{}
	for _, ns := range objs.Namespaces {
		own[ns.Name] = ns.Labels
		s.labelled[ns.Name] = true
		s.namespace(ns.Name, ns.Labels)
	}
	for _, text := range objs.Skipped {
		_, rest, _ := strings.Cut(text, " ")
		namespace, _, written := strings.Cut(rest, "/")
		if !written {
			namespace = metav1.NamespaceDefault
		}
		if makesPods(text) {
			s.hidden[namespace] = true
		}
	}
	seen := map[string]bool{}
	for _, pod := range objs.Pods {
		s.namespace(pod.Namespace, own[pod.Namespace])
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		g := &group{labels: k8s.PodLabels(pod, own[pod.Namespace]), namespace: pod.Namespace}
		g.owner = "Pod " + pod.Namespace + "/" + pod.Name
		path := "spec"
		for _, ref := range pod.OwnerReferences {
			if name := ref.Kind + " " + pod.Namespace + "/" + ref.Name; s.objects[name] != nil && s.objects[g.owner] == nil {
				g.owner, path = name, "spec.template.spec"
			}
		}
		g.ports = declared(&pod.Spec, path)
		key, _ := json.Marshal([]any{g.labels, g.namespace, fmt.Sprint(g.ports), pod.Spec.HostNetwork})
		if seen[string(key)] {
			continue
		}
		seen[string(key)] = true
		if pod.Spec.HostNetwork {
			s.hosts = append(s.hosts, g)
		} else {
			s.groups = append(s.groups, g)
			s.inside[g.namespace] = append(s.inside[g.namespace], g)
		}
	}
}

// makesPods says whether a skipped object is of a kind that may own pods: the kinds of Kubernetes' own groups that do not
// are known, of custom resources nothing is.
func makesPods(skipped string) bool {
	kind, _, _ := strings.Cut(skipped, " ")
	switch kind {
	case "ConfigMap", "Secret", "ServiceAccount", "Ingress", "IngressClass", "Event", "LimitRange", "PersistentVolume", "PersistentVolumeClaim", "PodTemplate",
		"ResourceQuota", "Role", "RoleBinding", "HorizontalPodAutoscaler", "PodDisruptionBudget", "PodSecurityPolicy", "ControllerRevision", "StorageClass",
		"PriorityClass", "RuntimeClass", "APIService", "CSIDriver", "CustomResourceDefinition", "ValidatingWebhookConfiguration",
		"MutatingWebhookConfiguration", "Lease", "ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate", "Issuer", "Gateway", "HTTPRoute", "Kustomization":
		return false
	}
	return !strings.HasPrefix(kind, "Cilium") && !strings.HasPrefix(kind, "Cluster")
}

func (s *scene) namespace(name string, own map[string]string) {
	if s.namespaces[name] != nil && own == nil {
		return
	}
	labels := k8s.PodLabels(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: name}}, own)
	for key := range labels {
		if !aboutNamespace(key) {
			delete(labels, key)
		}
	}
	s.namespaces[name] = labels
}

// declared are the ports that the containers of a pod declare and that its policies are about.
func declared(spec *corev1.PodSpec, path string) []containerPort {
	var ports []containerPort
	add := func(containers []corev1.Container, at string, every bool) {
		for i := range containers {
			sidecar := containers[i].RestartPolicy != nil && *containers[i].RestartPolicy == corev1.ContainerRestartPolicyAlways
			if !every && !sidecar {
				continue
			}
			for j, port := range containers[i].Ports {
				ports = append(ports, containerPort{path: fmt.Sprintf("%s.%s[%d].ports[%d]", path, at, i, j), name: port.Name,
					protocol: k8s.ProtocolNumber(port.Protocol), port: uint16(port.ContainerPort)})
			}
		}
	}
	add(spec.Containers, "containers", true)
	add(spec.InitContainers, "initContainers", false)
	return ports
}

// guard finds out whom a policy is about.
func (s *scene) guard(p *policy.Policy) *guard {
	g := &guard{Policy: p, root: "spec", content: s.contentOf(p)}
	if object := s.objects[p.Key]; object != nil {
		g.namespace, g.audited = object.GetNamespace(), object.GetAnnotations()[k8s.AuditAnnotation] == "true"
	}
	for i := range p.Rules {
		g.root, _, _ = strings.Cut(p.Rules[i].Path, ".")
		g.places = append(g.places, s.places(p.Key, &p.Rules[i]))
		g.peers = append(g.peers, s.peersOf(&p.Rules[i]))
	}
	g.subjects = s.matching(p.Subject)
	for _, pods := range g.subjects {
		pods.guards = append(pods.guards, g)
	}
	return g
}

// matching are the pods that a selector selects, by namespace: most selectors speak of one or few.
func (s *scene) matching(selector policy.Selector) []*group {
	ofNamespace, ofPod := split(selector)
	names := s.names
	if in := pinned(ofNamespace); in != nil {
		names = in
	}
	var all []*group
	for _, name := range names {
		if labels := s.namespaces[name]; labels == nil || !ofNamespace.Matches(labels) {
			continue
		}
		for _, g := range s.inside[name] {
			if ofPod.Matches(g.labels) {
				all = append(all, g)
			}
		}
	}
	return all
}

// peersOf are the pods that a rule names by selectors.
func (s *scene) peersOf(r *policy.Rule) []*group {
	var all []*group
	met := map[*group]bool{}
	for _, peer := range r.Peers {
		if peer.Kind != policy.PeerSelector {
			continue
		}
		for _, g := range s.matching(peer.Selector) {
			if !met[g] {
				met[g] = true
				all = append(all, g)
			}
		}
	}
	return all
}

// isolated says whether some policy isolates the pods in a direction.
func (g *group) isolated(d policy.Direction) bool {
	return slices.ContainsFunc(g.guards, func(p *guard) bool { return p.Isolates[d] })
}

// admitting are the rules of a direction that admit something to or from the pods once they are isolated: then the baseline
// tier is not asked.
func (g *group) admitting(d policy.Direction) []*policy.Rule {
	var rules []*policy.Rule
	for _, p := range g.guards {
		if p.Tier == policy.TierBaseline {
			continue
		}
		for i := range p.Rules {
			if r := &p.Rules[i]; r.Direction == d && r.Action == policy.Allow && len(r.Peers) > 0 && len(r.Ports) > 0 {
				rules = append(rules, r)
			}
		}
	}
	return rules
}
