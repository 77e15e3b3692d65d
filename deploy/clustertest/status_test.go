// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weirnet/weir/internal/cluster"
	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/k8s/status"
)

// fleet is two nodes that only report, and an operator, under the chart's own accounts.
type fleet struct {
	*cluster.Cluster
	t         *testing.T
	ns        string
	weir      string // the program
	operator  string // kubeconfig
	reporters map[string]*status.Reporter
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{Cluster: apiserver(t), t: t, weir: filepath.Join(t.TempDir(), "weir"), reporters: map[string]*status.Reporter{}}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", f.weir, "../../cmd/weir")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build weir: %v: %s", err, out)
	}
	chart, err := cluster.Chart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Helm(t.Context(), "upgrade", "--install", "weir", chart, "--namespace=kube-system"); err != nil {
		t.Fatal(err)
	}
	f.ns = namespace(t, f.Cluster, strings.ToLower(t.Name())) // its own: nobody is here who would finish deleting it
	f.operator = f.account("weir-operator")
	api, err := clientcmd.BuildConfigFromFlags("", f.account("weir"))
	if err != nil {
		t.Fatal(err)
	}
	api.Dial = f.Space.Dial
	client, err := dynamic.NewForConfig(api)
	if err != nil {
		t.Fatal(err)
	}
	for rank, name := range []string{"n1", "n2"} {
		f.node(name)
		r := status.NewReporter(status.ReporterConfig{Node: name, Version: "test", Writer: status.NewNodeClient(client),
			Fleet: func() (int, int) { return rank, 2 }, Log: slog.New(slog.DiscardHandler)})
		go r.Run(t.Context())
		f.reporters[name] = r
	}
	return f
}

// account is a kubeconfig of one of the chart's service accounts.
func (f *fleet) account(name string) string {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), name)
	if err := f.WriteKubeconfig(path, strings.TrimSpace(kubectl(f.t, f.Cluster, "--namespace=kube-system", "create", "token", name))); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// node makes a Node that has been ready for long.
func (f *fleet) node(name string) {
	f.t.Helper()
	apply(f.t, f.Cluster, fmt.Sprintf("{apiVersion: v1, kind: Node, metadata: {name: %s, labels: {kubernetes.io/os: linux}}}", name))
	kubectl(f.t, f.Cluster, "patch", "node", name, "--subresource=status", "--type=merge", "-p",
		`{"status":{"conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2020-01-01T00:00:00Z","lastHeartbeatTime":"2020-01-01T00:00:00Z","reason":"Test","message":""}]}}`)
	f.t.Cleanup(func() { f.Kubectl(context.Background(), "delete", "node", name) })
	f.t.Cleanup(func() { f.Kubectl(context.Background(), "delete", "weirnode", name, "--ignore-not-found") })
}

// startOperator starts an operator; the returned function ends it.
func (f *fleet) startOperator() (stop func()) {
	f.t.Helper()
	cmd := exec.Command(f.weir, "operator", "--kubeconfig="+f.operator, "--namespace=kube-system", "--metrics-addr=")
	log, err := os.Create(filepath.Join(f.t.TempDir(), "operator.log"))
	if err != nil {
		f.t.Fatal(err)
	}
	cmd.Stderr = log
	if err := f.Space.Start(cmd); err != nil {
		f.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if f.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			f.t.Logf("the operator's log:\n%s", text)
		}
		log.Close()
	}
	f.t.Cleanup(stop)
	return stop
}

// run runs weir as the administrator.
func (f *fleet) run(args ...string) (stdout, stderr string, code int) {
	cmd := exec.CommandContext(f.t.Context(), f.weir, append(args, "--kubeconfig="+f.Kubeconfig)...)
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := f.Space.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil && cluster.ExitCode(err) < 0 {
		f.t.Fatal(err)
	}
	return out.String(), complaint.String(), cmd.ProcessState.ExitCode()
}

// applied has the named nodes report that they enforce all policies that there are now.
func (f *fleet) applied(statuses []k8s.Status, nodes ...string) {
	f.t.Helper()
	var refs []k8s.PolicyRef
	for kind, resource := range map[string]string{"NetworkPolicy": "networkpolicies", "CiliumNetworkPolicy": "ciliumnetworkpolicies.cilium.io"} {
		out := kubectl(f.t, f.Cluster, "get", resource, "-A", "-o", "json")
		var list struct {
			Items []struct {
				Metadata struct {
					Namespace, Name, UID, ResourceVersion string
					Generation                            int64
				}
			}
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			f.t.Fatal(err)
		}
		for _, i := range list.Items {
			m := i.Metadata
			refs = append(refs, k8s.PolicyRef{Kind: kind, Namespace: m.Namespace, Name: m.Name, UID: m.UID, Generation: m.Generation, ResourceVersion: m.ResourceVersion})
		}
	}
	for _, name := range nodes {
		f.reporters[name].Applied(refs, statuses, time.Now())
	}
}

// events lists the reasons of the Events about a policy.
func (f *fleet) events(name string) string {
	f.t.Helper()
	return strings.TrimSpace(kubectl(f.t, f.Cluster, "-n", f.ns, "get", "events.events.k8s.io", "--field-selector=regarding.name="+name,
		"--sort-by=.eventTime", "-o", `jsonpath={range .items[*]}{.type}/{.reason}{" "}{end}`))
}

func (f *fleet) has(most time.Duration, want string, args ...string) {
	f.t.Helper()
	within(f.t, most, func(ctx context.Context) error {
		out, err := f.Kubectl(ctx, args...)
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("kubectl %s: %q has no %q", strings.Join(args, " "), out, want)
		}
		return err
	})
}

func (f *fleet) policy(name string, labels string) string {
	return fmt.Sprintf("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: %s, namespace: %s}, spec: {podSelector: {%s}}}", name, f.ns, labels)
}

// From a policy's creation to the word that all nodes enforce it, and back, with a real apiserver and the chart's roles.
func TestStatusOfAPolicy(t *testing.T) {
	f := newFleet(t)
	f.startOperator()
	apply(t, f.Cluster, f.policy("web", ""))

	out, complaint, code := f.run("wait", "-n", f.ns, "networkpolicy/web", "--timeout=6s")
	if code != 1 || out != "" || !strings.Contains(complaint, "n1, n2") || !strings.Contains(complaint, "enforced on 0 of 2 nodes; 2 waiting") {
		t.Errorf("wait while no node reports: %d, %q, %q", code, out, complaint)
	}
	f.applied(nil, "n1")
	f.has(5*time.Second, "1/2", "-n", f.ns, "get", "wps", "networkpolicy.web")
	f.has(5*time.Second, "Progressing", "-n", f.ns, "get", "wps", "networkpolicy.web")
	f.applied(nil, "n2")
	start := time.Now()
	out, complaint, code = f.run("wait", "-n", f.ns, "web")
	if want := "NetworkPolicy " + f.ns + "/web: generation 1: enforced on 2 of 2 nodes\n"; code != 0 || out != want {
		t.Errorf("wait: %d, %q, %q", code, out, complaint)
	}
	t.Logf("the last node's report to the end of weir wait: %v", time.Since(start).Round(time.Millisecond))
	kubectl(t, f.Cluster, "-n", f.ns, "wait", "--for=condition=Enforced", "policystatus/networkpolicy.web", "--timeout=2s")
	within(t, 5*time.Second, func(context.Context) error {
		if got := f.events("web"); got != "Normal/Enforced" {
			return fmt.Errorf("events of web: %q", got)
		}
		return nil
	})
	t.Logf("\n%s\n%s", kubectl(t, f.Cluster, "get", "wn"), kubectl(t, f.Cluster, "-n", f.ns, "get", "wps", "-o", "wide"))

	// A change, which both nodes see: not before they do is it enforced.
	start = time.Now()
	apply(t, f.Cluster, f.policy("web", "matchLabels: {app: web}"))
	go func() {
		time.Sleep(500 * time.Millisecond)
		f.applied(nil, "n1", "n2")
	}()
	out, complaint, code = f.run("wait", "-n", f.ns, "web")
	if took := time.Since(start); code != 0 || !strings.Contains(out, "generation 2: enforced on 2 of 2") || took < 500*time.Millisecond {
		t.Errorf("wait for a change: %d, %q, %q after %v", code, out, complaint, took)
	}
	t.Logf("a change, applied after 0.5 s, to the end of weir wait: %v", time.Since(start).Round(time.Millisecond))

	out, complaint, code = f.run("status")
	if code != 0 || !strings.Contains(out, "2 nodes: 2 Enforcing") || !strings.Contains(out, "1 Enforced") {
		t.Errorf("status: %d, %q, %q", code, out, complaint)
	}
	for _, args := range [][]string{{"wait"}, {"wait", "--nodes=0", "web"}, {"wait", "--for=fun", "web"}} {
		if _, complaint, code := f.run(args...); code != 2 {
			t.Errorf("%v: %d, %q", args, code, complaint)
		}
	}
	if _, complaint, code := f.run("wait", "-n", f.ns, "nosuch"); code != 1 || !strings.Contains(complaint, "there is no such policy") {
		t.Errorf("wait for a policy that is not there: %d, %q", code, complaint)
	}

	kubectl(t, f.Cluster, "-n", f.ns, "delete", "networkpolicy", "web")
	within(t, 5*time.Second, func(ctx context.Context) error { // nobody collects garbage here
		out, err := f.Kubectl(ctx, "-n", f.ns, "get", "wps", "-o", "name")
		if err == nil && out != "" {
			err = errors.New("there is still " + out)
		}
		return err
	})
}

// What no node enforces as written stands in the policy's own status, in an Event, and is not waited for.
func TestStatusOfAPolicyThatCannotBeEnforced(t *testing.T) {
	f := newFleet(t)
	f.startOperator()
	api := func(egress string) string {
		return fmt.Sprintf("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: api, namespace: %s}, spec: {endpointSelector: {}, egress: [%s]}}", f.ns, egress)
	}
	apply(t, f.Cluster, api("{toFQDNs: [{matchName: example.com}]}"))
	f.applied([]k8s.Status{{Object: "CiliumNetworkPolicy " + f.ns + "/api", Path: "spec.egress[0].toFQDNs", Reason: k8s.ReasonUnsupported,
		Message: "DNS names as peers are not supported; the rule admits nothing. Use toCIDR."}}, "n1", "n2")
	start := time.Now()
	out, complaint, code := f.run("wait", "-n", f.ns, "cnp/api", "--timeout=20s")
	if code != 1 || !strings.Contains(complaint, "will not be enforced") || !strings.Contains(complaint, "spec.egress[0].toFQDNs: DNS names") || time.Since(start) > 15*time.Second {
		t.Errorf("wait: %d, %q, %q after %v", code, out, complaint, time.Since(start))
	}
	if out, complaint, code := f.run("wait", "-n", f.ns, "--for=applied", "cnp/api", "--timeout=20s"); code != 0 {
		t.Errorf("wait --for=applied: %d, %q, %q", code, out, complaint)
	}
	f.has(5*time.Second, "False NotEnforceable 1", "-n", f.ns, "get", "cnp", "api", "-o",
		`jsonpath={range .status.conditions[?(@.type=="Enforced")]}{.status} {.reason} {.observedGeneration}{end}`)
	within(t, 5*time.Second, func(context.Context) error {
		if got := f.events("api"); got != "Warning/NotEnforceable" {
			return fmt.Errorf("events of api: %q", got)
		}
		return nil
	})
	// The condition's own writing moves the policy's version, which the nodes need not follow.
	version, err := f.Field(t.Context(), f.ns, "cnp/api", ".metadata.resourceVersion")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	if later, err := f.Field(t.Context(), f.ns, "cnp/api", ".metadata.resourceVersion"); err != nil || later != version {
		t.Errorf("the policy's version went from %s to %s by itself, %v", version, later, err)
	}
	apply(t, f.Cluster, api("{toCIDR: [192.0.2.0/24]}"))
	f.applied(nil, "n1", "n2")
	if out, complaint, code := f.run("wait", "-n", f.ns, "cnp/api", "--timeout=20s"); code != 0 {
		t.Errorf("wait once it is mended: %d, %q, %q", code, out, complaint)
	}
	kubectl(t, f.Cluster, "-n", f.ns, "wait", "--for=condition=Enforced", "cnp/api", "--timeout=5s")
}

// Another operator takes over, and does not tell again what was told.
func TestOperatorsTakeTurns(t *testing.T) {
	f := newFleet(t)
	stop := f.startOperator()
	apply(t, f.Cluster, f.policy("one", ""))
	f.applied(nil, "n1", "n2")
	f.has(10*time.Second, "2/2", "-n", f.ns, "get", "wps", "networkpolicy.one")
	f.startOperator()
	time.Sleep(3 * time.Second)
	changed, err := f.Field(t.Context(), f.ns, "wps/networkpolicy.one", ".metadata.resourceVersion")
	if err != nil {
		t.Fatal(err)
	}
	stop()
	start := time.Now()
	apply(t, f.Cluster, f.policy("two", ""))
	f.applied(nil, "n1", "n2")
	f.has(20*time.Second, "2/2", "-n", f.ns, "get", "wps", "networkpolicy.two")
	t.Logf("the second operator has told of a policy %v after the first one ended", time.Since(start).Round(time.Millisecond))
	if got := f.events("one"); got != "Normal/Enforced" {
		t.Errorf("events of one: %q", got)
	}
	if now, err := f.Field(t.Context(), f.ns, "wps/networkpolicy.one", ".metadata.resourceVersion"); err != nil || now != changed {
		t.Errorf("what was told was written again: from %s to %s, %v", changed, now, err)
	}
}
