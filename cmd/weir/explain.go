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
	"strconv"
	"strings"

	"github.com/weirnet/weir/k8s"
)

const explainHelp = `Usage: weir explain SRC DST PROTO/PORT --manifests DIR [--output text|json]

Says why the first packet of a connection from SRC to DST passes or does not: both sides' verdicts, the rule that decided and
where it is written, who isolates, the rules that nearly match and the field by which they do not, what replies need, and
the packet's way through the hooks. Nothing is sent and no root is needed: the verdicts are read from the compiled policy,
the same bytes as the kernel's, and compared with a naive reading of the objects.

SRC and DST are ns/pod, an IP address or node:NAME; DST may be a Service address, and then each backend is explained.
PROTO/PORT is TCP/8080, UDP/53, SCTP/132, ICMP/8 (the type) or ICMPv6/128. Workloads without pods of their own become pods.

Exit code: 0 whatever the verdict; 1 if the two readings disagree; 2 if the question cannot be answered.

Flags:
`

// explainRun is one run of explain.
type explainRun struct {
	options k8s.Options // how policies are read
	set     *manifestSet
	image   *imageJudge
	oracle  *oracleJudge
	stderr  io.Writer
	differs bool
}

func runExplain(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("weir explain", flag.ContinueOnError)
	flags.SetOutput(helpOutput(args, stdout, stderr))
	manifests := flags.String("manifests", "", "directory of Kubernetes YAML, `DIR` (required)")
	output := flags.String("output", "text", "`FORMAT`: json or text")
	reading := newPolicyFlags(flags)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), explainHelp)
		flags.PrintDefaults()
	}
	rest, err := parseMixed(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		return checkFine
	} else if err != nil {
		return checkUnanswer
	}
	run := &explainRun{stderr: stderr}
	if run.options, err = reading.options(); err == nil {
		err = run.all(ctx, rest, *manifests, *output, stdout)
	}
	if err != nil {
		complain(stderr, "weir explain", err)
		return checkUnanswer
	}
	if run.differs {
		return checkDiffers
	}
	return checkFine
}

// all answers the question before anything is written.
func (r *explainRun) all(ctx context.Context, rest []string, manifests, output string, stdout io.Writer) error {
	switch {
	case len(rest) != 3:
		return fmt.Errorf("read arguments: SRC DST PROTO/PORT are wanted, %d given", len(rest))
	case manifests == "":
		return errors.New("read flags: --manifests is missing")
	case output != "json" && output != "text":
		return fmt.Errorf("read flags: --output is %q: it must be json or text", output)
	}
	p, err := questionProbe(rest[0], rest[1], rest[2])
	if err != nil {
		return fmt.Errorf("read arguments: %w", err)
	}
	if err := r.open(manifests); err != nil {
		return err
	}
	q, err := r.set.cluster.resolve(p)
	if err != nil {
		return err
	}
	e, err := r.explain(ctx, p, q)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if output == "text" {
		e.writeText(&text, "")
	} else {
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("write explanation: %w", err)
		}
	}
	if _, err := stdout.Write(text.Bytes()); err != nil {
		return fmt.Errorf("write explanation: %w", err)
	}
	return nil
}

func (r *explainRun) open(manifests string) error {
	var err error
	if r.set, err = openSet(manifests, r.options); err != nil {
		return err
	}
	r.set.warn(r.stderr, "weir explain")
	r.image, r.oracle = &imageJudge{brain: r.set.brain}, newOracleJudge(r.set.objects, r.options)
	return nil
}

// questionProbe is a probe that was asked on the command line.
func questionProbe(src, dst, service string) (*probe, error) {
	p := &probe{src: src, dst: dst}
	protocol, portText, given := strings.Cut(service, "/")
	var number *int
	if given {
		n, err := strconv.Atoi(portText)
		if err != nil {
			return nil, fmt.Errorf("%q: %q is not a port number; PROTO/PORT is like TCP/8080", service, portText)
		}
		number = &n
	}
	return p, p.readProtocol(strings.ToUpper(protocol), number, number)
}

// judged asks both judges and compares them.
func (r *explainRun) judged(ctx context.Context, p *probe, q *question) (answer, error) {
	image, err := r.image.judge(ctx, []*question{q})
	if err != nil {
		return answer{}, fmt.Errorf("ask judge %s: %w", r.image.name(), err)
	}
	naive, err := r.oracle.judge(ctx, []*question{q})
	if err != nil {
		return answer{}, fmt.Errorf("ask judge %s: %w", r.oracle.name(), err)
	}
	if !sameSide(image[0].egress, naive[0].egress, false) || !sameSide(image[0].ingress, naive[0].ingress, false) {
		r.differs = true
		fmt.Fprintf(r.stderr, "weir explain: %s: judges disagree: %s: %s; %s: %s\n", p, r.image.name(), image[0], r.oracle.name(), naive[0])
	}
	return image[0], nil
}
