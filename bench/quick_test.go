// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"strings"
	"testing"
)

// Every workload cycles over enough sources, ports and pods to say something about flatness, and its verdicts are those it
// is named for. How long it takes is no test.
func TestQuickMeasuresWhatItSays(t *testing.T) {
	report, err := Quick(Options{Rounds: 2, Packets: steps})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Figures) != 7 {
		t.Fatalf("%d figures, want the empty program and three of one and of 1,000 policies", len(report.Figures))
	}
	for _, f := range report.Figures {
		if f.Coverage.Sources < 4096 || f.Coverage.Ports < 256 || f.Coverage.Pods < localPods-5 {
			t.Errorf("%s with %d policies cycles over %+v", f.Name, f.Policies, f.Coverage)
		}
		if f.MinNs <= 0 || f.MedianNs < f.MinNs {
			t.Errorf("%s with %d policies took %v ns, median %v", f.Name, f.Policies, f.MinNs, f.MedianNs)
		}
	}
	var text strings.Builder
	if err := report.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "dropped SYN") {
		t.Errorf("the table is\n%s", text.String())
	}
}
