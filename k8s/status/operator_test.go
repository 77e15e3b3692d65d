// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	corefake "k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/weirnet/weir/k8s"
)

// fakeCluster is an API server as far as an operator and a reporter see one. It takes server-side apply as a merge of what an
// object's top-level fields hold, which is what it comes to for those who apply the same fields each time.
type fakeCluster struct {
	Clients
	objects  *dynamicfake.FakeDynamicClient
	metadata *metadatafake.FakeMetadataClient
	core     *corefake.Clientset

	mu     sync.Mutex
	absent map[string]bool // resources that nobody has defined
}

func newFakeCluster() *fakeCluster {
	scheme := metadatafake.NewTestScheme()
	metav1.AddMetaToScheme(scheme)
	lists := map[schema.GroupVersionResource]string{NodeResource: "WeirNodeList", PolicyStatusResource: "PolicyStatusList", ClusterPolicyStatusResource: "ClusterPolicyStatusList",
		crdResource: "CustomResourceDefinitionList", nodeResource: "NodeList"}
	for _, k := range Kinds() {
		lists[k.Resource] = k.Name + "List"
	}
	f := &fakeCluster{objects: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists),
		metadata: metadatafake.NewSimpleMetadataClient(scheme), core: corefake.NewClientset(), absent: map[string]bool{}}
	f.Clients = Clients{Objects: f.objects, Metadata: f.metadata, Core: f.core}
	f.objects.PrependReactor("patch", "*", f.apply)
	f.metadata.PrependReactor("list", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if r := a.GetResource(); f.absent[r.Resource] {
			return true, nil, apierrors.NewNotFound(r.GroupResource(), "")
		}
		return false, nil, nil
	})
	return f
}

func (f *fakeCluster) apply(a clienttesting.Action) (bool, runtime.Object, error) {
	p := a.(clienttesting.PatchAction)
	next := map[string]any{}
	if err := json.Unmarshal(p.GetPatch(), &next); err != nil {
		return true, nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	tracker, r := f.objects.Tracker(), p.GetResource()
	old, err := tracker.Get(r, p.GetNamespace(), p.GetName())
	status := p.GetSubresource() == "status"
	if apierrors.IsNotFound(err) && !status {
		u := &unstructured.Unstructured{Object: next}
		u.SetUID(types.UID("uid-of-" + p.GetName()))
		return true, u, tracker.Create(r, u, p.GetNamespace())
	}
	if err != nil {
		return true, nil, err
	}
	u := old.(*unstructured.Unstructured).DeepCopy()
	if uid, _, _ := unstructured.NestedString(next, "metadata", "uid"); uid != "" && uid != string(u.GetUID()) {
		return true, nil, apierrors.NewConflict(r.GroupResource(), p.GetName(), fmt.Errorf("another UID"))
	}
	for key, value := range next {
		if (key == "status") == status && key != "metadata" {
			u.Object[key] = value
		}
	}
	return true, u, tracker.Update(r, u, p.GetNamespace())
}

// define has the cluster know, or not know, a resource.
func (f *fakeCluster) define(resource string, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.absent[resource] = !known
}

// policy creates a policy, or a later version of it.
func (f *fakeCluster) policy(t *testing.T, kind, name string, generation int64, version string) {
	t.Helper()
	k := kindsByName[kind]
	m := metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("u-" + name), Generation: generation, ResourceVersion: version}
	object := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: k.Resource.GroupVersion().String(), Kind: kind}, ObjectMeta: m}
	if _, err := f.metadata.Tracker().Get(k.Resource, "shop", name); err == nil {
		err = f.metadata.Tracker().Update(k.Resource, object, "shop")
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": object.APIVersion, "kind": kind,
		"metadata": map[string]any{"namespace": "shop", "name": name, "uid": string(m.UID)}}}
	if err := f.objects.Tracker().Create(k.Resource, u, "shop"); err != nil {
		t.Fatal(err)
	}
	if err := f.metadata.Tracker().Create(k.Resource, object, "shop"); err != nil {
		t.Fatal(err)
	}
}

func (f *fakeCluster) node(t *testing.T, name string, ready time.Time) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"os": "linux"}}}
	n.Status.NodeInfo.BootID = "boot"
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(ready)}}
	if _, err := f.core.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": name, "uid": "uid-" + name}}}
	if err := f.objects.Tracker().Create(nodeResource, u, ""); err != nil {
		t.Fatal(err)
	}
}

// status waits for the PolicyStatus of a policy to have a reason.
func (f *fakeCluster) status(t *testing.T, kind, name, reason string) *PolicyStatus {
	t.Helper()
	var s *PolicyStatus
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		u, err := f.Objects.Resource(PolicyStatusResource).Namespace("shop").Get(t.Context(), StatusName(kind, name), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			s = nil
			if reason == "" {
				return nil
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if s, err = AsPolicyStatus(u); err != nil {
			t.Fatal(err)
		}
		if len(s.Status.Conditions) == 1 && s.Status.Conditions[0].Reason == reason {
			return s
		}
	}
	t.Fatalf("%s %s is never %q, but %+v", kind, name, reason, s)
	return nil
}

func (f *fakeCluster) events(t *testing.T) (list []eventsv1.Event) {
	t.Helper()
	l, err := f.core.EventsV1().Events("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l.Items
}

type nobody struct{}

func (nobody) Enforced(time.Duration) {}
func (nobody) Wrote(string, error)    {}

// operate runs an operator until the test ends.
func (f *fakeCluster) operate(t *testing.T) *Operator {
	t.Helper()
	o := NewOperator(OperatorConfig{Clients: f.Clients, Instance: "test", Nodes: labels.SelectorFromSet(labels.Set{"os": "linux"}), Conditions: ConditionsAuto, Observer: nobody{}, Log: quiet()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return o
}

// All the way: policies, Nodes and reports come in by watching, statuses, conditions and Events go out.
func TestOperator(t *testing.T) {
	f := newFakeCluster()
	f.define("ciliumclusterwidenetworkpolicies", false)
	f.define("clusternetworkpolicies", false)
	ours := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "ciliumnetworkpolicies.cilium.io", "labels": map[string]any{ownerLabel: ownerName}}}}
	if err := f.objects.Tracker().Create(crdResource, ours, ""); err != nil {
		t.Fatal(err)
	}
	long := time.Unix(1e9, 0)
	f.node(t, "n1", long)
	f.node(t, "n2", long)
	f.node(t, "new", time.Now()) // has not had time to report
	f.policy(t, "NetworkPolicy", "web", 1, "100")
	f.policy(t, "CiliumNetworkPolicy", "api", 1, "120")
	orphan := statusObject(&Policy{Kind: "NetworkPolicy", Namespace: "shop", Name: "gone", UID: "u-gone", APIVersion: "networking.k8s.io/v1"}, PolicyState{Waiting: []string{}})
	if err := f.objects.Tracker().Create(PolicyStatusResource, toUnstructured(orphan), "shop"); err != nil {
		t.Fatal(err)
	}

	o := f.operate(t)
	s := f.status(t, "NetworkPolicy", "web", ReasonProgressing)
	if s.Status.Summary != "0/2" || strings.Join(s.Status.Waiting, " ") != "n1 n2" {
		t.Errorf("at first: %+v", s.Status)
	}
	f.status(t, "NetworkPolicy", "gone", "")

	nodes := NewNodeClient(f.objects)
	report := func(node string, marks map[string]string, exceptions ...Exception) {
		t.Helper()
		status := NodeStatus{Phase: PhaseEnforcing, BootID: "boot", Exceptions: exceptions}
		for kind, version := range marks {
			status.Kinds = append(status.Kinds, KindMark{kind, version, 1})
		}
		if err := nodes.WriteNode(t.Context(), node, status); err != nil {
			t.Fatal(err)
		}
	}
	cannot := Exception{"CiliumNetworkPolicy", "shop", "api", k8s.ReasonUnsupported, "spec.x", "not supported. Remove x."}
	for _, n := range []string{"n1", "n2"} {
		report(n, map[string]string{"NetworkPolicy": "100", "CiliumNetworkPolicy": "120"}, cannot)
	}
	if s = f.status(t, "NetworkPolicy", "web", ReasonEnforced); s.Status.Summary != "2/2" || s.Policy.APIVersion != "networking.k8s.io/v1" || string(s.OwnerReferences[0].UID) != "u-web" {
		t.Errorf("then: %+v", s)
	}
	f.status(t, "CiliumNetworkPolicy", "api", ReasonNotEnforced)
	n, err := f.objects.Tracker().Get(NodeResource, "", "n1")
	if err != nil || n.(*unstructured.Unstructured).GetOwnerReferences()[0].UID != "uid-n1" {
		t.Errorf("WeirNode %+v, %v", n, err)
	}

	// The condition in the policy's own status, and Events.
	told := map[string]string{}
	var condition string
	for range 500 {
		time.Sleep(20 * time.Millisecond)
		for _, e := range f.events(t) {
			told[e.Regarding.Kind+" "+e.Regarding.Name+" "+string(e.Regarding.UID)] = e.Type + " " + e.Reason
		}
		u, err := f.objects.Tracker().Get(kindsByName["CiliumNetworkPolicy"].Resource, "shop", "api")
		if err != nil {
			t.Fatal(err)
		}
		conditions, _, _ := unstructured.NestedSlice(u.(*unstructured.Unstructured).Object, "status", "conditions")
		if len(conditions) == 1 {
			condition = fmt.Sprint(conditions[0].(map[string]any)["reason"])
		}
		if len(told) == 2 && condition != "" {
			break
		}
	}
	if want := map[string]string{"NetworkPolicy web u-web": "Normal Enforced", "CiliumNetworkPolicy api u-api": "Warning NotEnforceable"}; !maps.Equal(told, want) || condition != ReasonNotEnforced {
		t.Errorf("Events %v, condition %q", told, condition)
	}
	if policies, must, silent, failing := o.Counts(); policies[ReasonEnforced] != 1 || policies[ReasonNotEnforced] != 1 || must != 2 || silent != 0 || failing != 0 || o.Working() != nil {
		t.Errorf("counts %v, %d, %d, %d; %v", policies, must, silent, failing, o.Working())
	}

	// A change, the end of a policy, and of a node.
	f.policy(t, "NetworkPolicy", "web", 2, "150")
	report("n1", map[string]string{"NetworkPolicy": "150"})
	if s = f.status(t, "NetworkPolicy", "web", ReasonProgressing); s.Status.Summary != "1/2" || s.Status.ObservedGeneration != 2 {
		t.Errorf("after a change: %+v", s.Status)
	}
	if err := f.core.CoreV1().Nodes().Delete(t.Context(), "n2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if s = f.status(t, "NetworkPolicy", "web", ReasonEnforced); s.Status.Summary != "1/1" {
		t.Errorf("without the node that is behind: %+v", s.Status)
	}
	if err := f.metadata.Tracker().Delete(kindsByName["NetworkPolicy"].Resource, "shop", "web"); err != nil {
		t.Fatal(err)
	}
	f.status(t, "NetworkPolicy", "web", "")
}
