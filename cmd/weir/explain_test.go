// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/k8s/oracle"
)

// explain runs the verb.
func explain(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = runExplain(context.Background(), args, nil, &out, &errs)
	return code, out.String(), errs.String()
}

// replayCases runs the cases of a directory: files NAME.args, whose lines are arguments, and NAME.out, what is written then.
// All else in an archive is a file of a directory that $DIR names, or $OLD and $NEW for files old/ and new/. The
// environment variable WEIR_UPDATE writes what comes out into the cases, to be read before it is believed.
func replayCases(t *testing.T, pattern, base string, run func(args []string) (code int, out string)) {
	t.Helper()
	cases, err := filepath.Glob(pattern)
	if err != nil || len(cases) == 0 {
		t.Fatalf("find cases: %v, %d found", err, len(cases))
	}
	for _, name := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			dirs := map[string]map[string]string{"": {}, "old": {}, "new": {}}
			if base != "" {
				dirs[""]["cluster.yaml"], dirs["old"]["cluster.yaml"], dirs["new"]["cluster.yaml"] = base, base, base
			}
			for _, f := range archive.Files {
				dir, file := filepath.Split(f.Name)
				dirs[strings.TrimSuffix(dir, "/")][file] = string(f.Data)
			}
			paths := strings.NewReplacer("$DIR", manifests(t, dirs[""]), "$OLD", manifests(t, dirs["old"]), "$NEW", manifests(t, dirs["new"]))
			asked := 0
			for i, f := range archive.Files {
				args, ok := strings.CutSuffix(f.Name, ".args")
				if !ok || i+1 == len(archive.Files) || archive.Files[i+1].Name != args+".out" {
					continue
				}
				asked++
				code, got := run(strings.Fields(paths.Replace(string(f.Data))))
				got = fmt.Sprintf("%sexit %d\n", got, code)
				if want := string(archive.Files[i+1].Data); got != want {
					t.Errorf("%s\n%s\nwant\n%s", strings.TrimSpace(string(f.Data)), got, want)
					archive.Files[i+1].Data = []byte(got)
				}
			}
			if asked == 0 {
				t.Error("the case asks nothing")
			}
			if t.Failed() && os.Getenv("WEIR_UPDATE") != "" {
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestExplainCases pins what is written for each kind of verdict and near miss.
func TestExplainCases(t *testing.T) {
	replayCases(t, "testdata/explain/*.txtar", read(t, clusterFile), func(args []string) (int, string) {
		code, out, errs := explain(t, args...)
		return code, out + errs
	})
}

// TestExplainRandom: on random policies explain's verdicts are the oracle's, the rule that decided is one that matches, and
// the hook that drops is the one where the programs drop. WEIR_RANDOM_SEED repeats a run.
func TestExplainRandom(t *testing.T) {
	seed := setting(t, "WEIR_RANDOM_SEED", uint64(time.Now().UnixNano()))
	t.Logf("WEIR_RANDOM_SEED=%d", seed)
	counts := map[string]int{}
	kernel := newKernelJudge(nil)
	defer kernel.Close()
	kinds := []string{oracle.Allowed, oracle.DeniedDefault, oracle.DeniedRule, "at pod_tx", "at underlay_rx", "at pod_rx", "at ", "backends"}
	missing := func() bool { return slices.ContainsFunc(kinds, func(kind string) bool { return counts[kind] == 0 }) }
	for n := 0; n < 8 || n < 50 && missing(); n++ {
		w := newWorld(rand.New(rand.NewPCG(seed, uint64(n))))
		var errs bytes.Buffer
		run := &explainRun{stderr: &errs, options: w.options}
		if err := run.open(manifests(t, map[string]string{"cluster.yaml": w.cluster, "policies.yaml": strings.Join(w.policies, "---\n")})); err != nil {
			t.Fatal(err)
		}
		errs.Reset() // of warnings
		kernel.brain = run.set.brain
		var probes []*probe
		var questions []*question
		for _, p := range append(w.probes(4, 150), w.probes(6, 50)...) {
			q, err := run.set.cluster.resolve(p)
			if err == nil && !q.override(new(answer), bpf.DefaultKnobs().VXLANPort) {
				probes, questions = append(probes, p), append(questions, q)
			}
		}
		answers, err := kernel.judge(context.Background(), questions)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range probes {
			q := questions[i]
			e, err := run.explain(context.Background(), p, q)
			if err != nil || run.differs {
				t.Fatalf("%s: %v %s\n%s", p, err, errs.String(), strings.Join(w.policies, "---\n"))
			}
			egress, ingress := run.oracle.oracle.Judge(q.src, q.dst, oracle.Packet{Protocol: q.protocol, Port: q.port})
			for _, side := range []struct {
				want *oracle.Judgement
				got  *explainedSide
			}{{egress, e.Egress}, {ingress, e.Ingress}} {
				if (side.want == nil) != (side.got == nil) {
					t.Fatalf("%s: sides differ", p)
				}
				if side.want == nil {
					continue
				}
				counts[side.want.Reason]++
				if !same(side.want, &sideAnswer{Verdict: side.got.Verdict, Reason: side.got.Reason, Rule: side.got.Rule, Audit: side.got.Audit}) {
					t.Fatalf("%s: explained %+v, oracle says %+v", p, side.got, side.want)
				}
				if len(side.want.Rules) > 0 && side.want.Rules[0] != oracle.HostRule && side.want.Reason != oracle.Self && !decided(side.got) {
					t.Fatalf("%s: no rule is shown to decide: %+v", p, side.got)
				}
			}
			if got, want := e.drop(), kernelDrop(answers[i]); got != want && !e.Egress.reasonIs(bpf.ReasonSelf) {
				t.Fatalf("%s: explain drops at %q, the programs at %q\n%+v\n%s", p, got, want, e.Hooks, answers[i])
			}
			counts["at "+e.drop()]++
			counts["backends"] += len(e.Backends)
		}
	}
	t.Logf("%v", counts)
	if missing() {
		t.Errorf("some of %q never happened: the generator has lost its variety", kinds)
	}
}

// decided says that the rule of a verdict is shown as the one that decided, with its text.
func decided(s *explainedSide) bool {
	return slices.ContainsFunc(s.Matches, func(m explainedRule) bool {
		return m.Decides && m.Policy+" "+m.Path == s.Rule && m.YAML != ""
	})
}

// drop is the hook that drops the packet; "" if none does.
func (e *explanation) drop() string {
	for _, s := range e.Hooks {
		if s.Verdict == stepDrop {
			return s.Hook
		}
	}
	return ""
}

func kernelDrop(a answer) string {
	for _, side := range []*sideAnswer{a.egress, a.ingress} {
		if side != nil && side.Verdict == "deny" {
			return side.Hook
		}
	}
	return ""
}

// TestExplainJSON: the shape is what the README says, and YAML and places are in it.
func TestExplainJSON(t *testing.T) {
	dir := manifests(t, map[string]string{"cluster.yaml": read(t, clusterFile), "policy.yaml": policyForAnswers})
	code, out, errs := explain(t, "--output", "json", "default/web", "default/db", "--manifests", dir, "tcp/5432")
	if code != checkFine || errs != "" {
		t.Fatalf("exit code %d, %s", code, errs)
	}
	var e explanation
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		t.Fatal(err)
	}
	m := e.Ingress.Matches[0]
	if e.Verdict != "allow" || e.Ingress.Rule != "NetworkPolicy default/db spec.ingress[0]" || !m.Decides || m.File != "policy.yaml" || m.Document != 1 ||
		m.Line != 5 || !strings.Contains(m.YAML, "- port: 5432\n") || len(e.Hooks) != 4 || e.Replies.Flows[0].Recorded != "pod_tx" {
		t.Errorf("%s", out)
	}
}

// TestExplainRefusals: what cannot be answered is exit code 2 with the error that check has, and nothing is written.
func TestExplainRefusals(t *testing.T) {
	good := manifests(t, map[string]string{"cluster.yaml": read(t, clusterFile)})
	bad := manifests(t, map[string]string{"a.yaml": "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\nspec: {podSelector: {}, ingres: []}\n"})
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"no question", []string{"--manifests", good}, "SRC DST PROTO/PORT are wanted, 0 given"},
		{"no manifests", []string{"default/web", "default/db", "TCP/80"}, "--manifests is missing"},
		{"unknown output", []string{"default/web", "default/db", "TCP/80", "--manifests", good, "--output", "xml"}, `--output is "xml": it must be json or text`},
		{"unknown protocol", []string{"default/web", "default/db", "GRE/1", "--manifests", good}, `"protocol" is "GRE"`},
		{"no port", []string{"default/web", "default/db", "TCP", "--manifests", good}, `"port" is missing: TCP needs one`},
		{"a port that is none", []string{"default/web", "default/db", "TCP/http", "--manifests", good}, `"http" is not a port number`},
		{"unknown pod", []string{"default/nobody", "default/db", "TCP/80", "--manifests", good}, `resolve src: no running pod "default/nobody"`},
		{"no pod at all", []string{"8.8.8.8", "node:n1", "TCP/80", "--manifests", good}, "no pod on either side"},
		{"invalid objects", []string{"default/web", "default/db", "TCP/80", "--manifests", bad}, "ingres"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errs := explain(t, c.args...)
			if code != checkUnanswer || out != "" || !strings.Contains(errs, c.says) {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, out, errs)
			}
		})
	}
}
