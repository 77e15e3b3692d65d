// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	kstatus "github.com/weirnet/weir/k8s/status"
)

const statusHelp = `Usage: weir status [--all] [flags]

Lists the nodes that run weir, and the policies that are not enforced on all of them as they are written, with what is the
matter. Of nodes and policies that are fine it says only how many there are, if there are many.

Flags:
`

const fewNodes = 20 // are all listed

// runStatus is the verb status. Exit code 0 if the cluster could be asked, 1 if not, 2 if it was called wrongly.
func runStatus(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	set := flag.NewFlagSet("weir status", flag.ContinueOnError)
	set.SetOutput(helpOutput(args, stdout, stderr))
	set.Usage = func() {
		fmt.Fprint(set.Output(), statusHelp)
		set.PrintDefaults()
	}
	user := newUserConfig(set)
	all := set.Bool("all", false, "list what is fine, too")
	err := set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return exitFine
	}
	if err == nil && set.NArg() > 0 {
		err = fmt.Errorf("read flags: unexpected argument %q", set.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(stderr, "weir status: %v\n", err)
		return exitUsage
	}
	client, _, err := user.client()
	if err == nil {
		err = printStatus(ctx, client, *user.namespace, *all, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "weir status: %v\n", err)
		return exitFailed
	}
	return exitFine
}

// printStatus prints both tables; policies of one namespace, or of all and none if it is empty.
func printStatus(ctx context.Context, client dynamic.Interface, namespace string, all bool, stdout io.Writer) error {
	nodes, err := kstatus.ListNodes(ctx, client)
	if err != nil {
		return err
	}
	policies, err := kstatus.ListPolicyStatuses(ctx, client.Resource(kstatus.PolicyStatusResource).Namespace(namespace))
	if err != nil {
		return err
	}
	if namespace == "" {
		more, err := kstatus.ListPolicyStatuses(ctx, client.Resource(kstatus.ClusterPolicyStatusResource))
		if err != nil {
			return err
		}
		policies = append(policies, more...)
	}
	printNodes(nodes, all || len(nodes) <= fewNodes, time.Now(), stdout)
	fmt.Fprintln(stdout)
	printPolicies(policies, all, stdout)
	return nil
}

func printNodes(nodes []*kstatus.WeirNode, all bool, now time.Time, stdout io.Writer) {
	phases, versions := map[string]int{}, map[string]int{}
	for _, n := range nodes {
		phases[n.Status.Phase]++
		versions[n.Status.AgentVersion]++
	}
	fmt.Fprintf(stdout, "%d nodes: %s; %s\n", len(nodes), tally(phases, ""), tally(versions, "version "))
	slices.SortFunc(nodes, func(a, b *kstatus.WeirNode) int { return cmp.Compare(a.Name, b.Name) })
	t := newTable(stdout, "NODE", "PHASE", "POLICIES", "EXCEPTIONS", "VERSION", "APPLIED", "FAILURE")
	for _, n := range nodes {
		if s := &n.Status; all || s.Phase != kstatus.PhaseEnforcing {
			t.row(n.Name, s.Phase, s.Policies, s.ExceptionCount, s.AgentVersion, ago(s.AppliedAt, now), cmp.Or(s.Failure, "-"))
		}
	}
	t.end()
}

func printPolicies(policies []*kstatus.PolicyStatus, all bool, stdout io.Writer) {
	reasons := map[string]int{}
	enforced := func(s *kstatus.PolicyStatus) metav1.Condition {
		for _, c := range s.Status.Conditions {
			if c.Type == kstatus.ConditionEnforced {
				return c
			}
		}
		return metav1.Condition{Status: metav1.ConditionUnknown, Reason: "Unknown"}
	}
	slices.SortFunc(policies, func(a, b *kstatus.PolicyStatus) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Policy.Kind, b.Policy.Kind), cmp.Compare(a.Policy.Name, b.Policy.Name))
	})
	for _, p := range policies {
		reasons[enforced(p).Reason]++
	}
	fmt.Fprintf(stdout, "%d policies: %s\n", len(policies), tally(reasons, ""))
	t := newTable(stdout, "NAMESPACE", "KIND", "POLICY", "NODES", "REASON", "MESSAGE")
	for _, p := range policies {
		if c := enforced(p); all || c.Status != metav1.ConditionTrue {
			t.row(cmp.Or(p.Namespace, "-"), p.Policy.Kind, p.Policy.Name, p.Status.Summary, c.Reason, c.Message)
		}
	}
	t.end()
}

// tally says counts as "3 Enforcing, 1 Failing".
func tally(counts map[string]int, of string) string {
	if len(counts) == 0 {
		return "none"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s%s", counts[name], of, cmp.Or(name, "unknown")))
	}
	return strings.Join(parts, ", ")
}

func ago(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return now.Sub(t.Time).Truncate(time.Second).String() + " ago"
}

// table writes its head with its first row.
type table struct {
	to   *tabwriter.Writer
	head []string
	any  bool
}

func newTable(to io.Writer, head ...string) *table {
	return &table{to: tabwriter.NewWriter(to, 0, 4, 2, ' ', 0), head: head}
}

func (t *table) row(cells ...any) {
	if !t.any {
		t.any = true
		fmt.Fprintln(t.to, strings.Join(t.head, "\t"))
	}
	for i, c := range cells {
		fmt.Fprint(t.to, []string{"", "\t"}[min(i, 1)], c)
	}
	fmt.Fprintln(t.to)
}

func (t *table) end() { t.to.Flush() }
