// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// When what is written of a policy.
const (
	patience       = time.Second // before the first word of progress: mostly there is nothing more to say by then
	firstInterval  = time.Second // between words of progress; doubles
	lastInterval   = 30 * time.Second
	demotion       = 30 * time.Second // before the word that what was enforced on all nodes is so no more: nodes start anew
	driftInterval  = 5 * time.Minute  // numbers that changed while all else stayed: nodes come and go
	mirrorPatience = 2 * time.Second  // a policy's own status is watched by every node, so it is written less often
	mirrorInterval = 30 * time.Second
	mirrorDrift    = 10 * time.Minute
	failFirst      = time.Second
	failLast       = time.Minute
)

// record is what has been written of one policy.
type record struct {
	uid       string
	changedAt time.Time // when its generation was first seen
	witnessed bool      // by this operator, as it happened
	enforced  time.Time // when all nodes enforced it, for the first time

	written   bool
	state     PolicyState
	condition metav1.Condition
	at        time.Time
	interval  time.Duration
	demoted   time.Time // since when the outcome is less than what was written; zero if it is not

	mirrored   metav1.Condition
	mirroredAt time.Time
	event      string // what the last Event said

	fails   time.Duration // how long to wait after what failed
	retryAt time.Time
}

// renew begins a new generation.
func (r *record) renew(now time.Time, witnessed bool) {
	r.changedAt, r.witnessed, r.enforced, r.interval = now, witnessed, time.Time{}, 0
	r.retryAt, r.fails = time.Time{}, 0
}

// restore makes a record of what an operator before this one wrote. What stands in the policy itself is not known.
func restore(s *PolicyStatus) *record {
	r := &record{uid: s.Policy.UID, changedAt: s.Status.ChangedAt.Time, written: true, state: s.Status}
	if s.Status.EnforcedAt != nil {
		r.enforced = s.Status.EnforcedAt.Time
	}
	for _, c := range s.Status.Conditions {
		if c.Type == ConditionEnforced {
			r.condition = c
		}
	}
	r.event = eventKey(r.condition.Reason, &r.state)
	if r.event == "" && !r.enforced.IsZero() {
		r.event = eventKey(ReasonEnforced, &r.state)
	}
	return r
}

// urgency orders what is to be written; the highest goes first.
type urgency int

const (
	nothing urgency = iota
	drift
	progress
	turn // the outcome itself
)

// due says what is to be written next, and how urgently now; "" if all is told.
func (r *record) due(o *Outcome, now time.Time) (what string, u urgency) {
	switch {
	case r.written && r.uid != o.Policy.UID:
		what, u = deleteStatus, turn
	case !r.told(o):
		what, u = writeStatus, r.statusUrgency(o, now)
	case eventKey(r.condition.Reason, &r.state) != "" && eventKey(r.condition.Reason, &r.state) != r.event:
		what, u = writeEvent, turn
	case kindsByName[o.Policy.Kind].Conditions && !sameCondition(r.mirrored, r.condition):
		what, u = writeCondition, r.mirrorUrgency(now)
	}
	if now.Before(r.retryAt) {
		u = nothing
	}
	return what, u
}

// told says whether the PolicyStatus says what the outcome says.
func (r *record) told(o *Outcome) bool {
	if r.condition.Reason == o.Reason && r.condition.Status == o.Status {
		r.demoted = time.Time{}
	}
	return r.written && r.state.ObservedGeneration == o.State.ObservedGeneration && r.state.Audited == o.State.Audited &&
		r.condition.Reason == o.Reason && r.condition.Status == o.Status && sameState(&r.state, &o.State)
}

func sameCondition(a, b metav1.Condition) bool {
	return a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message && a.ObservedGeneration == b.ObservedGeneration
}

// statusUrgency says whether the PolicyStatus is to be written now.
func (r *record) statusUrgency(o *Outcome, now time.Time) urgency {
	switch {
	case !r.written || r.state.ObservedGeneration != o.State.ObservedGeneration || r.state.Audited != o.State.Audited:
		if o.Done() || now.Sub(r.changedAt) >= patience {
			return turn
		}
		return nothing
	case r.demotes(o, now):
		if now.Sub(r.demoted) < demotion {
			return nothing
		}
		return turn
	case r.condition.Reason != o.Reason || r.condition.Status != o.Status || o.Done() && r.state.Applied < r.state.Nodes:
		return turn
	case !o.Done() && o.Status == metav1.ConditionFalse:
		if now.Sub(r.at) >= max(r.interval, firstInterval) {
			return progress
		}
	case now.Sub(r.at) >= driftInterval:
		return drift
	}
	return nothing
}

// demotes says whether nodes have fallen back that had enforced the same generation, and notes since when.
func (r *record) demotes(o *Outcome, now time.Time) bool {
	switch o.Reason {
	case ReasonProgressing, ReasonNodesFailing, ReasonNodesNotReady, ReasonNoNodes:
		if r.condition.Status == metav1.ConditionTrue || r.condition.Reason == ReasonAudited {
			if r.demoted.IsZero() {
				r.demoted = now
			}
			return true
		}
	}
	r.demoted = time.Time{}
	return false
}

// sameState compares what is counted.
func sameState(a, b *PolicyState) bool {
	return a.Nodes == b.Nodes && a.Applied == b.Applied && a.Enforced == b.Enforced && a.ResourceVersion == b.ResourceVersion &&
		slices.Equal(a.Waiting, b.Waiting) && reflect.DeepEqual(a.Reasons, b.Reasons)
}

// mirrorUrgency says whether the condition in the policy's own status is to be written now.
func (r *record) mirrorUrgency(now time.Time) urgency {
	c, m := r.condition, r.mirrored
	since := now.Sub(r.mirroredAt)
	switch {
	case c.ObservedGeneration != m.ObservedGeneration || c.Status != m.Status || c.Reason != m.Reason:
		if c.Reason == ReasonProgressing && now.Sub(r.changedAt) < mirrorPatience {
			return nothing
		}
		return turn
	case c.Reason == ReasonProgressing && since >= mirrorInterval, since >= mirrorDrift:
		return drift
	}
	return nothing
}

// stateToWrite is what is to be written of an outcome now.
func (r *record) stateToWrite(o *Outcome, message string, now time.Time) (PolicyState, metav1.Condition) {
	s := o.State
	s.ChangedAt = metav1.NewTime(r.changedAt)
	if enforced := r.enforced; !enforced.IsZero() {
		at := metav1.NewTime(enforced)
		s.EnforcedAt = &at
	}
	c := metav1.Condition{Type: ConditionEnforced, Status: o.Status, Reason: o.Reason, Message: message,
		ObservedGeneration: s.ObservedGeneration, LastTransitionTime: r.condition.LastTransitionTime}
	if !r.written || c.Status != r.condition.Status || c.LastTransitionTime.IsZero() {
		c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
	}
	s.Conditions = []metav1.Condition{c}
	return s, c
}

// wrote notes that the PolicyStatus was written.
func (r *record) wrote(o *Outcome, s PolicyState, c metav1.Condition, now time.Time) {
	if r.written && r.condition.Reason == c.Reason && r.state.ObservedGeneration == s.ObservedGeneration {
		r.interval = min(2*max(r.interval, firstInterval/2), lastInterval)
	} else {
		r.interval = firstInterval
	}
	r.uid, r.written, r.state, r.condition, r.at, r.fails = o.Policy.UID, true, s, c, now, 0
	r.demoted = time.Time{}
}

// failed notes that something could not be written.
func (r *record) failed(now time.Time) {
	r.fails = min(max(2*r.fails, failFirst), failLast)
	r.retryAt = now.Add(stretch(r.fails, rand.Float64()))
}

// eventKey is what an Event would be about; empty if there is nothing to tell. An Event is told when its key changes.
func eventKey(reason string, s *PolicyState) string {
	switch reason {
	case ReasonEnforced, ReasonAudited:
		return fmt.Sprint(reason, s.ObservedGeneration)
	case ReasonNotEnforced, ReasonTooLarge, ReasonRefused:
		var b strings.Builder
		fmt.Fprint(&b, reason, s.ObservedGeneration)
		for _, r := range s.Reasons {
			if r.Note {
				continue
			}
			b.WriteString(" " + r.Reason)
			for _, f := range r.Fields {
				b.WriteString(" " + f.Field)
			}
		}
		return b.String()
	}
	return ""
}

// eventOf says a condition as an Event.
func eventOf(p *Policy, s *PolicyState, c *metav1.Condition) Event {
	e := Event{Reason: c.Reason, Action: "Enforce", Message: fmt.Sprintf("generation %d: %s", s.ObservedGeneration, c.Message)}
	switch {
	case c.Reason == ReasonEnforced && s.EnforcedAt != nil:
		if took := s.EnforcedAt.Sub(s.ChangedAt.Time).Round(time.Second); took > 0 {
			e.Message += fmt.Sprintf(", %v after it changed", took)
		}
	case c.Reason != ReasonEnforced && c.Reason != ReasonAudited:
		e.Warning = true
	}
	return e
}

// statusObject is a policy's PolicyStatus.
func statusObject(p *Policy, s PolicyState) *PolicyStatus {
	o := &PolicyStatus{Policy: PolicyReference{APIVersion: p.APIVersion, Kind: p.Kind, Name: p.Name, UID: p.UID}, Status: s}
	o.APIVersion, o.Kind = GroupVersion.String(), KindPolicyStatus
	if p.Namespace == "" {
		o.Kind = KindClusterPolicyStatus
	}
	o.Name, o.Namespace = StatusName(p.Kind, p.Name), p.Namespace
	o.OwnerReferences = []metav1.OwnerReference{{APIVersion: p.APIVersion, Kind: p.Kind, Name: p.Name, UID: types.UID(p.UID)}}
	return o
}
