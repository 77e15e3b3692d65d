// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/metrics"
	"github.com/weirnet/weir/policy"
)

const (
	upkeepInterval = 10 * time.Second      // expired flows, grace periods, interfaces whose news was lost
	settleDelay    = 50 * time.Millisecond // news of interfaces come in bursts
	retryFirst     = 250 * time.Millisecond
	retryLast      = 5 * time.Second
	decapInterval  = 5 * time.Minute // firewall rules and sysctls change without telling
	stopTimeout    = time.Second     // of the HTTP server
	patience       = 3 * time.Second // of a stop
)

// runAgent is the verb agent. Exit code 0 after SIGTERM, 1 if the agent cannot work at all, 2 if it was called wrongly.
func runAgent(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "cleanup" {
		return runCleanup(args[1:], stdout, stderr)
	}
	cfg, err := parseAgent(args, helpOutput(args, stdout, stderr))
	if errors.Is(err, flag.ErrHelp) {
		return exitFine
	}
	if err != nil {
		fmt.Fprintf(stderr, "weir agent: %v\n", err)
		return exitUsage
	}
	log := cfg.log.logger(stderr)
	ended := make(chan error, 1)
	go func() { ended <- serveAgent(ctx, cfg, log) }()
	select {
	case err = <-ended:
	case <-after(ctx, patience):
		// It is in the kernel's verifier. Whatever it is at, it is made to be killed at.
		log.Info("agent stopped in the middle of its work; enforcement stays")
		return exitFine
	}
	if err != nil {
		log.Error("agent ended", "error", err)
		return exitFailed
	}
	log.Info("agent stopped; enforcement stays")
	return exitFine
}

// after is ready some time after the end of ctx.
func after(ctx context.Context, d time.Duration) <-chan struct{} {
	over := make(chan struct{})
	context.AfterFunc(ctx, func() { time.AfterFunc(d, func() { close(over) }) })
	return over
}

// agent is the loop that keeps the kernel's tables and attachments equal to what the source says and to the interfaces.
type agent struct {
	cfg agentConfig
	log *slog.Logger
	origin
	kernel  kernel
	planner *policy.Planner
	finder  *loader.PodFinder
	metrics *metrics.Metrics
	status  *status
	guard   *podGuard

	memory memory

	settledAt time.Time       // all programs were where they belong
	network   *loader.Network // as it was looked at last
	ahead     *loader.Network // as it was looked at just now; nil: it was not
	devices   devices
	applied   applied
	left      atomic.Bool // weir is uninstalled: the tables are closed
}

// kernel is what the agent holds of it.
type kernel struct {
	tables   *loader.Tables
	attacher *loader.Attacher
	programs loader.Programs
	knobs    bpf.Knobs // of programs
	port     uint16    // of the overlay, as the tables know it
}

// serveAgent runs the agent until ctx ends; then, and after an error, all that is enforced stays enforced.
func serveAgent(ctx context.Context, cfg agentConfig, log *slog.Logger) error {
	lock, err := loader.LockPins(cfg.pinPath)
	if err != nil {
		return err
	}
	defer lock.Close()
	from, err := newOrigin(cfg, log)
	if err != nil {
		return err
	}
	a := &agent{cfg: cfg, log: log, origin: from, planner: policy.NewPlanner(), finder: &loader.PodFinder{Log: log}, status: newStatus(time.Now()),
		guard: newPodGuard(cfg.cni, from.claims, log), memory: newMemory()}
	context.AfterFunc(ctx, func() { a.status.fail(errStopping) })
	if a.api != nil {
		p, err := newPublisher(a)
		if err != nil {
			return err
		}
		a.reporter = p
		go p.run(ctx)
	}
	if err := a.serve(ctx); !errors.Is(err, errUninstall) {
		return err
	}
	a.left.Store(true)
	if cfg.metricsAddr != "" {
		stop, err := a.listen(cfg.metricsAddr)
		if err != nil {
			return err
		}
		defer stop()
	}
	return a.leave(ctx)
}

// serve enforces until ctx ends or weir is to be uninstalled.
func (a *agent) serve(ctx context.Context) (err error) {
	cfg, log := a.cfg, a.log
	if a.kernel.port, err = overlayPort(cfg.overlay); err != nil {
		return err
	}
	if a.kernel.tables, err = loader.Open(loader.Config{PinPath: cfg.pinPath, VXLANPort: a.kernel.port, Log: log}); err != nil {
		return err
	}
	defer a.kernel.tables.Close()
	attach := loader.AttachConfig{PinPath: cfg.pinPath, Generic: cfg.overlay.genericXDP, Log: log}
	if a.kernel.attacher, err = loader.NewAttacher(attach); err != nil {
		return err
	}
	defer a.kernel.attacher.Close()
	defer func() { a.kernel.programs.Close() }()
	a.metrics = metrics.New(datapath{a.kernel.tables}, func() metrics.Source {
		state := a.origin.source.State()
		return metrics.Source{Refused: state.Err != nil, Silent: len(state.Stale)}
	}, version())
	if live := a.restore(); live != nil {
		log.Info("taking over what is enforced", "generation", live.Generation())
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	network, err := loader.Watch(ctx)
	if err != nil {
		return err
	}
	if cfg.metricsAddr != "" {
		stop, err := a.listen(cfg.metricsAddr)
		if err != nil {
			return err
		}
		defer stop()
	}
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel() // before waiting
	others.Go(func() { a.logEvents(ctx) })
	a.guard.recall()
	others.Go(func() {
		if err := serveCNI(ctx, cfg.cni, a.guard, a.status.firstReady); err != nil {
			log.Error("the CNI plugin is no longer served", "error", err)
			cancel()
		}
	})
	updates := make(chan news)
	others.Go(func() {
		if err := a.origin.source.Run(ctx, func(u k8s.Update) error { return submit(ctx, updates, u) }); err != nil {
			log.Error("the source is no longer watched", "error", err)
			cancel()
		}
	})
	return a.loop(ctx, updates, network)
}

// overlayPort is the tunnel port as far as it is known before any manifest: the tables need it to keep pods off it.
func overlayPort(c overlayConfig) (uint16, error) {
	if c.port != 0 {
		return c.port, nil
	}
	n, err := loader.Observe()
	if err != nil {
		return 0, err
	}
	tunnel, err := n.Tunnel(loader.TunnelHints{VNI: c.vni, HasVNI: c.vniGiven})
	if err != nil || tunnel == nil {
		return bpf.DefaultKnobs().VXLANPort, err
	}
	return tunnel.Port, nil
}

// news is an Update on its way to the loop, which answers whether it is enforced.
type news struct {
	update *k8s.Update
	answer chan<- error
}

func submit(ctx context.Context, to chan<- news, u k8s.Update) error {
	answer := make(chan error, 1)
	select {
	case to <- news{&u, answer}:
	case <-ctx.Done():
		return nil // not refused: nobody looked
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return nil
	}
}

// loop works at every piece of news, and again after a moment while something is missing.
func (a *agent) loop(ctx context.Context, updates <-chan news, network <-chan struct{}) error {
	upkeep := time.NewTicker(upkeepInterval)
	defer upkeep.Stop()
	retry, delay, due := time.NewTimer(time.Hour), retryFirst, false
	defer retry.Stop()
	loss := time.NewTicker(lossInterval)
	defer loss.Stop()
	settled, settling := time.NewTimer(time.Hour), false
	defer settled.Stop()
	looked, looking := make(chan *loader.Network, 1), false
	for {
		a.status.beat(time.Now())
		var update news
		look := true // at the interfaces
		select {
		case <-ctx.Done():
			return nil
		case <-a.uninstall:
			return errUninstall
		case update = <-updates:
			look = false
		case <-network:
			a.meet()
			if !settling { // sets and claims do not wait for it
				settling = true
				settled.Reset(settleDelay)
			}
			continue
		case <-settled.C:
			settling, delay = false, retryFirst // an interface comes first, its address a moment later
		case <-retry.C:
			due, delay = false, min(2*delay, retryLast)
		case <-upkeep.C:
			a.upkeep()
			if !looking { // with thousands of routes it takes long, and is for lost news only
				looking = true
				go func() { looked <- a.lookAgain() }()
			}
			continue
		case n := <-looked:
			looking = false
			if a.upToDate(n) {
				continue
			}
			a.ahead = n
		case <-loss.C:
			if !a.missesLink() {
				continue
			}
		}
		again, err := a.work(ctx, update, look)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case again && !due: // one that is due stays so: Updates may follow each other closely
			due = true
			retry.Reset(delay)
		case !again && look:
			due, delay = false, retryFirst
			retry.Stop()
		}
	}
}

func (a *agent) upkeep() {
	if a.status.everReady() {
		a.memory.bound()
	}
	if err := a.kernel.tables.Tick(time.Now()); err != nil {
		a.log.Error("upkeep", "error", err)
	}
	if _, err := a.kernel.tables.Sweep(); err != nil {
		a.log.Error("upkeep", "error", err)
	}
}

// listen serves metrics and health; the returned function ends that.
func (a *agent) listen(addr string) (stop func(), err error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", a.serveMetrics)
	mux.HandleFunc("/healthz", a.status.serveHealth)
	mux.HandleFunc("/readyz", a.serveReady)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(listener)
	a.log.Info("serving metrics", "address", listener.Addr().String())
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
	}, nil
}

// logEvents logs sampled verdicts: drops at info, the rest at debug.
func (a *agent) logEvents(ctx context.Context) {
	err := a.kernel.tables.Events(ctx, func(e bpf.Event) {
		level := slog.LevelDebug
		if bpf.Verdict(e.Verdict) != bpf.VerdictPass {
			level = slog.LevelInfo
		}
		if !a.log.Enabled(ctx, level) {
			return
		}
		var names metrics.Names
		if live := a.kernel.tables.LiveImage(); live != nil {
			names = live
		}
		a.log.Log(ctx, level, metrics.FormatEvent(&e, names), "hook", bpf.HookName(bpf.Hook(e.Hook)),
			"reason", bpf.ReasonName(bpf.Reason(e.Reason)), "ifindex", e.Ifindex, "generation", e.Generation)
	})
	if err != nil {
		a.log.Error("events are no longer logged", "error", err)
	}
}
