// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/client-go/rest"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// source is where the agent learns what to enforce: a directory of manifests, or a cluster.
type source interface {
	// Run hands Updates to apply, one at a time, until ctx ends.
	Run(ctx context.Context, apply func(k8s.Update) error) error
	State() k8s.State
}

// reporter tells the cluster how far the agent has come.
type reporter interface {
	// Applied says that everything about these policies is enforced, but for what the statuses say.
	Applied(refs []k8s.PolicyRef, statuses []k8s.Status, at time.Time)
	// Cleaned says that weir has left this node, and returns when the cluster knows.
	Cleaned(ctx context.Context) error
}

// directorySource is a directory of manifests.
type directorySource struct {
	*k8s.Directory
	node    string
	options k8s.Options
}

func (d directorySource) Run(ctx context.Context, apply func(k8s.Update) error) error {
	return d.Directory.Run(ctx, func(o *k8s.Objects) error {
		read := time.Now()
		model, statuses, err := k8s.Translate(o, d.node, d.options)
		if err != nil {
			return fmt.Errorf("translate manifests: %w", err)
		}
		return apply(k8s.Update{Model: func() *policy.Model { return model }, Statuses: statuses, Policies: o.PolicyRefs(), Received: []time.Time{read}})
	})
}

// origin is where the agent's Updates come from, and whom it tells what became of them.
type origin struct {
	source    source
	claims    podClaims
	reporter  reporter        // nil: nobody
	uninstall <-chan struct{} // nil: nobody says so
	watcher   *k8s.Watcher    // nil: there is no cluster
	api       *rest.Config    // nil: there is no cluster
}

func newOrigin(cfg agentConfig, log *slog.Logger) (origin, error) {
	if cfg.manifests != "" {
		directory := k8s.NewDirectory(cfg.manifests, log, k8s.Timing{})
		return origin{source: directorySource{directory, cfg.node, cfg.policy}, claims: directory}, nil
	}
	api, err := k8s.APIConfig(cfg.kubeconfig, "weir/"+version())
	if err != nil {
		return origin{}, fmt.Errorf("%w; or name a directory by --manifests", err)
	}
	watcher, err := k8s.NewWatcher(k8s.WatchConfig{API: api, Node: cfg.node, Options: cfg.policy, DaemonSet: cfg.daemonSet, Log: log})
	if err != nil {
		return origin{}, err
	}
	return origin{source: watcher, claims: watcher, uninstall: watcher.Uninstall(), watcher: watcher, api: api}, nil
}
