// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/weirnet/weir/k8s"
)

// Exit codes of check.
const (
	checkFine     = 0
	checkDiffers  = 1 // judges disagree, or a verdict is not the wanted one
	checkUnanswer = 2 // something could not be answered at all
)

const checkHelp = `Usage: weir check --manifests DIR [--probes FILE|-] [--judge kernel|image|oracle|all] [--output json|text] [flags]

Tests policies against the real datapath, without a cluster. A probe is one JSON object a line:

  {"src":"ns/pod"|"IP"|"node:NAME","dst":same,"protocol":"TCP|UDP|SCTP|ICMP|ICMPv6","port":8080,
   "icmp_type":8,"family":4,"want":"allow|deny"}        (icmp_type, family, want: optional)

Each is the first packet of a new connection. The answer is the same object with "verdict" and, where a side is a pod,
"egress" and "ingress" added, or with "error". Without --probes: all pairs of pods on all containerPorts.
Workloads without pods of their own become pods, "default/frontend" the first one of Deployment frontend.

Exit code: 0; 1 if judges disagree or a "want" is not met; 2 if a probe cannot be answered or an object is invalid.

Flags:
`

// checkRun is one run of check.
type checkRun struct {
	options        k8s.Options // how policies are read
	cluster        *cluster
	judges         []judge
	out            answerWriter
	stderr         io.Writer
	differs, unfit bool
}

// chunkSize bounds how many probes are in flight at once.
const chunkSize = 8192

func runCheck(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("weir check", flag.ContinueOnError)
	flags.SetOutput(helpOutput(args, stdout, stderr))
	manifests := flags.String("manifests", "", "directory of Kubernetes YAML, `DIR` (required)")
	probes := flags.String("probes", "", "`FILE` of probes, - for standard input; none: all pairs of pods")
	judgeName := flags.String("judge", "kernel", "`JUDGE`: kernel (the real programs), image (the compiled policy), oracle (a naive reading), all (all three)")
	output := flags.String("output", "", "`FORMAT`: json or text; default: json with --probes, else text")
	reading := newPolicyFlags(flags)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), checkHelp)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return checkFine
	} else if err != nil {
		return checkUnanswer
	}
	if *output == "" {
		*output = "text"
		if *probes != "" {
			*output = "json"
		}
	}
	run := &checkRun{stderr: stderr}
	var err error
	if run.options, err = reading.options(); err == nil {
		err = run.open(flags.Args(), *manifests, *judgeName, *output, stdout)
	}
	if err == nil {
		err = run.all(ctx, *probes, stdin)
	}
	for _, j := range run.judges {
		err = errors.Join(err, j.Close())
	}
	return run.code(err)
}

// code is the exit code of a run that ended with err, which it tells.
func (r *checkRun) code(err error) int {
	switch {
	case err != nil:
		complain(r.stderr, "weir check", err)
		return checkUnanswer
	case r.unfit:
		return checkUnanswer
	case r.differs:
		return checkDiffers
	}
	return checkFine
}

func (r *checkRun) open(rest []string, manifests, judgeName, output string, stdout io.Writer) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("read arguments: %q is not a flag", rest[0])
	case manifests == "":
		return errors.New("read flags: --manifests is missing")
	case output == "json":
		r.out = &jsonWriter{out: bufio.NewWriter(stdout)}
	case output == "text":
		r.out = newTextWriter(stdout)
	default:
		return fmt.Errorf("read flags: --output is %q: it must be json or text", output)
	}
	if !slices.Contains([]string{"kernel", "image", "oracle", "all"}, judgeName) {
		return fmt.Errorf("read flags: --judge is %q: it must be kernel, image, oracle or all", judgeName)
	}
	set, err := openSet(manifests, r.options)
	if err != nil {
		return err
	}
	r.cluster = set.cluster
	set.warn(r.stderr, "weir check")
	if judgeName == "kernel" || judgeName == "all" {
		r.judges = append(r.judges, newKernelJudge(set.brain))
	}
	if judgeName == "image" || judgeName == "all" {
		r.judges = append(r.judges, &imageJudge{brain: set.brain})
	}
	if judgeName == "oracle" || judgeName == "all" {
		r.judges = append(r.judges, newOracleJudge(set.objects, r.options))
	}
	return nil
}

// all answers every probe, in order.
func (r *checkRun) all(ctx context.Context, from string, stdin io.Reader) error {
	if from == "" {
		return r.allPairs(ctx)
	}
	if from != "-" {
		file, err := os.Open(from)
		if err != nil {
			return fmt.Errorf("open probes: %w", err)
		}
		defer file.Close()
		stdin = file
	}
	in := bufio.NewReaderSize(stdin, 1<<16)
	line := 0
	for eof := false; !eof; {
		var chunk []*probe
		for !eof && len(chunk) < chunkSize {
			text, err := in.ReadBytes('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read probes: %w", err)
			}
			eof = err != nil
			if line++; line == 1 {
				text = bytes.TrimPrefix(text, []byte("\ufeff"))
			}
			if text = bytes.TrimSpace(text); len(text) > 0 {
				chunk = append(chunk, parseProbe(line, text))
			}
		}
		if err := r.answer(ctx, chunk); err != nil {
			return err
		}
	}
	return r.out.flush()
}

// allPairs answers what nobody asked: may each pod reach each other one?
func (r *checkRun) allPairs(ctx context.Context) error {
	var chunk []*probe
	some := false
	for p := range r.cluster.pairs() {
		some = true
		if chunk = append(chunk, p); len(chunk) < chunkSize {
			continue
		}
		// A part of the table is written at a time: of a large cluster nobody could hold all.
		if err := errors.Join(r.answer(ctx, chunk), r.out.flush()); err != nil {
			return err
		}
		chunk = chunk[:0]
	}
	if !some {
		fmt.Fprintln(r.stderr, "weir check: no pod has a containerPort: nothing to probe")
	}
	return errors.Join(r.answer(ctx, chunk), r.out.flush())
}

// answer answers a chunk of probes.
func (r *checkRun) answer(ctx context.Context, probes []*probe) error {
	questions := make([]*question, 0, len(probes))
	at := make([]int, len(probes)) // probe → question, -1: cannot be asked
	for i, p := range probes {
		at[i] = -1
		if p.err != nil {
			continue
		}
		q, err := r.cluster.resolve(p)
		if err != nil {
			p.err = err
			continue
		}
		at[i] = len(questions)
		questions = append(questions, q)
	}
	answers := make([][]answer, len(r.judges))
	for j, judge := range r.judges {
		var err error
		if answers[j], err = judge.judge(ctx, questions); err != nil {
			return fmt.Errorf("ask judge %s: %w", judge.name(), err)
		}
	}
	for i, p := range probes {
		var opinions []answer
		if at[i] >= 0 {
			for j := range r.judges {
				opinions = append(opinions, answers[j][at[i]])
			}
		}
		if err := r.write(p, opinions); err != nil {
			return fmt.Errorf("write answers: %w", err)
		}
	}
	return nil
}

// write weighs what the judges say of one probe and writes its answer.
func (r *checkRun) write(p *probe, opinions []answer) error {
	result := checked{probe: p, err: p.err}
	for _, a := range opinions {
		if a.err != nil && result.err == nil {
			result.err = a.err
		}
	}
	if result.err != nil {
		r.unfit = true
		fmt.Fprintf(r.stderr, "weir check: probe %d: %v\n", p.line, result.err)
		return r.out.write(result)
	}
	result.answer = opinions[0]
	if !agree(opinions) {
		r.differs = true
		var all []string
		result.opinions = map[string]answer{}
		for j, a := range opinions {
			result.opinions[r.judges[j].name()] = a
			all = append(all, r.judges[j].name()+": "+a.String())
		}
		fmt.Fprintf(r.stderr, "weir check: %s: judges disagree: %s\n", p, strings.Join(all, "; "))
	}
	if p.want != "" && p.want != result.answer.verdict() {
		r.differs = true
		fmt.Fprintf(r.stderr, "weir check: %s: want %s, got %s\n", p, p.want, result.answer)
	}
	return r.out.write(result)
}
