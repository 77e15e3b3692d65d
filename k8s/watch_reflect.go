// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// A reflector reads a kind and follows it, through every disconnection: what it then reads anew is compared with what there
// was, so that what was deleted meanwhile is gone, and what only a broken connection hides is not.

// prepare makes the kind ready to run. One that nobody has defined counts as read.
func (k *watchedKind) prepare() {
	k.begin = make(chan struct{}, 1)
	if k.crd == "" {
		k.begin <- struct{}{}
	} else {
		k.sync()
	}
}

// start says that the kind is defined; stop, that it is not any more. Both are called under the watcher's lock.
func (k *watchedKind) start() {
	k.here = true
	k.unsync()
	select {
	case k.begin <- struct{}{}:
	default:
	}
}

func (k *watchedKind) stop() {
	k.here, k.err = false, nil
	select {
	case <-k.begin:
	default:
	}
	if k.cancel != nil {
		k.cancel()
	}
	k.sync()
}

// run follows the kind until ctx ends: from now on, or from when somebody defines it.
func (k *watchedKind) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.begin:
		}
		inner, cancel := context.WithCancel(ctx)
		k.watcher.mu.Lock()
		k.cancel, k.absent = cancel, 0
		if k.crd != "" && !k.here {
			cancel()
		}
		k.watcher.mu.Unlock()
		r := cache.NewReflectorWithOptions(observed{k.source(), k}, nil, &reflected{kind: k, ctx: inner}, cache.ReflectorOptions{
			Name: k.name, TypeDescription: k.name,
			Backoff: &wait.Backoff{Duration: 500 * time.Millisecond, Cap: 15 * time.Second, Steps: 10, Factor: 2, Jitter: 1},
		})
		r.RunWithContext(inner)
		cancel()
	}
}

func (k *watchedKind) sync() {
	if !k.synced {
		k.synced = true
		k.watcher.unsynced--
	}
}

func (k *watchedKind) unsync() {
	if k.synced {
		k.synced = false
		k.watcher.unsynced++
	}
}

// replace makes what there is of the kind equal to a list.
func (k *watchedKind) replace(m *mirror, list []any) {
	gone := k.keys(m)
	for _, x := range list {
		k.put(m, x)
		if object, err := meta.Accessor(x); err == nil {
			delete(gone, keyOf(object))
		}
	}
	for key := range gone {
		k.remove(m, key)
	}
}

func keyOf(object metav1.Object) string {
	if object.GetNamespace() == "" {
		return object.GetName()
	}
	return object.GetNamespace() + "/" + object.GetName()
}

// reflected is where a reflector puts what it hears.
type reflected struct {
	kind *watchedKind
	ctx  context.Context // of the reflector: after its end nothing counts
}

func (r *reflected) Transformer() cache.TransformFunc { return r.kind.keep }

func (r *reflected) Add(x any) error {
	received := time.Now()
	kept, err := r.kind.keep(x)
	if err != nil {
		return err
	}
	r.kind.watcher.note(received, func(m *mirror) {
		if r.ctx.Err() == nil {
			r.kind.heard = received
			r.kind.put(m, kept)
		}
	})
	return nil
}

func (r *reflected) Update(x any) error { return r.Add(x) }

func (r *reflected) Delete(x any) error {
	object, err := meta.Accessor(x)
	if err != nil {
		return fmt.Errorf("read deleted object: %w", err)
	}
	received := time.Now()
	r.kind.watcher.note(received, func(m *mirror) {
		if r.ctx.Err() == nil {
			r.kind.heard = received
			r.kind.remove(m, keyOf(object))
		}
	})
	return nil
}

func (r *reflected) Replace(list []any, _ string) error {
	received := time.Now()
	for i := range list {
		kept, err := r.kind.keep(list[i])
		if err != nil {
			return err
		}
		list[i] = kept
	}
	r.kind.watcher.note(received, func(m *mirror) {
		if r.ctx.Err() == nil {
			r.kind.replace(m, list)
			r.kind.sync()
		}
	})
	return nil
}

func (r *reflected) Resync() error { return nil }

// Bookmark is the API server's word that it is still there.
func (r *reflected) Bookmark(string) error {
	r.kind.watcher.mu.Lock()
	defer r.kind.watcher.mu.Unlock()
	r.kind.heard = time.Now()
	return nil
}

// patience is how often a kind must be said to be absent before it counts as that.
const patience = 4

// observed notes whether the API server answers about a kind.
type observed struct {
	cache.ListerWatcher
	kind *watchedKind
}

func (o observed) heard(err error) {
	if err != nil && (apierrors.IsResourceExpired(err) || apierrors.IsGone(err)) {
		err = nil // it did answer: read anew
	}
	w := o.kind.watcher
	w.mu.Lock()
	defer w.mu.Unlock()
	if !apierrors.IsNotFound(err) {
		o.kind.absent = 0
	} else if o.kind.absent++; o.kind.absent == patience && o.kind.crd != "" && !o.kind.synced {
		o.kind.sync() // it is defined, but in no version that is known here
		w.wake()
	}
	switch {
	case err != nil && o.kind.err == nil:
		w.config.Log.Warn("the API server does not tell; what it told last stays in force", "kind", o.kind.name, "error", err)
	case err == nil && o.kind.err != nil:
		w.config.Log.Info("the API server tells again", "kind", o.kind.name)
	}
	if o.kind.err = err; err == nil {
		o.kind.heard = time.Now()
	}
}

func (o observed) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	list, err := cache.ToListerWatcherWithContext(o.ListerWatcher).ListWithContext(ctx, options)
	if ctx.Err() == nil {
		o.heard(err)
	}
	return list, err
}

func (o observed) WatchWithContext(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error) {
	w, err := cache.ToListerWatcherWithContext(o.ListerWatcher).WatchWithContext(ctx, options)
	if ctx.Err() == nil && !apierrors.IsInvalid(err) { // a server that streams no lists is asked for a list then
		o.heard(err)
	}
	return w, err
}

// versioned is a custom resource under the first of its versions that the API server serves.
type versioned struct {
	api     dynamic.Interface
	group   string
	name    string
	names   []string
	current atomic.Int32
}

func newVersioned(api dynamic.Interface, group, resource string, versions []string) cache.ListerWatcher {
	v := &versioned{api: api, group: group, name: resource, names: versions}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return trying(v, func(api dynamic.NamespaceableResourceInterface) (runtime.Object, error) { return api.List(ctx, o) })
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			return trying(v, func(api dynamic.NamespaceableResourceInterface) (apiwatch.Interface, error) { return api.Watch(ctx, o) })
		},
	}
}

// trying asks for the version that was served last, and then for the others.
func trying[T any](v *versioned, ask func(dynamic.NamespaceableResourceInterface) (T, error)) (out T, err error) {
	first := int(v.current.Load())
	for i := range v.names {
		at := (first + i) % len(v.names)
		out, err = ask(v.api.Resource(schema.GroupVersionResource{Group: v.group, Version: v.names[at], Resource: v.name}))
		if !apierrors.IsNotFound(err) {
			v.current.Store(int32(at))
			return out, err
		}
	}
	return out, err
}
