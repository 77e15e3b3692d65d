// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/weirnet/weir/internal/cluster"
)

// before is what each node looked like when weir had never been there.
var before = map[string][]string{}

func remember(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, n := range c.Nodes {
		if before[n.Name] == nil {
			before[n.Name] = traces(t, n)
		}
	}
}

// traces are all places of a node where weir could leave something, as lines.
func traces(t *testing.T, n *cluster.Node) (lines []string) {
	t.Helper()
	for _, dir := range []string{"/etc/cni/net.d", "/opt/cni/bin", "/sys/fs/bpf", "/run/weir", "/var/lib/weir", "/etc/weir"} {
		err := fs.WalkDir(os.DirFS(n.Path(dir)), ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			line := fmt.Sprintf("%s/%s %s", dir, path, info.Mode())
			if info.Mode().IsRegular() && dir != "/sys/fs/bpf" {
				content, err := os.ReadFile(n.Path(dir + "/" + path))
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %d bytes", len(content))
				if dir == "/etc/cni/net.d" {
					line += ": " + string(content)
				}
			}
			lines = append(lines, line)
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if err := n.Space.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces of %s: %w", n.Name, err)
		}
		for _, l := range links {
			attrs := l.Attrs()
			name := attrs.Name
			if l.Type() == "veth" && name != "eth0" {
				name = "a pod's" // they come and go
			}
			if attrs.Xdp != nil && attrs.Xdp.Attached {
				lines = append(lines, fmt.Sprintf("%s: an XDP program", name))
			}
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				programs, err := link.QueryPrograms(link.QueryOptions{Target: attrs.Index, Attach: at})
				if err != nil {
					return fmt.Errorf("query %s of %s: %w", name, n.Name, err)
				}
				for range programs.Programs {
					lines = append(lines, fmt.Sprintf("%s: a program at %s", name, at))
				}
			}
			qdiscs, err := netlink.QdiscList(l)
			if err != nil {
				return fmt.Errorf("list qdiscs of %s: %w", n.Name, err)
			}
			for _, q := range qdiscs {
				if q.Type() == "clsact" {
					lines = append(lines, fmt.Sprintf("%s: clsact", name))
				}
			}
			if name != "a pod's" && attrs.Flags&net.FlagUp != 0 {
				lines = append(lines, fmt.Sprintf("%s: %s, MTU %d", name, l.Type(), attrs.MTU))
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// After `helm uninstall` a node is as it was before: pods reach each other whatever policy says, and start.
func TestUninstallLeavesNothing(t *testing.T) {
	c := installed(t)
	ns := namespace(t, c, "leaving")
	server := &pod{Namespace: ns, Name: "server", Node: "n1"}
	client := &pod{Namespace: ns, Name: "client", Node: "n2"}
	start(t, c, server, client)
	apply(t, c, guarded(ns))
	within(t, 10*time.Second, func(ctx context.Context) error { return refused(client.get(ctx, c, server.IP+":8080")) })
	for _, n := range c.Nodes {
		if slices.Equal(traces(t, n), before[n.Name]) {
			t.Fatalf("%s looks as if weir was not there", n.Name)
		}
	}

	begin := time.Now()
	if _, err := c.Helm(t.Context(), "uninstall", release, "--namespace="+system, "--timeout=3m"); err != nil {
		t.Fatalf("%v\n%s", err, state(c))
	}
	running = ""
	t.Logf("uninstalled in %.1f s", time.Since(begin).Seconds())
	for _, n := range c.Nodes {
		expected, left := before[n.Name], traces(t, n)
		for _, line := range left {
			// cni0 is there since the first pod, whoever had it. Kubelet made /run/weir, and holds it while the agent's pod ends.
			if !slices.Contains(expected, line) && !strings.HasPrefix(line, "cni0: bridge") && !strings.HasPrefix(line, "/run/weir/. ") {
				t.Errorf("%s: left behind: %s", n.Name, line)
			}
		}
		for _, line := range expected {
			if !slices.Contains(left, line) {
				t.Errorf("%s: lost: %s", n.Name, line)
			}
		}
	}
	within(t, 30*time.Second, func(ctx context.Context) error {
		for _, kinds := range []string{"all,serviceaccounts,configmaps,roles,rolebindings,leases", "clusterroles,clusterrolebindings"} {
			out, err := c.Kubectl(ctx, "get", kinds, "--namespace="+system, "-l", "app.kubernetes.io/name=weir", "-o", "name")
			if err != nil {
				return err
			}
			if out != "" {
				return fmt.Errorf("left in the cluster: %q", out)
			}
		}
		return nil
	})
	within(t, 10*time.Second, func(ctx context.Context) error { return client.get(ctx, c, server.IP+":8080") })
	late := &pod{Namespace: ns, Name: "late", Node: "n1"}
	start(t, c, late)
	within(t, 10*time.Second, func(ctx context.Context) error { return late.get(ctx, c, server.IP+":8080") })
}
