// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"

	"github.com/weirnet/weir/k8s"
	kstatus "github.com/weirnet/weir/k8s/status"
	"github.com/weirnet/weir/policy"
)

// statusCluster is a client of a cluster with these objects.
func statusCluster(objects ...any) *fake.FakeDynamicClient {
	lists := map[schema.GroupVersionResource]string{kstatus.NodeResource: "WeirNodeList", kstatus.PolicyStatusResource: "PolicyStatusList",
		kstatus.ClusterPolicyStatusResource: "ClusterPolicyStatusList"}
	var asObjects []runtime.Object
	for _, o := range objects {
		asObjects = append(asObjects, o.(runtime.Object))
	}
	return fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists, asObjects...)
}

func condition(status metav1.ConditionStatus, reason, message string) []metav1.Condition {
	return []metav1.Condition{{Type: kstatus.ConditionEnforced, Status: status, Reason: reason, Message: message, ObservedGeneration: 2}}
}

func nodeObject(name, phase, failure string) any {
	n := kstatus.WeirNode{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: kstatus.NodeStatus{Phase: phase, Policies: 2, AgentVersion: "v1", Failure: failure}}
	n.APIVersion, n.Kind = kstatus.GroupVersion.String(), kstatus.KindNode
	return kstatus.AsObject(&n)
}

func statusOf(namespace, kind, name, summary string, conditions []metav1.Condition) any {
	p := kstatus.PolicyStatus{ObjectMeta: metav1.ObjectMeta{Name: kstatus.StatusName(kind, name), Namespace: namespace},
		Policy: kstatus.PolicyReference{Kind: kind, Name: name, UID: "u"}, Status: kstatus.PolicyState{ObservedGeneration: 2, Summary: summary, Nodes: 2, Applied: 2, Conditions: conditions}}
	p.APIVersion, p.Kind = kstatus.GroupVersion.String(), kstatus.KindPolicyStatus
	if namespace == "" {
		p.Kind = kstatus.KindClusterPolicyStatus
	}
	return kstatus.AsObject(&p)
}

func TestStatusListsWhatIsNotFine(t *testing.T) {
	client := statusCluster(nodeObject("n1", kstatus.PhaseEnforcing, ""), nodeObject("n2", kstatus.PhaseFailing, "no room"),
		statusOf("shop", "NetworkPolicy", "web", "2/2", condition("True", kstatus.ReasonEnforced, "enforced on 2 of 2 nodes")),
		statusOf("shop", "CiliumNetworkPolicy", "api", "0/2", condition("False", kstatus.ReasonNotEnforced, "not enforced as written on 2 of 2 nodes: spec.x: Remove x.")),
		statusOf("", "ClusterNetworkPolicy", "base", "1/2", condition("False", kstatus.ReasonProgressing, "enforced on 1 of 2 nodes; 1 waiting: n2")))
	var out strings.Builder
	if err := printStatus(context.Background(), client, "", false, &out); err != nil {
		t.Fatal(err)
	}
	want := `2 nodes: 1 Enforcing, 1 Failing; 2 version v1
NODE  PHASE      POLICIES  EXCEPTIONS  VERSION  APPLIED  FAILURE
n1    Enforcing  2         0           v1       never    -
n2    Failing    2         0           v1       never    no room

3 policies: 1 Enforced, 1 NotEnforceable, 1 Progressing
NAMESPACE  KIND                  POLICY  NODES  REASON          MESSAGE
-          ClusterNetworkPolicy  base    1/2    Progressing     enforced on 1 of 2 nodes; 1 waiting: n2
shop       CiliumNetworkPolicy   api     0/2    NotEnforceable  not enforced as written on 2 of 2 nodes: spec.x: Remove x.
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestWaitAndOperatorAreCalledWrongly(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "kube-system")
	for _, args := range [][]string{
		{"wait"}, {"wait", "--for=ever", "web"}, {"wait", "--nodes=0", "web"}, {"wait", "--nodes=3x", "web"}, {"wait", "--timeout=-1s", "web"}, {"wait", "web", "--nosuch"},
		{"status", "web"}, {"status", "--nosuch"},
		{"operator", "web"}, {"operator", "--nodes=!!"}, {"operator", "--conditions=sometimes"}, {"operator", "--metrics-addr=9470"}, {"operator", "--log-level=loud"}, {"operator", "--log-format=yaml"},
	} {
		var out, complaint strings.Builder
		if code := run(context.Background(), args, strings.NewReader(""), &out, &complaint); code != exitUsage || complaint.Len() == 0 || out.Len() > 0 {
			t.Errorf("%q: exit code %d, %q, %q", args, code, out.String(), complaint.String())
		}
	}
	for _, verb := range []string{"wait", "status", "operator"} {
		var out, complaint strings.Builder
		if code := run(context.Background(), []string{verb, "--help"}, strings.NewReader(""), &out, &complaint); code != exitFine || complaint.Len() > 0 || !strings.Contains(out.String(), "Usage: weir "+verb) {
			t.Errorf("%s --help: exit code %d, %q, %q", verb, code, out.String(), complaint.String())
		}
	}
}

// stillSource is a source that says what a test lets it say.
type stillSource struct {
	mu    sync.Mutex
	state k8s.State
}

func (s *stillSource) Run(context.Context, func(k8s.Update) error) error { return nil }

func (s *stillSource) State() k8s.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *stillSource) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = k8s.State{Err: err}
}

// lastNode keeps the last status written.
type lastNode struct {
	mu sync.Mutex
	kstatus.NodeStatus
}

func (l *lastNode) WriteNode(_ context.Context, _ string, s kstatus.NodeStatus) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.NodeStatus = s
	return nil
}

func (l *lastNode) is(phase, mark string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	marks := ""
	for _, k := range l.Kinds {
		marks = k.ResourceVersion
	}
	return l.Phase == phase && marks == mark
}

// What is in the tables is published when pods are guarded by it, and taken back when that ends.
func TestOnlyWhatGuardsPodsIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		src, written := &stillSource{}, &lastNode{}
		a := &agent{cfg: agentConfig{node: "n1"}, origin: origin{source: src}, status: newStatus(time.Now()), log: slog.New(slog.DiscardHandler)}
		a.applied.facts = &facts{known: map[string]policy.Node{"n0": {}, "n1": {}, "n2": {}}}
		p := &publisher{agent: a}
		p.reporter = kstatus.NewReporter(kstatus.ReporterConfig{Node: "n1", Writer: written, Log: a.log})
		go p.run(ctx)
		step := func(what, phase, mark string) {
			t.Helper()
			time.Sleep(10 * time.Second)
			if !written.is(phase, mark) {
				t.Errorf("%s: published is %+v, want %s %s", what, written.NodeStatus, phase, mark)
			}
		}
		applied := func(version string) {
			p.Applied([]k8s.PolicyRef{{Kind: "NetworkPolicy", Namespace: "shop", Name: "web", UID: version, ResourceVersion: version}}, nil, time.Now())
		}
		applied("100")
		step("before programs are attached", "", "")
		a.status.settled(nil)
		step("once they are", kstatus.PhaseEnforcing, "100")
		if p.rank.Load() != 1 || p.size.Load() != 3 {
			t.Errorf("the node is number %d of %d", p.rank.Load(), p.size.Load())
		}
		applied("110")
		step("a change", kstatus.PhaseEnforcing, "110")
		src.fail(errors.New("no room"))
		step("while a change is refused", kstatus.PhaseFailing, "110")
		src.fail(nil)
		step("when it is not any more", kstatus.PhaseEnforcing, "110")
		a.status.fail(errors.New("a pod is not guarded"))
		step("while a pod is not guarded", kstatus.PhaseFailing, "")
		applied("120")
		step("nor by anything newer", kstatus.PhaseFailing, "")
		a.status.settled(nil)
		step("when all are again", kstatus.PhaseEnforcing, "120")
		a.status.fail(errStopping)
		step("when the agent stops", kstatus.PhaseEnforcing, "120")
		cancel()
		synctest.Wait()
	})
}
