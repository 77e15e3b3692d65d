// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/weirnet/weir/k8s"
)

// lintFiles writes files into a directory and judges it.
func lintFiles(t *testing.T, files map[string]string) *Report {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return lintDir(t, dir)
}

func lintDir(t *testing.T, dir string) *Report {
	t.Helper()
	in, err := k8s.Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	report, err := Run(in, k8s.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// scenario is one folder of a txtar file: manifests, those of the file's top included, and what is to be found in them.
type scenario struct {
	name  string
	files map[string]string
	want  []string
	told  bool // there is a file want
}

// scenarios reads a txtar file. Each folder is a scenario; its file "want" has a line for each finding,
//
//	SEVERITY RULE FILE:LINE OBJECT PATH | a part of the message
func scenarios(t testing.TB, file string) []*scenario {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	shared, byName := map[string]string{}, map[string]*scenario{}
	var all []*scenario
	for _, f := range archive.Files {
		folder, name := path.Split(f.Name)
		if folder == "" {
			shared[name] = string(f.Data)
			continue
		}
		c := byName[folder]
		if c == nil {
			c = &scenario{name: strings.TrimSuffix(folder, "/"), files: map[string]string{}}
			byName[folder] = c
			all = append(all, c)
		}
		if name != "want" {
			c.files[name] = string(f.Data)
			continue
		}
		c.told = true
		for line := range strings.Lines(string(f.Data)) {
			if line = strings.TrimSpace(line); line != "" {
				c.want = append(c.want, line)
			}
		}
	}
	for _, c := range all {
		for name, text := range shared {
			if _, own := c.files[name]; !own {
				c.files[name] = text
			}
		}
	}
	return all
}

// place is all of a finding but its message.
func place(f *Finding) string {
	return strings.TrimRight(fmt.Sprintf("%s %s %s:%d %s %s", f.Severity, f.Rule, f.File, f.Line, f.Object, f.Path), " ")
}

// run compares what is found with what is wanted.
func (c *scenario) run(t *testing.T) {
	report := lintFiles(t, c.files)
	var got []string
	for i := range report.Findings {
		got = append(got, place(&report.Findings[i])+" | "+report.Findings[i].Message)
	}
	same := slices.EqualFunc(got, c.want, func(got, want string) bool {
		want, part, _ := strings.Cut(want, "|")
		found, message, _ := strings.Cut(got, " | ")
		return found == strings.TrimSpace(want) && strings.Contains(message, strings.TrimSpace(part))
	})
	if !same || !c.told {
		t.Errorf("found:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
	}
}

// TestRules replays testdata/rules: a file for each rule, in which it speaks up at least once and keeps silent at least once
// where all but one thing is the same.
func TestRules(t *testing.T) {
	for _, rule := range Rules() {
		t.Run(rule.ID, func(t *testing.T) {
			var speaks, silent bool
			for _, c := range scenarios(t, filepath.Join("testdata", "rules", rule.ID+".txtar")) {
				t.Run(c.name, c.run)
				if slices.ContainsFunc(c.want, func(line string) bool { return strings.Fields(line)[1] == rule.ID }) {
					speaks = true
				} else {
					silent = true
				}
			}
			if !speaks || !silent {
				t.Errorf("speaks up: %v, keeps silent: %v; want both", speaks, silent)
			}
		})
	}
	files, err := filepath.Glob("testdata/rules/*.txtar")
	if err != nil || len(files) != len(Rules()) {
		t.Errorf("%d files for %d rules, %v", len(files), len(Rules()), err)
	}
}

// TestPublicExamples: policies that documentation and tutorials show, in our words and with their workloads, are all right.
func TestPublicExamples(t *testing.T) {
	files, err := filepath.Glob("testdata/public/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("find examples: %v, %d found", err, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			for _, c := range scenarios(t, file) {
				t.Run(c.name, c.run)
			}
		})
	}
}

// TestSeed: the policy of the seed guards the other side than its name says.
func TestSeed(t *testing.T) {
	report := lintDir(t, filepath.Join("..", "testdata", "seed"))
	if len(report.Findings) != 1 {
		t.Fatalf("%d findings, want 1: %+v", len(report.Findings), report.Findings)
	}
	f := report.Findings[0]
	if want := "warning guards-other-side frontend-to-backend-policy.yaml:6 CiliumNetworkPolicy default/frontend-to-backend spec.endpointSelector"; place(&f) != want {
		t.Errorf("found %s, want %s", place(&f), want)
	}
	for _, part := range []string{"from frontend to backend", "only Deployment default/backend declares TCP 8080", "app=backend stays open", "endpointSelector: app=backend", "fromEndpoints[0]: app=frontend"} {
		if !strings.Contains(f.Message, part) {
			t.Errorf("message %q does not say %q", f.Message, part)
		}
	}
}

// What is found depends on the files alone: neither on the order of maps nor on the order of runs.
func TestTheSameFilesGiveTheSameFindings(t *testing.T) {
	files, _ := filepath.Glob("testdata/rules/*.txtar")
	for _, file := range files {
		for _, c := range scenarios(t, file) {
			first := lintFiles(t, c.files)
			for range 3 {
				if again := lintFiles(t, c.files); !slices.Equal(again.Findings, first.Findings) {
					t.Fatalf("%s, %s: found %+v, then %+v", file, c.name, first.Findings, again.Findings)
				}
			}
		}
	}
}

// Rules have to be told apart and to say what to do.
func TestRulesAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, rule := range Rules() {
		if seen[rule.ID] || rule.Summary == "" || strings.HasSuffix(rule.Summary, ".") || !strings.HasSuffix(rule.Help, ".") {
			t.Errorf("rule %+v", rule)
		}
		seen[rule.ID] = true
	}
}

// A field that is suppressed is counted; others of the same object are told all the same.
func TestIgnoredFindingsAreCounted(t *testing.T) {
	const policy = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, annotations: {weirnet.github.io/lint-ignore: \" rule-matches-nothing , dns-forgotten\"}}\nspec: {endpointSelector: {}, ingress: [{fromEndpoints: []}, {}]}\n"
	report := lintFiles(t, map[string]string{"a.yaml": policy})
	if report.Ignored != 1 || len(report.Findings) != 1 || report.Findings[0].Rule != emptyAdmitsNobody {
		t.Errorf("%d ignored, findings %+v", report.Ignored, report.Findings)
	}
	var out bytes.Buffer
	if err := WriteSARIF(&out, report, "dir", ""); err != nil || strings.Contains(out.String(), `"ruleId": "rule-matches-nothing"`) {
		t.Errorf("%v: SARIF has what is ignored", err)
	}
}

// A rule about nodes is about the other ones on each node. One that names the first node matches nothing there, and something
// everywhere else.
func TestRulesAboutNodesAreJudgedForAllNodes(t *testing.T) {
	const nodes = "apiVersion: v1\nkind: Node\nmetadata: {name: n%d, labels: {zone: z%d}}\nspec: {podCIDR: 10.42.%d.0/24}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.%d}]}\n---\n"
	for zone, want := range map[string]int{"z1": 0, "z2": 0, "z3": 1} {
		text := fmt.Sprintf(nodes, 1, 1, 1, 1) + fmt.Sprintf(nodes, 2, 2, 2, 2) +
			"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec: {endpointSelector: {}, ingress: [{fromNodes: [{matchLabels: {zone: " + zone + "}}]}]}\n"
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		in, err := k8s.Inspect(dir)
		if err != nil {
			t.Fatal(err)
		}
		report, err := Run(in, k8s.Options{NodeSelectorLabels: true})
		if err != nil || len(report.Findings) != want {
			t.Errorf("zone %s: %v, findings %+v, want %d", zone, err, report.Findings, want)
		}
	}
}
