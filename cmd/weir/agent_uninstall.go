// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/weirnet/weir/internal/cni/install"
	"github.com/weirnet/weir/loader"
)

// errUninstall says that the cluster wants weir to leave this node.
var errUninstall = errors.New("weir is uninstalled")

const leaveRetry = 5 * time.Second

// leave takes weir off this node, says so, and then does nothing until ctx ends: an agent that ended would be started
// again, and would begin to enforce again. The pins are locked, and nothing of them is open.
func (a *agent) leave(ctx context.Context) error {
	a.log.Info("weir is to be uninstalled; it leaves this node")
	a.status.fail(errUninstall)
	for ctx.Err() == nil {
		err := a.clean(ctx)
		if err == nil {
			a.log.Info("weir has left this node; nothing is enforced here any more")
			break
		}
		a.log.Error("leave this node", "error", err)
		sleep(ctx, leaveRetry)
	}
	for ctx.Err() == nil {
		a.status.beat(time.Now())
		sleep(ctx, upkeepInterval)
	}
	return nil
}

// clean removes all that weir has put on this node: first what keeps pods waiting for the agent.
func (a *agent) clean(ctx context.Context) error {
	if a.cfg.cni.confDir != "" {
		if err := install.Remove(a.cfg.cni.confDir, a.cfg.cni.binDir); err != nil {
			return err
		}
	}
	if err := a.guard.store.remove(); err != nil {
		return fmt.Errorf("forget the pods that have started: %w", err)
	}
	if err := loader.DetachAll(a.cfg.pinPath); err != nil {
		return fmt.Errorf("detach the programs: %w", err)
	}
	if err := loader.Remove(a.cfg.pinPath); err != nil {
		return fmt.Errorf("remove the tables: %w", err)
	}
	if a.reporter == nil {
		return nil
	}
	return a.reporter.Cleaned(ctx)
}

// serveMetrics serves metrics as long as there are tables to read them from.
func (a *agent) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if a.left.Load() {
		http.Error(w, errUninstall.Error(), http.StatusServiceUnavailable)
		return
	}
	a.metrics.Handler().ServeHTTP(w, r)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
