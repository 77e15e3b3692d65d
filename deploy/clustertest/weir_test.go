// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cluster"
)

const (
	release    = "weir"
	system     = "kube-system"
	repository = "weir.test/weir"
)

// What is installed on the stage of nodes; tests run one after the other.
var (
	running  string              // the version; empty: weir is not installed
	imported = map[string]bool{} // versions whose image the nodes have
	values   []string            // helm's, as last given
)

// installed is the cluster of nodes with weir on it, whatever test asks first. extra are helm's values: if they are not those
// of the test before, weir is upgraded to them.
func installed(t *testing.T, extra ...string) *cluster.Cluster {
	t.Helper()
	c := nodes(t)
	if running == "" || strings.Join(values, ",") != strings.Join(extra, ",") {
		version := running
		if version == "" {
			version = "1.0.0"
			remember(t, c)
		}
		install(t, c, version, extra...)
	}
	return c
}

// install installs the chart as a user does, or upgrades to this version and these values. It returns when all agents and the
// operator are ready.
func install(t *testing.T, c *cluster.Cluster, version string, extra ...string) {
	t.Helper()
	start := time.Now()
	if !imported[version] {
		if err := c.WeirImage(t.Context(), repository, version); err != nil {
			t.Fatal(err)
		}
		imported[version] = true
		fmt.Fprintf(os.Stderr, "image %s: built and imported in %.1f s\n", version, time.Since(start).Seconds())
	}
	chart, err := cluster.Chart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"upgrade", "--install", release, chart, "--namespace=" + system, "--set=image.repository=" + repository,
		"--set=image.tag=" + version, "--set=image.pullPolicy=Never"}
	for _, value := range extra {
		args = append(args, "--set="+value)
	}
	start = time.Now()
	if _, err := c.Helm(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	running, values = version, extra
	for _, workload := range []string{"daemonset/weir", "deployment/weir-operator"} {
		if out, err := c.Kubectl(t.Context(), "--namespace="+system, "rollout", "status", workload, "--timeout=120s"); err != nil {
			t.Fatalf("%v: %s\n%s", err, out, state(c))
		}
	}
	fmt.Fprintf(os.Stderr, "weir %s: rolled out in %.1f s\n", version, time.Since(start).Seconds())
}

// state tells why weir's pods are not as they should.
func state(c *cluster.Cluster) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var text strings.Builder
	for _, args := range [][]string{{"get", "pods", "-o", "wide"}, {"get", "events", "--sort-by=.lastTimestamp"},
		{"logs", "-l", "app.kubernetes.io/name=weir", "--all-containers", "--prefix", "--tail=400", "--ignore-errors"}} {
		out, err := c.Kubectl(ctx, append([]string{"--namespace=" + system}, args...)...)
		for line := range strings.Lines(out) {
			if !strings.Contains(line, `msg="drop `) {
				text.WriteString(line)
			}
		}
		if err != nil {
			fmt.Fprintln(&text, err)
		}
	}
	return text.String()
}

// agent is the name of the agent's pod on a node: of the one that is to stay, while another is leaving.
func agent(t *testing.T, c *cluster.Cluster, node string) string {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name, DeletionTimestamp string }
		}
	}
	out := kubectl(t, c, "--namespace="+system, "get", "pods", "-l", "app.kubernetes.io/name=weir,app.kubernetes.io/component=agent",
		"--field-selector=spec.nodeName="+node, "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, item := range list.Items {
		if item.Metadata.DeletionTimestamp == "" {
			names = append(names, item.Metadata.Name)
		}
	}
	if len(names) != 1 {
		t.Fatalf("agents on %s: %q", node, names)
	}
	return names[0]
}
