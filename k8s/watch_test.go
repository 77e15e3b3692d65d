// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/weirnet/weir/internal/fakeapi"
	"github.com/weirnet/weir/policy"
)

const (
	podsPath  = "/api/v1/pods"
	nodesPath = "/api/v1/nodes"
	npPath    = "/apis/networking.k8s.io/v1/networkpolicies"
	crdPath   = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	cnpPath   = "/apis/cilium.io/v2/ciliumnetworkpolicies"
	setsPath  = "/apis/apps/v1/daemonsets"
)

// scene is a watcher of an API server that a test holds the strings of.
type scene struct {
	*testing.T
	api     *fakeapi.Server
	addr    string
	watcher *Watcher

	mu      sync.Mutex
	shadow  *shadow
	updates []Update
	refuse  error
}

func newScene(t *testing.T, daemonSet string) *scene {
	t.Helper()
	s := &scene{T: t, api: fakeapi.New(), shadow: &shadow{map[string]policy.Pod{}, map[string]policy.Node{}, map[string]policy.Service{}, nil}}
	s.listen("127.0.0.1:0")
	s.api.Put(nodesPath, testNode("n0", 0), testNode("n1", 1))
	s.watcher = s.newWatcher(daemonSet)
	return s
}

func (s *scene) listen(addr string) {
	s.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		s.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.api.Serve(l)
	s.Cleanup(s.api.Stop)
}

func (s *scene) newWatcher(daemonSet string) *Watcher {
	s.Helper()
	w, err := NewWatcher(WatchConfig{API: &rest.Config{Host: "http://" + s.addr}, Node: "n0", DaemonSet: daemonSet, Log: slog.New(slog.NewTextHandler(s.Output(), nil))})
	if err != nil {
		s.Fatal(err)
	}
	return w
}

// run lets the watcher work until the test ends.
func (s *scene) run() {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.watcher.Run(ctx, s.apply) }()
	s.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.Error(err)
		}
	})
}

func (s *scene) apply(u Update) error {
	model := u.Model()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	if u.Changes == nil {
		fresh := &shadow{map[string]policy.Pod{}, map[string]policy.Node{}, map[string]policy.Service{}, nil}
		fresh.apply(s.T, &policy.Changes{Pods: model.Pods, NodesChanged: model.Nodes, ServicesChanged: model.Services, Policies: model.Policies})
		s.shadow = fresh
	} else {
		s.shadow.apply(s.T, u.Changes)
	}
	s.updates = append(s.updates, u)
	return nil
}

// eventually waits until what is enforced meets a condition.
func (s *scene) eventually(what string, ok func() bool) {
	s.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		done := ok()
		s.mu.Unlock()
		if done {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Fatalf("waited in vain for %s; state %+v; pods %v, policies %v, nodes %v", what, s.watcher.State(), s.shadow.pods, s.shadow.policies, s.shadow.nodes)
}

// podAt waits until a pod has an address; empty: none.
func (s *scene) podAt(key, addr string) {
	s.Helper()
	s.eventually(fmt.Sprintf("pod %s at %q", key, addr), func() bool {
		p, there := s.shadow.pods[key]
		return addr == "" && !there || addr != "" && there && len(p.Addrs) == 1 && p.Addrs[0].String() == addr
	})
}

func (s *scene) policies(keys ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("policies %v", keys), func() bool {
		var got []string
		for _, p := range s.shadow.policies {
			got = append(got, p.Key)
		}
		return strings.Join(got, ",") == strings.Join(keys, ",")
	})
}

func testNode(name string, i int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Spec.PodCIDR = fmt.Sprintf("10.1.%d.0/24", i)
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", i+1)}}
	return n
}

func testPod(name, node, addr string, phase corev1.PodPhase) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": name}}}
	p.Spec.NodeName = node
	p.Status.Phase, p.Status.PodIP = phase, addr
	if addr != "" {
		p.Status.PodIPs = []corev1.PodIP{{IP: addr}}
	}
	return p
}

func testPolicy(name string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

func testCNP(t *testing.T, name, spec string) *unstructured.Unstructured {
	t.Helper()
	return &unstructured.Unstructured{Object: treeOf(t,
		"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {namespace: default, name: "+name+", managedFields: [{manager: x}]}\nspec: "+spec)}
}

func definition(name string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func TestWatcherFollowsPods(t *testing.T) {
	s := newScene(t, "")
	s.api.Put("/api/v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"team": "a"}}})
	s.api.Put(podsPath, testPod("web", "n0", "10.1.0.5", corev1.PodRunning))
	if got := s.watcher.State(); got.Applied || !errors.Is(got.Err, ErrUnsynced) {
		t.Errorf("before anything is read the state is %+v", got)
	}
	s.run()
	s.podAt("default/web", "10.1.0.5")
	if got := s.watcher.State(); !got.Applied || got.Err != nil || len(got.Stale) > 0 {
		t.Errorf("after all is read the state is %+v", got)
	}
	s.api.Put(podsPath, testPod("db", "n1", "", corev1.PodPending))
	s.api.Put(podsPath, testPod("db", "n1", "10.1.1.5", corev1.PodRunning))
	s.podAt("default/db", "10.1.1.5")
	s.api.Put("/api/v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"team": "b"}}})
	s.eventually("both pods in team b", func() bool {
		return s.shadow.pods["default/db"].Labels[labelNamespaceLabel+"team"] == "b" && s.shadow.pods["default/web"].Labels[labelNamespaceLabel+"team"] == "b"
	})
	s.api.Put(podsPath, testPod("db", "n1", "10.1.1.5", corev1.PodSucceeded))
	s.podAt("default/db", "")
	s.api.Delete(podsPath, "default/web", false)
	s.podAt("default/web", "")
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, u := range s.updates {
		if (u.Changes == nil) != (i == 0) {
			t.Errorf("Update %d is whole: %v", i, u.Changes == nil)
		}
	}
}

// Of two pods that the API gives one address, the newer has it, and the other is told.
func TestWatcherPodsThatShareAnAddress(t *testing.T) {
	s := newScene(t, "")
	old, young := testPod("old", "n0", "10.1.0.5", corev1.PodRunning), testPod("young", "n1", "10.1.0.5", corev1.PodRunning)
	old.CreationTimestamp, young.CreationTimestamp = metav1.Unix(100, 0), metav1.Unix(200, 0)
	now := metav1.Unix(300, 0)
	old.DeletionTimestamp = &now
	s.api.Put(podsPath, old)
	s.run()
	s.podAt("default/old", "10.1.0.5") // it is terminating, and still there
	s.api.Put(podsPath, young)
	s.podAt("default/young", "10.1.0.5")
	s.podAt("default/old", "")
	s.eventually("a status", func() bool {
		last := s.updates[len(s.updates)-1].Statuses
		return len(last) == 1 && last[0].Object == "Pod default/old" && strings.Contains(last[0].Message, "default/young")
	})
	s.api.Delete(podsPath, "default/young", false)
	s.podAt("default/old", "10.1.0.5")
}

// Kinds that nobody has defined yet are waited for, also when somebody takes them away again.
func TestWatcherWaitsForDefinitions(t *testing.T) {
	s := newScene(t, "")
	s.api.Put(npPath, testPolicy("a"))
	s.run()
	s.policies("NetworkPolicy default/a")
	s.api.Define(cnpPath, "CiliumNetworkPolicy")
	s.api.Put(cnpPath, testCNP(t, "b", "{endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}"))
	s.api.Put(crdPath, definition("unrelated.example.com"), definition("ciliumnetworkpolicies.cilium.io"))
	s.policies("CiliumNetworkPolicy default/b", "NetworkPolicy default/a")
	s.api.Put(cnpPath, testCNP(t, "c", "{endpointSelector: {}, ingress: [{}]}"))
	s.policies("CiliumNetworkPolicy default/b", "CiliumNetworkPolicy default/c", "NetworkPolicy default/a")
	s.api.Delete(crdPath, "ciliumnetworkpolicies.cilium.io", false)
	s.policies("NetworkPolicy default/a")
	s.api.Put(crdPath, definition("ciliumnetworkpolicies.cilium.io"))
	s.policies("CiliumNetworkPolicy default/b", "CiliumNetworkPolicy default/c", "NetworkPolicy default/a")
}

// A kind that is defined while others are followed, and cannot be read, keeps nothing from being enforced.
func TestWatcherGoesOnWithoutALateKind(t *testing.T) {
	s := newScene(t, "")
	s.api.Put(npPath, testPolicy("a"))
	s.run()
	s.policies("NetworkPolicy default/a")
	s.api.Put(crdPath, definition("ciliumnetworkpolicies.cilium.io")) // and never served
	s.eventually("the kind to be missed", func() bool { return len(s.watcher.State().Stale) == 1 })
	s.api.Put(npPath, testPolicy("b"))
	s.policies("NetworkPolicy default/a", "NetworkPolicy default/b")
	if state := s.watcher.State(); !state.Applied {
		t.Errorf("state %+v", state)
	}
}

// One object that is wrong concerns its own subjects.
func TestWatcherOneWrongObject(t *testing.T) {
	s := newScene(t, "")
	s.api.Define(cnpPath, "CiliumNetworkPolicy")
	s.api.Put(crdPath, definition("ciliumnetworkpolicies.cilium.io"))
	s.api.Put(cnpPath, testCNP(t, "good", "{endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}"),
		testCNP(t, "half", "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoint: [{}]}, {fromEntities: [world]}]}"))
	s.run()
	s.policies("CiliumNetworkPolicy default/good", "CiliumNetworkPolicy default/half")
	s.eventually("the rule that can be read, and not the other", func() bool {
		half := s.shadow.policies[1]
		return half.Isolates == [2]bool{true, false} && len(half.Rules) == 2 && len(half.Rules[0].Peers) == 0 && len(half.Rules[1].Peers) == 1
	})
	s.eventually("its status", func() bool {
		last := s.updates[len(s.updates)-1].Statuses
		return len(last) == 1 && last[0].Object == "CiliumNetworkPolicy default/half" && last[0].Path == "spec.ingress[0].fromEndpoint" && last[0].Reason == ReasonRefused
	})
	s.api.Put(podsPath, testPod("web", "n0", "10.1.0.5", corev1.PodRunning))
	s.podAt("default/web", "10.1.0.5")
}

// What comes while an Update is being enforced goes together into the next one.
func TestWatcherMakesBatches(t *testing.T) {
	s := newScene(t, "")
	s.run()
	s.eventually("a first Update", func() bool { return len(s.updates) == 1 })
	s.mu.Lock() // apply waits for it
	s.api.Put(podsPath, testPod("first", "n0", "10.1.0.200", corev1.PodRunning))
	time.Sleep(50 * time.Millisecond)
	for i := range 100 {
		s.api.Put(podsPath, testPod(fmt.Sprintf("p%d", i), "n0", fmt.Sprintf("10.1.0.%d", 10+i), corev1.PodRunning))
	}
	time.Sleep(300 * time.Millisecond)
	s.mu.Unlock()
	s.eventually("all pods", func() bool { return len(s.shadow.pods) == 101 })
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.updates) > 4 {
		t.Errorf("%d Updates", len(s.updates))
	}
	if first := s.updates[1]; len(first.Changes.Pods) != 1 || len(first.Received) != 1 {
		t.Errorf("the first change did not go at once: %d pods, %d events", len(first.Changes.Pods), len(first.Received))
	}
}

// What is refused is handed over again, with what came meanwhile.
func TestWatcherRefusedUpdate(t *testing.T) {
	s := newScene(t, "")
	s.run()
	s.eventually("a first Update", func() bool { return len(s.updates) == 1 })
	s.mu.Lock()
	s.refuse = errors.New("the tables are full")
	s.mu.Unlock()
	s.api.Put(podsPath, testPod("a", "n0", "10.1.0.5", corev1.PodRunning), testPod("b", "n0", "10.1.0.6", corev1.PodRunning))
	s.eventually("the error", func() bool { return s.watcher.State().Err != nil })
	s.api.Delete(podsPath, "default/b", false)
	s.api.Put(podsPath, testPod("c", "n0", "10.1.0.7", corev1.PodRunning))
	s.mu.Lock()
	s.refuse = nil
	s.mu.Unlock()
	s.podAt("default/a", "10.1.0.5")
	s.podAt("default/c", "10.1.0.7")
	s.podAt("default/b", "")
}

func TestWatcherClaims(t *testing.T) {
	s := newScene(t, "")
	s.run()
	s.eventually("a first Update", func() bool { return len(s.updates) == 1 })
	claim := PodClaim{Namespace: "default", Name: "web", UID: "uid-web", ContainerID: "c1", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.9")}}
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := s.watcher.Claim(short, claim); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "has not told of the pod") {
		t.Errorf("a claim for a pod that the API does not know: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- s.watcher.Claim(ctx, claim) }()
	s.api.Put(podsPath, testPod("web", "n0", "", corev1.PodPending))
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	if p := s.shadow.pods["default/web"]; len(p.Addrs) != 1 || p.Addrs[0] != claim.Addrs[0] {
		t.Errorf("the claim is answered, and the pod has %v", p.Addrs)
	}
	s.mu.Unlock()
	if err := s.watcher.Claim(ctx, claim); err != nil { // asked again
		t.Error(err)
	}
	s.api.Put(podsPath, testPod("web", "n0", "10.1.0.10", corev1.PodRunning)) // the API has the last word
	s.podAt("default/web", "10.1.0.10")

	// A new pod's address was an older one's a moment ago, which the API still has.
	late := PodClaim{Namespace: "default", Name: "late", UID: "uid-late", ContainerID: "c2", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.10")}}
	s.api.Put(podsPath, testPod("late", "n0", "", corev1.PodPending))
	if err := s.watcher.Claim(ctx, late); err != nil {
		t.Fatal(err)
	}
	s.podAt("default/late", "10.1.0.10")
	s.podAt("default/web", "")
	s.watcher.Release(func(id string) bool { return id == "c2" })
	s.podAt("default/late", "")
	s.podAt("default/web", "10.1.0.10")

	waiting := PodClaim{Namespace: "default", Name: "gone", UID: "uid-gone", ContainerID: "c3", Addrs: late.Addrs}
	s.mu.Lock()
	s.refuse = errors.New("not now")
	s.mu.Unlock()
	s.api.Put(podsPath, testPod("gone", "n0", "", corev1.PodPending))
	go func() { answer <- s.watcher.Claim(ctx, waiting) }()
	time.Sleep(50 * time.Millisecond)
	s.api.Delete(podsPath, "default/gone", false)
	if err := <-answer; !errors.Is(err, ErrPodGone) {
		t.Errorf("a claim of a pod that was deleted: %v", err)
	}
}

func TestWatcherUninstall(t *testing.T) {
	s := newScene(t, "kube-system/weir")
	set := definition("weir")
	set.Namespace = "kube-system"
	s.api.Put(setsPath, set)
	s.run()
	s.eventually("a first Update", func() bool { return len(s.updates) == 1 })
	marked := set.DeepCopy()
	marked.Annotations = map[string]string{UninstallAnnotation: "true"}
	s.api.Put(setsPath, marked)
	select {
	case <-s.watcher.Uninstall():
	case <-time.After(10 * time.Second):
		t.Error("the DaemonSet says that weir shall leave, and the watcher does not")
	}
}

// A node that is not in the cluster is told so, and waits.
func TestWatcherWithoutItsNode(t *testing.T) {
	s := newScene(t, "")
	s.api.Delete(nodesPath, "n0", false)
	s.run()
	s.eventually("the error", func() bool { return errors.Is(s.watcher.State().Err, ErrNoNode) })
	s.api.Put(nodesPath, testNode("n0", 0))
	s.eventually("an Update", func() bool { return len(s.updates) == 1 && s.watcher.State().Applied })
	s.api.Delete(nodesPath, "n0", false) // it stays guarded
	s.api.Put(podsPath, testPod("web", "n0", "10.1.0.5", corev1.PodRunning))
	s.podAt("default/web", "10.1.0.5")
}
