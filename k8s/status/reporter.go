// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/k8s"
)

// Pace of a fleet of reporters.
const (
	// FleetRate bounds the writes of all nodes together, a second: they take turns, one after the other, on their clocks.
	FleetRate = 45

	settleTime  = 100 * time.Millisecond // changes come in bursts
	lazyTime    = 30 * time.Second       // for versions that moved alone: who waits for a policy does not wait for these
	minInterval = time.Second            // between a node's writes
	firstRetry  = time.Second
	lastRetry   = time.Minute
	minRefresh  = time.Minute // what is written is written again now and then, for somebody may have deleted it
	maxRefresh  = 15 * time.Minute
)

// NodeWriter writes a WeirNode; what was there before is replaced.
type NodeWriter interface {
	WriteNode(ctx context.Context, name string, status NodeStatus) error
}

// ReporterConfig is what a Reporter needs. Fleet says which of how many nodes this one is, counted from 0; it is asked at each
// change. ImageGeneration is told along.
type ReporterConfig struct {
	Node, Version   string
	BootID          string
	Writer          NodeWriter
	Fleet           func() (rank, size int)
	ImageGeneration func() uint64
	Log             *slog.Logger
}

// Reporter publishes what a node enforces. Its methods never wait for the cluster, except for Cleaned.
type Reporter struct {
	cfg     ReporterConfig
	started time.Time
	offset  uint32
	changed chan struct{}

	mu       sync.Mutex
	refs     []k8s.PolicyRef // of the last Applied, and its statuses
	statuses []k8s.Status
	want     NodeStatus
	known    bool          // something was applied, or failed
	since    time.Time     // when what was sent last was no longer all
	lazy     bool          // only versions have moved since
	sent     NodeStatus    // last written
	written  chan struct{} // closed at the next write that succeeds
}

// NewReporter makes a reporter; Run publishes.
func NewReporter(cfg ReporterConfig) *Reporter {
	h := fnv.New32a()
	h.Write([]byte(cfg.Node))
	return &Reporter{cfg: cfg, started: time.Now(), offset: h.Sum32(), changed: make(chan struct{}, 1), written: make(chan struct{})}
}

// Applied notes that exactly the policies of refs are enforced since at, but for what statuses say.
func (r *Reporter) Applied(refs []k8s.PolicyRef, statuses []k8s.Status, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known && r.want.Phase == PhaseEnforcing && slices.Equal(refs, r.refs) && slices.Equal(statuses, r.statuses) {
		return // pods come and go all the time
	}
	lazy := r.want.Phase == PhaseEnforcing && slices.Equal(statuses, r.statuses) && slices.EqualFunc(refs, r.refs, sameGeneration)
	r.refs, r.statuses = refs, statuses
	next := NodeStatus{Phase: PhaseEnforcing, Kinds: marks(refs), Policies: int32(len(refs))}
	list, omitted := exceptions(statuses, r.offset)
	next.Exceptions, next.ExceptionsOmitted = list, int32(omitted)
	next.ExceptionCount = int32(len(list) + omitted)
	r.become(next, at, lazy)
}

// sameGeneration says whether two versions of a policy differ at most in what enforcement does not depend on: somebody's
// writing of its status, the operator's for instance, or its labels. An audit begins and ends with a Status.
func sameGeneration(a, b k8s.PolicyRef) bool {
	a.ResourceVersion, b.ResourceVersion = "", ""
	return a == b
}

// Failed notes that what is newer than the last Applied could not be enforced at the time at. The marks stay: what was
// enforced is.
func (r *Reporter) Failed(err error, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.want
	next.Phase, next.Failure = PhaseFailing, truncate(err.Error(), maxFailure)
	r.become(next, at, false)
}

// Lost notes that not even what was applied guards the node's pods, since at: no mark holds until the next Applied.
func (r *Reporter) Lost(err error, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.become(NodeStatus{Phase: PhaseFailing, Failure: truncate(err.Error(), maxFailure)}, at, false)
}

// Cleaned publishes that weir has left this node, and returns when that is written. After it nothing else is published.
func (r *Reporter) Cleaned(ctx context.Context) error {
	r.mu.Lock()
	r.become(NodeStatus{Phase: PhaseCleaned}, time.Now(), false)
	r.mu.Unlock()
	for {
		r.mu.Lock()
		done, written := r.sent.Phase == PhaseCleaned, r.written
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-written:
		case <-ctx.Done():
			return fmt.Errorf("publish that node %s is clean: %w", r.cfg.Node, ctx.Err())
		}
	}
}

// become takes over a status, with the mutex held. If lazy, only versions have moved.
func (r *Reporter) become(next NodeStatus, at time.Time, lazy bool) {
	if r.known && (r.want.Phase == PhaseCleaned || reflect.DeepEqual(content(next), content(r.want))) {
		return
	}
	next.AppliedAt = r.want.AppliedAt
	if next.Phase == PhaseEnforcing {
		next.AppliedAt = metav1.NewTime(at)
	}
	if !r.behind() || r.lazy && !lazy {
		r.since, r.lazy = time.Now(), lazy
	}
	r.want, r.known = next, true
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// behind says whether what is to be written differs from what is, with the mutex held.
func (r *Reporter) behind() bool {
	return r.known && !reflect.DeepEqual(content(r.want), content(r.sent))
}

// content is what a status says, without what is only told along.
func content(s NodeStatus) NodeStatus {
	s.StartedAt, s.AppliedAt, s.ImageGeneration, s.AgentVersion, s.BootID = metav1.Time{}, metav1.Time{}, 0, "", ""
	return s
}

// Run publishes until ctx ends. What cannot be written is tried again, later and later.
func (r *Reporter) Run(ctx context.Context) {
	var last time.Time                               // of a write, successful or not
	retry, slack := time.Duration(0), rand.Float64() // drawn once for each write, or every change would draw them all closer
	timer := time.NewTimer(maxRefresh)
	defer timer.Stop()
	due := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
		case <-timer.C:
			due = true
		}
		if due && r.anything() {
			last, slack = time.Now(), rand.Float64()
			if err := r.publish(ctx); err != nil {
				if ctx.Err() != nil {
					return
				}
				if retry == 0 {
					r.cfg.Log.Warn("status is not published, trying again", "node", r.cfg.Node, "error", err)
				}
				retry = min(max(2*retry, firstRetry), lastRetry)
			} else {
				if retry != 0 {
					r.cfg.Log.Info("status is published again", "node", r.cfg.Node)
				}
				retry = 0
			}
		}
		due = false
		timer.Reset(time.Until(r.next(last, retry, slack)))
	}
}

// next is when to write the next time. slack, 0 to 1, spreads those who would do so together.
func (r *Reporter) next(last time.Time, retry time.Duration, slack float64) time.Time {
	rank, size := 0, 1
	if r.cfg.Fleet != nil {
		rank, size = r.cfg.Fleet()
	}
	round := time.Duration(max(size, 1)) * time.Second / FleetRate
	interval := max(minInterval, round)
	r.mu.Lock()
	defer r.mu.Unlock()
	var earliest time.Time
	switch {
	case !r.known:
		return time.Now().Add(maxRefresh)
	case retry > 0:
		earliest = last.Add(stretch(max(retry, interval), slack))
	case r.behind() && r.lazy:
		earliest = later(r.since.Add(lazyTime), last.Add(minInterval))
	case r.behind():
		earliest = later(r.since.Add(settleTime), last.Add(minInterval))
	default:
		earliest = last.Add(stretch(min(max(10*interval, minRefresh), maxRefresh), slack))
	}
	return nextTurn(earliest, rank, round)
}

// nextTurn is a node's first turn in a round of all nodes that is not earlier than a time. Clocks need not agree better than to
// the second: what differs blurs the turns.
func nextTurn(earliest time.Time, rank int, round time.Duration) time.Time {
	phase := time.Duration(rank) * time.Second / FleetRate % round
	over := (earliest.UnixNano() - int64(phase)) % int64(round)
	if over <= 0 {
		return earliest.Add(time.Duration(-over))
	}
	return earliest.Add(round - time.Duration(over))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// stretch is d and up to half of it more.
func stretch(d time.Duration, slack float64) time.Duration {
	return d + time.Duration(slack*float64(d)/2)
}

// anything says whether there is something to tell.
func (r *Reporter) anything() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

func (r *Reporter) publish(ctx context.Context) error {
	r.mu.Lock()
	status := r.want
	r.mu.Unlock()
	status.AgentVersion, status.BootID, status.StartedAt = r.cfg.Version, r.cfg.BootID, metav1.NewTime(r.started)
	if r.cfg.ImageGeneration != nil {
		status.ImageGeneration = int64(r.cfg.ImageGeneration())
	}
	if err := r.cfg.Writer.WriteNode(ctx, r.cfg.Node, status); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = status
	if r.behind() {
		r.since, r.lazy = time.Now(), false // what changed on the way waits for another turn
	}
	close(r.written)
	r.written = make(chan struct{})
	return nil
}
