// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/weirnet/weir/k8s/lint"
)

// runLintOn lints and gives back what was written.
func runLintOn(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = runLint(t.Context(), args, nil, &out, &errs)
	return code, out.String(), errs.String()
}

const lintSeed = "../../k8s/testdata/seed"

// TestLintSeed pins what people read: the trap of the seed, with its line, and how to mend it.
func TestLintSeed(t *testing.T) {
	code, out, errs := runLintOn(t, "--manifests", lintSeed)
	want := lintSeed + `/frontend-to-backend-policy.yaml
  6  warning  guards-other-side  CiliumNetworkPolicy default/frontend-to-backend: spec.endpointSelector: guards the ingress of app=frontend and admits app=backend there (spec.ingress[0]), but its name says from frontend to backend and only Deployment default/backend declares TCP 8080; app=backend stays open to everyone; nobody is admitted to TCP 80 of app=frontend; if the two are swapped, write endpointSelector: app=backend and fromEndpoints[0]: app=frontend

1 warning in 3 files, 1 policy
`
	if code != lintFindings || out != want || errs != "" {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

// The seed as its story wants it has nothing to be found.
func TestLintSeedMended(t *testing.T) {
	swap := strings.NewReplacer("app: frontend", "app: backend", "app: backend", "app: frontend")
	dir := manifests(t, map[string]string{
		"a.yaml": read(t, lintSeed+"/frontend-deployment.yaml"),
		"b.yaml": read(t, lintSeed+"/backend-deployment.yaml"),
		"c.yaml": swap.Replace(read(t, lintSeed+"/frontend-to-backend-policy.yaml")),
	})
	if code, out, errs := runLintOn(t, "--manifests", dir, "--fail-on", "note"); code != lintFine || out != "nothing found in 3 files, 1 policy\n" || errs != "" {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

const (
	lintNote    = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: quiet}\nspec: {endpointSelector: {}, egress: [{}]}\n"
	lintWarning = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: allow}\nspec: {endpointSelector: {}, ingress: [{}]}\n"
	lintNodes   = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: nodes}\nspec: {endpointSelector: {}, ingress: [{fromNodes: [{}]}]}\n"
	lintError   = "apiVersion: v1\nkind: Namespace\nmetadata: {name: Wrong}\n"
)

// TestLintExitCodes: 1 from the severity of --fail-on on, 2 for what cannot be read or was not meant.
func TestLintExitCodes(t *testing.T) {
	for _, c := range []struct {
		name, text string
		args       []string
		want       int
	}{
		{"nothing", "", nil, lintFine},
		{"a note", lintNote, nil, lintFine},
		{"a note, strict", lintNote, []string{"--fail-on", "note"}, lintFindings},
		{"a warning", lintWarning, nil, lintFindings},
		{"a warning, lax", lintWarning, []string{"--fail-on", "error"}, lintFine},
		{"an error", lintError, []string{"--fail-on", "error"}, lintFindings},
		{"text that is no YAML", "a: [", nil, lintFindings},
		{"an error in JSON", lintError, []string{"--output", "json"}, lintFindings},
		{"an error in SARIF", lintError, []string{"--output", "sarif"}, lintFindings},
		{"nodes by label", lintNodes, nil, lintFindings},
		{"nodes by label, admitted", lintNodes, []string{"--node-selector-labels"}, lintFine},
		{"unknown reading", lintNote, []string{"--ipblock-match", "none"}, lintUnread},
		{"unknown severity", lintNote, []string{"--fail-on", "all"}, lintUnread},
		{"unknown output", lintNote, []string{"--output", "xml"}, lintUnread},
		{"an argument", lintNote, []string{"more"}, lintUnread},
	} {
		dir := manifests(t, map[string]string{"a.yaml": "# a comment\n" + c.text})
		code, out, errs := runLintOn(t, append([]string{"--manifests", dir}, c.args...)...)
		if code != c.want || (code == lintUnread) != (errs != "") || (code == lintUnread) != (out == "") {
			t.Errorf("%s: exit code %d, want %d; stdout %q, stderr %q", c.name, code, c.want, out, errs)
		}
	}
	for name, args := range map[string][]string{"no directory": nil, "a directory that is not there": {"--manifests", "testdata/nowhere"},
		"a file": {"--manifests", "lint_test.go"}, "a directory without manifests": {"--manifests", t.TempDir()}} {
		if code, out, errs := runLintOn(t, args...); code != lintUnread || out != "" || !strings.HasPrefix(errs, "weir lint: ") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", name, code, out, errs)
		}
	}
}

// Each format tells the same findings.
func TestLintFormats(t *testing.T) {
	dir := manifests(t, map[string]string{"a.yaml": lintWarning + "---\n" + lintNote, "b.yaml": lintError})
	const warning, note, wrong = "empty-rule-admits-nobody", "CiliumNetworkPolicy default/quiet", "invalid-object"
	_, text, _ := runLintOn(t, "--manifests", dir)
	for _, part := range []string{dir + "/a.yaml\n", "  4  warning  " + warning, "  9  note     " + warning, note, "\n\n" + dir + "/b.yaml\n  3  error    " + wrong,
		"1 error, 1 warning, 1 note in 2 files, 2 policies; something is invalid"} {
		if !strings.Contains(text, part) {
			t.Errorf("text does not have %q:\n%s", part, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("text that goes to no terminal has colours: %q", text)
	}

	_, out, _ := runLintOn(t, "--manifests", dir, "--output", "json")
	var lines []map[string]any
	for line := range strings.Lines(out) {
		finding := map[string]any{}
		if err := json.Unmarshal([]byte(line), &finding); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, finding)
	}
	if len(lines) != 3 || lines[0]["severity"] != "warning" || lines[1]["object"] != note || lines[2]["rule"] != wrong || lines[2]["line"] != 3.0 || lines[2]["file"] != "b.yaml" {
		t.Errorf("JSON: %v", lines)
	}

	_, out, _ = runLintOn(t, "--manifests", dir, "--output", "sarif")
	var log struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct{ Name, Version string }
			}
			Results []struct{ RuleID, Level string }
		}
	}
	if err := json.Unmarshal([]byte(out), &log); err != nil {
		t.Fatal(err)
	}
	if log.Version != "2.1.0" || len(log.Runs) != 1 || len(log.Runs[0].Results) != 3 || log.Runs[0].Results[0].Level != "warning" || log.Runs[0].Tool.Driver.Version != version() {
		t.Errorf("SARIF: %+v", log)
	}
}

// --rules explains each rule that a finding can have.
func TestLintExplainsItsRules(t *testing.T) {
	code, out, _ := runLintOn(t, "--rules")
	for _, rule := range lint.Rules() {
		if !strings.Contains(out, rule.ID+" ("+rule.Severity.String()+"): "+rule.Summary) || !strings.Contains(out, rule.Help) {
			t.Errorf("nothing about %s", rule.ID)
		}
	}
	if code != lintFine {
		t.Errorf("exit code %d", code)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// Findings that nobody could read are not "nothing found".
func TestLintFailsIfItCannotWrite(t *testing.T) {
	for _, args := range [][]string{{"--manifests", lintSeed}, {"--manifests", lintSeed, "--output", "sarif"}, {"--rules"}} {
		var errs bytes.Buffer
		if code := runLint(t.Context(), args, nil, brokenPipe{}, &errs); code != lintUnread || errs.Len() == 0 {
			t.Errorf("%v: exit code %d, %s", args, code, &errs)
		}
	}
}

// lint reads what others may write to, and needs no rights: it decides nothing.
func TestLintReadsWhatAnAgentWouldNot(t *testing.T) {
	dir := manifests(t, map[string]string{"a.yaml": lintNote})
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := runLintOn(t, "--manifests", dir); code != lintFine {
		t.Errorf("exit code %d, %s", code, errs)
	}
}
