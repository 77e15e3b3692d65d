// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"fmt"
	"testing"
	"time"
)

// policies of one server that admits who wears the label friend=yes.
func guarded(namespace string) string {
	return fmt.Sprintf(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: server, namespace: %s},
  spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {friend: "yes"}}}]}]}}`, namespace)
}

// confined lets a client talk to nobody.
func confined(namespace, client string) string {
	return fmt.Sprintf(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: %s, namespace: %s},
  spec: {podSelector: {matchLabels: {app: %s}}, policyTypes: [Egress]}}`, client, namespace, client)
}

// Long-lived connections live and die by the policy of the moment: on one node and across two, by the server's ingress and by
// the client's egress. Who is admitted notices nothing.
func TestLiveConnections(t *testing.T) {
	c := installed(t)
	ns := namespace(t, c, "live")
	friend := map[string]string{"friend": "yes"}
	server := &pod{Namespace: ns, Name: "server", Node: "n1"}
	near := &pod{Namespace: ns, Name: "near", Node: "n1"}
	far := &pod{Namespace: ns, Name: "far", Node: "n2"}
	ally := &pod{Namespace: ns, Name: "ally", Node: "n2", Labels: friend}
	start(t, c, server, near, far, ally)
	admitted := ally.stream(t, c, server.IP+":8081")
	packets := ally.stream(t, c, server.IP+":8080", "-udp")
	begin := time.Now()
	report := func(what string, s *stream, since time.Time) {
		t.Helper()
		took := s.cut(t, since)
		t.Logf("%s: %s cut %d ms after kubectl returned", what, s.name, took.Milliseconds())
		if took > time.Second {
			t.Errorf("%s: %s went on for %s", what, s.name, took)
		}
	}

	fromNear, fromFar := near.stream(t, c, server.IP+":8081"), far.stream(t, c, server.IP+":8081")
	apply(t, c, guarded(ns))
	applied := time.Now()
	report("isolated", fromNear, applied)
	report("isolated", fromFar, applied)
	kubectl(t, c, "--namespace="+ns, "delete", "networkpolicy", "server")
	fromNear.goesOn(t, 20*time.Second) // TCP's own patience
	fromFar.goesOn(t, 20*time.Second)

	// Admission is by label: taken away, the connection goes.
	kubectl(t, c, "--namespace="+ns, "label", "pod", "near", "far", "friend=yes")
	apply(t, c, guarded(ns))
	fromNear.goesOn(t, 5*time.Second)
	fromFar.goesOn(t, 5*time.Second)
	kubectl(t, c, "--namespace="+ns, "label", "pod", "near", "far", "friend-")
	applied = time.Now()
	report("label taken", fromNear, applied)
	report("label taken", fromFar, applied)
	kubectl(t, c, "--namespace="+ns, "delete", "networkpolicy", "server")
	fromNear.goesOn(t, 30*time.Second)
	fromFar.goesOn(t, 30*time.Second)

	// The client's side.
	apply(t, c, confined(ns, "near")+"\n---\n"+confined(ns, "far"))
	applied = time.Now()
	report("confined", fromNear, applied)
	report("confined", fromFar, applied)

	if pause := admitted.pause(begin); pause > 500*time.Millisecond {
		t.Errorf("the connection that was always admitted paused for %s", pause)
	}
	if lost, sent := packets.lost(); lost > 0 {
		t.Errorf("the admitted client lost %d of %d datagrams", lost, sent)
	} else {
		t.Logf("the admitted client lost 0 of %d datagrams", sent)
	}
}
