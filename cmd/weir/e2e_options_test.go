// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/weirnet/weir/internal/lab"
	"github.com/weirnet/weir/internal/packet"
)

// A set that does not fit is refused and named; the last good one stays enforced; what comes after it is applied again.
func TestE2EWhatDoesNotFitChangesNothing(t *testing.T) {
	s := newScene(t, lab.Config{})
	client, server := s.pod(1, "client", clientIP), s.pod(2, "server", serverIP)
	s.echo(server, 8080)
	s.start()
	s.apply("server.yaml", ingress("server", "", 0))
	var crowd strings.Builder
	for i := range 66 { // more addresses than the table of Services has room for
		fmt.Fprintf(&crowd, "---\napiVersion: v1\nkind: Service\nmetadata: {name: s%d}\nspec: {clusterIP: 10.43.1.%d, ports: [", i, i)
		for port := range 1000 {
			fmt.Fprintf(&crowd, "{name: p%d, port: %[1]d}, ", port+1)
		}
		crowd.WriteString("]}\n")
	}
	if err := s.lab.Manifests.Write("crowd.yaml", crowd.String()); err != nil {
		t.Fatal(err)
	}
	if err := s.lab.Manifests.Remove("server.yaml"); err != nil {
		t.Fatal(err)
	}
	o := &oneAgent{T: t, lab: s.lab, node: s.lab.Nodes[1], agent: s.agents[1]}
	o.readySays("503", "too large")
	s.want(client, serverIP+":8080", false)
	if n := s.count()[1].sum("weir_apply_failures_total"); n == 0 {
		t.Error("weir_apply_failures_total says nothing")
	}
	if err := s.lab.Manifests.Remove("crowd.yaml"); err != nil {
		t.Fatal(err)
	}
	s.ready()
	s.want(client, serverIP+":8080", true)
}

func TestE2EUnknownEndpoint(t *testing.T) {
	for mode, passes := range map[string]bool{"pass": true, "drop": false} {
		t.Run(mode, func(t *testing.T) {
			s := newScene(t, lab.Config{}, "--unknown-endpoint", mode)
			client := s.pod(1, "client", clientIP)
			secret, err := s.lab.AddPod(s.lab.Nodes[1], lab.PodSpec{Name: "secret", Addr: netip.MustParseAddr(serverIP), Silent: true})
			if err != nil {
				t.Fatal(err)
			}
			s.echo(secret, 8080)
			s.start()
			before := s.count()
			s.want(client, serverIP+":8080", passes)
			verdict := map[bool]string{true: "verdict=pass", false: "verdict=drop"}[passes]
			moved := s.moved(before)[1]
			if moved.sum("weir_packets_total", "hook=underlay_rx", "reason=unknown_endpoint", verdict) == 0 {
				t.Errorf("no unknown_endpoint with %s: %v", verdict, moved)
			}
		})
	}
}

// In observe mode forged packets go on, and are counted.
func TestE2EObserve(t *testing.T) {
	s := newScene(t, lab.Config{}, "--spoof-check", "observe")
	s.pod(1, "client", clientIP)
	server := s.pod(2, "server", serverIP)
	received := collect(t, server, 9000)
	s.start()
	attacker, err := s.lab.LAN.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	node1, node2 := s.lab.Nodes[0], s.lab.Nodes[1]
	nic, err := node2.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	target := netip.MustParseAddrPort(serverIP + ":9000")
	inner := packet.UDP(netip.MustParseAddrPort(clientIP+":1234"), target, []byte("forged")...).Via(packet.MAC(node1.VTEPMAC), packet.MAC(node2.VTEPMAC))
	outer := packet.Underlay(netip.MustParseAddr(lab.LANIP), node2.IP).Via(packet.MAC(attacker.HardwareAddr), packet.MAC(nic.HardwareAddr))
	before := s.count()
	if err := s.lab.LAN.Inject("eth0", packet.Encapsulate(outer, lab.VNI, inner.Bytes()).Bytes()); err != nil {
		t.Fatal(err)
	}
	o := &oneAgent{T: t, lab: s.lab, node: node2, agent: s.agents[1]}
	o.eventually("the forged packet", func() bool { return received.Load() == 1 })
	moved := s.moved(before)[1]
	if n := moved.sum("weir_packets_total", "verdict=observe", "reason=unknown_vtep"); n != 1 || moved.sum("weir_packets_total", "verdict=drop") != 0 {
		t.Errorf("%d observed: %v", n, moved)
	}
}

// Left to itself, the agent strips where that is safe, and says why where it is not. Either way traffic flows.
func TestE2EDecapAuto(t *testing.T) {
	for filter, says := range map[int]string{0: "decap: strip", 1: "decap: inspect", 2: "decap: strip"} {
		t.Run(fmt.Sprintf("rp_filter %d", filter), func(t *testing.T) {
			s := newScene(t, lab.Config{RPFilter: filter})
			client, server := s.pod(1, "client", clientIP), s.pod(2, "server", serverIP)
			s.echo(server, 8080)
			s.start()
			for _, a := range s.agents {
				if log := a.log.String(); !strings.Contains(log, says) || filter == 1 && !strings.Contains(log, "rp_filter") {
					t.Errorf("%s does not say %q:\n%s", a.node.NodeID, says, log)
				}
			}
			s.apply("server.yaml", ingress("server", "client", 8080))
			overlay := s.overlayReceived(2)
			s.want(client, serverIP+":8080", true)
			s.want(client, serverIP+":8081", false)
			if through := s.overlayReceived(2) - overlay; (through == 0) != (filter != 1) {
				t.Errorf("flannel.1 received %d packets", through)
			}
		})
	}
}

// A rule that is bound to the overlay of one node keeps outer headers on there, and only there: it sees what it asks for.
func TestE2EDecapAutoLeavesPacketsToFirewallRules(t *testing.T) {
	s := newScene(t, lab.Config{})
	client, server := s.pod(1, "client", clientIP), s.pod(2, "server", serverIP)
	s.echo(server, 8080)
	counter := &expr.Counter{}
	if err := s.lab.Nodes[1].Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "admin"})
		chain := conn.AddChain(&nftables.Chain{Table: table, Name: "watch", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("flannel.1\x00\x00\x00\x00\x00\x00\x00")}, counter}})
		return conn.Flush()
	}); err != nil {
		t.Fatal(err)
	}
	s.start()
	for i, says := range []string{"decap: strip", "rule inet admin watch handle 2 has iifname"} {
		if log := s.agents[i].log.String(); !strings.Contains(log, says) {
			t.Errorf("%s does not say %q:\n%s", s.agents[i].node.NodeID, says, log)
		}
	}
	s.apply("server.yaml", ingress("server", "client", 8080))
	s.want(client, serverIP+":8080", true)
	if err := s.lab.Nodes[1].Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		rules, err := conn.GetRules(&nftables.Table{Family: nftables.TableFamilyINet, Name: "admin"}, &nftables.Chain{Name: "watch"})
		if err != nil || len(rules) != 1 || len(rules[0].Exprs) != 3 {
			return fmt.Errorf("rules %v: %w", rules, err)
		}
		counter = rules[0].Exprs[2].(*expr.Counter)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if counter.Packets == 0 {
		t.Error("the rule saw no packet")
	}
}

// A second agent on a node, with a directory of its own, takes nothing over from the first, and leaves nothing behind.
func TestE2ESecondAgentElsewhere(t *testing.T) {
	s := newScene(t, lab.Config{})
	client, server := s.pod(1, "client", clientIP), s.pod(2, "server", serverIP)
	s.echo(server, 8080)
	s.start()
	s.apply("server.yaml", ingress("server", "client", 8080))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	node := s.lab.Nodes[1]
	second, err := startAgent(s.lab, node, append(s.flags, "--pin-path", "/sys/fs/bpf/second", "--metrics-addr", "")...)
	if err != nil {
		t.Fatal(err)
	}
	<-second.done
	if code := second.cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(second.log.String(), "eth0") {
		t.Errorf("the second agent: exit %d\n%s", code, second.log)
	}
	s.want(client, serverIP+":8080", true)
	s.want(client, serverIP+":8081", false)
	if out, err := node.Run(context.Background(), "env", "WEIR_VERB=agent", self, "agent", "cleanup", "--pin-path", "/sys/fs/bpf/second"); err != nil {
		t.Errorf("cleanup of the second: %v\n%s", err, out)
	}
	s.want(client, serverIP+":8080", true)
	s.want(client, serverIP+":8081", false)
	if err := s.agents[1].stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if out, err := node.Run(context.Background(), "env", "WEIR_VERB=agent", self, "agent", "cleanup"); err != nil {
		t.Errorf("cleanup: %v\n%s", err, out)
	}
	s.nothingAttachedTo(node)
	s.restart(2)
	s.want(client, serverIP+":8081", false)
}

// reaches says whether a node's own socket gets an answer from a pod's.
func (s *scene) reaches(from *lab.Node, to string) bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to)
	if err != nil {
		if !isTimeout(err) {
			s.t.Fatalf("dial %s from %s: %v", to, from.NodeID, err)
		}
		return false
	}
	c.Close()
	return true
}

// A pod's own node reaches it whatever policy says; another node needs a rule, and the InternalIP in it will do, although
// its packets come from the VTEP's address.
func TestE2ENodesAndPods(t *testing.T) {
	s := newScene(t, lab.Config{})
	client, server := s.pod(1, "client", clientIP), s.pod(2, "server", serverIP)
	s.echo(client, 8080)
	s.echo(server, 8080)
	s.start()
	s.apply("server.yaml", ingress("server", "client", 8080))
	node1, node2 := s.lab.Nodes[0], s.lab.Nodes[1]
	want := func(from *lab.Node, to string, allowed bool) {
		t.Helper()
		if got := s.reaches(from, to); got != allowed {
			t.Errorf("%s → %s: %v, want %v", from.NodeID, to, got, allowed)
		}
	}
	want(node2, serverIP+":8080", true)
	want(node1, serverIP+":8080", false)
	s.apply("block.yaml", fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: block, namespace: default}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{ipBlock: {cidr: %s/32}}]}]}
`, node1.IP))
	want(node1, serverIP+":8080", true)
	want(node1, clientIP+":8080", true)
	s.apply("client.yaml", egress("client", "", 0))
	if s.ping(client, node1.Gateway().String()) {
		t.Error("a pod that may send to nobody pings its own node")
	}
	want(node1, clientIP+":8080", true) // it answers
}
