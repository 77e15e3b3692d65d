// SPDX-License-Identifier: Apache-2.0

//go:build cluster

// Package clustertest tests weir on a real Kubernetes, in two stages that share a cluster each: an apiserver alone, and two
// nodes with containerd, flannel and kube-proxy. `make test-k8s` runs it.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cluster"
)

// stage is a cluster that starts when the first test asks for it.
type stage struct {
	name    string
	config  cluster.Config
	once    sync.Once
	cluster *cluster.Cluster
	err     error
}

var (
	apiserverStage = &stage{name: "apiserver"}
	nodesStage     = &stage{name: "nodes", config: cluster.Config{Nodes: 2, KubeProxy: "iptables"}}
)

func TestMain(m *testing.M) {
	if os.Getenv(victim) != "" {
		beVictim()
	}
	code := m.Run()
	for _, s := range []*stage{apiserverStage, nodesStage} {
		if err := s.close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func (s *stage) get(t *testing.T) *cluster.Cluster {
	t.Helper()
	s.once.Do(func() {
		start := time.Now()
		s.config.Log = os.Stderr
		// Built from nothing, the tools take many minutes.
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		s.cluster, s.err = cluster.New(ctx, s.config)
		fmt.Fprintf(os.Stderr, "stage %s: up after %.1f s\n", s.name, time.Since(start).Seconds())
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.cluster
}

func (s *stage) close() error {
	if s.cluster == nil {
		return nil
	}
	start, name := time.Now(), filepath.Base(s.cluster.Dir)
	if err := s.cluster.Close(); err != nil {
		return fmt.Errorf("stage %s: close: %w", s.name, err)
	}
	if found := leavings(name); len(found) > 0 {
		return fmt.Errorf("stage %s: left behind: %q", s.name, found)
	}
	fmt.Fprintf(os.Stderr, "stage %s: gone after %.1f s\n", s.name, time.Since(start).Seconds())
	return nil
}

// apiserver is the cluster without nodes: etcd and apiserver.
func apiserver(t *testing.T) *cluster.Cluster { return apiserverStage.get(t) }

// nodes is the cluster with the nodes n1 and n2, with or without weir.
func nodes(t *testing.T) *cluster.Cluster { return nodesStage.get(t) }

// within asks until the answer is nil, and fails the test with the last one when time is up.
func within(t *testing.T, most time.Duration, ask func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	var last error // what the answer was before time ran out for it
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatal(errors.Join(fmt.Errorf("not within %s", most), last))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// kubectl is c.Kubectl, and its failure the test's.
func kubectl(t *testing.T, c *cluster.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply is c.Apply, and its failure the test's.
func apply(t *testing.T, c *cluster.Cluster, manifest string) {
	t.Helper()
	if err := c.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
}

// namespace makes a namespace that goes with the test, and does not wait for that.
func namespace(t *testing.T, c *cluster.Cluster, name string) string {
	t.Helper()
	kubectl(t, c, "create", "namespace", name)
	t.Cleanup(func() {
		if out, err := c.Kubectl(context.Background(), "delete", "namespace", name, "--wait=false"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return name
}
