// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// UninstallAnnotation, with the value "true" on the agent's DaemonSet, says that weir shall leave the nodes.
const UninstallAnnotation = "weirnet.github.io/uninstall"

// watchedKind is a kind of object that the watcher follows.
type watchedKind struct {
	name    string
	watcher *Watcher
	source  func() cache.ListerWatcher
	keep    func(any) (any, error)         // what is kept of an object: the reflector's transformation
	put     func(*mirror, any)             // takes what is kept
	remove  func(m *mirror, key string)    // by "namespace/name", or "name"
	keys    func(m *mirror) map[string]any // of what there is
	crd     string                         // the definition that the kind has in the cluster only if somebody made it

	// Under the watcher's lock.
	synced bool      // has been read as it was at some moment
	err    error     // why it cannot be read now
	heard  time.Time // when it could, last
	here   bool      // the definition is there
	absent int       // how often in a row the API server said that it has no such kind
	begin  chan struct{}
	cancel context.CancelFunc // ends following it
}

// clients are how the API server is asked. Only the kinds that are asked for are known, in the compact encoding.
type clients struct {
	core, discovery, networking cache.Getter
	custom                      dynamic.Interface
	meta                        metadata.Interface
}

func newClients(config *rest.Config) (clients, error) {
	scheme := runtime.NewScheme()
	for gv, types := range map[schema.GroupVersion][]runtime.Object{
		corev1.SchemeGroupVersion: {&corev1.Pod{}, &corev1.PodList{}, &corev1.Node{}, &corev1.NodeList{}, &corev1.Namespace{}, &corev1.NamespaceList{},
			&corev1.Service{}, &corev1.ServiceList{}},
		discoveryv1.SchemeGroupVersion:  {&discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}},
		networkingv1.SchemeGroupVersion: {&networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{}},
	} {
		scheme.AddKnownTypes(gv, types...)
		metav1.AddToGroupVersion(scheme, gv)
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	getter := func(gv schema.GroupVersion, path string) (cache.Getter, error) {
		c := rest.CopyConfig(config)
		c.GroupVersion, c.APIPath, c.NegotiatedSerializer = &gv, path, codecs
		c.AcceptContentTypes, c.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf"
		return rest.RESTClientFor(c)
	}
	var c clients
	var err error
	if c.core, err = getter(corev1.SchemeGroupVersion, "/api"); err != nil {
		return c, fmt.Errorf("make a client of the API server: %w", err)
	}
	if c.discovery, err = getter(discoveryv1.SchemeGroupVersion, "/apis"); err != nil {
		return c, fmt.Errorf("make a client of the API server: %w", err)
	}
	if c.networking, err = getter(networkingv1.SchemeGroupVersion, "/apis"); err != nil {
		return c, fmt.Errorf("make a client of the API server: %w", err)
	}
	if c.custom, err = dynamic.NewForConfig(config); err != nil {
		return c, fmt.Errorf("make a client of the API server: %w", err)
	}
	if c.meta, err = metadata.NewForConfig(config); err != nil {
		return c, fmt.Errorf("make a client of the API server: %w", err)
	}
	return c, nil
}

// watchedKinds lists what a Watcher follows.
func (w *Watcher) watchedKinds() ([]*watchedKind, error) {
	config := rest.CopyConfig(w.config.API)
	config.QPS, config.Burst = 50, 100 // a dozen kinds begin at once
	api, err := newClients(config)
	if err != nil {
		return nil, err
	}
	typed := func(c cache.Getter, resource, fields string) func() cache.ListerWatcher {
		return func() cache.ListerWatcher {
			return cache.NewFilteredListWatchFromClient(c, resource, metav1.NamespaceAll, func(o *metav1.ListOptions) { o.FieldSelector = fields })
		}
	}
	kinds := []*watchedKind{
		{name: "Pods", source: typed(api.core, "pods", "status.phase!=Succeeded,status.phase!=Failed"),
			keep:   keeping(func(p *corev1.Pod) *podObject { return newPodObject(p) }),
			put:    func(m *mirror, x any) { m.pods.put(x.(*podObject)) },
			remove: func(m *mirror, key string) { m.pods.remove(newPodID(key)) },
			keys: func(m *mirror) map[string]any {
				keys := make(map[string]any, len(m.pods.records))
				for id := range m.pods.records {
					keys[id.namespace+"/"+id.name] = nil
				}
				return keys
			}},
		{name: "Namespaces", source: typed(api.core, "namespaces", ""),
			keep: keeping(func(n *corev1.Namespace) *corev1.Namespace {
				return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: intern(n.Name), Labels: n.Labels}}
			}),
			put:    func(m *mirror, x any) { m.putNamespace(x.(*corev1.Namespace).Name, x.(*corev1.Namespace).Labels) },
			remove: (*mirror).removeNamespace,
			keys:   func(m *mirror) map[string]any { return keysIn(m.namespaces) }},
		{name: "Nodes", source: typed(api.core, "nodes", ""), keep: keeping(newNodeObject),
			put: func(m *mirror, x any) { m.putNode(x.(*corev1.Node)) }, remove: (*mirror).removeNode,
			keys: func(m *mirror) map[string]any { return keysIn(m.nodes.objects) }},
		{name: "Services", source: typed(api.core, "services", ""), keep: keeping(newServiceObject),
			put: func(m *mirror, x any) { m.putService(x.(*corev1.Service)) }, remove: (*mirror).removeService,
			keys: func(m *mirror) map[string]any { return keysIn(m.services) }},
		{name: "EndpointSlices", source: typed(api.discovery, "endpointslices", ""), keep: keeping(newSliceObject),
			put: func(m *mirror, x any) { m.putSlice(x.(*sliceObject)) }, remove: (*mirror).removeSlice,
			keys: func(m *mirror) map[string]any { return keysIn(m.sliceOf) }},
		policyKind("NetworkPolicy", "NetworkPolicies", typed(api.networking, "networkpolicies", "")),
	}
	custom := func(k *watchedKind, crd string, versions ...string) {
		resource, group, _ := strings.Cut(crd, ".")
		k.crd = crd
		k.source = func() cache.ListerWatcher { return newVersioned(api.custom, group, resource, versions) }
		kinds = append(kinds, k)
	}
	custom(policyKind("CiliumNetworkPolicy", "CiliumNetworkPolicies", nil), "ciliumnetworkpolicies.cilium.io", "v2")
	custom(policyKind("CiliumClusterwideNetworkPolicy", "CiliumClusterwideNetworkPolicies", nil), "ciliumclusterwidenetworkpolicies.cilium.io", "v2")
	custom(policyKind("ClusterNetworkPolicy", "ClusterNetworkPolicies", nil), "clusternetworkpolicies.policy.networking.k8s.io", "v1beta1", "v1alpha2")
	custom(objectKind("CiliumCIDRGroup", "CiliumCIDRGroups", (*mirror).putGroup, (*mirror).removeGroup,
		func(m *mirror) map[string]any { return keysIn(m.groups) }), "ciliumcidrgroups.cilium.io", "v2", "v2alpha1")
	custom(objectKind("CiliumNode", "CiliumNodes", func(m *mirror, n *CiliumNode) { m.nodes.ciliums[n.Name], m.nodes.dirty = n, true },
		func(m *mirror, name string) { delete(m.nodes.ciliums, name); m.nodes.dirty = true },
		func(m *mirror) map[string]any { return keysIn(m.nodes.ciliums) }), "ciliumnodes.cilium.io", "v2")
	custom(objectKind("BlockAffinity", "BlockAffinities", func(m *mirror, b *BlockAffinity) { m.nodes.blocks[b.Name], m.nodes.dirty = b, true },
		func(m *mirror, name string) { delete(m.nodes.blocks, name); m.nodes.dirty = true },
		func(m *mirror) map[string]any { return keysIn(m.nodes.blocks) }), "blockaffinities.crd.projectcalico.org", "v1")

	byCRD := map[string]*watchedKind{}
	for _, k := range kinds {
		if k.crd != "" {
			byCRD[k.crd] = k
		}
	}
	kinds = append(kinds, w.definitionKind(api.meta, byCRD))
	if w.config.DaemonSet != "" {
		kinds = append(kinds, w.daemonSetKind(api.meta))
	}
	for _, k := range kinds {
		k.watcher = w
	}
	return kinds, nil
}

// keeping makes a transformation that leaves alone what is transformed already: a reflector may ask twice.
func keeping[From, To any](keep func(*From) *To) func(any) (any, error) {
	return func(x any) (any, error) {
		if from, ok := x.(*From); ok {
			return keep(from), nil
		}
		return x, nil
	}
}

func keysIn[T any](m map[string]T) map[string]any {
	keys := make(map[string]any, len(m))
	for k := range m {
		keys[k] = nil
	}
	return keys
}

// policyKind follows policies of one kind.
func policyKind(kind, plural string, source func() cache.ListerWatcher) *watchedKind {
	r := newReader(kind)
	return &watchedKind{name: plural, source: source,
		keep: func(x any) (any, error) { return r.policy(x) },
		put:  func(m *mirror, x any) { m.putPolicy(x.(*policyObject)) },
		remove: func(m *mirror, key string) {
			m.removePolicy(kind + " " + key)
		},
		keys: func(m *mirror) map[string]any {
			keys := map[string]any{}
			for key := range m.policies {
				if name, ok := strings.CutPrefix(key, kind+" "); ok {
					keys[name] = nil
				}
			}
			return keys
		}}
}

// objectKind follows custom resources that are no policies. One that is wrong is taken as far as it can be read.
func objectKind[T metav1.Object](kind, plural string, put func(*mirror, T), remove func(*mirror, string), keys func(*mirror) map[string]any) *watchedKind {
	r := newReader(kind)
	return &watchedKind{name: plural,
		keep: func(x any) (any, error) {
			u, ok := x.(*unstructured.Unstructured)
			if !ok {
				return x, nil
			}
			return r.object(u)
		},
		put: func(m *mirror, x any) { put(m, x.(T)) }, remove: remove, keys: keys}
}

// definitionKind follows which of the kinds that somebody must have defined are defined.
func (w *Watcher) definitionKind(api metadata.Interface, byCRD map[string]*watchedKind) *watchedKind {
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	return &watchedKind{name: "CustomResourceDefinitions",
		source: func() cache.ListerWatcher { return metadataSource(api.Resource(crds), "") },
		keep: keeping(func(d *metav1.PartialObjectMetadata) *metav1.PartialObjectMetadata {
			return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: d.Name}}
		}),
		put: func(_ *mirror, x any) {
			if k := byCRD[x.(*metav1.PartialObjectMetadata).Name]; k != nil && !k.here {
				k.start()
			}
		},
		remove: func(m *mirror, key string) {
			if k := byCRD[key]; k != nil && k.here {
				k.stop()
				k.replace(m, nil) // the API server has removed the objects before
			}
		},
		keys: func(*mirror) map[string]any {
			keys := map[string]any{}
			for crd, k := range byCRD {
				if k.here {
					keys[crd] = nil
				}
			}
			return keys
		}}
}

// daemonSetKind follows the annotation of the agent's own DaemonSet.
func (w *Watcher) daemonSetKind(api metadata.Interface) *watchedKind {
	namespace, name, _ := strings.Cut(w.config.DaemonSet, "/")
	sets := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	return &watchedKind{name: "DaemonSet " + w.config.DaemonSet,
		source: func() cache.ListerWatcher {
			return metadataSource(api.Resource(sets).Namespace(namespace), "metadata.name="+name)
		},
		keep: keeping(func(d *metav1.PartialObjectMetadata) *metav1.PartialObjectMetadata {
			out := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: d.Name}}
			metav1.SetMetaDataAnnotation(&out.ObjectMeta, UninstallAnnotation, d.Annotations[UninstallAnnotation])
			return out
		}),
		put: func(_ *mirror, x any) {
			d := x.(*metav1.PartialObjectMetadata)
			if d.Namespace+"/"+d.Name == w.config.DaemonSet && d.Annotations[UninstallAnnotation] == "true" && !w.told {
				w.told = true
				close(w.uninstall)
			}
		},
		remove: func(*mirror, string) {},
		keys:   func(*mirror) map[string]any { return nil },
	}
}

func newPodID(key string) podID {
	namespace, name, _ := strings.Cut(key, "/")
	return podID{namespace, name}
}

// metadataSource lists and watches objects by their metadata alone.
func metadataSource(api metadata.ResourceInterface, fields string) cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = fields
			return api.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.FieldSelector = fields
			return api.Watch(ctx, o)
		},
	}
}
