// SPDX-License-Identifier: Apache-2.0

// Package lint says about a directory of manifests what a careful reviewer would: policies that guard the wrong pods, rules
// that do nothing, ports that nobody has, fields that are not enforced. It looks at the translated policy.Model and at the
// pods that a cluster would have, so a finding means the same in every dialect; the API objects serve to name places.
package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/k8s"
)

// Severity is how sure it is that a finding has to be mended.
type Severity uint8

// Severities, from the mildest.
const (
	Note    Severity = iota // correct as it stands, but worth a look
	Warning                 // hardly what the author means
	Error                   // not enforced as written
)

// String is the name that SARIF has for it too.
func (s Severity) String() string { return [...]string{"note", "warning", "error"}[s] }

// ParseSeverity is the inverse of String.
func ParseSeverity(text string) (Severity, error) {
	for _, s := range []Severity{Note, Warning, Error} {
		if s.String() == text {
			return s, nil
		}
	}
	return 0, fmt.Errorf("severity is %q: it must be error, warning or note", text)
}

// MarshalText makes severities readable in JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is one thing that a reviewer would say.
type Finding struct {
	Rule     string   `json:"rule"` // ID of a Rule
	Severity Severity `json:"severity"`
	Object   string   `json:"object"` // "NetworkPolicy default/web"; empty if the document does not tell
	Path     string   `json:"path"`   // "spec.ingress[0].from[1]"; empty if it is about the object as a whole
	File     string   `json:"file"`
	Document int      `json:"document"` // counts from 1; empty documents do not count
	Line     int      `json:"line"`     // counts from 1
	Message  string   `json:"message"`  // what is wrong and how to mend it
}

// Report is what Run has found.
type Report struct {
	Findings []Finding // by file, line, rule
	Files    int       // manifests read
	Policies int       // policies looked at
	Pods     int       // kinds of pods that they were held against; 0: selectors and ports could not be judged
	Ignored  int       // findings that annotations on their objects suppress
	Partial  bool      // something is invalid, so nothing was concluded from what the set does not have
}

// Worst counts the findings of at least a severity.
func (r *Report) Worst(least Severity) int {
	n := 0
	for i := range r.Findings {
		if r.Findings[i].Severity >= least {
			n++
		}
	}
	return n
}

// IgnoreAnnotation on an object lists, with commas between them, the rules whose findings about that object are not wanted.
const IgnoreAnnotation = "weirnet.github.io/lint-ignore"

// Run judges an inspected directory. The findings are the same for the same files. The error is that of a set that cannot
// be translated at all.
func Run(in *k8s.Inspection, opts k8s.Options) (*Report, error) {
	s, err := newScene(in, opts)
	if err != nil {
		return nil, err
	}
	s.invalid()
	s.statuses()
	s.odd()
	s.duplicates()
	s.neverAsked()
	s.shadowed()
	s.contained()
	s.sides()
	s.selectors()
	s.rulePorts()
	s.podPorts()
	s.dns()
	s.podCIDRs()
	s.annotations()

	r := &Report{Files: len(in.Files), Policies: len(s.policies), Pods: len(s.groups), Ignored: s.ignored, Partial: s.partial}
	slices.SortFunc(s.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Document, b.Document),
			cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Message, b.Message))
	})
	r.Findings = slices.Compact(s.findings)
	return r, nil
}

// report adds a finding about an object of the set.
func (s *scene) report(rule string, severity Severity, object, path, format string, args ...any) {
	f := Finding{Rule: rule, Severity: severity, Object: object, Path: path, Message: fmt.Sprintf(format, args...)}
	subject := s.objects[object]
	if subject != nil {
		origin := s.in.Objects.Origin(subject)
		f.File, f.Document = origin.File, origin.Document
		f.Line = s.in.Line(origin, object, path)
	}
	if subject != nil && slices.Contains(ignores(subject), rule) {
		s.ignored++
		return
	}
	s.findings = append(s.findings, f)
}

// ignores are the rules that an object does not want to hear of.
func ignores(object metav1.Object) []string {
	var rules []string
	for _, id := range strings.Split(object.GetAnnotations()[IgnoreAnnotation], ",") {
		if id = strings.TrimSpace(id); id != "" {
			rules = append(rules, id)
		}
	}
	return rules
}

// annotations finds those that ask to ignore rules that do not exist: they would go on being ignored for nothing.
func (s *scene) annotations() {
	var ids []string
	for _, rule := range Rules() {
		ids = append(ids, rule.ID)
	}
	for object, subject := range s.objects {
		for _, id := range ignores(subject) {
			switch near := k8s.Nearest(id, ids); {
			case slices.Contains(ids, id):
			case near != "":
				s.report(ignoreUnknown, Warning, object, "metadata.annotations["+IgnoreAnnotation+"]", "there is no rule %s; did you mean %s?", id, near)
			default:
				s.report(ignoreUnknown, Warning, object, "metadata.annotations["+IgnoreAnnotation+"]", "there is no rule %s; remove it", id)
			}
		}
	}
}
