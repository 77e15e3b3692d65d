// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/weirnet/weir/policy"
)

// excerptLines bounds how much of a rule is shown as text; JSON has all of it.
const excerptLines = 16

// writeText writes an explanation for people, each line after indent.
func (e *explanation) writeText(out *bytes.Buffer, indent string) {
	line := func(format string, args ...any) {
		text := strings.TrimRight(indent+fmt.Sprintf(format, args...), " ")
		out.WriteString(text + "\n")
	}
	line("%s -> %s %s: %s", e.Src, e.Dst, e.probe.service(), e.Verdict)
	line("  %s -> %s", e.From, e.To)
	if e.Service != "" {
		line("  %s is an address of %s; backends: %d", e.Dst, e.Service, len(e.Backends))
	}
	for _, note := range e.Notes {
		line("  note: %s", note)
	}
	for _, side := range []struct {
		name string
		of   *explainedSide
	}{{"egress", e.Egress}, {"ingress", e.Ingress}} {
		if side.of == nil {
			continue
		}
		line("")
		line("%s of %s: %s (%s)", side.name, side.of.Pod, side.of.Verdict, side.of.Reason)
		side.of.writeText(line)
	}
	line("")
	line("replies: %s", e.Replies.Text)
	for _, f := range e.Replies.Flows {
		line("  recorded at %s on %s: %s", f.Recorded, f.Node, f.Because)
		line("  excused by it at %s on %s (reason reply)", strings.Join(f.Excused, " and "), f.Node)
	}
	line("")
	line("hooks")
	table := tabwriter.NewWriter(&indented{out, indent + "  "}, 0, 0, 2, ' ', 0)
	for _, s := range e.Hooks {
		judges, reason := s.Judges, s.Reason
		if judges == "" {
			judges = "-"
		}
		if reason == "" && s.Judges == "" {
			reason = "nothing to judge"
		}
		verdict := s.Verdict
		if verdict == stepDrop {
			verdict = "DROP"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s", s.Hook, s.Node, judges, verdict)
		if reason != "" {
			fmt.Fprintf(table, "\t%s", reason)
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush() // to a buffer
	for i, b := range e.Backends {
		line("")
		line("backend %d of %d", i+1, len(e.Backends))
		b.writeText(out, indent+"  ")
	}
}

func (p explainedPlace) String() string {
	if p.Node == "" {
		return p.Addr.String() + " (outside)"
	}
	return fmt.Sprintf("%s (node %s)", p.Addr, p.Node)
}

func (s *explainedSide) writeText(line func(string, ...any)) {
	if len(s.Selected) == 0 {
		line("  no policy selects it in this direction")
	} else if !s.Isolated {
		line("  not isolated: what no rule denies passes")
	}
	for _, p := range s.Selected {
		does := "does not isolate"
		if p.Isolates {
			does = "isolates"
		}
		line("  selected by %s%s, which %s it%s", p.Policy, p.ordered, does, inBrackets(p.written))
	}
	if s.Rule != "" && !containsDecider(s.Matches) {
		line("  decided by %s", s.Rule)
	}
	for i := range s.Matches {
		m := &s.Matches[i]
		if m.Decides {
			line("  decided by %s %s%s%s", m.Policy, m.Path, m.ordered, inBrackets(m.written))
			m.writeYAML(line)
			continue
		}
		if m.Passes {
			line("  passed on by %s %s%s%s", m.Policy, m.Path, m.ordered, inBrackets(m.written))
			m.writeYAML(line)
			continue
		}
		does := "would " + m.Action + " it"
		switch {
		case m.Tier != "":
			does += ", but is not asked"
		case m.Action == s.Verdict && m.Action == "deny":
			does = "denies it too"
		case m.Action == s.Verdict:
			does = "allows it too"
		}
		line("  also matches: %s %s%s %s%s", m.Policy, m.Path, m.ordered, does, inBrackets(m.written))
	}
	if len(s.Nearest) > 0 {
		line("  nearest rules that do not match:")
	}
	for i := range s.Nearest {
		m := &s.Nearest[i]
		line("  %d. %s %s (%s)%s%s", i+1, m.Policy, m.Path, m.Action, m.ordered, inBrackets(m.written))
		for _, miss := range m.Misses {
			line("       %s", miss.sentence(s.Pod, len(m.Misses) == 1))
		}
		if m.Swapped {
			line("       it guards the other end: the policy's own selector and the rule's peers look exchanged")
		}
		m.writeYAML(line)
	}
}

// sentence says what differs; only, that nothing else does.
func (m *explainedMiss) sentence(pod string, only bool) string {
	what := m.Side
	if m.Side == "port" && policy.Field(m.Field) == policy.FieldProtocol {
		what = m.Field
	}
	text := strings.TrimPrefix(strings.TrimPrefix(m.Text, "port differs: "), "protocol differs: ")
	switch {
	case m.Side == "subject":
		return "does not select " + pod + ": " + m.Text
	case policy.Field(m.Field) == policy.FieldPeers, policy.Field(m.Field) == policy.FieldPorts:
		return text
	case only:
		return "only the " + what + " differs: " + text
	}
	return "the " + what + " differs: " + text
}

func containsDecider(rules []explainedRule) bool {
	for i := range rules {
		if rules[i].Decides {
			return true
		}
	}
	return false
}

func inBrackets(w written) string {
	if w.File == "" {
		return ""
	}
	return " (" + w.String() + ")"
}

func (m *explainedRule) writeYAML(line func(string, ...any)) {
	lines := strings.Split(strings.TrimSuffix(m.YAML, "\n"), "\n")
	if m.YAML == "" {
		return
	}
	for i, text := range lines {
		if i == excerptLines {
			line("       | ... %d more lines", len(lines)-i)
			return
		}
		line("       | %s", text)
	}
}

// indented puts an indent before each line that is written whole.
type indented struct {
	out    *bytes.Buffer
	indent string
}

func (w *indented) Write(text []byte) (int, error) {
	for part := range bytes.Lines(text) {
		if b := w.out.Bytes(); len(b) == 0 || b[len(b)-1] == '\n' {
			w.out.WriteString(w.indent)
		}
		w.out.Write(part)
	}
	return len(text), nil
}
