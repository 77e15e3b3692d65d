// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/weirnet/weir/policy"
)

// WatchConfig says what a Watcher watches.
type WatchConfig struct {
	API     *rest.Config
	Node    string // whose policy is wanted
	Options Options
	// DaemonSet is the "namespace/name" of the agent's own DaemonSet, whose annotation says that it shall uninstall
	// itself; empty: nobody says so.
	DaemonSet string
	Log       *slog.Logger
}

// Watcher is a source of Updates: the objects of a cluster, translated as they change. A change after a quiet time is
// handed over at once; those that come while the one before is being enforced go together. What is handed over is a state
// that the API server has told; when it cannot be asked, the last one stays.
type Watcher struct {
	config WatchConfig
	news   chan struct{} // something has changed

	mu        sync.Mutex
	mirror    *mirror
	kinds     []*watchedKind
	unsynced  int // kinds that have not been read yet
	received  []time.Time
	inflight  *Update // handed over and not answered
	pending   policy.Changes
	started   bool // the whole model was handed over and enforced
	claims    int64
	err       error     // why the last Update is not enforced
	enforced  time.Time // when one was, last
	uninstall chan struct{}
	told      bool // uninstall is closed
}

// ErrUnsynced says that the API server has not told everything yet.
var ErrUnsynced = errors.New("the API server has not told everything yet")

// NewWatcher makes a source of what the API server tells. Nothing is asked before Run.
func NewWatcher(config WatchConfig) (*Watcher, error) {
	w := &Watcher{config: config, news: make(chan struct{}, 1), mirror: newMirror(config.Node, config.Options), uninstall: make(chan struct{})}
	var err error
	if w.kinds, err = w.watchedKinds(); err != nil {
		return nil, err
	}
	w.unsynced = len(w.kinds)
	return w, nil
}

// Uninstall is closed once the DaemonSet's annotation says that weir shall leave this node.
func (w *Watcher) Uninstall() <-chan struct{} { return w.uninstall }

// Run hands Updates to apply, one at a time, until ctx ends; then it returns nil.
func (w *Watcher) Run(ctx context.Context, apply func(Update) error) error {
	ctx = klog.NewContext(ctx, klog.New(nil)) // what client-go has to say, State says
	var others sync.WaitGroup
	defer others.Wait()
	w.mu.Lock()
	for _, k := range w.kinds {
		k.prepare()
	}
	w.mu.Unlock()
	for _, k := range w.kinds {
		others.Go(func() { k.run(ctx) })
	}
	retry := time.NewTimer(0)
	defer retry.Stop()
	wait := retryFirst
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.news:
		case <-retry.C:
		}
		start := time.Now()
		update, claims, due := w.next()
		if !due {
			continue
		}
		err := apply(update)
		if ctx.Err() != nil {
			return nil
		}
		w.answered(claims, err)
		if err != nil {
			sleep(ctx, min(wait, retryNews)) // a busy cluster must not make it try all the time
			retry.Reset(wait)
			wait = min(2*wait, retryLast)
			continue
		}
		wait = retryFirst
		pause(ctx, time.Since(start))
	}
}

const (
	retryFirst = 200 * time.Millisecond // until what failed is tried again
	retryLast  = 10 * time.Second
	retryNews  = time.Second           // or until news may mend it, at most
	restFrom   = 10 * time.Millisecond // an Update that takes longer is followed by a rest
	restLast   = 25 * time.Millisecond
)

// pause keeps a busy cluster from taking all of a CPU: while costly Updates follow each other, a third of the time is rest,
// in which more changes come together.
func pause(ctx context.Context, took time.Duration) {
	if took >= restFrom {
		sleep(ctx, min(took/2, restLast))
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// next makes the next Update; due is false if there is nothing to hand over.
func (w *Watcher) next() (update Update, held []*claim, due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unsynced > 0 && !w.started || w.told { // a kind that somebody defines later keeps nothing from being enforced
		return Update{}, nil, false
	}
	if !w.mirror.ready() {
		w.fail(fmt.Errorf("find Node %q in the cluster: %w; the name is that of --node", w.config.Node, ErrNoNode))
		return Update{}, nil, false
	}
	refs, statuses := w.mirror.refsDirty, w.mirror.statusDirty
	changes := w.mirror.flush()
	statuses = statuses || w.mirror.statusDirty
	if w.started {
		w.pending = mergeChanges(w.pending, changes)
	}
	held = w.mirror.claimed()
	update = Update{Model: w.model, Statuses: w.mirror.statuses, Policies: w.mirror.refs, Received: w.received}
	if w.started {
		pending := w.pending
		update.Changes = &pending
		if pending.Empty() && len(held) == 0 && !refs && !statuses && w.err == nil {
			w.received = nil
			return Update{}, nil, false
		}
	}
	w.received = nil
	w.inflight = &update
	return update, held, true
}

// model is the whole model as of now.
func (w *Watcher) model() *policy.Model {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mirror.whole()
}

// answered notes what became of the Update that was handed over.
func (w *Watcher) answered(held []*claim, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.fail(err)
		w.received = append(w.inflight.Received, w.received...)
		w.inflight = nil
		return
	}
	if w.err != nil {
		w.config.Log.Info("the cluster's state is enforced again")
	}
	w.inflight, w.pending = nil, policy.Changes{}
	w.started, w.err, w.enforced = true, nil, time.Now()
	w.mirror.pods.answer(held)
}

// fail notes why nothing newer is enforced, and says it once.
func (w *Watcher) fail(err error) {
	if w.err == nil || w.err.Error() != err.Error() {
		w.config.Log.Error("the cluster's state is not enforced, the last one stays in force", "error", err)
	}
	w.err = err
}

// State is how far the Watcher has come. What has changed since the last Update does not count against it: in a cluster,
// something always has.
func (w *Watcher) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := State{Applied: w.started && w.err == nil, Err: w.err, At: w.enforced}
	for _, k := range w.kinds {
		if k.synced && k.err == nil {
			continue
		}
		text := "not read yet: " + k.name
		switch {
		case !k.synced:
		case k.heard.IsZero():
			text = "defined, but served in no version that is known here: " + k.name
		default:
			text = fmt.Sprintf("not heard of since %s: %s", k.heard.UTC().Format(time.RFC3339), k.name)
		}
		if k.err != nil {
			text += ": " + k.err.Error()
		}
		s.Stale = append(s.Stale, text)
	}
	if s.Err == nil && !w.started {
		s.Err = ErrUnsynced
		if len(s.Stale) > 0 {
			s.Err = fmt.Errorf("%w: %s", ErrUnsynced, s.Stale[0])
		}
	}
	return s
}

// Claim lets a pod have addresses before the API knows of them, and returns once that is enforced. A pod that the API does
// not know yet is waited for. It holds until the API tells the pod's addresses, the pod is gone, or Release.
func (w *Watcher) Claim(ctx context.Context, p PodClaim) error {
	answer := make(chan error, 1)
	w.mu.Lock()
	w.claims++
	w.mirror.pods.claim(p, w.claims, answer)
	w.mu.Unlock()
	w.wake()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("claim addresses for pod %s: %w: %s", p.PodKey(), ctx.Err(), w.holdup(p))
	}
}

// holdup is what a claim waits for.
func (w *Watcher) holdup(p PodClaim) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.mirror.pods.records[podID{p.Namespace, p.Name}]
	switch {
	case w.unsynced > 0 && !w.started:
		return ErrUnsynced.Error()
	case w.err != nil:
		return w.err.Error()
	case r == nil || p.UID != "" && p.UID != r.UID:
		return "the API server has not told of the pod"
	}
	return "it is not enforced yet"
}

// Release forgets the claims of the containers that are gone.
func (w *Watcher) Release(gone func(containerID string) bool) {
	w.mu.Lock()
	w.mirror.pods.unclaim(gone)
	w.mu.Unlock()
	w.wake()
}

// wake says that there is something to look at.
func (w *Watcher) wake() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// note notes a change under the lock; received tells when it came.
func (w *Watcher) note(received time.Time, change func(m *mirror)) {
	w.mu.Lock()
	change(w.mirror)
	if w.mirror.dirty() {
		w.received = append(w.received, received)
	}
	w.mu.Unlock()
	w.wake()
}
