// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/weirnet/weir/internal/lab"
)

const demoUsage = `Usage: weir demo [--keep] [--json]

Builds two nodes with a VXLAN overlay out of network namespaces, runs one real agent on each, and shows which real TCP
connections pass under no policy, under the story's policy as written, and under the one that it means. Needs root.

Exit code: 0; 1 if a connection fared otherwise than it must, or the lab could not be built; 2 for wrong usage.

Flags:
`

// runDemo shows the story and says by its exit code whether everything went as it must: 0 yes, 1 no, 2 wrong usage.
func runDemo(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("weir demo", flag.ContinueOnError)
	flags.SetOutput(helpOutput(args, stdout, stderr))
	keep := flags.Bool("keep", false, "leave the lab up when the story is told, until interrupted")
	machine := flags.Bool("json", false, "print one JSON document instead of the story")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), demoUsage)
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "weir demo: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(stderr, "weir demo: needs root, for network namespaces and BPF: sudo weir demo")
		return 1
	}
	d := &demo{page: newPage(stdout)}
	if *machine {
		d.page = newPage(io.Discard)
	}
	err := d.run(ctx)
	if *machine {
		d.story.OK = err == nil
		if err != nil {
			d.story.Error = err.Error()
		}
		document, _ := json.MarshalIndent(d.story, "", "  ")
		fmt.Fprintf(stdout, "%s\n", document)
	}
	if err != nil {
		fmt.Fprintf(stderr, "weir demo: %v\n", err)
	}
	if *keep && d.lab != nil && ctx.Err() == nil {
		out := stdout
		if *machine {
			out = stderr
		}
		if e := d.keep(ctx, out); e != nil {
			err = errors.Join(err, e)
			fmt.Fprintf(stderr, "weir demo: %v\n", e)
		}
	}
	if e := d.close(); e != nil {
		err = errors.Join(err, e)
		fmt.Fprintf(stderr, "weir demo: %v\n", e)
	}
	if err != nil {
		return 1
	}
	return 0
}

// demo is one telling of the story.
type demo struct {
	page   *page
	lab    *lab.Lab
	pods   map[string]*lab.Pod
	agents []*nodeAgent
	story  story
}

// story is what --json prints.
type story struct {
	OK     bool    `json:"ok"`
	Error  string  `json:"error,omitempty"`
	Phases []phase `json:"phases"`
}

type phase struct {
	Name        string       `json:"name"`
	Policy      string       `json:"policy,omitempty"`
	Connections []connection `json:"connections"`
}

// close takes everything away again.
func (d *demo) close() error {
	var errs []error
	for _, a := range d.agents {
		errs = append(errs, a.stop(syscall.SIGTERM))
	}
	if d.lab != nil {
		errs = append(errs, d.lab.Close())
	}
	return errors.Join(errs...)
}

// keep leaves the lab to the user until ctx ends.
func (d *demo) keep(ctx context.Context, out io.Writer) error {
	if err := d.lab.Publish(); err != nil {
		return err
	}
	frontend, node := d.pods["frontend"], d.agents[0]
	fmt.Fprintf(out, `
The lab stays until you press Ctrl-C. In another terminal, as root:
  ip netns exec %s curl -m 2 http://%s:8080/
  ip netns exec %s curl -s http://%s/metrics | grep ^weir_
  nsenter -t %d -n -m bpftool link
  edit or add policies: %s
`, frontend.Space.Name, d.pods["backend"].Addr, node.node.Space.Name, agentMetrics, node.cmd.Process.Pid, d.lab.Manifests.Dir)
	<-ctx.Done()
	return nil
}
