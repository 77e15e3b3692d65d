// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/weirnet/weir/k8s"
)

// Why a Wait ended without what it waited for.
var (
	ErrNoPolicy  = errors.New("there is no such policy")
	ErrAmbiguous = errors.New("several policies have this name")
	ErrWillNotBe = errors.New("it will not be enforced as it is written") // waiting longer does not help
)

// Target is a policy to wait for.
type Target struct {
	Kind            Kind
	Namespace, Name string
}

func (t Target) String() string {
	if t.Namespace == "" {
		return t.Kind.Name + " " + t.Name
	}
	return t.Kind.Name + " " + t.Namespace + "/" + t.Name
}

// WaitOptions say what to wait for.
type WaitOptions struct {
	Applied        bool // that all nodes have applied the policy, as written or not
	Nodes          int  // how many nodes are enough; 0: all
	IgnoreNotReady bool // all nodes that are ready are enough
	// Progress hears what is known, at each look.
	Progress func(Progress)
}

// Progress is how far a policy has come.
type Progress struct {
	Generation int64 // the policy's own
	Seen       bool  // the operator has seen this generation, and the rest is about it
	State      PolicyState
	Condition  metav1.Condition
}

func (p *Progress) String() string {
	if !p.Seen {
		return fmt.Sprintf("generation %d: not seen by the operator yet", p.Generation)
	}
	return fmt.Sprintf("generation %d: %s", p.Generation, p.Condition.Message)
}

const (
	firstLook = 100 * time.Millisecond
	lastLook  = time.Second
)

// Wait looks at a policy until its generation, as it is at that time, is enforced. The Progress is the last one known. The
// error is nil, or wraps ErrNoPolicy, ErrWillNotBe, or the end of ctx.
func Wait(ctx context.Context, client dynamic.Interface, t Target, o WaitOptions) (Progress, error) {
	var last Progress
	var trouble error // the API server's, of the last look
	for look := firstLook; ; look = min(2*look, lastLook) {
		p, err := progressOf(ctx, client, t)
		switch {
		case errors.Is(err, ErrNoPolicy) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
			return last, err
		case err != nil && ctx.Err() == nil:
			trouble = err
		case err == nil:
			last, trouble = p, nil
			if o.Progress != nil {
				o.Progress(p)
			}
			if done, err := o.judge(&p); done {
				return p, err
			}
		}
		select {
		case <-ctx.Done():
			return last, errors.Join(ctx.Err(), trouble)
		case <-time.After(look):
		}
	}
}

// judge says whether the waiting is over.
func (o *WaitOptions) judge(p *Progress) (done bool, err error) {
	s := &p.State
	applied := s.Applied == s.Nodes && s.Nodes > 0
	switch {
	case !p.Seen:
		return false, nil
	case o.Applied && (applied || o.Nodes > 0 && int(s.Applied) >= o.Nodes || o.IgnoreNotReady && p.Condition.Reason == ReasonNodesNotReady):
		return true, nil
	case p.Condition.Status == metav1.ConditionTrue || !o.Applied && o.Nodes > 0 && int(s.Enforced) >= o.Nodes:
		return true, nil
	case o.IgnoreNotReady && p.Condition.Reason == ReasonNodesNotReady:
		return true, nil
	}
	switch p.Condition.Reason {
	case ReasonNotEnforced, ReasonTooLarge, ReasonRefused, ReasonAudited:
		if !o.Applied && applied {
			return true, ErrWillNotBe
		}
	}
	return false, nil
}

// progressOf looks once.
func progressOf(ctx context.Context, client dynamic.Interface, t Target) (p Progress, err error) {
	u, err := t.get(ctx, client)
	if err != nil {
		return p, err
	}
	p.Generation = u.GetGeneration()
	in := client.Resource(ClusterPolicyStatusResource).Namespace("")
	if t.Namespace != "" {
		in = client.Resource(PolicyStatusResource).Namespace(t.Namespace)
	}
	object, err := in.Get(ctx, StatusName(t.Kind.Name, t.Name), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return p, nil
	} else if err != nil {
		return p, doing(err, "get the status of", t.Kind.Name, t.Namespace, t.Name)
	}
	s, err := AsPolicyStatus(object)
	if err != nil {
		return p, err
	}
	audited := u.GetAnnotations()[k8s.AuditAnnotation] == "true"
	p.Seen = s.Policy.UID == string(u.GetUID()) && s.Status.ObservedGeneration == p.Generation && s.Status.Audited == audited
	p.State = s.Status
	for _, c := range s.Status.Conditions {
		if c.Type == ConditionEnforced {
			p.Condition = c
		}
	}
	return p, nil
}

// get gets the policy, in the version that the cluster has.
func (t Target) get(ctx context.Context, client dynamic.Interface) (u *unstructured.Unstructured, err error) {
	for _, r := range t.Kind.versions() {
		var in dynamic.ResourceInterface = client.Resource(r)
		if t.Namespace != "" {
			in = client.Resource(r).Namespace(t.Namespace)
		}
		if u, err = in.Get(ctx, t.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			break
		}
	}
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get %v: %w", t, ErrNoPolicy)
	}
	return u, doing(err, "get", t.Kind.Name, t.Namespace, t.Name)
}

// FindTarget finds what "KIND/NAME" or "NAME" means; a policy of a namespaced kind is looked for in namespace. A name alone is
// looked for among all kinds. The error may wrap ErrNoPolicy and ErrAmbiguous.
func FindTarget(ctx context.Context, client dynamic.Interface, text, namespace string) (Target, error) {
	make := func(k Kind, name string) Target {
		if !k.Namespaced {
			return Target{k, "", name}
		}
		return Target{k, namespace, name}
	}
	if kind, name, ok := strings.Cut(text, "/"); ok {
		k, known := FindKind(kind)
		if !known || name == "" || strings.Contains(name, "/") {
			return Target{}, fmt.Errorf("read %q: want KIND/NAME, with one of the kinds %s", text, kindNames())
		}
		return make(k, name), nil
	}
	var found []Target
	var names []string
	for _, k := range Kinds() {
		t := make(k, text)
		_, err := t.get(ctx, client)
		switch {
		case err == nil:
			found, names = append(found, t), append(names, strings.ToLower(k.Name)+"/"+text)
		case !errors.Is(err, ErrNoPolicy):
			return Target{}, err
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Target{}, fmt.Errorf("find policy %q in namespace %s and among the cluster-wide ones: %w", text, namespace, ErrNoPolicy)
	}
	return Target{}, fmt.Errorf("find policy %q: %w: %s", text, ErrAmbiguous, strings.Join(names, ", "))
}

func kindNames() string {
	var names []string
	for _, k := range Kinds() {
		names = append(names, strings.ToLower(k.Name))
	}
	return strings.Join(names, ", ")
}
