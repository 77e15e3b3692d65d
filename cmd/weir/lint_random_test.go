// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/k8s/lint"
	"github.com/weirnet/weir/k8s/oracle"
)

const (
	lintWorlds   = 25 // WEIR_RANDOM_WORLDS
	lintPolicies = 14 // of a world: more than elsewhere, so that they get into each other's way
)

// claims are what findings say about the rules that can decide a packet.
type claims struct {
	idle   map[string]string   // rule or policy that is said never to decide → the finding that says so
	within map[string][]string // rule that is said to lie within another → that one
}

// TestLintIsRight holds what lint says about rules in random sets of all dialects against the oracle, which reads the API
// objects and nothing else: a rule that is said to match, admit or be asked nothing decides no packet, and where a rule
// decides that is said to lie within another one, the other would too. Policies that are said to have no effect, or to be
// there twice, can be left out. WEIR_RANDOM_SEED repeats a run.
func TestLintIsRight(t *testing.T) {
	seed := setting(t, "WEIR_RANDOM_SEED", uint64(time.Now().UnixNano()))
	t.Logf("WEIR_RANDOM_SEED=%d", seed)
	held := map[string]int{}
	for n := range setting(t, "WEIR_RANDOM_WORLDS", lintWorlds) {
		w := newWorld(rand.New(rand.NewPCG(seed, n)))
		for len(w.policies) < lintPolicies {
			if more := newWorld(w.Rand); more.options.NodeSelectorLabels == w.options.NodeSelectorLabels {
				w.policies = append(w.policies, more.policies...)
			}
		}
		w.policies = distinct(w.policies)
		dir := manifests(t, map[string]string{"cluster.yaml": w.cluster, "policies.yaml": strings.Join(w.policies, "---\n")})
		in, err := k8s.Inspect(dir)
		if err != nil || len(in.Problems) > 0 {
			t.Fatal(err, in.Problems)
		}
		report, err := lint.Run(in, w.options)
		if err != nil {
			t.Fatal(err)
		}
		c := claimsOf(report)
		s := w.set(t, w.policies)
		less := w.set(t, without(w.policies, report)).oracle
		for _, p := range w.probes(4, 2000) {
			q, err := s.cluster.resolve(p)
			if err != nil || q.override(new(answer), bpf.DefaultKnobs().VXLANPort) {
				continue
			}
			egress, ingress := s.oracle.Judge(q.src, q.dst, oracle.Packet{Protocol: q.protocol, Port: q.port})
			out, in := less.Judge(q.src, q.dst, oracle.Packet{Protocol: q.protocol, Port: q.port})
			for i, side := range []*oracle.Judgement{egress, ingress} {
				if side == nil {
					continue
				}
				c.hold(t, p, side)
				if other := []*oracle.Judgement{out, in}[i]; other.Allow != side.Allow {
					t.Errorf("%s: %v, but %v without the policies that lint says have no effect or are there twice", p, side, other)
				}
			}
		}
		for i := range report.Findings {
			held[report.Findings[i].Rule]++
		}
		if t.Failed() {
			t.Fatalf("world %d:\n%s", n, strings.Join(w.policies, "---\n"))
		}
	}
	t.Logf("%v", held)
	for _, rule := range []string{"never-asked", "contained-in-rule", "shadowed-by-deny", "rule-matches-nothing", "subject-selects-nothing"} {
		if held[rule] == 0 {
			t.Errorf("no finding of %s: the generator has lost its variety", rule)
		}
	}
}

// distinct keeps the first of policies with the same name.
func distinct(policies []string) []string {
	name := regexp.MustCompile(`(?m)^kind: .*$|^  name: .*$|^  namespace: .*$`)
	var names, out []string
	for _, p := range policies {
		if key := strings.Join(name.FindAllString(p, -1), " "); !slices.Contains(names, key) {
			names, out = append(names, key), append(out, p)
		}
	}
	return out
}

// without leaves out the policies that lint says nobody would miss.
func without(policies []string, r *lint.Report) []string {
	useless := map[string]bool{}
	for i := range r.Findings {
		f := &r.Findings[i]
		useless[f.Object] = useless[f.Object] || f.Path == "spec" && (f.Rule == "no-effect" || f.Rule == "duplicate-policy")
	}
	return slices.DeleteFunc(slices.Clone(policies), func(text string) bool {
		var o struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
			Specs    []any
		}
		if err := yaml.Unmarshal([]byte(text), &o); err != nil || len(o.Specs) > 0 {
			return false
		}
		name := o.Metadata.Name
		if !strings.Contains(o.Kind, "Cluster") {
			name = cmp.Or(o.Metadata.Namespace, "default") + "/" + name
		}
		return useless[o.Kind+" "+name]
	})
}

func claimsOf(r *lint.Report) claims {
	c := claims{idle: map[string]string{}, within: map[string][]string{}}
	other := regexp.MustCompile(`nothing that (\S+)(?: of (.+))? does not`)
	for i := range r.Findings {
		f := &r.Findings[i]
		rule := f.Object + " " + f.Path
		switch f.Rule {
		case "never-asked", "shadowed-by-deny", "rule-matches-nothing":
			c.idle[rule] = f.Text()
		case "subject-selects-nothing":
			root, _, _ := strings.Cut(f.Path, ".")
			c.idle[f.Object+" "+root] = f.Text()
		case "contained-in-rule":
			m := other.FindStringSubmatch(f.Message)
			if m[2] == "" {
				m[2] = f.Object
			}
			c.within[rule] = append(c.within[rule], m[2]+" "+m[1])
		}
	}
	return c
}

// hold compares the claims with what the oracle says of one side of a packet.
func (c claims) hold(t *testing.T, p *probe, side *oracle.Judgement) {
	t.Helper()
	for _, rule := range side.Rules {
		at := strings.LastIndex(rule, " ")
		root, _, _ := strings.Cut(rule[at+1:], ".")
		for _, name := range []string{rule, rule[:at+1] + root} {
			if said, idle := c.idle[name]; idle {
				t.Errorf("%s: %s decides, yet lint says: %s", p, rule, said)
			}
		}
		for _, other := range c.within[rule] {
			if !slices.Contains(side.Rules, other) {
				t.Errorf("%s: %s decides and not %s, which is said to contain it", p, rule, other)
			}
		}
	}
}
