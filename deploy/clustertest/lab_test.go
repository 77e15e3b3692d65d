// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"strings"
	"testing"
	"time"
)

// What the other tests take for granted: without weir everybody reaches everybody.
func TestPodsOfTwoNodesReachEachOther(t *testing.T) {
	c := nodes(t)
	ns := namespace(t, c, "lab")
	server := &pod{Namespace: ns, Name: "server", Node: "n1"}
	near := &pod{Namespace: ns, Name: "near", Node: "n1"}
	far := &pod{Namespace: ns, Name: "far", Node: "n2"}
	start(t, c, server, near, far)
	apply(t, c, service(ns, "server", "10.96.0.80"))
	for _, client := range []*pod{near, far} {
		if err := client.get(t.Context(), c, server.IP+":8080"); err != nil {
			t.Error(err)
		}
		if err := client.udp(t.Context(), c, server.IP+":8080"); err != nil {
			t.Error(err)
		}
		if err := refused(client.get(t.Context(), c, server.IP+":1")); err != nil {
			t.Error(err)
		}
	}
	within(t, 10*time.Second, func(ctx context.Context) error { return far.get(ctx, c, "10.96.0.80:80") })
	if out, err := c.Node("n1").Exec(t.Context(), "ip", "-d", "link", "show", "flannel.1"); err != nil || !strings.Contains(out, "dstport 8472") {
		t.Errorf("flannel's device: %q, %v", out, err)
	}
}

// A restart is a power cut: what was in memory is gone, what was on disk is not.
func TestNodeComesBackFromAPowerCut(t *testing.T) {
	c := nodes(t)
	ns := namespace(t, c, "power")
	server := &pod{Namespace: ns, Name: "server", Node: "n2"}
	client := &pod{Namespace: ns, Name: "client", Node: "n1"}
	start(t, c, server, client)
	n2 := c.Node("n2")
	for _, command := range []string{"touch /run/mark /etc/mark", "ip link add mark type bridge"} {
		if _, err := n2.Exec(t.Context(), "sh", "-c", command); err != nil {
			t.Fatal(err)
		}
	}
	if err := n2.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, err := n2.Exec(t.Context(), "sh", "-c", "ls /run/mark /etc/mark; ip -brief link show mark")
	if err == nil || strings.TrimSpace(out) != "/etc/mark" {
		t.Errorf("after the restart there are %q, %v", out, err)
	}
	within(t, 60*time.Second, func(ctx context.Context) error {
		if server.IP, err = c.Field(ctx, ns, "pod/server", ".status.podIP"); err != nil {
			return err
		}
		return client.get(ctx, c, server.IP+":8080")
	})
}

func TestAPIServerOutage(t *testing.T) {
	c := apiserver(t)
	kubectl(t, c, "create", "configmap", "kept")
	if err := c.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(t.Context(), "get", "configmap", "kept"); err == nil {
		t.Errorf("the apiserver still answers: %s", out)
	}
	if err := c.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	kubectl(t, c, "delete", "configmap", "kept")
}
