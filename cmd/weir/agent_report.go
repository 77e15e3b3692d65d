// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"time"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// report tells log, status, metrics and the cluster what is enforced, and what is not as it is written. plan is the one that
// the Update took; nil: none.
func (a *agent) report(update *k8s.Update, plan *policy.Plan, now time.Time) {
	first := a.applied.refs == nil && a.applied.statuses == nil
	news := first || !sameList(a.applied.statuses, update.Statuses) || !sameList(a.applied.refs, update.Policies)
	if first || !sameList(a.applied.statuses, update.Statuses) {
		a.tell(update.Statuses)
	}
	if plan != nil {
		a.status.setAudited(plan.Final.Image.AuditedPolicies())
		if !slices.EqualFunc(a.applied.overflow, plan.Overflow, func(a, b policy.Overflow) bool { return a.String() == b.String() }) {
			news = true
		}
		a.applied.overflow = plan.Overflow
		a.reportOversized(plan.Overflow)
	}
	a.applied.statuses, a.applied.refs = update.Statuses, update.Policies
	if a.reporter != nil && news {
		a.reporter.Applied(update.Policies, slices.Concat(update.Statuses, oversized(a.applied.overflow)), now)
	}
}

// sameList says whether two lists are equal; those that are the same memory are not read.
func sameList[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// tell logs what is not enforced as written, each once as long as it stays.
func (a *agent) tell(statuses []k8s.Status) {
	told := make(map[k8s.Status]bool, len(a.applied.statuses))
	for _, s := range a.applied.statuses {
		told[s] = true
	}
	var admitNothing []string
	for _, s := range statuses {
		if s.Reason == k8s.ReasonUnsupported || s.Reason == k8s.ReasonRefused {
			admitNothing = append(admitNothing, s.Object+" "+s.Path)
		}
		switch {
		case told[s]:
		case s.Reason == k8s.ReasonAudited:
			a.log.Info("under audit", "object", s.Object, "message", s.Message)
		default:
			a.log.Warn("not enforced as written", "object", s.Object, "field", s.Path, "reason", s.Reason, "message", s.Message)
		}
	}
	a.status.setUnenforceable(admitNothing)
	a.metrics.Unenforceable(len(admitNothing))
}

// reportOversized tells whose policies are not enforced as written because they are too large.
func (a *agent) reportOversized(overflow []policy.Overflow) {
	texts := make([]string, len(overflow))
	for i, o := range overflow {
		texts[i] = o.String()
	}
	a.metrics.Oversized(len(overflow))
	if !a.status.setOversized(texts) {
		return
	}
	for _, o := range overflow {
		a.log.Warn("policies too large, the pods they select are isolated", "namespace", o.Namespace, "policies", len(o.Policies), "what", o.What,
			"cost", o.Cost, "size", o.Size, "limit", o.Limit)
	}
}

// oversized is what the authors of policies that are too large are told.
func oversized(overflow []policy.Overflow) (statuses []k8s.Status) {
	for _, o := range overflow {
		for _, object := range o.Policies {
			statuses = append(statuses, k8s.Status{Object: object, Reason: k8s.ReasonTooLarge, Message: "the pods it selects are isolated: " + o.String()})
		}
	}
	return statuses
}
