// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// isolates says whether name is the isolation of pod by a policy of m that is under audit.
func isolates(m *Model, pod *Pod, dir Direction, name RuleName) bool {
	return slices.ContainsFunc(m.Policies, func(p Policy) bool {
		return p.Audit && p.Isolates[dir] && p.Subject.Matches(pod.Labels) && isolationName(p.Key, dir) == name
	})
}

// audited is guarded with its policy under audit: front admits back on TCP 8080 only.
func audited() *Model {
	m := guarded()
	m.Policies[0].Audit = true
	return m
}

func TestPolicyUnderAuditEnforcesNothingAndIsNamed(t *testing.T) {
	c := build(t, audited())
	img := c.Image
	front, world := c.Endpoint("default/front").Identity, c.Address(mustAddr("203.0.113.9")).Identity
	if !img.Policed(Ingress, front) || img.Enforced(Ingress, front) || img.Policed(Egress, front) {
		t.Errorf("policed %v, enforced %v, egress %v", img.Policed(Ingress, front), img.Enforced(Ingress, front), img.Policed(Egress, front))
	}
	if got := img.Lookup(Ingress, front, world, TCP, 80); !got.Allow() || !got.Audited() || got.Rule() != 0 {
		t.Errorf("enforced plane: %#x", got)
	}
	got := img.LookupAudited(Ingress, front, world, TCP, 80)
	if key, path, _ := img.RuleName(got.Rule()); got.Allow() || !got.Default() || key != c.Image.AuditedPolicies()[0] || path != "ingress isolation" {
		t.Errorf("audited plane: %#x by %s %s", got, key, path)
	}
	if c.Endpoint("default/front").Policed != [2]bool{true, false} {
		t.Error("flows of a pod that only audit isolates are not kept")
	}
}

// Without a policy under audit there is one table of subjects for both planes, and every byte is what it would be.
func TestPlanesThatAreEqualAreOne(t *testing.T) {
	m := guarded()
	plain := build(t, m).Image
	if plain.u32(offAudited) != plain.u32(offSubjects) || len(plain.AuditedPolicies()) != 0 {
		t.Error("two tables without audit")
	}
	other := m.Policies[0]
	other.Key, other.Audit = "NetworkPolicy nowhere/elsewhere", true
	other.Subject = append(slices.Clone(other.Subject), labels(namespaceLabel, In, "nowhere")...)
	m.Policies = append(m.Policies, other)
	img := build(t, m).Image
	if img.u32(offAudited) != img.u32(offSubjects) || img.Rows() != plain.Rows() {
		t.Error("a policy under audit that selects no pod of this node takes a table")
	}
	if !slices.Equal(img.AuditedPolicies(), []string{other.Key}) {
		t.Errorf("under audit: %v", img.AuditedPolicies())
	}
}

// Beginning and ending an audit is a change of policy; rules, isolations included, keep their numbers, and a planner that is
// restored from the image knows what is under audit.
func TestAuditBeginsAndEndsByPlans(t *testing.T) {
	p := NewPlanner()
	plan := func(p *Planner, m *Model) *Plan {
		t.Helper()
		plan, err := p.Plan(m)
		if err != nil {
			t.Fatal(err)
		}
		p.Commit(plan)
		return plan
	}
	first := plan(p, audited())
	restored := NewPlanner()
	img, err := Decode(first.Final.Image.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	restored.Restore(img)
	if same := plan(restored, audited()); same.Swap || same.Interim != nil {
		t.Error("a restored planner swaps without a change")
	}
	for name, q := range map[string]*Planner{"the same": p, "restored": restored} {
		second := plan(q, guarded())
		if !second.Swap || len(second.Final.Image.AuditedPolicies()) != 0 {
			t.Errorf("%s: the end of an audit swaps nothing in", name)
		}
		for number, rule := range second.Final.Image.Rules() {
			if before, ok := first.Final.Image.Rules()[number]; ok && before != rule {
				t.Errorf("%s: rule %d was %v and is %v", name, number, before, rule)
			}
		}
		if again := plan(q, audited()); !again.Swap || again.Final.Image.LookupAudited(Ingress, 0, 0, TCP, 1) != cell(true, 0) {
			t.Errorf("%s: an audit that begins swaps nothing in", name)
		}
	}
}

func TestTextShowsBothPlanes(t *testing.T) {
	var text bytes.Buffer
	if err := build(t, audited()).WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"under audit\n  ", "  ingress: only under audit\n", "  ingress, as if no policy were under audit:\n", "ingress isolation"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}
