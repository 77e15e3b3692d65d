// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	kstatus "github.com/weirnet/weir/k8s/status"
)

const waitHelp = `Usage: weir wait [-n NAMESPACE] [--timeout 60s] [flags] KIND/NAME|NAME ...

Waits until the present generation of each policy is enforced on all nodes that run weir. A kind is written as for kubectl:
networkpolicy, cnp, ccnp, clusternetworkpolicy. A name without one is looked for among all kinds.

  weir wait web && ./run-the-tests
  weir wait --for applied --timeout 5m cnp/backend ccnp/default-deny

Exit code: 0 if all are, 1 if not, with which nodes are missing and why, as soon as waiting longer would not help; 2 if it was
called wrongly.

Flags:
`

// userConfig is how a person's commands reach the API server.
type userConfig struct{ kubeconfig, context, namespace *string }

func newUserConfig(set *flag.FlagSet) userConfig {
	c := userConfig{
		kubeconfig: set.String("kubeconfig", "", "`FILE` that says how to reach the API server; default: as kubectl, $KUBECONFIG or ~/.kube/config, or as a pod does"),
		context:    set.String("context", "", "`NAME` of the context in it; default: the current one"),
		namespace:  set.String("namespace", "", "`NAMESPACE` of the policies; default: the context's"),
	}
	set.StringVar(c.namespace, "n", "", "short for --namespace `NAMESPACE`")
	return c
}

// client returns a client, and the namespace that is meant.
func (c userConfig) client() (dynamic.Interface, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = *c.kubeconfig
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: *c.context})
	api, err := config.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("find out how to reach the API server: %w", err)
	}
	namespace := *c.namespace
	if namespace == "" {
		if namespace, _, err = config.Namespace(); err != nil {
			return nil, "", fmt.Errorf("find out which namespace is meant: %w", err)
		}
	}
	api.UserAgent, api.WarningHandler = "weir/"+version(), rest.NoWarnings{}
	client, err := dynamic.NewForConfig(api)
	if err != nil {
		return nil, "", fmt.Errorf("make a client of the API server: %w", err)
	}
	return client, namespace, nil
}

// runWait is the verb wait.
func runWait(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	set := flag.NewFlagSet("weir wait", flag.ContinueOnError)
	set.SetOutput(helpOutput(args, stdout, stderr))
	set.Usage = func() {
		fmt.Fprint(set.Output(), waitHelp)
		set.PrintDefaults()
	}
	user := newUserConfig(set)
	what := set.String("for", "enforced", "`STATE`: enforced (as written), or applied (also what cannot be enforced as written, and audits)")
	timeout := set.Duration("timeout", time.Minute, "how long to wait, `DURATION`; 0: look once")
	nodes := set.String("nodes", "all", "`N` nodes are enough, or all")
	notReady := set.Bool("ignore-not-ready", false, "do not wait for nodes that are not ready")
	names, err := parseInterspersed(set, args)
	if errors.Is(err, flag.ErrHelp) {
		return exitFine
	}
	options := kstatus.WaitOptions{Applied: *what == "applied", IgnoreNotReady: *notReady}
	switch {
	case err != nil:
	case len(names) == 0:
		err = errors.New("name a policy: KIND/NAME or NAME")
	case *what != "enforced" && *what != "applied":
		err = fmt.Errorf("read flags: --for %q: want enforced or applied", *what)
	case *timeout < 0:
		err = fmt.Errorf("read flags: --timeout %v: want 0 or more", *timeout)
	case *nodes != "all":
		if _, scanErr := fmt.Sscanf(*nodes+"\n", "%d\n", &options.Nodes); scanErr != nil || options.Nodes < 1 {
			err = fmt.Errorf("read flags: --nodes %q: want a number from 1, or all", *nodes)
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "weir wait: %v\n", err)
		return exitUsage
	}
	client, namespace, err := user.client()
	if err != nil {
		fmt.Fprintf(stderr, "weir wait: %v\n", err)
		return exitFailed
	}
	w := waiter{client: client, namespace: namespace, options: options, timeout: *timeout, line: progressLine{to: stderr, terminal: isTerminal(stderr)}}
	return w.all(ctx, names, stdout, stderr)
}

// parseInterspersed parses flags that may stand before, between and after other arguments, which it returns.
func parseInterspersed(set *flag.FlagSet, args []string) (others []string, err error) {
	for {
		if err := set.Parse(args); err != nil {
			return nil, err
		}
		if args = set.Args(); len(args) == 0 {
			return others, nil
		}
		others, args = append(others, args[0]), args[1:]
	}
}

const lookTime = 10 * time.Second // for one look

type waiter struct {
	client    dynamic.Interface
	namespace string
	options   kstatus.WaitOptions
	timeout   time.Duration
	line      progressLine
}

// all waits for one policy after the other, for so long in all.
func (w *waiter) all(ctx context.Context, names []string, stdout, stderr io.Writer) int {
	deadline := time.Now().Add(w.timeout)
	code := exitFine
	for _, name := range names {
		lookup, cancel := context.WithTimeout(ctx, max(time.Until(deadline), lookTime))
		target, err := kstatus.FindTarget(lookup, w.client, name, w.namespace)
		cancel()
		if err != nil {
			fmt.Fprintf(stderr, "weir wait: %v\n", err)
			if errors.Is(err, kstatus.ErrNoPolicy) {
				code = max(code, exitFailed)
				continue
			}
			if errors.Is(err, kstatus.ErrAmbiguous) {
				return exitUsage
			}
			return exitFailed
		}
		if !w.one(ctx, target, deadline, stdout, stderr) {
			code = exitFailed
		}
	}
	return code
}

func (w *waiter) one(ctx context.Context, target kstatus.Target, deadline time.Time, stdout, stderr io.Writer) bool {
	options := w.options
	options.Progress = func(p kstatus.Progress) { w.line.show(fmt.Sprintf("%v: %v", target, &p)) }
	if w.timeout == 0 {
		deadline = time.Now().Add(lookTime)
	}
	timed, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if w.timeout == 0 {
		options.Progress = func(kstatus.Progress) { cancel() } // what was found is judged all the same
	}
	p, err := kstatus.Wait(timed, w.client, target, options)
	w.line.clear()
	switch {
	case err == nil:
		fmt.Fprintf(stdout, "%v: %v\n", target, &p)
		return true
	case errors.Is(err, kstatus.ErrWillNotBe):
		fmt.Fprintf(stderr, "weir wait: %v will not be enforced as it is written: %v\n", target, &p)
	case p.Generation == 0:
		fmt.Fprintf(stderr, "weir wait: %v: %v\n", target, err)
	case ctx.Err() != nil:
		fmt.Fprintf(stderr, "weir wait: interrupted; %v: %v\n", target, &p)
	case !p.Seen:
		fmt.Fprintf(stderr, "weir wait: timed out; %v: %v; does weir-operator run?\n", target, &p)
	default:
		fmt.Fprintf(stderr, "weir wait: timed out; %v: %v\n", target, &p)
	}
	return false
}

// progressLine is a line of a terminal that is written over; elsewhere it shows nothing.
type progressLine struct {
	to       io.Writer
	terminal bool
	shown    string
}

func (l *progressLine) show(text string) {
	if !l.terminal || text == l.shown {
		return
	}
	l.shown = text
	if runes := []rune(text); len(runes) > 118 {
		text = string(runes[:117]) + "…"
	}
	fmt.Fprintf(l.to, "\r\x1b[K%s", text)
}

func (l *progressLine) clear() {
	if l.shown != "" {
		fmt.Fprint(l.to, "\r\x1b[K")
		l.shown = ""
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
