// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOperatorsScrape(t *testing.T) {
	leads := false
	o := NewOperator(func() (Fleet, bool) {
		return Fleet{Policies: map[string]int{"Enforced": 3, "Progressing": 1}, Nodes: 10, Silent: 2, Failing: 1}, leads
	}, "v1")
	scrape := func() string {
		w := httptest.NewRecorder()
		o.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	if text := scrape(); strings.Contains(text, "weir_policies") || !strings.Contains(text, "weir_operator_leads 0\n") {
		t.Errorf("one that stands by says\n%s", text)
	}
	leads = true
	o.Leads(true)
	o.Enforced(3 * time.Second)
	o.Wrote("status", nil)
	o.Wrote("event", errors.New("no"))
	lines := strings.Split(scrape(), "\n")
	for _, want := range []string{
		`weir_fleet_nodes{state="failing"} 1`, `weir_fleet_nodes{state="reporting"} 7`, `weir_fleet_nodes{state="silent"} 2`,
		`weir_policies{reason="Enforced"} 3`, `weir_policies{reason="Progressing"} 1`, "weir_operator_leads 1",
		`weir_operator_writes_total{result="fine",what="status"} 1`, `weir_operator_writes_total{result="failed",what="event"} 1`,
		`weir_policy_enforced_seconds_bucket{le="4"} 1`, `weir_policy_enforced_seconds_bucket{le="2"} 0`, `weir_build_info{version="v1"} 1`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %s in\n%s", want, strings.Join(lines, "\n"))
		}
	}
	architecture, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if name, ok := strings.CutPrefix(l, "# HELP "); ok {
			if name, _, _ = strings.Cut(name, " "); name != "weir_build_info" && !strings.Contains(string(architecture), "`"+name+"`") {
				t.Errorf("ARCHITECTURE.md does not know %s", name)
			}
		}
	}
}
