// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// check runs the verb and gives back what it wrote.
func check(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = runCheck(context.Background(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// manifests writes files into a new directory.
func manifests(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// clusterFile is the cluster of the cases that have none of their own.
const clusterFile = "testdata/check/cluster.yaml"

// TestSemantics replays testdata/check: what each row of the APIs' semantics says, and past disagreements. All judges must
// agree on every probe and give the verdict that it wants. Cases that have the same cluster share a simulator. A file called
// flags holds arguments, one a line; judges names those to ask one by one, where not all can answer; warnings are the warnings that there must be, all of them; refused is what is said about
// a set that is refused, and then there is nothing to probe.
func TestSemantics(t *testing.T) {
	cases, err := filepath.Glob("testdata/check/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("find cases: %v, %d found", err, len(cases))
	}
	shared := newKernelJudge(nil)
	t.Cleanup(func() { shared.Close() })
	for _, name := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]string{"cluster.yaml": read(t, clusterFile)}
			about := map[string]string{} // what is no manifest
			kernel := shared
			for _, f := range archive.Files {
				switch f.Name {
				case "probes.jsonl", "flags", "judges", "warnings", "refused":
					about[f.Name] = string(f.Data)
					continue
				case "cluster.yaml":
					kernel = newKernelJudge(nil)
					defer kernel.Close()
				}
				files[f.Name] = string(f.Data)
			}
			judges := []string{"all"}
			if about["judges"] != "" {
				judges = strings.Fields(about["judges"])
			}
			dir := manifests(t, files)
			for _, judge := range judges {
				replay(t, kernel, judge, dir, about)
			}
		})
	}
}

// replay asks a judge, or all, about one case.
func replay(t *testing.T, kernel *kernelJudge, judge, dir string, about map[string]string) {
	t.Helper()
	probes := about["probes.jsonl"]
	code, out, errs := checkWith(t, kernel, judge, dir, strings.Fields(about["flags"]), probes)
	if want, refused := about["refused"]; refused {
		if code != checkUnanswer || errs != prefixed("weir check: ", want) || out+probes != "" {
			t.Errorf("exit code %d, answers %q, said\n%swant\n%s", code, out, errs, want)
		}
		return
	}
	said := prefixed("weir check: warning: ", about["warnings"])
	if _, told := about["warnings"]; code != checkFine || told && errs != said {
		t.Errorf("exit code %d, said\n%swant\n%s", code, errs, said)
	}
	wants := strings.Count(probes, `"want"`)
	if wants == 0 || strings.Count(out, "\n") != wants || strings.Count(out, `"want"`) != wants {
		t.Errorf("%d answers to %d wishes:\n%s", strings.Count(out, "\n"), wants, out)
	}
}

// prefixed puts a prefix before each line.
func prefixed(prefix, lines string) string {
	var b strings.Builder
	for line := range strings.Lines(lines) {
		b.WriteString(prefix + line)
	}
	return b.String()
}

// checkWith is check with a judge, or with all, of which kernel is one that the caller closes.
func checkWith(t *testing.T, kernel *kernelJudge, judge, dir string, flags []string, probes string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	run := &checkRun{stderr: &errs}
	set := flag.NewFlagSet("weir check", flag.ContinueOnError)
	reading := newPolicyFlags(set)
	err := set.Parse(flags)
	if err == nil {
		run.options, err = reading.options()
	}
	if err == nil {
		err = run.open(nil, dir, judge, "json", &out)
	}
	if err == nil {
		if own, ok := run.judges[0].(*kernelJudge); ok {
			kernel.brain = own.brain
			run.judges[0] = kernel
		}
		err = run.all(context.Background(), "-", strings.NewReader(probes))
	}
	return run.code(err), out.String(), errs.String()
}

// TestSeed pins the table of the seed: all pairs on all ports of all pods.
func TestSeed(t *testing.T) {
	dir := manifests(t, map[string]string{
		"a.yaml": read(t, "../../k8s/testdata/seed/frontend-deployment.yaml"),
		"b.yaml": read(t, "../../k8s/testdata/seed/backend-deployment.yaml"),
		"c.yaml": read(t, "../../k8s/testdata/seed/frontend-to-backend-policy.yaml"),
	})
	code, out, errs := check(t, "", "--manifests", dir, "--judge", "all")
	want := `SOURCE            DESTINATION       PORT      VERDICT  EGRESS                        INGRESS
default/backend   default/backend   TCP 80    allow    allow not_isolated at pod_tx  allow not_isolated at pod_rx
default/backend   default/backend   TCP 8080  allow    allow not_isolated at pod_tx  allow not_isolated at pod_rx
default/backend   default/frontend  TCP 80    deny     allow not_isolated at pod_tx  deny denied_default at underlay_rx
default/backend   default/frontend  TCP 8080  allow    allow not_isolated at pod_tx  allow allowed by CiliumNetworkPolicy default/frontend-to-backend spec.ingress[0] at pod_rx
default/frontend  default/backend   TCP 80    allow    allow not_isolated at pod_tx  allow not_isolated at pod_rx
default/frontend  default/backend   TCP 8080  allow    allow not_isolated at pod_tx  allow not_isolated at pod_rx
default/frontend  default/frontend  TCP 80    allow    allow not_isolated at pod_tx  allow self at pod_rx
default/frontend  default/frontend  TCP 8080  allow    allow not_isolated at pod_tx  allow self at pod_rx
`
	if code != checkFine || out != want || errs != "" {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	code, out, _ = check(t, "", "--manifests", dir, "--output", "json", "--judge", "image")
	if first, _, _ := strings.Cut(out, "\n"); code != checkFine || first != `{"src":"default/backend","dst":"default/backend","protocol":"TCP","port":80,"verdict":"allow","egress":{"verdict":"allow","reason":"not_isolated","rule":"","hook":""},"ingress":{"verdict":"allow","reason":"not_isolated","rule":"","hook":""}}` {
		t.Errorf("exit code %d, first answer %s", code, first)
	}
}

// policyForAnswers isolates db for all but web on TCP 5432, and web for all but ports 80 to 90 of db.
const policyForAnswers = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec: {endpointSelector: {matchLabels: {app: web}}, egress: [{toEndpoints: [{matchLabels: {app: db}}], toPorts: [{ports: [{port: "5432"}]}]}], ingressDeny: [{fromEntities: [world]}]}
`

// TestAnswers: order, unknown members, both sides always, hooks, rules, errors beside answers; and the exit code for each.
func TestAnswers(t *testing.T) {
	dir := manifests(t, map[string]string{"cluster.yaml": read(t, clusterFile), "policy.yaml": policyForAnswers})
	const np, cnp = `NetworkPolicy default/db spec.ingress[0]`, `CiliumNetworkPolicy default/web spec.egress[0]`
	cases := []struct {
		name, probe, answer string
		code                int
	}{
		{"both sides allow, unknown members stay as written", `{"id": 1.50, "src":"default/web","dst":"default/db","protocol":"tcp","port":5432,"note":{"a":[1, "<&>"]}}`,
			`{"id":1.50,"src":"default/web","dst":"default/db","protocol":"tcp","port":5432,"note":{"a":[1, "<&>"]},"verdict":"allow","egress":{"verdict":"allow","reason":"allowed","rule":"` + cnp + `","hook":"pod_tx"},"ingress":{"verdict":"allow","reason":"allowed","rule":"` + np + `","hook":"pod_rx"}}`, 0},
		{"both sides deny, each at its hook", `{"src":"default/web","dst":"10.244.2.10","protocol":"UDP","port":1}`,
			`{"src":"default/web","dst":"10.244.2.10","protocol":"UDP","port":1,"verdict":"deny","egress":{"verdict":"deny","reason":"denied_default","rule":"","hook":"pod_tx"},"ingress":{"verdict":"deny","reason":"denied_default","rule":"","hook":"underlay_rx"}}`, 0},
		{"the receiver's denial is known at the sender's hook on the same node", `{"src":"default/api","dst":"default/web","protocol":"TCP","port":80}`,
			`{"src":"default/api","dst":"default/web","protocol":"TCP","port":80,"verdict":"deny","egress":{"verdict":"allow","reason":"not_isolated","rule":"","hook":"pod_tx"},"ingress":{"verdict":"deny","reason":"denied_default","rule":"","hook":"pod_tx"}}`, 0},
		{"a denied sender on the same node does not hide the receiver", `{"src":"default/web","dst":"default/api","protocol":"ICMP"}`,
			`{"src":"default/web","dst":"default/api","protocol":"ICMP","verdict":"deny","egress":{"verdict":"deny","reason":"denied_default","rule":"","hook":"pod_tx"},"ingress":{"verdict":"allow","reason":"not_isolated","rule":"","hook":"pod_rx"}}`, 0},
		{"a deny rule is named", `{"src":"203.0.113.1","dst":"default/web","protocol":"SCTP","port":9,"want":"deny"}`,
			`{"src":"203.0.113.1","dst":"default/web","protocol":"SCTP","port":9,"want":"deny","verdict":"deny","ingress":{"verdict":"deny","reason":"denied_rule","rule":"CiliumNetworkPolicy default/web spec.ingressDeny[0]","hook":"underlay_rx"}}`, 0},
		{"the own node's standing permission is named", `{"src":"node:n2","dst":"default/db","protocol":"TCP","port":1}`,
			`{"src":"node:n2","dst":"default/db","protocol":"TCP","port":1,"verdict":"allow","ingress":{"verdict":"allow","reason":"allowed","rule":"weir host reaches its pods","hook":"pod_rx"}}`, 0},
		{"an old answer is asked again", `{"src":"node:n1","dst":"default/db","protocol":"TCP","port":1,"verdict":"allow","ingress":{},"error":"x"}`,
			`{"src":"node:n1","dst":"default/db","protocol":"TCP","port":1,"verdict":"deny","ingress":{"verdict":"deny","reason":"denied_default","rule":"","hook":"underlay_rx"}}`, 0},
		{"a wish that is not met", `{"src":"default/web","dst":"node:n2","protocol":"ICMP","icmp_type":13,"want":"allow"}`,
			`{"src":"default/web","dst":"node:n2","protocol":"ICMP","icmp_type":13,"want":"allow","verdict":"deny","egress":{"verdict":"deny","reason":"denied_default","rule":"","hook":"pod_tx"}}`, 1},
		{"unknown pod", `{"src":"default/nobody","dst":"default/db","protocol":"TCP","port":1}`,
			`{"src":"default/nobody","dst":"default/db","protocol":"TCP","port":1,"error":"resolve src: no running pod \"default/nobody\""}`, 2},
		{"unknown node", `{"src":"default/db","dst":"node:n9","protocol":"TCP","port":1}`,
			`{"src":"default/db","dst":"node:n9","protocol":"TCP","port":1,"error":"resolve dst: no node \"n9\""}`, 2},
		{"missing port", `{"src":"default/web","dst":"default/db","protocol":"TCP"}`,
			`{"src":"default/web","dst":"default/db","protocol":"TCP","error":"\"port\" is missing: TCP needs one"}`, 2},
		{"port out of range", `{"src":"default/web","dst":"default/db","protocol":"TCP","port":65536}`,
			`{"src":"default/web","dst":"default/db","protocol":"TCP","port":65536,"error":"\"port\" is 65536: it must be between 1 and 65535"}`, 2},
		{"port of another type", `{"src":"default/web","dst":"default/db","protocol":"TCP","port":"http"}`,
			`{"src":"default/web","dst":"default/db","protocol":"TCP","port":"http","error":"read \"port\": \"http\" is not an integer"}`, 2},
		{"no pod on either side", `{"src":"203.0.113.1","dst":"node:n1","protocol":"TCP","port":1}`,
			`{"src":"203.0.113.1","dst":"node:n1","protocol":"TCP","port":1,"error":"no pod on either side: there is no policy to ask"}`, 2},
		{"a pod in the host's network is its node", `{"src":"default/agent","dst":"192.0.2.2","protocol":"TCP","port":1}`,
			`{"src":"default/agent","dst":"192.0.2.2","protocol":"TCP","port":1,"error":"no pod on either side: there is no policy to ask"}`, 2},
		{"addresses of two families", `{"src":"2001:db8::1","dst":"10.244.1.10","protocol":"TCP","port":1}`,
			`{"src":"2001:db8::1","dst":"10.244.1.10","protocol":"TCP","port":1,"error":"families differ: 10.244.1.10 is not IPv6"}`, 2},
		{"a family that the pod has not", `{"src":"default/web","dst":"default/db","protocol":"TCP","port":1,"family":6}`,
			`{"src":"default/web","dst":"default/db","protocol":"TCP","port":1,"family":6,"error":"resolve src: families differ: pod default/web has no IPv6 address"}`, 2},
		{"ICMP of the wrong family", `{"src":"default/web","dst":"default/db","protocol":"ICMP","family":6}`,
			`{"src":"default/web","dst":"default/db","protocol":"ICMP","family":6,"error":"\"family\" is 6: ICMP is a protocol of the other family"}`, 2},
		{"unknown protocol", `{"src":"default/web","dst":"default/db","protocol":"GRE"}`,
			`{"src":"default/web","dst":"default/db","protocol":"GRE","error":"\"protocol\" is \"GRE\": it must be TCP, UDP, SCTP, ICMP or ICMPv6"}`, 2},
		{"a wish that is none", `{"src":"default/web","dst":"default/db","protocol":"ICMP","want":"drop"}`,
			`{"src":"default/web","dst":"default/db","protocol":"ICMP","want":"drop","error":"\"want\" is \"drop\": it must be \"allow\" or \"deny\""}`, 2},
		{"a member twice", `{"src":"default/web","src":"default/db","dst":"default/db","protocol":"ICMP"}`,
			`{"src":"default/web","src":"default/db","dst":"default/db","protocol":"ICMP","error":"member \"src\" appears twice"}`, 2},
		{"no object", `["src"]`, `{"error":"a probe is one JSON object a line"}`, 2},
		{"no JSON", `{"src":`, `{"error":"a probe is one JSON object a line: unexpected end of JSON input"}`, 2},
	}
	probes, answers := "", ""
	for _, c := range cases {
		probes += c.probe + "\n\n"
		answers += c.answer + "\n"
	}
	code, out, errs := check(t, strings.TrimSuffix(probes, "\n\n"), "--manifests", dir, "--probes", "-")
	if code != checkUnanswer {
		t.Errorf("exit code %d with errors among the answers\n%s", code, errs)
	}
	got, want := strings.SplitAfter(out, "\n"), strings.SplitAfter(answers, "\n")
	if len(got) != len(want) {
		t.Fatalf("%d answers to %d probes:\n%s", len(got)-1, len(cases), out)
	}
	for i, c := range cases {
		if got[i] != want[i] {
			t.Errorf("%s:\n got %swant %s", c.name, got[i], want[i])
		}
		code, _, errs := check(t, c.probe, "--manifests", dir, "--probes", "-", "--judge", "image")
		if code != c.code || (errs == "") != (c.code == 0) {
			t.Errorf("%s: exit code %d, want %d; message %q", c.name, code, c.code, errs)
		}
	}
}

// TestRefusals: what is wrong with the call or the objects is said on stderr, and nothing is answered.
func TestRefusals(t *testing.T) {
	good := manifests(t, map[string]string{"cluster.yaml": read(t, clusterFile)})
	bad := manifests(t, map[string]string{"cluster.yaml": read(t, clusterFile), "a.yaml": `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: first}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: second}
spec: {podSelector: {}, ingres: []}
`})
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"no manifests", nil, []string{"--manifests is missing"}},
		{"unknown flag", []string{"--frobnicate"}, []string{"-frobnicate"}},
		{"argument", []string{"--manifests", good, "x"}, []string{`"x" is not a flag`}},
		{"unknown judge", []string{"--manifests", good, "--judge", "jury"}, []string{`--judge is "jury": it must be kernel, image, oracle or all`}},
		{"unknown output", []string{"--manifests", good, "--output", "xml"}, []string{`--output is "xml": it must be json or text`}},
		{"no directory", []string{"--manifests", good + "/none"}, []string{good + "/none"}},
		{"no probes", []string{"--manifests", good, "--probes", good + "/none"}, []string{"open probes: open " + good + "/none: no such file or directory"}},
		{"every invalid object is named", []string{"--manifests", bad}, []string{"NetworkPolicy default/first", "10.0.0.0/33", "NetworkPolicy default/second", "ingres"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errs := check(t, "", c.args...)
			if code != checkUnanswer || out != "" {
				t.Errorf("exit code %d, answers %q", code, out)
			}
			for _, text := range c.says {
				if !strings.Contains(errs, text) {
					t.Errorf("%q is not in %q", text, errs)
				}
			}
		})
	}
	if code, out, errs := check(t, "", "--help"); code != checkFine || errs != "" || !strings.HasPrefix(out, "Usage: weir check ") {
		t.Errorf("--help: exit code %d, %q, %q", code, out, errs)
	}
}

// TestDisagreement: a judge that differs is named, with what it says, and the exit code is 1.
func TestDisagreement(t *testing.T) {
	ask := &fakeJudge{as: "kernel", answers: []answer{{egress: &sideAnswer{Verdict: "allow", Reason: "allowed", Rule: "a"}}}}
	var out, errs bytes.Buffer
	p := pairProbe("a/b", "c/d", 6, 80)
	for _, c := range []struct {
		name    string
		other   sideAnswer
		differs bool
	}{
		{"the same", sideAnswer{Verdict: "allow", Reason: "allowed", Rule: "a"}, false},
		{"another verdict", sideAnswer{Verdict: "deny", Reason: "denied_default"}, true},
		{"another rule", sideAnswer{Verdict: "allow", Reason: "allowed", Rule: "b"}, true},
	} {
		out.Reset()
		errs.Reset()
		run := &checkRun{stderr: &errs, out: newTextWriter(&out), judges: []judge{ask, &fakeJudge{as: "image"}}}
		if err := run.write(p, []answer{ask.answers[0], {egress: &c.other}}); err != nil {
			t.Fatal(err)
		}
		if err := run.out.flush(); err != nil {
			t.Fatal(err)
		}
		if run.differs != c.differs || strings.Contains(errs.String(), "judges disagree: kernel: allow") != c.differs ||
			strings.Contains(out.String(), "(judges disagree)") != c.differs {
			t.Errorf("%s: differs %v\n%s%s", c.name, run.differs, out.String(), errs.String())
		}
	}
}

type fakeJudge struct {
	as      string
	answers []answer
}

func (f *fakeJudge) name() string { return f.as }

func (f *fakeJudge) judge(context.Context, []*question) ([]answer, error) { return f.answers, nil }

func (f *fakeJudge) Close() error { return nil }
