// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

const (
	tick      = 200 * time.Millisecond
	joinGrace = 30 * time.Second // that a new node has to report, beside its fleet's pace
	pageSize  = 500
)

// Clients are those that an Operator needs.
type Clients struct {
	Objects  dynamic.Interface
	Metadata metadata.Interface
	Core     kubernetes.Interface
}

// When an operator writes conditions into the status of kinds that other software may own.
const (
	ConditionsAuto   = "auto" // if the cluster's definition of the kind is ours
	ConditionsAlways = "always"
	ConditionsNever  = "never" // nor into that of any other kind
)

// OperatorConfig is what an Operator needs.
type OperatorConfig struct {
	Clients    Clients
	Instance   string          // its name, for Events
	Nodes      labels.Selector // nodes that weir is meant to run on
	Conditions string          // Conditions...
	Observer   Observer
	Log        *slog.Logger
}

// Operator watches nodes, their reports and policies, and tells how far each policy is enforced. There must be one at a time.
type Operator struct {
	cfg    OperatorConfig
	writer *Writer
	kinds  *kindWatch

	mu      sync.Mutex
	joining map[string]time.Time // nodes that are ready and have not had time to report yet: until when
	nodes   map[string]NodeFacts
	err     error // why it is not working yet
	beaten  time.Time
}

var errStarting = errors.New("the operator is starting")

// NewOperator makes an operator; Run works.
func NewOperator(cfg OperatorConfig) *Operator {
	o := &Operator{cfg: cfg, joining: map[string]time.Time{}, nodes: map[string]NodeFacts{}, err: errStarting}
	o.kinds = newKindWatch(cfg, func(k Kind, m *metav1.PartialObjectMetadata) { o.setPolicy(k, m) },
		func(k Kind, namespace, name string) { o.writer.DeletePolicy(PolicyKey{k.Name, namespace, name}) })
	client := NewPolicyClient(cfg.Clients.Objects, cfg.Clients.Core.EventsV1(), cfg.Instance, o.kinds.mirrors)
	o.writer = NewWriter(client, client, cfg.Observer, cfg.Log)
	return o
}

// Silent is how long Run has not come round. What a cluster does not answer has its own limits.
func (o *Operator) Silent() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.beaten.IsZero() {
		return 0 // it waits for the cluster
	}
	return time.Since(o.beaten)
}

// Working is nil if the operator knows the cluster, and else why not.
func (o *Operator) Working() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

func (o *Operator) become(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

// Counts says how many policies there are by the reason of their condition, and how many nodes must enforce them, do not
// report, and fail.
func (o *Operator) Counts() (policies map[string]int, must, silent, failing int) {
	policies = map[string]int{}
	o.writer.view(func(b *Board) {
		for key := range b.policies {
			e := b.Evaluate(key)
			policies[e.Reason]++
		}
		must, silent, failing = b.Nodes()
	})
	return policies, must, silent, failing
}

// Run works until ctx ends.
func (o *Operator) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	nodes, nodesKnown, err := o.watchNodes()
	if err != nil {
		return err
	}
	reports, reportsKnown, err := o.watchReports()
	if err != nil {
		return err
	}
	running.Go(func() { nodes.RunWithContext(ctx) })
	running.Go(func() { reports.RunWithContext(ctx) })
	o.kinds.start(ctx, &running)
	for what, synced := range map[string]cache.InformerSynced{"Nodes": nodesKnown, "WeirNodes": reportsKnown, "policies": o.kinds.settled} {
		o.become(fmt.Errorf("%s are not known yet", what))
		if !cache.WaitForCacheSync(ctx.Done(), synced) {
			return nil
		}
	}
	var listed time.Time
	for {
		if time.Since(listed) > relist {
			if err := o.restore(ctx); err != nil {
				o.cfg.Log.Warn("list statuses", "error", err)
				listed = time.Now().Add(failFirst - relist)
			} else {
				listed = time.Now()
				o.become(nil)
			}
		}
		o.join(time.Now())
		cost := o.writer.Tick(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(tick, 10*cost)): // looking takes a tenth of a CPU at most, however much there is
		}
	}
}

func (o *Operator) setPolicy(k Kind, m *metav1.PartialObjectMetadata) {
	o.writer.SetPolicy(Policy{
		Kind: k.Name, APIVersion: k.Resource.GroupVersion().String(), Namespace: m.Namespace, Name: m.Name, UID: string(m.UID),
		Generation: m.Generation, Audited: isAudited(m),
	}, version(m.ResourceVersion))
}

// restore reads the PolicyStatuses that there are, of the kinds whose policies are known.
func (o *Operator) restore(ctx context.Context) error {
	var stored []*PolicyStatus
	for _, in := range []dynamic.ResourceInterface{o.cfg.Clients.Objects.Resource(PolicyStatusResource), o.cfg.Clients.Objects.Resource(ClusterPolicyStatusResource)} {
		list, err := ListPolicyStatuses(ctx, in)
		if err != nil {
			return err
		}
		for _, s := range list {
			if o.kinds.known(s.Policy.Kind) {
				stored = append(stored, s)
			}
		}
	}
	o.writer.Restore(stored)
	return nil
}

// watchNodes follows what the cluster says of Nodes.
func (o *Operator) watchNodes() (cache.SharedIndexInformer, cache.InformerSynced, error) {
	informer := coreinformers.NewNodeInformer(o.cfg.Clients.Core, 0, nil)
	strip := func(object any) (any, error) {
		if n, ok := object.(*corev1.Node); ok {
			n.ManagedFields, n.Annotations, n.Spec = nil, nil, corev1.NodeSpec{}
			n.Status = corev1.NodeStatus{Conditions: n.Status.Conditions, NodeInfo: corev1.NodeSystemInfo{BootID: n.Status.NodeInfo.BootID}}
		}
		return object, nil
	}
	known, err := handle(informer, strip, func(n *corev1.Node) { o.setNode(n) }, func(_, name string) {
		o.mu.Lock()
		delete(o.joining, name)
		delete(o.nodes, name)
		o.mu.Unlock()
		o.writer.Board(func(b *Board) { b.DeleteNode(name) })
	})
	if err != nil {
		return nil, nil, fmt.Errorf("watch Nodes: %w", err)
	}
	return informer, known, nil
}

// setNode takes over a Node. One that has just become ready is given time to report before it counts.
func (o *Operator) setNode(n *corev1.Node) {
	facts := NodeFacts{UID: string(n.UID), BootID: n.Status.NodeInfo.BootID}
	expected := o.cfg.Nodes.Matches(labels.Set(n.Labels))
	var since time.Time
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			facts.Ready, since = c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.joining, n.Name)
	until := since.Add(joinGrace + time.Duration(len(o.nodes))*time.Second/FleetRate)
	switch {
	case !expected || !facts.Ready:
	case time.Now().Before(until):
		o.joining[n.Name] = until
	default:
		facts.Expected = true
	}
	if o.nodes[n.Name] == facts {
		return
	}
	o.nodes[n.Name] = facts
	o.writer.Board(func(b *Board) { b.SetNode(n.Name, facts) })
}

// join counts the nodes whose time to report has passed, each time that Run comes round.
func (o *Operator) join(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.beaten = now
	for name, until := range o.joining {
		if now.Before(until) {
			continue
		}
		delete(o.joining, name)
		facts := o.nodes[name]
		facts.Expected = true
		o.nodes[name] = facts
		o.writer.Board(func(b *Board) { b.SetNode(name, facts) })
	}
}

// watchReports follows the WeirNodes.
func (o *Operator) watchReports() (cache.SharedIndexInformer, cache.InformerSynced, error) {
	informer := dynamicinformer.NewFilteredDynamicInformer(o.cfg.Clients.Objects, NodeResource, "", 0, cache.Indexers{}, nil).Informer()
	strip := func(object any) (any, error) { // what is kept is what the board keeps
		u, ok := object.(*unstructured.Unstructured)
		if !ok {
			return object, nil
		}
		n, err := AsNode(u)
		if err != nil {
			return nil, err
		}
		return &report{ObjectMeta: metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion, UID: n.UID}, node: n}, nil
	}
	known, err := handle(informer, strip, func(r *report) {
		if n := r.take(); n != nil {
			o.writer.Board(func(b *Board) { b.SetReport(n) })
		}
	}, func(_, name string) { o.writer.Board(func(b *Board) { b.DeleteReport(name) }) })
	if err != nil {
		return nil, nil, fmt.Errorf("watch WeirNodes: %w", err)
	}
	return informer, known, nil
}

// handle calls set for each new version of an object, stripped, and gone for one that is there no more. known says whether
// that was done for all that there was at first: the informer itself says so too early.
func handle[T any](informer cache.SharedIndexInformer, strip cache.TransformFunc, set func(T), gone func(namespace, name string)) (known cache.InformerSynced, err error) {
	if err := informer.SetTransform(strip); err != nil {
		return nil, err
	}
	registered, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if o, ok := object.(T); ok {
				set(o)
			}
		},
		UpdateFunc: func(_, object any) {
			if o, ok := object.(T); ok {
				set(o)
			}
		},
		DeleteFunc: func(object any) {
			key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
			if err != nil {
				return
			}
			if namespace, name, err := cache.SplitMetaNamespaceKey(key); err == nil {
				gone(namespace, name)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return registered.HasSynced, nil
}
