// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

func TestE2EDemoTellsItsStory(t *testing.T) {
	start := time.Now()
	var out, errs bytes.Buffer
	if code := runDemo(t.Context(), nil, os.Stdin, &out, &errs); code != 0 {
		t.Fatalf("exit %d: %s\n%s", code, &errs, &out)
	}
	for _, want := range []string{"it guards frontend, not backend", "backend → frontend:80    DROPPED  node1 underlay_rx (XDP)  denied_default",
		"frontend → backend:80    DROPPED  node2 underlay_rx (XDP)  denied_default", "flannel.1 received 0"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the story does not say %q", want)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colours, and this is no terminal")
	}
	if spent := time.Since(start); spent > time.Minute {
		t.Errorf("it took %v", spent)
	}
}

func TestE2EDemoSpeaksJSON(t *testing.T) {
	var out, errs bytes.Buffer
	if code := runDemo(t.Context(), []string{"--json"}, os.Stdin, &out, &errs); code != 0 {
		t.Fatalf("exit %d: %s\n%s", code, &errs, &out)
	}
	var got story
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || !got.OK || len(got.Phases) != 3 {
		t.Fatalf("%v: %s", err, &out)
	}
	for _, p := range got.Phases {
		for _, c := range p.Connections {
			if err := c.check(); err != nil {
				t.Errorf("%s: %s: %v", p.Name, c, err)
			}
			if c.Allowed && (c.Hook != "pod_rx" || c.Reason == "") {
				t.Errorf("%s: %s: allowed at %q, %q", p.Name, c, c.Hook, c.Reason)
			}
		}
	}
	admitted := got.Phases[2].Connections[0]
	if admitted.Rule != "CiliumNetworkPolicy default/backend-from-frontend spec.ingress[0]" {
		t.Errorf("frontend → backend:8080 was admitted by %q", admitted.Rule)
	}
}

func TestDemoRefusesWhatItDoesNotKnow(t *testing.T) {
	var out, errs bytes.Buffer
	if code := runDemo(t.Context(), []string{"--kepp"}, os.Stdin, &out, &errs); code != exitUsage || !strings.Contains(errs.String(), "kepp") {
		t.Errorf("exit %d: %s", code, &errs)
	}
	if code := runDemo(t.Context(), []string{"now"}, os.Stdin, &out, &errs); code != exitUsage {
		t.Errorf("exit %d: %s", code, &errs)
	}
}

func TestSamplesOfPrometheusText(t *testing.T) {
	text := `# HELP weir_packets_total x
weir_packets_total{hook="pod_rx",reason="allowed"} 3
weir_packets_total{hook="pod_tx",reason="a \"b\", {c}"} 4e+01
weir_flows 7
`
	got, err := parseSamples(text)
	if err != nil {
		t.Fatal(err)
	}
	if got.sum("weir_packets_total") != 43 || got.sum("weir_packets_total", "hook=pod_rx") != 3 ||
		got.sum("weir_packets_total", `reason=a "b", {c}`) != 40 || got.sum("weir_flows") != 7 {
		t.Errorf("read as %v", got)
	}
	later, _ := parseSamples(strings.Replace(text, " 3\n", " 5\n", 1))
	if moved := later.since(got); len(moved) != 1 || moved.sum("weir_packets_total", "hook=pod_rx") != 2 {
		t.Errorf("moved: %v", moved)
	}
	for _, bad := range []string{"weir", `weir{a="b"}`, `weir{a=b} 1`, "weir x", `weir{a="b"`} {
		if s, err := parseSamples(bad + "\n"); err == nil {
			t.Errorf("%q reads as %v", bad, s)
		}
	}
}
