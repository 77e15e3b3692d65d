// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Budgets of the operator, however many policies and nodes there are.
const (
	StatusRate  = 20.0 // PolicyStatuses a second, and Events
	statusBurst = 40.0
	MirrorRate  = 5.0 // conditions in policies' own status a second: every node watches these
	mirrorBurst = 20.0
	writeLimit  = 15 * time.Second // for one write
	relist      = 10 * time.Minute
)

// What is written.
const (
	writeStatus    = "status"
	writeCondition = "condition"
	writeEvent     = "event"
	deleteStatus   = "removal"
)

// Event is something to tell about a policy, once.
type Event struct {
	Warning                 bool
	Reason, Action, Message string
}

// StatusWriter writes PolicyStatuses.
type StatusWriter interface {
	// WriteStatus writes the PolicyStatus of a policy, which is to be made if fresh.
	WriteStatus(ctx context.Context, s *PolicyStatus, fresh bool) error
	// DeleteStatus deletes the PolicyStatus of a policy, if it is of the policy with this UID.
	DeleteStatus(ctx context.Context, key PolicyKey, uid string) error
}

// PolicyWriter writes to the policies themselves.
type PolicyWriter interface {
	// SetCondition writes a condition into the policy's status, if it has conditions that are ours to write.
	SetCondition(ctx context.Context, p *Policy, c metav1.Condition) error
	Tell(ctx context.Context, p *Policy, e Event) error
}

// Observer hears what a Writer does.
type Observer interface {
	// Enforced hears how long it took from a policy's change until all nodes enforced it.
	Enforced(took time.Duration)
	// Wrote hears of each write: "status", "condition", "event", "removal".
	Wrote(what string, err error)
}

// Writer holds a Board and brings what it says to the cluster, within its budgets.
type Writer struct {
	statuses StatusWriter
	policies PolicyWriter
	observer Observer
	log      *slog.Logger

	mu      sync.Mutex
	board   *Board
	records map[PolicyKey]*record
	gone    map[PolicyKey]string // whose PolicyStatus is to be deleted: the UID of the policy it was of
	ready   bool                 // what was there at the start is known
	changed bool                 // since the last Tick
	pending bool                 // something waits for its time

	statusTokens, eventTokens, mirrorTokens bucket
}

// NewWriter makes a writer with an empty board.
func NewWriter(statuses StatusWriter, policies PolicyWriter, observer Observer, log *slog.Logger) *Writer {
	return &Writer{statuses: statuses, policies: policies, observer: observer, log: log, board: NewBoard(),
		records: map[PolicyKey]*record{}, gone: map[PolicyKey]string{},
		statusTokens: bucket{rate: StatusRate, burst: statusBurst}, eventTokens: bucket{rate: StatusRate, burst: statusBurst},
		mirrorTokens: bucket{rate: MirrorRate, burst: mirrorBurst}}
}

// Board calls f with the board, which nobody else uses meanwhile.
func (w *Writer) Board(f func(b *Board)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.board)
	w.changed = true
}

// view calls f with the board, which f must not change.
func (w *Writer) view(f func(b *Board)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.board)
}

// SetPolicy takes over a policy in its resourceVersion at.
func (w *Writer) SetPolicy(p Policy, at uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed = true
	key := p.Key()
	r := w.records[key]
	if r != nil && r.written && r.uid == p.UID && r.state.ObservedGeneration == p.Generation && r.state.Audited == p.Audited {
		p.Since = version(r.state.ResourceVersion)
	}
	news := w.board.SetPolicy(p, at)
	switch {
	case r == nil:
		w.records[key] = &record{changedAt: time.Now(), witnessed: w.ready}
		if uid, ok := w.gone[key]; ok {
			delete(w.gone, key)
			w.records[key].uid, w.records[key].written = uid, true // goes before the new one comes
		}
	case news && p.Since == 0:
		r.renew(time.Now(), w.ready)
	}
}

// DeletePolicy forgets a policy; its PolicyStatus goes.
func (w *Writer) DeletePolicy(key PolicyKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed = true
	w.board.DeletePolicy(key)
	if r := w.records[key]; r != nil && r.written {
		w.gone[key] = r.uid
	}
	delete(w.records, key)
}

// Restore takes over PolicyStatuses that stand in the cluster: all there are, as they were listed. It comes before the first
// Tick, with the policies known, and may come again: what somebody has deleted is written anew then.
func (w *Writer) Restore(stored []*PolicyStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed = true
	met := map[PolicyKey]bool{}
	for _, s := range stored {
		key := PolicyKey{s.Policy.Kind, s.Namespace, s.Policy.Name}
		met[key] = true
		p, r := w.board.policies[key], w.records[key]
		switch {
		case p == nil:
			w.gone[key] = s.Policy.UID
		case w.ready:
		case s.Policy.UID == p.UID:
			old := restore(s)
			if old.state.ObservedGeneration == p.Generation && old.state.Audited == p.Audited {
				p.Since = min(p.Since, cmp.Or(version(old.state.ResourceVersion), p.Since))
			} else {
				old.renew(r.changedAt, false)
			}
			w.records[key] = old
		default:
			r.uid, r.written = s.Policy.UID, true // an earlier policy's of the same name: goes before the new one comes
		}
	}
	for key, r := range w.records {
		if w.ready && r.written && !met[key] && time.Since(r.at) > relist/2 {
			r.written = false
		}
	}
	w.ready = true
}

// task is something to write about one policy: its PolicyStatus, an Event, or the condition in its own status.
type task struct {
	what      string
	urgency   urgency
	outcome   Outcome
	record    *record
	state     PolicyState
	condition metav1.Condition
}

// Tick writes what is due. It returns how long it took to see what that is.
func (w *Writer) Tick(ctx context.Context) (looking time.Duration) {
	start := time.Now()
	gone, tasks := w.collect(start)
	looking = time.Since(start)
	for key, uid := range gone {
		w.remove(ctx, key, uid)
	}
	for _, t := range tasks {
		if ctx.Err() != nil {
			break
		}
		w.carryOut(ctx, t)
	}
	return looking
}

// collect says what is to be written now, and takes it out of the budgets.
func (w *Writer) collect(now time.Time) (gone map[PolicyKey]string, tasks []*task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ready || !w.changed && !w.pending {
		return nil, nil
	}
	w.changed, w.pending = false, false
	w.statusTokens.fill(now)
	w.eventTokens.fill(now)
	w.mirrorTokens.fill(now)
	gone = map[PolicyKey]string{}
	for key, uid := range w.gone {
		if !w.statusTokens.take(0) {
			w.pending = true
			break
		}
		gone[key] = uid
		delete(w.gone, key)
	}
	for key := range w.board.policies {
		o, r := w.board.Evaluate(key), w.records[key]
		if o.Status == metav1.ConditionTrue && r.enforced.IsZero() {
			r.enforced = now
			if r.witnessed {
				w.observer.Enforced(now.Sub(r.changedAt))
			}
		}
		t := &task{outcome: o, record: r}
		t.what, t.urgency = r.due(&o, now)
		if t.what != "" {
			w.pending = true
		}
		if t.urgency > nothing {
			tasks = append(tasks, t)
		}
	}
	slices.SortStableFunc(tasks, func(a, b *task) int {
		return cmp.Or(cmp.Compare(b.urgency, a.urgency), a.record.at.Compare(b.record.at), cmp.Compare(a.outcome.Policy.Name, b.outcome.Policy.Name))
	})
	return gone, slices.DeleteFunc(tasks, func(t *task) bool { return !w.admit(t, now) })
}

// admit takes a task out of the budget, if it fits, and completes it.
func (w *Writer) admit(t *task, now time.Time) bool {
	tokens, keep := &w.statusTokens, 0.0
	switch t.what {
	case writeEvent:
		tokens = &w.eventTokens
	case writeCondition:
		tokens = &w.mirrorTokens
	}
	if t.urgency == drift {
		keep = tokens.burst / 2
	}
	if !tokens.take(keep) {
		return false
	}
	t.state, t.condition = t.record.state, t.record.condition
	if t.what == writeStatus {
		t.state, t.condition = t.record.stateToWrite(&t.outcome, w.board.Message(&t.outcome), now)
	}
	return true
}

// carryOut writes, and notes what was written. Only Tick changes what a record says was written.
func (w *Writer) carryOut(ctx context.Context, t *task) {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	p, r := &t.outcome.Policy, t.record
	switch t.what {
	case deleteStatus:
		err := w.statuses.DeleteStatus(ctx, p.Key(), r.uid)
		w.note(t, err, func(time.Time) { r.written = false })
	case writeStatus:
		err := w.statuses.WriteStatus(ctx, statusObject(p, t.state), !r.written)
		w.note(t, err, func(now time.Time) { r.wrote(&t.outcome, t.state, t.condition, now) })
	case writeEvent:
		err := w.policies.Tell(ctx, p, eventOf(p, &t.state, &t.condition))
		w.note(t, err, func(time.Time) { r.event = eventKey(t.condition.Reason, &t.state) })
	case writeCondition:
		err := w.policies.SetCondition(ctx, p, t.condition)
		w.note(t, err, func(now time.Time) { r.mirrored, r.mirroredAt = t.condition, now })
	}
}

// note brings a write's result into the record.
func (w *Writer) note(t *task, err error, wrote func(now time.Time)) {
	w.observer.Wrote(t.what, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		wrote(time.Now())
		return
	}
	p := &t.outcome.Policy
	if w.board.policies[p.Key()] == nil {
		return // it has gone meanwhile
	}
	t.record.failed(time.Now())
	w.log.Warn("write "+t.what, "kind", p.Kind, "namespace", p.Namespace, "name", p.Name, "error", err)
}

func (w *Writer) remove(ctx context.Context, key PolicyKey, uid string) {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	err := w.statuses.DeleteStatus(ctx, key, uid)
	w.observer.Wrote(deleteStatus, err)
	if err == nil {
		return
	}
	w.log.Warn("delete status", "kind", key.Kind, "namespace", key.Namespace, "name", key.Name, "error", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.records[key] == nil {
		w.gone[key] = uid // again, when there is other news, or with the next list
	}
}

// bucket is a budget that fills up with time.
type bucket struct {
	rate, burst, tokens float64
	at                  time.Time
}

func (b *bucket) fill(now time.Time) {
	if b.at.IsZero() {
		b.tokens = b.burst
	} else {
		b.tokens = min(b.burst, b.tokens+b.rate*max(0, now.Sub(b.at).Seconds()))
	}
	b.at = now
}

// take takes one if more than keep are left then.
func (b *bucket) take(keep float64) bool {
	if b.tokens < keep+1 {
		return false
	}
	b.tokens--
	return true
}
