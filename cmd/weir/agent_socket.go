// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/weirnet/weir/internal/cni"
	"github.com/weirnet/weir/internal/cni/install"
	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/loader"
)

// cniConfig is how pods that start are met.
type cniConfig struct {
	socket       string // empty: none
	confDir      string // empty: the plugin is not installed
	binDir       string
	plugin       string // the binary to install; empty: remove it
	agentMissing string // deny or allow
	cacheDir     string // of the container runtime's records; empty: not read
}

// podClaims lets pods have addresses that their source does not tell yet. Both sources of Updates do.
type podClaims interface {
	Claim(ctx context.Context, p k8s.PodClaim) error
	Release(gone func(containerID string) bool)
}

// podGuard answers the CNI plugin. It stands between its questions, of which there may be many at a time, and the loop.
type podGuard struct {
	claims  podClaims
	store   claimStore
	records *records
	log     *slog.Logger

	mu      sync.Mutex
	told    []toldPod             // not taken by the loop yet
	guarded map[string]guardedPod // by namespace/name
	changed chan struct{}         // closed when guarded changes
}

// guardedPod is a pod whose interface has the programs and is in their tables.
type guardedPod struct {
	ifindex int
	addrs   []netip.Addr
}

var errNotGuarded = errors.New("policy is not enforced on its interface")

func newPodGuard(cfg cniConfig, c podClaims, log *slog.Logger) *podGuard {
	g := &podGuard{claims: c, store: newClaimStore(cfg.socket), log: log, guarded: map[string]guardedPod{}, changed: make(chan struct{})}
	if cfg.cacheDir != "" {
		g.records = newRecords(cfg.cacheDir, g, log)
	}
	return g
}

// Add returns once the pod's policy is enforced on the interface that netns shows.
func (g *podGuard) Add(ctx context.Context, p cni.Pod, netns *os.File) error {
	start := time.Now()
	at, err := g.look(&p, netns)
	if err != nil {
		return err
	}
	if err := g.claim(ctx, &p, at); err != nil {
		return err
	}
	if err := g.wait(ctx, &p, at.Ifindex); err != nil {
		return err
	}
	if err := g.store.save(p, at); err != nil {
		return err
	}
	g.log.Info("pod starts guarded", "pod", p.String(), "addresses", p.Addrs, "interface", at.Name, "took", time.Since(start))
	return nil
}

// Check says whether the pod's policy is enforced on its interface now.
func (g *podGuard) Check(_ context.Context, p cni.Pod, netns *os.File) error {
	at, err := g.look(&p, netns)
	if err != nil {
		return err
	}
	if !g.isGuarded(&p, at.Ifindex) {
		return fmt.Errorf("check pod %s: %w %s", &p, errNotGuarded, at.Name)
	}
	return nil
}

// Release forgets what was claimed for containers that are gone.
func (g *podGuard) Release(gone func(containerID string) bool) {
	g.store.forget(gone)
	g.claims.Release(gone)
}

// look finds the host side of a pod's interface and leaves word of it to the loop.
func (g *podGuard) look(p *cni.Pod, netns *os.File) (loader.PodInterface, error) {
	n, err := loader.Observe()
	if err != nil {
		return loader.PodInterface{}, fmt.Errorf("find interface of pod %s: %w", p, err)
	}
	at, err := n.Inside(int(netns.Fd()), p.Interface, p.Addrs)
	if err != nil {
		return loader.PodInterface{}, fmt.Errorf("find interface of pod %s: %w", p, err)
	}
	g.leave(p, at, n)
	return at, nil
}

// wait returns once the pod is guarded on an interface.
func (g *podGuard) wait(ctx context.Context, p *cni.Pod, ifindex int) error {
	for {
		g.mu.Lock()
		changed := g.changed
		g.mu.Unlock()
		if g.isGuarded(p, ifindex) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("guard pod %s: %w: %w", p, errNotGuarded, ctx.Err())
		}
	}
}

func (g *podGuard) isGuarded(p *cni.Pod, ifindex int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, ok := g.guarded[p.String()]
	return ok && at.ifindex == ifindex && slices.ContainsFunc(p.Addrs, func(a netip.Addr) bool { return slices.Contains(at.addrs, a) })
}

// take hands the loop what the plugin told since it was last called.
func (g *podGuard) take() []toldPod {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	told := g.told
	g.told = nil
	return told
}

// pending says whether there is something to take.
func (g *podGuard) pending() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.told) > 0
}

// tell says which pods are guarded now, and where.
func (g *podGuard) tell(guarded map[string]guardedPod) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.guarded = guarded
	close(g.changed)
	g.changed = make(chan struct{})
}

// serveCNI listens for the plugin until ctx ends, and keeps it installed once ready says that the agent can do its work: a
// node whose agent never could must not be left with a plugin that waits for it.
func serveCNI(ctx context.Context, c cniConfig, g *podGuard, ready <-chan struct{}) error {
	var others sync.WaitGroup
	defer others.Wait()
	if c.cacheDir != "" {
		others.Go(func() { g.records.follow(ctx) })
	}
	if c.confDir != "" {
		others.Go(func() {
			select {
			case <-ready:
				g.install(ctx, c)
			case <-ctx.Done():
			}
		})
	}
	if c.socket == "" {
		<-ctx.Done()
		return nil
	}
	server, err := cni.Listen(c.socket, g, g.log)
	if err != nil {
		return err
	}
	return server.Serve(ctx)
}

// install keeps the plugin installed, or removes one that an agent with other flags has installed.
func (g *podGuard) install(ctx context.Context, c cniConfig) {
	if c.plugin == "" {
		if err := install.Remove(c.confDir, c.binDir); err != nil {
			g.log.Error("the CNI plugin is not removed; pods go on waiting for this agent", "error", err)
		}
		return
	}
	i := install.New(install.Config{Plugin: c.plugin, BinDir: c.binDir, ConfDir: c.confDir, Log: g.log,
		Entry: install.Entry{Socket: c.socket, OnAgentMissing: c.agentMissing}})
	if err := i.Run(ctx); err != nil {
		g.log.Error("the CNI plugin is no longer kept installed", "error", err)
	}
}
