// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/k8s/oracle"
)

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	return n
}

const (
	randomVerdicts   = 20000 // WEIR_RANDOM_VERDICTS: how many sides of probes are judged
	randomPerCluster = 800
	randomIPv6       = 300 // of a cluster; the datapath does not judge IPv6 yet, so two judges only
)

// TestThreeJudges lets the three judges meet random policies of all dialects in random clusters. They must agree on every
// side of every probe, kernel and image on the rule too, and that rule must be one that the oracle finds to match.
// WEIR_RANDOM_SEED repeats a run; WEIR_RANDOM_DUMP=1 writes what fails into testdata/check; WEIR_RANDOM_KERNEL=0 leaves the
// kernel out, for long hunts in the compiler.
func TestThreeJudges(t *testing.T) {
	seed := setting(t, "WEIR_RANDOM_SEED", uint64(time.Now().UnixNano()))
	verdicts := int(setting(t, "WEIR_RANDOM_VERDICTS", randomVerdicts))
	kernel := setting(t, "WEIR_RANDOM_KERNEL", 1) != 0
	t.Logf("WEIR_RANDOM_SEED=%d", seed)
	counts := map[string]int{}
	for n := 0; counts["sides"] < verdicts; n++ {
		w := newWorld(rand.New(rand.NewPCG(seed, uint64(n))))
		c := w.set(t, w.policies)
		failed := append(c.compare(t, w.probes(4, randomPerCluster), kernel, counts), c.compare(t, w.probes(6, randomIPv6), false, counts)...)
		if len(failed) > 0 {
			w.report(t, fmt.Sprintf("random-%d-%d", seed, n), failed)
			return
		}
	}
	t.Logf("%v", counts)
	// A test that met one kind of answer only would prove little.
	for _, reason := range []string{oracle.Allowed, oracle.NotIsolated, oracle.DeniedDefault, oracle.DeniedRule, "audit " + oracle.DeniedDefault} {
		if counts[reason] == 0 && verdicts >= randomVerdicts {
			t.Errorf("no answer of %d is %s: the generator has lost its variety", counts["sides"], reason)
		}
	}
}

// randomSet is one set of objects and its judges.
type randomSet struct {
	cluster *cluster
	brain   *brain
	oracle  *oracle.Oracle
}

// set reads the world's objects back from files, as check would.
func (w *world) set(t *testing.T, policies []string) *randomSet {
	t.Helper()
	objs, err := k8s.ReadDir(manifests(t, map[string]string{"cluster.yaml": w.cluster, "policies.yaml": strings.Join(policies, "---\n")}))
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(policies, "---\n"))
	}
	s := &randomSet{oracle: oracle.New(objs, oracleOptions(w.options))}
	if s.cluster, err = newCluster(objs); err != nil {
		t.Fatal(err)
	}
	if s.brain, err = newBrain(objs, s.cluster, w.options); err != nil {
		t.Fatal(err)
	}
	return s
}

// compare asks the judges and gives back the probes that they differ on, with what the oracle says as their wish.
func (s *randomSet) compare(t *testing.T, probes []*probe, kernel bool, counts map[string]int) (failed []*probe) {
	t.Helper()
	var asked []*probe
	var questions []*question
	for _, p := range probes {
		q, err := s.cluster.resolve(p)
		if err != nil {
			continue // no pod on either side, no address of the family
		}
		asked, questions = append(asked, p), append(questions, q)
	}
	judges := []judge{&imageJudge{brain: s.brain}}
	if kernel {
		judges = append(judges, newKernelJudge(s.brain))
	}
	answers := make([][]answer, len(judges))
	for i, j := range judges {
		var err error
		if answers[i], err = j.judge(context.Background(), questions); err != nil {
			t.Fatalf("ask judge %s: %v", j.name(), err)
		}
		if err := j.Close(); err != nil {
			t.Errorf("close judge %s: %v", j.name(), err)
		}
	}
	for i, q := range questions {
		egress, ingress := s.oracle.Judge(q.src, q.dst, oracle.Packet{Protocol: q.protocol, Port: q.port})
		if q.override(new(answer), bpf.DefaultKnobs().VXLANPort) {
			continue // not policy's business
		}
		for j := range judges {
			for _, side := range []struct {
				want *oracle.Judgement
				got  *sideAnswer
			}{{egress, answers[j][i].egress}, {ingress, answers[j][i].ingress}} {
				if (side.want == nil) != (side.got == nil) || side.want != nil && !same(side.want, side.got) {
					asked[i].want = verdictName((egress == nil || egress.Allow) && (ingress == nil || ingress.Allow))
					asked[i].members = append(asked[i].members[:4:4], member{"want", quote(asked[i].want)})
					failed = append(failed, asked[i])
					t.Logf("%s: judge %s: %v; oracle: %v", asked[i], judges[j].name(), side.got, side.want)
				} else if side.want != nil && counts != nil {
					counts["sides"]++
					counts[side.want.Reason]++
					if side.want.Audit != nil {
						counts["audit "+side.want.Audit.Reason]++
					}
				}
			}
		}
	}
	return failed
}

// same says that a judge sees a side as the oracle does. The rule that it names must be among those that match.
func same(want *oracle.Judgement, got *sideAnswer) bool {
	if want.Allow != (got.Verdict == "allow") {
		return false
	}
	if want.Reason == oracle.Self {
		return true // the hooks ask the image first, and may find a rule
	}
	return want.Reason == got.Reason && (got.Rule == "" && len(want.Rules) == 0 || slices.Contains(want.Rules, got.Rule)) &&
		sameWould(want.Audit, got.Audit)
}

// sameWould compares what policies under audit would do. A denial by default names the isolation, which is no rule.
func sameWould(want *oracle.Judgement, got *auditAnswer) bool {
	if want == nil || got == nil {
		return want == nil && got == nil
	}
	return got.Verdict == "deny" && want.Reason == got.Reason &&
		(len(want.Rules) == 0 && (got.Rule == "" || strings.HasSuffix(got.Rule, " isolation")) || slices.Contains(want.Rules, got.Rule))
}

// report drops policies as long as the image still disagrees with the oracle, and shows what is left.
func (w *world) report(t *testing.T, name string, failed []*probe) {
	t.Helper()
	failed = failed[:min(len(failed), 5)]
	policies := slices.Clone(w.policies)
	quiet := &testing.T{}
	for i := 0; i < len(policies); {
		fewer := slices.Delete(slices.Clone(policies), i, i+1)
		if len(w.set(t, fewer).compare(quiet, failed, false, nil)) == 0 {
			i++
			continue
		}
		policies = fewer
	}
	var lines strings.Builder
	out := jsonWriter{}
	for _, p := range failed {
		out.line.Reset()
		out.line.WriteByte('{')
		for _, m := range p.members {
			out.raw(m.key, m.raw)
		}
		lines.WriteString(out.line.String() + "}\n")
	}
	archive := txtar.Format(&txtar.Archive{Comment: []byte("SPDX-License-Identifier: Apache-2.0\nA disagreement that TestThreeJudges found.\n"),
		Files: []txtar.File{{Name: "cluster.yaml", Data: []byte(w.cluster)}, {Name: "policies.yaml", Data: []byte(strings.Join(policies, "---\n"))},
			{Name: "flags", Data: []byte(strings.Join(w.flags, "\n") + "\n")}, {Name: "probes.jsonl", Data: []byte(lines.String())}}})
	t.Errorf("judges disagree:\n%v\n%s\n%s", w.flags, strings.Join(policies, "---\n"), lines.String())
	if os.Getenv("WEIR_RANDOM_DUMP") != "" {
		file := filepath.Join("testdata/check", name+".txtar")
		if err := os.WriteFile(file, archive, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("written to %s", file)
	}
}
