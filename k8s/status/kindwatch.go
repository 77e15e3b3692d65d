// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/weirnet/weir/k8s"
)

const (
	probeInterval = 15 * time.Second // for a kind that a cluster does not have yet
	ownerLabel    = "app.kubernetes.io/name"
	ownerName     = "weir"
)

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// kindWatch watches the metadata of the policies of all kinds. A kind that the cluster does not have is waited for.
type kindWatch struct {
	cfg  OperatorConfig
	set  func(Kind, *metav1.PartialObjectMetadata)
	gone func(k Kind, namespace, name string)

	mu     sync.Mutex
	states map[string]kindState
	mirror map[string]bool
}

type kindState int

const (
	kindUnknown kindState = iota
	kindUnreadable
	kindAbsent
	kindKnown
)

func newKindWatch(cfg OperatorConfig, set func(Kind, *metav1.PartialObjectMetadata), gone func(k Kind, namespace, name string)) *kindWatch {
	return &kindWatch{cfg: cfg, set: set, gone: gone, states: map[string]kindState{}, mirror: map[string]bool{}}
}

func (w *kindWatch) start(ctx context.Context, running *sync.WaitGroup) {
	for _, k := range Kinds() {
		running.Go(func() { w.watch(ctx, k) })
	}
}

func (w *kindWatch) become(k Kind, s kindState) (news bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	news = w.states[k.Name] != s
	w.states[k.Name] = s
	return news
}

// settled says whether of each kind it is known what there is, or that it cannot be known.
func (w *kindWatch) settled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range Kinds() {
		if w.states[k.Name] == kindUnknown {
			return false
		}
	}
	return true
}

// known says whether all policies of a kind are known.
func (w *kindWatch) known(kind string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.states[kind] >= kindAbsent
}

// mirrors says whether conditions are written into the status of the policies of a kind.
func (w *kindWatch) mirrors(kind string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mirror[kind]
}

// watch finds out which version of the kind the cluster has, and follows its policies.
func (w *kindWatch) watch(ctx context.Context, k Kind) {
	for {
		resource, err := w.probe(ctx, k)
		switch {
		case err == nil:
			k.Resource = resource
			w.follow(ctx, k)
			return
		case ctx.Err() != nil:
			return
		case apierrors.IsNotFound(err):
			if w.become(k, kindAbsent) {
				w.cfg.Log.Info("the cluster does not have this kind of policy yet", "kind", k.Name)
			}
		default:
			w.become(k, kindUnreadable)
			w.cfg.Log.Error("list policies", "kind", k.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(probeInterval):
		}
	}
}

func (w *kindWatch) probe(ctx context.Context, k Kind) (r schema.GroupVersionResource, err error) {
	for _, r = range k.versions() {
		if _, err = w.cfg.Clients.Metadata.Resource(r).List(ctx, metav1.ListOptions{Limit: 1}); !apierrors.IsNotFound(err) {
			break
		}
	}
	return r, err
}

func (w *kindWatch) follow(ctx context.Context, k Kind) {
	mirror := w.ours(ctx, k)
	w.mu.Lock()
	w.mirror[k.Name] = mirror
	w.mu.Unlock()
	if k.Conditions && !mirror {
		w.cfg.Log.Info("conditions are not written into the policies' own status: it is another software's", "kind", k.Name)
	}
	informer := metadatainformer.NewFilteredMetadataInformer(w.cfg.Clients.Metadata, k.Resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	known, err := handle(informer, stripMetadata, func(m *metav1.PartialObjectMetadata) { w.set(k, m) }, func(namespace, name string) { w.gone(k, namespace, name) })
	if err != nil {
		w.cfg.Log.Error("watch policies", "kind", k.Name, "error", err)
		return
	}
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), known) {
			w.become(k, kindKnown)
		}
	}()
	informer.RunWithContext(ctx)
}

// ours says whether conditions are to be written into the status of the policies of a kind.
func (w *kindWatch) ours(ctx context.Context, k Kind) bool {
	switch {
	case !k.Conditions || w.cfg.Conditions == ConditionsNever:
		return false
	case !k.Shared || w.cfg.Conditions == ConditionsAlways:
		return true
	}
	crd, err := w.cfg.Clients.Objects.Resource(crdResource).Get(ctx, k.CRD, metav1.GetOptions{})
	if err != nil {
		w.cfg.Log.Warn("find out whose kind of policy this is", "kind", k.Name, "error", err)
		return false
	}
	return crd.GetLabels()[ownerLabel] == ownerName
}

// stripMetadata leaves what the board asks for.
func stripMetadata(object any) (any, error) {
	m, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return object, nil
	}
	kept := &metav1.PartialObjectMetadata{TypeMeta: m.TypeMeta}
	kept.Namespace, kept.Name, kept.UID, kept.Generation, kept.ResourceVersion = m.Namespace, m.Name, m.UID, m.Generation, m.ResourceVersion
	if value, set := m.Annotations[k8s.AuditAnnotation]; set {
		kept.Annotations = map[string]string{k8s.AuditAnnotation: value}
	}
	return kept, nil
}

func isAudited(m *metav1.PartialObjectMetadata) bool {
	return m.Annotations[k8s.AuditAnnotation] == "true"
}

// report is a WeirNode on its way to the board, which alone keeps what is in it.
type report struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	mu   sync.Mutex
	node *WeirNode
}

// take takes the WeirNode out; nil if that was done before.
func (r *report) take() *WeirNode {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.node
	r.node = nil
	return n
}

// DeepCopyObject implements runtime.Object; nobody changes one.
func (r *report) DeepCopyObject() runtime.Object { return r }

// ListPolicyStatuses lists all there are.
func ListPolicyStatuses(ctx context.Context, in dynamic.ResourceInterface) ([]*PolicyStatus, error) {
	var out []*PolicyStatus
	err := listAll(ctx, in, func(u *unstructured.Unstructured) error {
		s, err := AsPolicyStatus(u)
		out = append(out, s)
		return err
	})
	return out, doing(err, "list", KindPolicyStatus, "", "objects")
}

// ListNodes lists the WeirNodes.
func ListNodes(ctx context.Context, client dynamic.Interface) ([]*WeirNode, error) {
	var out []*WeirNode
	err := listAll(ctx, client.Resource(NodeResource), func(u *unstructured.Unstructured) error {
		n, err := AsNode(u)
		out = append(out, n)
		return err
	})
	return out, doing(err, "list", KindNode, "", "objects")
}

// listAll reads a list page by page.
func listAll(ctx context.Context, in dynamic.ResourceInterface, each func(*unstructured.Unstructured) error) error {
	options := metav1.ListOptions{Limit: pageSize}
	for {
		list, err := in.List(ctx, options)
		if err != nil {
			return err
		}
		for i := range list.Items {
			if err := each(&list.Items[i]); err != nil {
				return err
			}
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}
