// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// Exit codes of diff, those of diff(1).
const (
	diffSame    = 0
	diffChanges = 1
	diffTrouble = 2
)

const diffHelp = `Usage: weir diff OLD NEW [--flows FILE|-] [--output text|json] [flags]

Says what becomes of who may reach whom when the manifests of directory NEW take the place of those of OLD, before anything
is applied: for all workloads, nodes and addresses outside, on all ports. Both ends must permit; the side that turns is
named with its rule:

  + allowed: default/frontend -> default/backend TCP 8080 (by NetworkPolicy default/x spec.ingress[0])
  - denied: everyone but own node -> all pods of namespace a TCP 1-79,81-65535 (ingress isolated by NetworkPolicy a/deny)

Pods are grouped by what owns them, those without an owner by equal labels; workloads that come or go are listed and not
compared. A pod always reaches itself. Nobody's policy is asked about nodes and the outside among themselves.

With --flows it says which recorded flows would be cut or newly admitted instead. FILE has one JSON object a line: probes
as weir check reads them, "count" added if there were several, or flows as Hubble exports them; replies are skipped. What
cannot be found in a set is reported as unknown; an address that is nobody's there is judged as the outside.

Exit code: 0 no change, 1 changes, 2 trouble.

Flags:
`

// diffRun is one run of diff.
type diffRun struct {
	options  k8s.Options // how policies are read, in both sets
	old, now *manifestSet
	stderr   io.Writer
}

func runDiff(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("weir diff", flag.ContinueOnError)
	flags.SetOutput(helpOutput(args, stdout, stderr))
	flows := flags.String("flows", "", "`FILE` of recorded flows, - for standard input")
	output := flags.String("output", "text", "`FORMAT`: json or text")
	reading := newPolicyFlags(flags)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), diffHelp)
		flags.PrintDefaults()
	}
	rest, err := parseMixed(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		return diffSame
	} else if err != nil {
		return diffTrouble
	}
	run := &diffRun{stderr: stderr}
	changes := false
	if run.options, err = reading.options(); err == nil {
		changes, err = run.all(ctx, rest, *flows, *output, stdin, stdout)
	}
	switch {
	case err != nil:
		complain(stderr, "weir diff", err)
		return diffTrouble
	case changes:
		return diffChanges
	}
	return diffSame
}

func (r *diffRun) all(ctx context.Context, rest []string, flows, output string, stdin io.Reader, stdout io.Writer) (changes bool, err error) {
	switch {
	case len(rest) != 2:
		return false, fmt.Errorf("read arguments: OLD NEW are wanted, %d given", len(rest))
	case output != "json" && output != "text":
		return false, fmt.Errorf("read flags: --output is %q: it must be json or text", output)
	}
	for i, to := range []**manifestSet{&r.old, &r.now} {
		if *to, err = openSet(rest[i], r.options); err != nil {
			return false, fmt.Errorf("read %s: %w", rest[i], err)
		}
		(*to).warn(r.stderr, "weir diff: "+rest[i])
	}
	var report interface {
		changes() bool
		writeText(out *bytes.Buffer)
	}
	if flows != "" {
		report, err = r.flows(ctx, flows, stdin)
	} else {
		report, err = r.relations()
	}
	if err != nil {
		return false, err
	}
	var text bytes.Buffer
	if output == "text" {
		report.writeText(&text)
	} else {
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(report); err != nil {
			return false, fmt.Errorf("write differences: %w", err)
		}
	}
	if _, err := stdout.Write(text.Bytes()); err != nil {
		return false, fmt.Errorf("write differences: %w", err)
	}
	return report.changes(), nil
}

// relationReport is what diff says of all relations, and its JSON form.
type relationReport struct {
	Changes    []relationChange `json:"changes"`
	Appeared   []string         `json:"appeared"` // workloads and nodes
	Vanished   []string         `json:"vanished"`
	comparison *policy.Comparison
}

type relationChange struct {
	Change       string        `json:"change"` // allowed, denied
	Sources      []string      `json:"sources"`
	Destinations []string      `json:"destinations"`
	Ports        []string      `json:"ports"`
	Family       string        `json:"family,omitempty"` // if only one of two turns
	Because      []changeCause `json:"because"`
}

// changeCause is a side that turns.
type changeCause struct {
	Side       string   `json:"side"`           // egress, ingress
	Rule       string   `json:"rule,omitempty"` // that decides now
	Was        string   `json:"was,omitempty"`  // if none does, the deny rule that did
	IsolatedBy []string `json:"isolated_by,omitempty"`
	Text       string   `json:"text"`
}

func (r *diffRun) relations() (*relationReport, error) {
	var models [2][]*policy.Model
	for i, s := range []*manifestSet{r.old, r.now} {
		for _, node := range s.objects.Nodes {
			m, _, err := k8s.Translate(s.objects, node.Name, s.options)
			if err != nil {
				return nil, fmt.Errorf("translate objects of %s: %w", s.dir, err)
			}
			if models[i] = append(models[i], m); !s.options.NodeSelectorLabels {
				break // without fromNodes and toNodes policies mean the same on all nodes
			}
		}
	}
	c, err := policy.DifferencesByNode(models[0], models[1], workloads(r.old.cluster, r.now.cluster))
	if err != nil {
		return nil, err
	}
	report := &relationReport{Changes: []relationChange{}, Appeared: append([]string{}, c.Appeared...), Vanished: append([]string{}, c.Vanished...), comparison: c}
	for i := range c.Relations {
		r := &c.Relations[i]
		change := relationChange{Change: "denied", Sources: r.Sources, Destinations: r.Destinations, Ports: r.Ports, Family: r.Family}
		if r.Allowed {
			change.Change = "allowed"
		}
		for _, why := range r.Because {
			change.Because = append(change.Because, changeCause{Side: why.Direction.String(), Rule: fullRule(why.Rule), Was: fullRule(why.Was),
				IsolatedBy: why.Isolating, Text: why.String()})
		}
		report.Changes = append(report.Changes, change)
	}
	return report, nil
}

// fullRule is a rule's name for people; "" if it is none.
func fullRule(r policy.RuleName) string {
	if r == (policy.RuleName{}) {
		return ""
	}
	return r.Policy + " " + r.Path
}

func (r *relationReport) changes() bool { return !r.comparison.Same() }

func (r *relationReport) writeText(out *bytes.Buffer) {
	for _, name := range r.Vanished {
		fmt.Fprintf(out, "- vanishes: %s\n", name)
	}
	for _, name := range r.Appeared {
		fmt.Fprintf(out, "+ appears: %s\n", name)
	}
	for i := range r.comparison.Relations {
		fmt.Fprintln(out, r.comparison.Relations[i].String())
	}
}
