// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The loop beats at least every upkeepInterval; past this it hangs.
const beatTimeout = time.Minute

var errStopping = errors.New("the agent is stopping")

// status is what the loop tells the HTTP handlers.
type status struct {
	mu      sync.Mutex
	beaten  time.Time
	failure error // why tables or attachments are behind
	ready   bool  // has ever been
	missing map[string]error
	nothing []string // rules that admit nothing
	closed  []string // namespaces whose policies are too large
	audited []string // policies under audit
	warned  []string // pods that the log has named as missing

	firstReady chan struct{} // closed when it is
}

func newStatus(now time.Time) *status { return &status{beaten: now, firstReady: make(chan struct{})} }

func (s *status) beat(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beaten = now
}

// settled notes that all is in force, but for the pods that have no interface yet.
func (s *status) settled(missing map[string]error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.missing = missing; !s.ready {
		s.ready = true
		close(s.firstReady)
	}
	if !errors.Is(s.failure, errStopping) && !errors.Is(s.failure, errUninstall) {
		s.failure = nil
	}
}

// fail notes an error and says whether it is news.
func (s *status) fail(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := s.failure == nil || s.failure.Error() != err.Error()
	s.failure = err
	return news
}

func (s *status) everReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// newlyMissing says whether the list of pods without interface has changed.
func (s *status) newlyMissing(names []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(names, s.warned) {
		return false
	}
	s.warned = names
	return true
}

func (s *status) setUnenforceable(rules []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nothing = rules
}

// setOversized notes whose policies are too large and says whether that is news.
func (s *status) setOversized(namespaces []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := !slices.Equal(s.closed, namespaces)
	s.closed = namespaces
	return news
}

func (s *status) setAudited(policies []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audited = policies
}

func (s *status) serveHealth(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	silent := time.Since(s.beaten)
	s.mu.Unlock()
	if silent > beatTimeout {
		http.Error(w, fmt.Sprintf("the agent has hung for %v", silent.Round(time.Second)), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// serveReady answers 200 only if the source's state is enforced: of a directory, the manifests as they are at this moment; of
// a cluster, what its API server has told, since it first told everything. An API server that does not answer does not
// count against that: what it told last is enforced. Pods that have no interface yet do
// not count against that: nothing reaches them either. They are listed.
func (a *agent) serveReady(w http.ResponseWriter, _ *http.Request) {
	source := a.origin.source.State()
	s := a.status
	s.mu.Lock()
	defer s.mu.Unlock()
	err := source.Err
	switch {
	case err != nil:
	case s.failure != nil:
		err = s.failure
	case !s.ready:
		err = errors.New("the agent is starting")
	case !source.Applied:
		err = errors.New("what is to be enforced has just changed")
	}
	if err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	var body strings.Builder
	body.WriteString("ready\n")
	for _, kind := range source.Stale {
		fmt.Fprintf(&body, "the API server does not tell; what it told last is enforced: %s\n", kind)
	}
	for _, name := range sortedNames(s.missing) {
		fmt.Fprintf(&body, "not guarded yet: %v\n", s.missing[name])
	}
	for _, rule := range s.nothing {
		fmt.Fprintf(&body, "admits nothing, cannot be enforced: %s\n", rule)
	}
	for _, namespace := range s.closed {
		fmt.Fprintf(&body, "isolated, too large: %s\n", namespace)
	}
	for _, policy := range s.audited {
		fmt.Fprintf(&body, "under audit, enforces nothing: %s\n", policy)
	}
	fmt.Fprint(w, body.String())
}
