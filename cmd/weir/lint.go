// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/k8s/lint"
)

// Exit codes of lint.
const (
	lintFine     = 0
	lintFindings = 1 // findings of at least the severity of --fail-on
	lintUnread   = 2 // the directory could not be read, or the flags are wrong
)

const lintHelp = `Usage: weir lint --manifests DIR [--output text|json|sarif] [--fail-on error|warning|note] [flags]
       weir lint --rules

Says about a directory of manifests what a careful reviewer would: selectors that select nothing, policies that guard the
wrong side, rules that another rule shadows or contains, ports that nobody has, rules that surprise, fields that are not
enforced, objects that are invalid. Needs neither root nor a cluster; pods of workloads are supposed, as by weir check.

Severities: error, not enforced as written; warning, hardly what the author means; note, worth a look.
An annotation ` + lint.IgnoreAnnotation + `: "RULE,RULE" on an object suppresses findings about it.

json: one finding a line. sarif: SARIF 2.1.0, for code hosts and editors. --rules explains every rule.

Exit code: 0; 1 if there are findings of the severity of --fail-on or a graver one; 2 if DIR cannot be read.

Flags:
`

func runLint(_ context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("weir lint", flag.ContinueOnError)
	flags.SetOutput(helpOutput(args, stdout, stderr))
	manifests := flags.String("manifests", "", "directory of Kubernetes YAML, `DIR` (required)")
	output := flags.String("output", "text", "`FORMAT`: text, json or sarif")
	failOn := flags.String("fail-on", "warning", "`SEVERITY`: error, warning or note: exit with 1 from here on")
	rules := flags.Bool("rules", false, "explain the rules instead")
	reading := newPolicyFlags(flags)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), lintHelp)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return lintFine
	} else if err != nil {
		return lintUnread
	}
	options, err := reading.options()
	code := lintUnread
	if err == nil {
		code, err = lintDir(*manifests, *output, *failOn, flags.Args(), *rules, options, stdout)
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(stderr, "weir lint: %s\n", strings.TrimSuffix(line, "\n"))
		}
		return lintUnread
	}
	return code
}

func lintDir(manifests, output, failOn string, rest []string, rules bool, options k8s.Options, stdout io.Writer) (int, error) {
	least, err := lint.ParseSeverity(failOn)
	switch {
	case err != nil:
		return 0, fmt.Errorf("read flags: --fail-on: %w", err)
	case len(rest) > 0:
		return 0, fmt.Errorf("read arguments: %q is not a flag", rest[0])
	case rules:
		return lintFine, printRules(stdout)
	case manifests == "":
		return 0, errors.New("read flags: --manifests is missing")
	case output != "text" && output != "json" && output != "sarif":
		return 0, fmt.Errorf("read flags: --output is %q: it must be text, json or sarif", output)
	}
	in, err := k8s.Inspect(manifests)
	if err != nil {
		return 0, err
	}
	if len(in.Files) == 0 {
		return 0, fmt.Errorf("read manifests: %s has no files *.yaml, *.yml or *.json", manifests)
	}
	report, err := lint.Run(in, options)
	if err != nil {
		return 0, err
	}
	out := bufio.NewWriter(stdout)
	switch output {
	case "sarif":
		err = lint.WriteSARIF(out, report, manifests, version())
	case "json":
		err = lintJSON(out, report)
	default:
		lintText(out, newPage(stdout), report, manifests)
	}
	if err := errors.Join(err, out.Flush()); err != nil {
		return 0, fmt.Errorf("write findings: %w", err)
	}
	if report.Worst(least) > 0 {
		return lintFindings, nil
	}
	return lintFine, nil
}

// lintJSON writes a finding a line.
func lintJSON(w io.Writer, r *lint.Report) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for i := range r.Findings {
		if err := encoder.Encode(&r.Findings[i]); err != nil {
			return err
		}
	}
	return nil
}

// lintText writes findings for people: below the name of each file a finding a line, and a summary.
func lintText(w io.Writer, p *page, r *lint.Report, dir string) {
	line, severity, rule := 1, 1, 1
	for i := range r.Findings {
		f := &r.Findings[i]
		line, severity, rule = max(line, len(fmt.Sprint(f.Line))), max(severity, len(f.Severity.String())), max(rule, len(f.Rule))
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		if i == 0 || r.Findings[i-1].File != f.File {
			name := filepath.Join(dir, f.File)
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintln(w, p.paint(bold, name))
		}
		colour := map[lint.Severity]string{lint.Error: red, lint.Warning: bold, lint.Note: faint}[f.Severity]
		fmt.Fprintf(w, "  %*d  %s  %-*s  %s\n", line, f.Line, p.paint(colour, fmt.Sprintf("%-*s", severity, f.Severity)), rule, f.Rule, f.Text())
	}
	if len(r.Findings) > 0 {
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, lintSummary(r))
}

// lintSummary says what was found, in how much, and what could not be judged.
func lintSummary(r *lint.Report) string {
	var found []string
	for _, s := range []lint.Severity{lint.Error, lint.Warning, lint.Note} {
		n := r.Worst(s)
		if s < lint.Error {
			n -= r.Worst(s + 1)
		}
		if n > 0 {
			found = append(found, quantity(n, s.String(), s.String()+"s"))
		}
	}
	text := "nothing found"
	if len(found) > 0 {
		text = strings.Join(found, ", ")
	}
	text += fmt.Sprintf(" in %s, %s", quantity(r.Files, "file", "files"), quantity(r.Policies, "policy", "policies"))
	if r.Ignored > 0 {
		text += fmt.Sprintf("; %s ignored by annotation", quantity(r.Ignored, "finding", "findings"))
	}
	switch {
	case r.Partial:
		text += "; something is invalid, so selectors and ports were not judged"
	case r.Pods == 0:
		text += "; without pods or workloads selectors and ports could not be judged"
	}
	return text
}

func quantity(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// printRules writes every rule with its help.
func printRules(w io.Writer) error {
	for i, rule := range lint.Rules() {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if _, err := fmt.Fprintf(w, "%s (%s): %s.\n  %s\n", rule.ID, rule.Severity, rule.Summary, rule.Help); err != nil {
			return fmt.Errorf("write rules: %w", err)
		}
	}
	return nil
}
