// SPDX-License-Identifier: Apache-2.0

// Command weir enforces Kubernetes network policy in XDP on the NIC. Each verb is a file of this package.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"
)

// verb is something weir can do. run returns the exit code.
type verb struct {
	name, summary string
	run           func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int
}

// Exit codes that all verbs share.
const (
	exitFine   = 0
	exitFailed = 1
	exitUsage  = 2
)

func verbs() []verb {
	return []verb{
		{"agent", "enforce a cluster's policies, or those of a directory of manifests, on this node", runAgent},
		{"bench", "measure what the program on the NIC costs", runBench},
		{"check", "ask the datapath what it would do, without a cluster", runCheck},
		{"demo", "show it on a lab of real kernel parts", runDemo},
		{"diff", "say what a change of manifests would allow and deny", runDiff},
		{"explain", "say why a packet passes or not, and by which rule", runExplain},
		{"lint", "say about manifests what a careful reviewer would", runLint},
		{"mount-bpffs", "mount the BPF file system where the host has none", runMountBPFFS},
		{"operator", "tell a cluster how far its policies are enforced", runOperator},
		{"status", "list nodes, and policies that are not enforced everywhere", runStatus},
		{"uninstall", "take weir off all nodes of a cluster", runUninstall},
		{"version", "print the version", runVersion},
		{"wait", "wait until a policy is enforced on all nodes", runWait},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		printHelp(stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) > 1 {
			return run(ctx, []string{args[1], "--help"}, stdin, stdout, stderr)
		}
		printHelp(stdout)
		return exitFine
	case "-version", "--version":
		return runVersion(ctx, nil, stdin, stdout, stderr)
	}
	for _, v := range verbs() {
		if v.name == args[0] {
			return v.run(ctx, args[1:], stdin, stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "weir: unknown verb %q\n\n", args[0])
	printHelp(stderr)
	return exitUsage
}

func printHelp(w io.Writer) {
	fmt.Fprint(w, "weir enforces Kubernetes network policy in XDP on the NIC, on top of a VXLAN overlay.\n\nUsage: weir VERB [flags]\n\n")
	for _, v := range verbs() {
		fmt.Fprintf(w, "  %-11s %s\n", v.name, v.summary)
	}
	fmt.Fprint(w, "  help        print this, or the help of a verb\n\nweir VERB --help lists the flags of a verb.\n")
}

// helpOutput is where a verb's flag set writes: help that was asked for is output, all else is a complaint.
func helpOutput(args []string, stdout, stderr io.Writer) io.Writer {
	if slices.ContainsFunc(args, func(a string) bool { return a == "-h" || a == "-help" || a == "--help" }) {
		return stdout
	}
	return stderr
}

func runVersion(_ context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		out := helpOutput(args, stdout, stderr)
		fmt.Fprint(out, "Usage: weir version\n\nPrints the version that the Go tool recorded at the build.\n")
		if out == stderr {
			return exitUsage
		}
		return exitFine
	}
	fmt.Fprintln(stdout, "weir", version())
	return exitFine
}

// release is the version of the image that holds this program: deploy/image has the linker set it.
var release string

// version is that of the image, or what the Go tool recorded when it built this program.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
