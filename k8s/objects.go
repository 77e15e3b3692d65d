// SPDX-License-Identifier: Apache-2.0

// Package k8s turns Kubernetes objects into a policy.Model. Objects come from a directory of manifests (Directory, ReadDir)
// and are refused as a whole when one of them is wrong: a set that is half understood is not a policy. Translate reads
// them as Kubernetes and Cilium document them; what weir cannot enforce exactly comes back as a Status and admits nothing.
package k8s

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Objects is a set of decoded and validated objects, each kind in the order of file name and document. Namespaced objects
// have their namespace filled in. Nobody changes an Objects that he did not make.
type Objects struct {
	Nodes          []*corev1.Node
	Namespaces     []*corev1.Namespace
	Pods           []*corev1.Pod
	Services       []*corev1.Service
	Endpoints      []*endpoints
	EndpointSlices []*discoveryv1.EndpointSlice

	// What other CNIs say about nodes in objects of their own.
	BlockAffinities []*BlockAffinity
	CiliumNodes     []*CiliumNode

	NetworkPolicies                  []*networkingv1.NetworkPolicy
	CiliumNetworkPolicies            []*CiliumNetworkPolicy
	CiliumClusterwideNetworkPolicies []*CiliumClusterwideNetworkPolicy
	ClusterNetworkPolicies           []*ClusterNetworkPolicy
	CiliumCIDRGroups                 []*CiliumCIDRGroup

	Workloads Workloads

	// Skipped names the objects that weir has no use for: Secrets, custom resources of others and the like.
	Skipped []string

	origins map[metav1.Object]Origin
}

// endpoints are what EndpointSlices were before Kubernetes 1.21; some manifests still have nothing else.
//
//lint:ignore SA1019 read, never written
type endpoints = corev1.Endpoints

// Workloads are objects that a cluster would make pods of. Only Expand looks at them.
type Workloads struct {
	Deployments  []*appsv1.Deployment
	StatefulSets []*appsv1.StatefulSet
	DaemonSets   []*appsv1.DaemonSet
	ReplicaSets  []*appsv1.ReplicaSet
	Jobs         []*batchv1.Job
}

// Origin is the place an object was read from.
type Origin struct {
	File     string
	Document int // counts from 1; empty documents do not count
}

// String names the place for people.
func (o Origin) String() string {
	if o.File == "" {
		return "object"
	}
	return fmt.Sprintf("%s document %d", o.File, o.Document)
}

// Origin is where object was read from; the zero Origin if it was not read from a file.
func (o *Objects) Origin(object metav1.Object) Origin { return o.origins[object] }

// A Problem says what is wrong with one object.
type Problem struct {
	Origin
	Object  string // "NetworkPolicy default/web"; empty if the document has not told
	Path    string // of the field: "spec.ingress[0].from"; empty if it is the object as a whole
	Message string // what is wrong and how to mend it
}

// Error is "FILE document N: KIND NAMESPACE/NAME: PATH: MESSAGE".
func (p *Problem) Error() string {
	text := p.Origin.String()
	if p.Object != "" {
		text += ": " + p.Object
	}
	if p.Path != "" {
		text += ": " + p.Path
	}
	return text + ": " + p.Message
}

// name of an object for people: "NetworkPolicy default/web", "Node n1".
func name(kind string, object metav1.Object) string {
	if object.GetNamespace() == "" {
		return kind + " " + object.GetName()
	}
	return kind + " " + object.GetNamespace() + "/" + object.GetName()
}

// kind is one kind of object that the manifests may hold.
type kind struct {
	name       string
	apiVersion string
	also       []string // other apiVersions with the same fields
	namespaced bool
	make       func() metav1.Object          // an empty object to decode into
	keep       func(*Objects, metav1.Object) // adds a decoded object to the set
	check      func(*checker, metav1.Object) // validates it on its own; may be nil
	// strict are the fields below which null is refused: by the API server too if nulls is false. Where it takes null for
	// nothing, a document that ends in a blank value is refused all the same: half of one looks so, and "from:" without a
	// list admits everyone.
	strict []string
	nulls  bool
	// open are the fields below which unknown ones are not refused but handed to unknown.
	open    []string
	unknown func(metav1.Object, []UnknownField)
}

func kinds() []kind {
	return []kind{
		{name: "Node", apiVersion: "v1",
			make:  func() metav1.Object { return new(corev1.Node) },
			keep:  func(o *Objects, x metav1.Object) { o.Nodes = append(o.Nodes, x.(*corev1.Node)) },
			check: func(c *checker, x metav1.Object) { c.node(x.(*corev1.Node)) }},
		{name: "Namespace", apiVersion: "v1",
			make: func() metav1.Object { return new(corev1.Namespace) },
			keep: func(o *Objects, x metav1.Object) { o.Namespaces = append(o.Namespaces, x.(*corev1.Namespace)) }},
		{name: "Pod", apiVersion: "v1", namespaced: true,
			make:  func() metav1.Object { return new(corev1.Pod) },
			keep:  func(o *Objects, x metav1.Object) { o.Pods = append(o.Pods, x.(*corev1.Pod)) },
			check: func(c *checker, x metav1.Object) { c.pod(x.(*corev1.Pod)) }},
		{name: "Service", apiVersion: "v1", namespaced: true,
			make:  func() metav1.Object { return new(corev1.Service) },
			keep:  func(o *Objects, x metav1.Object) { o.Services = append(o.Services, x.(*corev1.Service)) },
			check: func(c *checker, x metav1.Object) { c.service(x.(*corev1.Service)) }},
		{name: "Endpoints", apiVersion: "v1", namespaced: true,
			make:  func() metav1.Object { return new(endpoints) },
			keep:  func(o *Objects, x metav1.Object) { o.Endpoints = append(o.Endpoints, x.(*endpoints)) },
			check: func(c *checker, x metav1.Object) { c.endpoints(x.(*endpoints)) }},
		{name: "EndpointSlice", apiVersion: "discovery.k8s.io/v1", namespaced: true,
			make: func() metav1.Object { return new(discoveryv1.EndpointSlice) },
			keep: func(o *Objects, x metav1.Object) {
				o.EndpointSlices = append(o.EndpointSlices, x.(*discoveryv1.EndpointSlice))
			},
			check: func(c *checker, x metav1.Object) { c.endpointSlice(x.(*discoveryv1.EndpointSlice)) }},
		{name: "NetworkPolicy", apiVersion: "networking.k8s.io/v1", namespaced: true, strict: []string{"spec"}, nulls: true,
			make: func() metav1.Object { return new(networkingv1.NetworkPolicy) },
			keep: func(o *Objects, x metav1.Object) {
				o.NetworkPolicies = append(o.NetworkPolicies, x.(*networkingv1.NetworkPolicy))
			},
			check: func(c *checker, x metav1.Object) { c.networkPolicy(x.(*networkingv1.NetworkPolicy)) }},
		{name: "CiliumNetworkPolicy", apiVersion: "cilium.io/v2", namespaced: true, strict: []string{"spec", "specs"},
			make: func() metav1.Object { return new(CiliumNetworkPolicy) },
			keep: func(o *Objects, x metav1.Object) {
				o.CiliumNetworkPolicies = append(o.CiliumNetworkPolicies, x.(*CiliumNetworkPolicy))
			},
			check: func(c *checker, x metav1.Object) {
				p := x.(*CiliumNetworkPolicy)
				c.ciliumPolicy(p.Spec, p.Specs, true)
			}},
		{name: "CiliumClusterwideNetworkPolicy", apiVersion: "cilium.io/v2", strict: []string{"spec", "specs"},
			make: func() metav1.Object { return new(CiliumClusterwideNetworkPolicy) },
			keep: func(o *Objects, x metav1.Object) {
				o.CiliumClusterwideNetworkPolicies = append(o.CiliumClusterwideNetworkPolicies, x.(*CiliumClusterwideNetworkPolicy))
			},
			check: func(c *checker, x metav1.Object) {
				p := x.(*CiliumClusterwideNetworkPolicy)
				c.ciliumPolicy(p.Spec, p.Specs, false)
			}},
		{name: "ClusterNetworkPolicy", apiVersion: "policy.networking.k8s.io/v1alpha2", also: []string{"policy.networking.k8s.io/v1beta1"},
			strict: []string{"spec"}, open: []string{"spec.ingress", "spec.egress"},
			unknown: func(x metav1.Object, fields []UnknownField) { x.(*ClusterNetworkPolicy).Unknown = fields },
			make:    func() metav1.Object { return new(ClusterNetworkPolicy) },
			keep: func(o *Objects, x metav1.Object) {
				o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, x.(*ClusterNetworkPolicy))
			},
			check: func(c *checker, x metav1.Object) { c.clusterPolicy(&x.(*ClusterNetworkPolicy).Spec) }},
		{name: "CiliumCIDRGroup", apiVersion: "cilium.io/v2", also: []string{"cilium.io/v2alpha1"}, strict: []string{"spec"},
			make: func() metav1.Object { return new(CiliumCIDRGroup) },
			keep: func(o *Objects, x metav1.Object) {
				o.CiliumCIDRGroups = append(o.CiliumCIDRGroups, x.(*CiliumCIDRGroup))
			},
			check: func(c *checker, x metav1.Object) { c.cidrGroup(x.(*CiliumCIDRGroup)) }},
		{name: "CiliumNode", apiVersion: "cilium.io/v2", open: []string{"spec"},
			make:    func() metav1.Object { return new(CiliumNode) },
			unknown: func(metav1.Object, []UnknownField) {}, // most of it is about how addresses are got
			keep:    func(o *Objects, x metav1.Object) { o.CiliumNodes = append(o.CiliumNodes, x.(*CiliumNode)) },
			check:   func(c *checker, x metav1.Object) { c.ciliumNode(x.(*CiliumNode)) }},
		{name: "BlockAffinity", apiVersion: "crd.projectcalico.org/v1", also: []string{"projectcalico.org/v3"}, open: []string{"spec"},
			make:    func() metav1.Object { return new(BlockAffinity) },
			unknown: func(metav1.Object, []UnknownField) {},
			keep:    func(o *Objects, x metav1.Object) { o.BlockAffinities = append(o.BlockAffinities, x.(*BlockAffinity)) },
			check:   func(c *checker, x metav1.Object) { c.blockAffinity(x.(*BlockAffinity)) }},
		{name: "Deployment", apiVersion: "apps/v1", namespaced: true,
			make: func() metav1.Object { return new(appsv1.Deployment) },
			keep: func(o *Objects, x metav1.Object) {
				o.Workloads.Deployments = append(o.Workloads.Deployments, x.(*appsv1.Deployment))
			},
			check: func(c *checker, x metav1.Object) {
				d := x.(*appsv1.Deployment)
				c.workload(d.Spec.Selector, &d.Spec.Template, true)
			}},
		{name: "StatefulSet", apiVersion: "apps/v1", namespaced: true,
			make: func() metav1.Object { return new(appsv1.StatefulSet) },
			keep: func(o *Objects, x metav1.Object) {
				o.Workloads.StatefulSets = append(o.Workloads.StatefulSets, x.(*appsv1.StatefulSet))
			},
			check: func(c *checker, x metav1.Object) {
				d := x.(*appsv1.StatefulSet)
				c.workload(d.Spec.Selector, &d.Spec.Template, true)
			}},
		{name: "DaemonSet", apiVersion: "apps/v1", namespaced: true,
			make: func() metav1.Object { return new(appsv1.DaemonSet) },
			keep: func(o *Objects, x metav1.Object) {
				o.Workloads.DaemonSets = append(o.Workloads.DaemonSets, x.(*appsv1.DaemonSet))
			},
			check: func(c *checker, x metav1.Object) {
				d := x.(*appsv1.DaemonSet)
				c.workload(d.Spec.Selector, &d.Spec.Template, true)
			}},
		{name: "ReplicaSet", apiVersion: "apps/v1", namespaced: true,
			make: func() metav1.Object { return new(appsv1.ReplicaSet) },
			keep: func(o *Objects, x metav1.Object) {
				o.Workloads.ReplicaSets = append(o.Workloads.ReplicaSets, x.(*appsv1.ReplicaSet))
			},
			check: func(c *checker, x metav1.Object) {
				d := x.(*appsv1.ReplicaSet)
				c.workload(d.Spec.Selector, &d.Spec.Template, true)
			}},
		{name: "Job", apiVersion: "batch/v1", namespaced: true,
			make: func() metav1.Object { return new(batchv1.Job) },
			keep: func(o *Objects, x metav1.Object) { o.Workloads.Jobs = append(o.Workloads.Jobs, x.(*batchv1.Job)) },
			check: func(c *checker, x metav1.Object) {
				d := x.(*batchv1.Job)
				c.workload(d.Spec.Selector, &d.Spec.Template, false)
			}},
	}
}

// unused lists, by API group, the kinds that weir knows and has no use for. In these groups, and in the groups of kinds,
// any other kind is a mistake and refused; kinds of other groups are somebody else's business and skipped.
func unused() map[string][]string {
	return map[string][]string{
		"": {"Binding", "ComponentStatus", "ConfigMap", "Event", "LimitRange", "PersistentVolume", "PersistentVolumeClaim",
			"PodTemplate", "ReplicationController", "ResourceQuota", "Secret", "ServiceAccount"},
		"apps":              {"ControllerRevision"},
		"batch":             {"CronJob"},
		"discovery.k8s.io":  {},
		"networking.k8s.io": {"Ingress", "IngressClass", "IPAddress", "ServiceCIDR"},
		"cilium.io": {"CiliumBGPAdvertisement", "CiliumBGPClusterConfig", "CiliumBGPNodeConfig", "CiliumBGPNodeConfigOverride",
			"CiliumBGPPeerConfig", "CiliumClusterwideEnvoyConfig", "CiliumEndpoint", "CiliumEndpointSlice",
			"CiliumEnvoyConfig", "CiliumGatewayClassConfig", "CiliumIdentity", "CiliumL2AnnouncementPolicy",
			"CiliumLoadBalancerIPPool", "CiliumNodeConfig", "CiliumPodIPPool"},
		"policy.networking.k8s.io": {},
	}
}
