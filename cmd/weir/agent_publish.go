// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/dynamic"

	"github.com/weirnet/weir/k8s"
	kstatus "github.com/weirnet/weir/k8s/status"
)

const (
	publishLook   = 200 * time.Millisecond
	troublePasses = 3 * time.Second // trouble that is gone by then is not published
)

// publisher is a reporter that publishes what the agent has applied once it guards pods by it, too, and what keeps it from
// doing so.
type publisher struct {
	agent    *agent
	reporter *kstatus.Reporter

	rank, size, generation atomic.Int64

	mu   sync.Mutex
	last *publication
	told *publication // nil: trouble, or nothing
}

// publication is what was applied.
type publication struct {
	refs     []k8s.PolicyRef
	statuses []k8s.Status
	at       time.Time
}

// newPublisher makes the publisher of an agent that has a cluster; run publishes.
func newPublisher(a *agent) (*publisher, error) {
	client, err := dynamic.NewForConfig(a.api)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("find out which boot this is: %w", err)
	}
	p := &publisher{agent: a}
	p.size.Store(1)
	p.reporter = kstatus.NewReporter(kstatus.ReporterConfig{
		Node: a.cfg.node, Version: version(), BootID: strings.TrimSpace(string(boot)), Writer: kstatus.NewNodeClient(client), Log: a.log,
		Fleet:           func() (int, int) { return int(p.rank.Load()), int(p.size.Load()) },
		ImageGeneration: func() uint64 { return uint64(p.generation.Load()) },
	})
	return p, nil
}

// run publishes until ctx ends.
func (p *publisher) run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { p.reporter.Run(ctx) })
	ticker := time.NewTicker(publishLook)
	defer ticker.Stop()
	var since time.Time // of the present trouble
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		unguarded, behind := p.trouble()
		switch {
		case unguarded == nil && behind == nil:
			since = time.Time{}
			p.flush()
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= troublePasses:
			p.mu.Lock()
			p.told = nil // again, when it has passed
			p.mu.Unlock()
			if unguarded != nil {
				p.reporter.Lost(unguarded, time.Now())
			} else {
				p.reporter.Failed(behind, time.Now())
			}
		}
	}
}

// trouble is what keeps pods from being guarded by what is applied, and what keeps newer policy from being applied.
func (p *publisher) trouble() (unguarded, behind error) {
	_, err := p.agent.status.guards()
	if err != nil && !errors.Is(err, errStopping) && !errors.Is(err, errUninstall) {
		return err, nil
	}
	s := p.agent.origin.source.State()
	switch {
	case errors.Is(s.Err, k8s.ErrUnsynced):
		return nil, nil // it is starting
	case s.Err != nil:
		return nil, s.Err
	case len(s.Stale) > 0:
		return nil, errors.New(s.Stale[0])
	}
	return nil, nil
}

// flush reports what was applied last, unless that was done, or pods are not guarded by it yet.
func (p *publisher) flush() {
	if ready, err := p.agent.status.guards(); !ready || err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == p.told {
		return
	}
	p.told = p.last
	p.reporter.Applied(p.last.refs, p.last.statuses, p.last.at)
}

// Applied implements reporter. It is called by the agent's loop.
func (p *publisher) Applied(refs []k8s.PolicyRef, statuses []k8s.Status, at time.Time) {
	before := 0
	nodes := p.agent.applied.facts.known
	for name := range nodes {
		if name < p.agent.cfg.node {
			before++
		}
	}
	p.rank.Store(int64(before))
	p.size.Store(int64(max(len(nodes), 1)))
	if c := p.agent.applied.compiled; c != nil {
		p.generation.Store(int64(c.Image.Generation()))
	}
	p.mu.Lock()
	p.last = &publication{refs, statuses, at}
	p.mu.Unlock()
	p.flush()
}

// Cleaned implements reporter.
func (p *publisher) Cleaned(ctx context.Context) error { return p.reporter.Cleaned(ctx) }

// guards says whether pods have ever been guarded by what is applied, and what keeps them from being so now.
func (s *status) guards() (ready bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready, s.failure
}
