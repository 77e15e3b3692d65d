// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
)

// PolicyClient is what a Writer writes with in a cluster.
type PolicyClient struct {
	objects  dynamic.Interface
	events   eventsclient.EventsGetter
	instance string // who tells Events
	mirrors  func(kind string) bool
}

// NewPolicyClient makes a client that tells Events as instance, and writes conditions into the status of those kinds of which
// mirrors says so.
func NewPolicyClient(objects dynamic.Interface, events eventsclient.EventsGetter, instance string, mirrors func(kind string) bool) *PolicyClient {
	return &PolicyClient{objects: objects, events: events, instance: instance, mirrors: mirrors}
}

func (c *PolicyClient) statuses(namespace string) dynamic.ResourceInterface {
	if namespace == "" {
		return c.objects.Resource(ClusterPolicyStatusResource)
	}
	return c.objects.Resource(PolicyStatusResource).Namespace(namespace)
}

// WriteStatus writes a PolicyStatus: one request, three if it is not there yet.
func (c *PolicyClient) WriteStatus(ctx context.Context, s *PolicyStatus, fresh bool) error {
	in, u := c.statuses(s.Namespace), toUnstructured(s)
	how := metav1.ApplyOptions{FieldManager: managerOperator, Force: true}
	if !fresh {
		_, err := in.ApplyStatus(ctx, s.Name, u, how)
		if !apierrors.IsNotFound(err) {
			return doing(err, "write status of", s.Kind, s.Namespace, s.Name)
		}
	}
	bare := u.DeepCopy()
	delete(bare.Object, "status")
	if _, err := in.Apply(ctx, s.Name, bare, how); err != nil {
		return doing(err, "create", s.Kind, s.Namespace, s.Name)
	}
	_, err := in.ApplyStatus(ctx, s.Name, u, how)
	return doing(err, "write status of", s.Kind, s.Namespace, s.Name)
}

// DeleteStatus deletes the PolicyStatus of a policy. The owner's UID in it must be uid: else it is of another one by now.
func (c *PolicyClient) DeleteStatus(ctx context.Context, key PolicyKey, uid string) error {
	in, name := c.statuses(key.Namespace), StatusName(key.Kind, key.Name)
	u, err := in.Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		if owner, _, _ := unstructured.NestedString(u.Object, "policy", "uid"); owner != uid {
			return nil
		}
		own := u.GetUID()
		err = in.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &own}})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return doing(err, "delete", KindPolicyStatus, key.Namespace, name)
}

// SetCondition writes a condition into the policy's own status, beside what others write there.
func (c *PolicyClient) SetCondition(ctx context.Context, p *Policy, condition metav1.Condition) error {
	if !c.mirrors(p.Kind) {
		return nil
	}
	version, err := schema.ParseGroupVersion(p.APIVersion)
	if err != nil {
		return fmt.Errorf("write condition: %w", err)
	}
	policies := c.objects.Resource(version.WithResource(kindsByName[p.Kind].Resource.Resource))
	var in dynamic.ResourceInterface = policies
	metadata := map[string]any{"name": p.Name, "uid": p.UID} // the UID keeps it from another one of the name
	if p.Namespace != "" {
		in, metadata["namespace"] = policies.Namespace(p.Namespace), p.Namespace
	}
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": p.APIVersion, "kind": p.Kind, "metadata": metadata,
		"status": map[string]any{"conditions": []any{toUnstructured(&condition).Object}}}}
	_, err = in.ApplyStatus(ctx, p.Name, u, metav1.ApplyOptions{FieldManager: managerOperator, Force: true})
	return doing(err, "write condition of", p.Kind, p.Namespace, p.Name)
}

// Tell makes an Event about the policy.
func (c *PolicyClient) Tell(ctx context.Context, p *Policy, e Event) error {
	namespace := p.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where Events about cluster-scoped objects live
	}
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	now := time.Now()
	object := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", truncateName(p.Name), now.UnixNano()), Namespace: namespace},
		EventTime:  metav1.NewMicroTime(now), ReportingController: "weirnet.github.io/operator", ReportingInstance: c.instance,
		Action: e.Action, Reason: e.Reason, Type: kind, Note: truncate(e.Message, maxNote),
		Regarding: corev1.ObjectReference{APIVersion: p.APIVersion, Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID)},
	}
	_, err := c.events.Events(namespace).Create(ctx, object, metav1.CreateOptions{})
	return doing(err, "tell an Event about", p.Kind, p.Namespace, p.Name)
}

const maxNote = 1000 // the API takes 1024 bytes; most of what is told is ASCII

// truncateName leaves room for what makes an Event's name its own.
func truncateName(name string) string { return name[:min(len(name), maxObjectName-20)] }

// doing says what failed, if something did.
func doing(err error, what, kind, namespace, name string) error {
	if err == nil {
		return nil
	}
	if namespace != "" {
		name = namespace + "/" + name
	}
	return fmt.Errorf("%s %s %s: %w", what, kind, name, err)
}
