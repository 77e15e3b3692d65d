// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestDiffListsWhatTurned(t *testing.T) {
	old := guarded()
	old.Pods = append(old.Pods, smallPod("other", "10.42.2.11", 2))
	now := clonePods(old)
	rule := old.Policies[0].Rules[0]
	rule.Ports = []PortMatch{tcp(8080, 8089), {Protocol: ICMP, First: 8, Last: 8}}
	now.Policies = []Policy{old.Policies[0]}
	now.Policies[0].Rules = []Rule{rule}
	now.Pods[2].Labels = map[string]string{namespaceLabel: "default", "app": "back"}
	var got []string
	changes := Diff(build(t, old), build(t, now))
	for _, c := range changes {
		got = append(got, c.String())
	}
	const (
		back  = "pod:app=back,io.kubernetes.pod.namespace=default http=TCP/8080"
		other = "pod:app=other,io.kubernetes.pod.namespace=default http=TCP/8080"
		after = ": deny by default → allow by CiliumNetworkPolicy default/guard spec.ingress[0]"
	)
	want := []string{
		"default/front from " + back + ", " + other + " → " + back + " ICMP 8" + after,
		"default/front from " + other + " → " + back + " TCP 8080-8089" + after,
		"default/front from " + back + " TCP 8081-8089" + after,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if changes := Diff(build(t, now), build(t, now)); len(changes) != 0 {
		t.Errorf("a model differs from itself: %v", changes)
	}
}

// Diff lists a change where, and only where, the naive reading of both models differs.
func TestDiffAgreesWithModels(t *testing.T) {
	turned := 0
	eachSeed(t, 20, func(t *testing.T, r *rand.Rand) {
		from := randomModel(r)
		to := mutate(r, from)
		old, now := build(t, from), build(t, to)
		changes, runs := Diff(old, now), portRuns(old.Image, now.Image)
		for _, pod := range to.Pods {
			before := old.Endpoint(pod.Key())
			if now.Endpoint(pod.Key()) == nil || before == nil {
				continue
			}
			subject := naive{from}.party(pod.Addrs[0]).pod
			if subject == nil || subject.Key() != pod.Key() {
				continue
			}
			for _, peer := range probeAddrs(to) {
				dir, protocol, port := Direction(r.IntN(2)), pick(r, []uint8{TCP, UDP, SCTP, ICMP, 47, 50}), uint16(r.IntN(110))
				was, _ := naive{enforced(from)}.judge(dir, subject, peer, protocol, port)
				is, _ := naive{enforced(to)}.judge(dir, &pod, peer, protocol, port)
				p := pair{old.Address(peer).Identity, now.Address(peer).Identity}
				name := pairNames(old.Image, now.Image, []pair{p})[0]
				listed := slices.ContainsFunc(changes, func(c Change) bool {
					ports := c.Ports.Protocol == protocol && (portMask(protocol) == 0 || c.Ports.First <= port && port <= c.Ports.Last) ||
						c.Ports.Protocol == 0 && !slices.ContainsFunc(runs, func(r PortRun) bool { return r.Protocol == protocol })
					return c.Pod == pod.Key() && c.Direction == dir && ports && slices.Contains(c.Peers, name) && c.After.Allow == is
				})
				if listed != (was != is) {
					t.Fatalf("%s %s peer %s %s protocol %d port %d: was %v, is %v, listed %v", pod.Key(), dir, peer, name, protocol, port, was, is, listed)
				}
				if listed {
					turned++
				}
			}
		}
	})
	if os.Getenv("WEIR_SEED") == "" && turned < 100 {
		t.Errorf("only %d verdicts turned", turned)
	}
}

func TestText(t *testing.T) {
	var b strings.Builder
	if err := build(t, guarded()).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n  1 node-1 mac 020000000001\n",
		"\n  257 pod:app=front,io.kubernetes.pod.namespace=default http=TCP/8080 (local)\n",
		"\n  10.42.2.10/32 remote pod, identity 256, slot 2, tenancy 0, tunnelled\n",
		"\n  2 CiliumNetworkPolicy default/guard spec.ingress[0]\n",
		"\npod default/front: slot 1, identity 257\n  ingress:\n    1: TCP allow by weir host reaches its pods; other protocols allow by weir host reaches its pods\n" +
			"    2 3 4 5 6 7 8 9 10 257: TCP deny by default; other protocols deny by default\n" +
			"    256: TCP 0-8079 deny by default; TCP 8080 allow by CiliumNetworkPolicy default/guard spec.ingress[0]; " +
			"TCP 8081-65535 deny by default; other protocols deny by default\n  egress: no policy\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
