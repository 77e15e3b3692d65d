// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// sideAnswer is what one pod's policies make of a probe.
type sideAnswer struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Rule    string `json:"rule"` // "": no rule decided
	Hook    string `json:"hook"` // "": the judge has none
	// Audit is what would become of a packet that is allowed if no policy were under audit; nil: the same.
	Audit *auditAnswer `json:"audit,omitempty"`
}

// auditAnswer is a denial. The rule of one by default is the isolation by a policy under audit.
type auditAnswer struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Rule    string `json:"rule"`
}

// answer is one judge's answer to one question. A side that is no pod is nil.
type answer struct {
	egress, ingress *sideAnswer
	err             error
}

func verdictName(allow bool) string {
	if allow {
		return "allow"
	}
	return "deny"
}

// verdict is allow only if every side present allows.
func (a answer) verdict() string {
	for _, s := range []*sideAnswer{a.egress, a.ingress} {
		if s != nil && s.Verdict != "allow" {
			return "deny"
		}
	}
	return "allow"
}

func (a answer) String() string {
	text := a.verdict()
	if a.egress != nil {
		text += ", egress " + a.egress.String()
	}
	if a.ingress != nil {
		text += ", ingress " + a.ingress.String()
	}
	return text
}

func (s *sideAnswer) String() string {
	if s == nil {
		return "-"
	}
	text := s.Verdict + " " + s.Reason
	if s.Rule != "" {
		text += " by " + s.Rule
	}
	if s.Hook != "" {
		text += " at " + s.Hook
	}
	if a := s.Audit; a != nil {
		text += ", under audit: " + (&sideAnswer{Verdict: a.Verdict, Reason: a.Reason, Rule: a.Rule}).String()
	}
	return text
}

// agree says that all judges see each side alike. Kernel and image, the first two if there are several, read the same
// cells and must name the same rule too; the oracle may name another one that also matches.
func agree(opinions []answer) bool {
	for i, a := range opinions[1:] {
		named := i == 0
		if !sameSide(opinions[0].egress, a.egress, named) || !sameSide(opinions[0].ingress, a.ingress, named) {
			return false
		}
	}
	return true
}

func sameSide(a, b *sideAnswer, named bool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Verdict == b.Verdict && (!named || a.Rule == b.Rule) && sameAudit(a.Audit, b.Audit, named)
}

// sameAudit demands the same reason, too: the oracle knows all that there are.
func sameAudit(a, b *auditAnswer, named bool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Verdict == b.Verdict && a.Reason == b.Reason && (!named || a.Rule == b.Rule)
}

// checked is the answer to a probe, as it is written.
type checked struct {
	probe    *probe
	answer   answer
	opinions map[string]answer // by judge; only if they disagree
	err      error
}

// answerWriter writes answers in the order in which it gets them.
type answerWriter interface {
	write(checked) error
	flush() error
}

// jsonWriter writes each answer as the probe's own members and what was found, on one line.
type jsonWriter struct {
	out  *bufio.Writer
	line bytes.Buffer
}

// answerMembers are the members that an answer adds; a probe that already has them is an old answer, asked again.
var answerMembers = [...]string{"verdict", "egress", "ingress", "judges", "error"}

func (w *jsonWriter) write(c checked) error {
	w.line.Reset()
	w.line.WriteByte('{')
next:
	for _, m := range c.probe.members {
		for _, key := range answerMembers {
			if m.key == key {
				continue next
			}
		}
		w.raw(m.key, m.raw)
	}
	if c.err != nil {
		w.member("error", c.err.Error())
	} else {
		w.member("verdict", c.answer.verdict())
		w.sides(c.answer)
		if c.opinions != nil {
			judges := map[string]any{}
			for name, a := range c.opinions {
				judges[name] = struct {
					Verdict string      `json:"verdict"`
					Egress  *sideAnswer `json:"egress,omitempty"`
					Ingress *sideAnswer `json:"ingress,omitempty"`
				}{a.verdict(), a.egress, a.ingress}
			}
			w.member("judges", judges)
		}
	}
	w.line.WriteString("}\n")
	if _, err := w.out.Write(w.line.Bytes()); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

func (w *jsonWriter) sides(a answer) {
	if a.egress != nil {
		w.member("egress", a.egress)
	}
	if a.ingress != nil {
		w.member("ingress", a.ingress)
	}
}

func (w *jsonWriter) member(key string, value any) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		panic(err) // strings and structs of strings
	}
	w.raw(key, bytes.TrimSpace(text.Bytes()))
}

func (w *jsonWriter) raw(key string, value []byte) {
	if w.line.Len() > 1 {
		w.line.WriteByte(',')
	}
	w.line.Write(quote(key))
	w.line.WriteByte(':')
	w.line.Write(value)
}

func quote(key string) []byte {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(key); err != nil {
		panic(err) // a string
	}
	return bytes.TrimSpace(text.Bytes())
}

func (w *jsonWriter) flush() error { return w.out.Flush() }

// textWriter writes a table.
type textWriter struct {
	table *tabwriter.Writer
	rows  int
}

func newTextWriter(out io.Writer) *textWriter {
	return &textWriter{table: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
}

func (w *textWriter) write(c checked) error {
	if w.rows++; w.rows == 1 {
		if _, err := fmt.Fprintln(w.table, "SOURCE\tDESTINATION\tPORT\tVERDICT\tEGRESS\tINGRESS"); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	var err error
	switch {
	case c.err != nil && c.probe.src == "":
		_, err = fmt.Fprintf(w.table, "-\t-\t-\terror\t%v\t\n", c.err)
	case c.err != nil:
		_, err = fmt.Fprintf(w.table, "%s\t%s\t%s\terror\t%v\t\n", c.probe.src, c.probe.dst, c.probe.service(), c.err)
	default:
		verdict := c.answer.verdict()
		if c.opinions != nil {
			verdict += " (judges disagree)"
		}
		if c.probe.want != "" && c.probe.want != c.answer.verdict() {
			verdict += " (want " + c.probe.want + ")"
		}
		_, err = fmt.Fprintf(w.table, "%s\t%s\t%s\t%s\t%s\t%s\n", c.probe.src, c.probe.dst, c.probe.service(), verdict,
			c.answer.egress, c.answer.ingress)
	}
	if err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

func (w *textWriter) flush() error { return w.table.Flush() }
