// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cluster"
)

// watched is a scene that goes on while something happens to weir: on each node a server that is guarded, an ally that it
// admits, and a stranger that never stops trying.
type watched struct {
	namespace          string
	servers            []*pod
	streams, packets   []*stream
	begin              time.Time
	stranger, intruder *pod
}

// watch sets the scene. Strangers begin when policy is in force.
func watch(t *testing.T, c *cluster.Cluster, name string) *watched {
	t.Helper()
	w := &watched{namespace: namespace(t, c, name)}
	apply(t, c, guarded(w.namespace))
	var allies []*pod
	for i, node := range []string{"n1", "n2"} {
		w.servers = append(w.servers, &pod{Namespace: w.namespace, Name: "server-" + node, Node: node, Labels: map[string]string{"app": "server"}})
		allies = append(allies, &pod{Namespace: w.namespace, Name: "ally-" + node, Node: []string{"n2", "n1"}[i], Labels: map[string]string{"friend": "yes"}})
	}
	start(t, c, append(allies, w.servers...)...)
	for i, ally := range allies {
		w.streams = append(w.streams, ally.stream(t, c, w.servers[i].IP+":8081"))
		w.packets = append(w.packets, ally.stream(t, c, w.servers[i].IP+":8080", "-udp", "-interval=5ms"))
	}
	// Both from n2: one server is far, the other near.
	w.stranger = &pod{Namespace: w.namespace, Name: "stranger", Node: "n2", Args: []string{"serve", "-to", w.servers[0].IP, "-for", "1h"}}
	w.intruder = &pod{Namespace: w.namespace, Name: "intruder", Node: "n2", Args: []string{"serve", "-to", w.servers[1].IP, "-for", "1h"}}
	start(t, c, w.stranger, w.intruder)
	w.begin = time.Now()
	return w
}

// check fails the test if anything got through that policy forbids, or anything was lost that it admits.
func (w *watched) check(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, s := range w.streams {
		s.goesOn(t, 5*time.Second)
		if pause := s.pause(w.begin); pause > time.Second {
			t.Errorf("stream %s paused for %s", s.name, pause)
		} else {
			t.Logf("stream %s: longest pause %d ms", s.name, pause.Milliseconds())
		}
	}
	for _, s := range w.packets {
		s.goesOn(t, 5*time.Second)
		if lost, sent := s.lost(); lost > 0 {
			t.Errorf("stream %s lost %d of %d datagrams", s.name, lost, sent)
		} else {
			t.Logf("stream %s lost 0 of %d datagrams", s.name, sent)
		}
	}
	for i, p := range []*pod{w.stranger, w.intruder} {
		var sent map[string]int
		p.ask(t, c, "localhost:8080/sent", &sent)
		if sent["udp"] < 100 || sent["tcp"] < 10 {
			t.Errorf("%s tried too little to prove anything: %v", p.Name, sent)
		}
		var counts map[string]map[string]int
		w.servers[i].ask(t, c, "localhost:8080/counts", &counts)
		if got := counts[p.IP]; got != nil || sent["tcpOpened"] > 0 {
			t.Errorf("from %s came through: %v, %d connections", p.Name, got, sent["tcpOpened"])
		} else {
			t.Logf("of %d datagrams and %d connections from %s none came through", sent["udp"], sent["tcp"], p.Name)
		}
	}
}

// ask asks the pod itself for JSON, which takes no way that policy could be in.
func (p *pod) ask(t *testing.T, c *cluster.Cluster, url string, answer any) {
	t.Helper()
	out, err := c.PodExec(t.Context(), p.Namespace, p.Name, "/app", "get", "http://"+url)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		t.Fatalf("read %q: %v", out, err)
	}
}

func TestAgentIsKilled(t *testing.T) {
	c := installed(t)
	w := watch(t, c, "killed")
	for _, n := range c.Nodes {
		if out, err := n.Exec(t.Context(), "pkill", "-KILL", "-f", "^/weir agent"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// What is asked for meanwhile is done when they are back.
	kubectl(t, c, "--namespace="+w.namespace, "label", "pod", "ally-n1", "friend-")
	took := w.streams[0].cut(t, time.Now())
	t.Logf("a label taken while the agents were dead cut the connection after %d ms", took.Milliseconds())
	w.streams, w.packets = w.streams[1:], w.packets[1:]
	w.check(t, c)
	rolledOut(t, c)
}

func TestAgentPodIsDeleted(t *testing.T) {
	c := installed(t)
	w := watch(t, c, "deleted")
	kubectl(t, c, "--namespace="+system, "delete", "pod", agent(t, c, "n1"), agent(t, c, "n2"))
	rolledOut(t, c)
	newcomer := &pod{Namespace: w.namespace, Name: "newcomer", Node: "n1", Labels: map[string]string{"friend": "yes"}}
	start(t, c, newcomer)
	within(t, 5*time.Second, func(ctx context.Context) error { return newcomer.get(ctx, c, w.servers[1].IP+":8080") })
	w.check(t, c)
}

func TestUpgrade(t *testing.T) {
	c := installed(t)
	w := watch(t, c, "upgrade")
	version := "1.0.1"
	if running == version {
		version = "1.0.2"
	}
	install(t, c, version, values...)
	for _, n := range []string{"n1", "n2"} {
		out := kubectl(t, c, "--namespace="+system, "get", "pod", agent(t, c, n), "-o", "jsonpath={.status.containerStatuses[0].image}")
		if !strings.HasSuffix(out, ":"+version) {
			t.Errorf("on %s runs %s", n, out)
		}
	}
	w.check(t, c)
}

// Without the apiserver what is in force stays in force, also in the hands of an agent that starts meanwhile.
func TestOutageOfTheAPIServer(t *testing.T) {
	c := installed(t)
	w := watch(t, c, "outage")
	if err := c.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	n1 := c.Node("n1")
	if _, err := n1.Exec(t.Context(), "pkill", "-KILL", "-f", "^/weir agent"); err != nil {
		t.Fatal(err)
	}
	within(t, 60*time.Second, func(ctx context.Context) error {
		_, err := n1.Exec(ctx, "pgrep", "-f", "^/weir agent")
		return err
	})
	time.Sleep(5 * time.Second)
	if err := c.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	rolledOut(t, c)
	w.servers[0].await(t, c)
	// Streams ran through kubectl and the apiserver, so they ended with it; strangers did not.
	w.streams, w.packets = nil, nil
	w.check(t, c)
	kubectl(t, c, "--namespace="+w.namespace, "delete", "networkpolicy", "server")
	within(t, 30*time.Second, func(ctx context.Context) error { return w.stranger.get(ctx, c, w.servers[0].IP+":8080") })
}

// After a power cut a pod is guarded before its first packet.
func TestNodeRestart(t *testing.T) {
	c := installed(t)
	ns := namespace(t, c, "reboot")
	apply(t, c, guarded(ns))
	server := &pod{Namespace: ns, Name: "server", Node: "n1"}
	ally := &pod{Namespace: ns, Name: "ally", Node: "n2", Labels: map[string]string{"friend": "yes"}}
	apply(t, c, fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: server, namespace: %s}, spec: {clusterIP: 10.96.0.81, publishNotReadyAddresses: true, selector: {app: server},
  ports: [{name: udp, port: 8080, protocol: UDP}, {name: tcp, port: 8081}, {name: http, port: 8080}]}}`, ns))
	stranger := &pod{Namespace: ns, Name: "stranger", Node: "n2", Args: []string{"serve", "-to", "10.96.0.81", "-for", "1h"}}
	start(t, c, server, ally, stranger)
	begin := time.Now()
	if err := c.Node("n1").Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("n1 was ready %.1f s after the power cut", time.Since(begin).Seconds())
	within(t, 90*time.Second, func(ctx context.Context) error {
		out, err := c.Field(ctx, ns, "pod/server", ".status.containerStatuses[0].state.running.startedAt} {.status.podIP")
		if err != nil {
			return err
		}
		when, ip, _ := strings.Cut(out, " ")
		if at, err := time.Parse(time.RFC3339, when); err != nil || at.Before(begin.Truncate(time.Second)) {
			return fmt.Errorf("the server runs since %q", when)
		}
		server.IP = ip
		return ally.get(ctx, c, ip+":8080")
	})
	t.Logf("the server was reached %.1f s after the power cut", time.Since(begin).Seconds())
	rolledOut(t, c)
	var counts map[string]map[string]int
	server.ask(t, c, "localhost:8080/counts", &counts)
	if counts[stranger.IP] != nil || counts[ally.IP] == nil {
		t.Errorf("the server saw %v; the stranger is %s", counts, stranger.IP)
	}
	within(t, 5*time.Second, func(ctx context.Context) error { return refused(stranger.get(ctx, c, server.IP+":8080")) })
}

// rolledOut returns when every node has a ready agent.
func rolledOut(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	within(t, 2*time.Minute, func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "--namespace="+system, "rollout", "status", "daemonset/weir", "--timeout=60s")
		if err != nil {
			return fmt.Errorf("%w: %s\n%s", err, out, state(c))
		}
		return nil
	})
}
