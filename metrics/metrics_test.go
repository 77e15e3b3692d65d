// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"flag"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/weirnet/weir/bpf"
)

type fakeDatapath struct {
	counters map[Slot]Traffic
	rules    map[Rule]Traffic
	err      error
}

func (f *fakeDatapath) Counters() (map[Slot]Traffic, error) { return f.counters, f.err }
func (f *fakeDatapath) Rules() (map[Rule]Traffic, error)    { return f.rules, nil }
func (f *fakeDatapath) Flows() (map[string]int, error) {
	return map[string]int{"assured": 12, "new": 3}, nil
}

func update(t *testing.T) bool {
	t.Helper()
	f := flag.Lookup("update")
	return f != nil && f.Value.String() == "true"
}

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write the golden files")
	os.Exit(m.Run())
}

func scrape(m *Metrics) (int, string) {
	response := httptest.NewRecorder()
	m.Handler().ServeHTTP(response, httptest.NewRequest("GET", "/metrics", nil))
	return response.Code, response.Body.String()
}

func TestScrapeIsAsDocumented(t *testing.T) {
	m := New(&fakeDatapath{
		counters: map[Slot]Traffic{
			{bpf.HookUnderlayRx, bpf.DirectionIngress, bpf.VerdictDrop, bpf.ReasonDeniedDefault}:   {5, 500},
			{bpf.HookPodRx, bpf.DirectionIngress, bpf.VerdictPass, bpf.ReasonAllowed}:              {7, 7000},
			{bpf.HookPodTx, bpf.DirectionEgress, bpf.VerdictPass, bpf.ReasonAllowed}:               {0, 0},
			{bpf.HookUnderlayRx, bpf.DirectionIngress, bpf.VerdictObserve, bpf.ReasonSpoofedInner}: {2, 200},
			{bpf.HookUnderlayRx, bpf.DirectionIngress, bpf.VerdictDrop, bpf.ReasonSpoofedLocal}:    {1, 100},
			{bpf.HookPodRx, bpf.DirectionIngress, bpf.VerdictAudit, bpf.ReasonDeniedDefault}:       {3, 300},
		},
		rules: map[Rule]Traffic{
			{Policy: "CiliumNetworkPolicy default/frontend-to-backend", Path: "spec.ingress[0]"}:   {7, 7000},
			{Policy: "NetworkPolicy default/default-deny", Path: "ingress isolation", Audit: true}: {3, 300},
		},
	}, func() Source { return Source{Refused: true, Silent: 2} }, "v0.0.0-test")
	m.Unenforceable(2)
	m.Oversized(1)
	m.Interfaces(1, map[string]int{"pod_rx": 3, "underlay_rx": 1})
	m.ApplyFailed()
	code, got := scrape(m)
	if code != 200 {
		t.Fatalf("status %d: %s", code, got)
	}
	const golden = "testdata/scrape.txt"
	if update(t) {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("scrape differs from %s (go test ./metrics -update):\n%s", golden, got)
	}
}

func TestAnUnreadableDatapathFailsTheScrape(t *testing.T) {
	m := New(&fakeDatapath{err: errors.New("read counters: permission denied")}, func() Source { return Source{} }, "v0.0.0-test")
	if code, body := scrape(m); code != 500 || !strings.Contains(body, "permission denied") {
		t.Errorf("status %d: %s", code, body)
	}
}

type fakeNames struct{}

func (fakeNames) RuleName(n uint16) (string, string, bool) {
	return "NetworkPolicy default/web", "spec.ingress[1]", n == 7
}

func (fakeNames) IdentityName(n uint32) string {
	return map[uint32]string{300: "pod:app=backend,io.cilium.k8s.policy.cluster=default,io.kubernetes.pod.namespace=default", 301: "host"}[n]
}

func TestEventsAreOneLineForPeople(t *testing.T) {
	base := bpf.Event{
		Hook: uint8(bpf.HookUnderlayRx), Direction: uint8(bpf.DirectionIngress), Verdict: uint8(bpf.VerdictDrop),
		Reason: uint8(bpf.ReasonDeniedDefault), SourceIdentity: 300, DestinationIdentity: 301,
		Saddr: 0xc0000201, Daddr: 0xc6336402, Sport: 41234, Dport: 80, Protocol: 6, Length: 74,
	}
	for want, change := range map[string]func(*bpf.Event){
		"drop denied_default at underlay_rx, ingress: TCP 192.0.2.1:41234 (default app=backend) -> 198.51.100.2:80 (host), 74 bytes": func(*bpf.Event) {},
		"pass allowed at pod_rx, ingress: TCP 192.0.2.1:41234 (default app=backend) -> 198.51.100.2:80 (host), by NetworkPolicy default/web spec.ingress[1], 74 bytes": func(e *bpf.Event) {
			e.Hook, e.Verdict, e.Reason, e.Rule = uint8(bpf.HookPodRx), uint8(bpf.VerdictPass), uint8(bpf.ReasonAllowed), 7
		},
		"drop denied_default at underlay_rx, ingress: ICMP 192.0.2.1 -> 198.51.100.2 (host) type 8, 74 bytes": func(e *bpf.Event) {
			e.Protocol, e.Dport, e.SourceIdentity = 1, 8, 0
		},
		"would drop denied_rule at pod_rx, ingress: TCP 192.0.2.1:41234 (default app=backend) -> 198.51.100.2:80 (host), by NetworkPolicy default/web spec.ingress[1], 74 bytes": func(e *bpf.Event) {
			e.Hook, e.Verdict, e.Reason, e.Rule = uint8(bpf.HookPodRx), uint8(bpf.VerdictAudit), uint8(bpf.ReasonDeniedRule), 7
		},
		"drop malformed at underlay_rx, ingress: not IPv4, 74 bytes": func(e *bpf.Event) {
			e.Reason, e.Saddr, e.Daddr = uint8(bpf.ReasonMalformed), 0, 0
		},
	} {
		e := base
		change(&e)
		if got := FormatEvent(&e, fakeNames{}); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if got := FormatEvent(&base, nil); !strings.Contains(got, "192.0.2.1:41234 -> 198.51.100.2:80") {
		t.Errorf("without names: %s", got)
	}
}
