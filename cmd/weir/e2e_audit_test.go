// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/lab"
	"github.com/weirnet/weir/k8s"
)

// underAudit annotates a manifest that networkPolicy has made.
func underAudit(manifest string) string {
	return strings.Replace(manifest, "  namespace: default\n", "  namespace: default\n  annotations:\n    "+k8s.AuditAnnotation+": \"true\"\n", 1)
}

// Under audit all traffic passes, and what would not is counted, named and logged; the other policies enforce. It stays so
// over kill -9. When the annotation goes, what would have been dropped is, from the next packet on, and connections that the
// pod has opened meanwhile live on.
func TestE2EAuditEndsWithoutCuttingAnything(t *testing.T) {
	for _, decap := range []string{"inspect", "strip"} {
		t.Run(decap, func(t *testing.T) {
			s := newScene(t, lab.Config{}, "--decap", decap)
			client, stranger := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP)
			server, neighbour := s.pod(2, "server", serverIP), s.pod(2, "neighbour", "10.42.1.20")
			for _, p := range []*lab.Pod{client, server, neighbour} {
				s.echo(p, 8080)
			}
			s.start()
			s.apply("neighbour.yaml", ingress("neighbour", "client", 8080))
			s.apply("server.yaml", underAudit(ingress("server", "client", 8080)))
			s.want(stranger, "10.42.1.20:8080", false)
			if n := s.count()[1].sum("weir_audited_policies"); n != 1 {
				t.Errorf("%d policies are under audit, want 1", n)
			}
			if body, err := s.agents[1].get(t.Context(), "/readyz"); err != nil || !strings.Contains(body, "under audit, enforces nothing: NetworkPolicy default/server-ingress\n") {
				t.Errorf("readiness: %v\n%s", err, body)
			}

			before := s.count()
			s.want(client, serverIP+":8080", true)
			if n := audited(s.moved(before)[1]); n != 0 {
				t.Errorf("%d packets of an admitted connection, and its answers, would be dropped", n)
			}
			s.audited(stranger, neighbour)

			// The pod opens a connection; its answers need the flow that the audit keeps.
			c := s.dial(server, clientIP+":8080")
			if c == nil {
				t.Fatal("the server reaches nobody")
			}
			defer c.Close()
			before = s.count()
			echo(t, c)
			if n := audited(s.moved(before)[1]); n != 0 {
				t.Errorf("%d answers to the pod's own connection would be dropped", n)
			}

			s.kill(2)
			s.want(stranger, serverIP+":8080", true)
			s.restart(2)
			s.audited(stranger, neighbour)
			echo(t, c)

			old := s.dial(stranger, serverIP+":8080")
			if old == nil {
				t.Fatal("the stranger is kept out while the policy is under audit")
			}
			defer old.Close()
			echo(t, old)
			s.apply("server.yaml", ingress("server", "client", 8080))
			before = s.count()
			if old.SetDeadline(time.Now().Add(700 * time.Millisecond)); passes(old) {
				t.Error("a connection that no rule admits goes on after the audit")
			}
			s.want(stranger, serverIP+":8080", false)
			s.want(client, serverIP+":8080", true)
			echo(t, c)
			moved := s.moved(before)[1]
			if moved.sum("weir_packets_total", "verdict=drop", "reason=denied_default") == 0 || audited(moved) != 0 ||
				moved.sum("weir_packets_total", "reason=grace") != 0 {
				t.Errorf("after the audit: %d dropped, %d would be, %d in grace", moved.sum("weir_packets_total", "verdict=drop"), audited(moved),
					moved.sum("weir_packets_total", "reason=grace"))
			}
			if !strings.Contains(s.agents[1].log.String(), "would drop denied_default at pod_rx, ingress: TCP "+strangerIP) {
				t.Errorf("nobody logs what would be dropped:\n%s", tail(s.agents[1].log.String()))
			}
		})
	}
}

func audited(m samples) uint64 { return uint64(m.sum("weir_packets_total", "verdict=audit")) }

// audited expects of strangers that they reach the server, and are counted, at pod_rx only and by the policy's name.
func (s *scene) audited(from ...*lab.Pod) {
	s.t.Helper()
	for _, p := range from {
		before := s.count()
		s.want(p, serverIP+":8080", true)
		moved := s.moved(before)[1]
		all, here := audited(moved), moved.sum("weir_packets_total", "hook=pod_rx", "direction=ingress", "verdict=audit", "reason=denied_default")
		named := moved.sum("weir_audit_rule_packets_total", "policy=NetworkPolicy default/server-ingress", "rule=ingress isolation")
		if all == 0 || uint64(here) != all || uint64(named) != all || moved.sum("weir_packets_total", "verdict=drop") != 0 {
			s.t.Errorf("%s: %d packets would be dropped, %v at pod_rx by default, %v named, %v were", p.PodSpec.Name, all, here, named,
				moved.sum("weir_packets_total", "verdict=drop"))
		}
	}
}

// echo sends a message through a connection to an echo server, and wants it back.
func echo(t *testing.T, c io.ReadWriter) {
	t.Helper()
	if d, ok := c.(interface{ SetDeadline(time.Time) error }); ok {
		d.SetDeadline(time.Now().Add(5 * time.Second))
	}
	if !passes(c) {
		t.Error("the connection is cut")
	}
}

func passes(c io.ReadWriter) bool {
	buffer := make([]byte, 4)
	if _, err := c.Write([]byte("ping")); err != nil {
		return false
	}
	_, err := io.ReadFull(c, buffer)
	return err == nil
}
