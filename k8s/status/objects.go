// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
)

// Field managers of what is applied to the server.
const (
	managerAgent    = "weir-agent"
	managerOperator = "weir-operator"
)

// toUnstructured is for objects of this package, which all can be written so.
func toUnstructured(object any) *unstructured.Unstructured {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		panic(fmt.Sprintf("convert %T: %v", object, err)) // not a matter of what is in it
	}
	return &unstructured.Unstructured{Object: content}
}

// AsObject is a WeirNode, PolicyStatus or ClusterPolicyStatus as a dynamic client takes it.
func AsObject(object any) *unstructured.Unstructured { return toUnstructured(object) }

// AsNode reads a WeirNode from what a dynamic client brought.
func AsNode(u *unstructured.Unstructured) (*WeirNode, error) {
	n := &WeirNode{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, n); err != nil {
		return nil, fmt.Errorf("read WeirNode %s: %w", u.GetName(), err)
	}
	return n, nil
}

// AsPolicyStatus reads a PolicyStatus or ClusterPolicyStatus from what a dynamic client brought.
func AsPolicyStatus(u *unstructured.Unstructured) (*PolicyStatus, error) {
	s := &PolicyStatus{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, s); err != nil {
		return nil, fmt.Errorf("read %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return s, nil
}

// NodeClient writes WeirNodes.
type NodeClient struct {
	objects dynamic.ResourceInterface
	nodes   dynamic.ResourceInterface
}

// NewNodeClient makes a client that may create and patch weirnodes, patch their status, and get nodes.
func NewNodeClient(client dynamic.Interface) *NodeClient {
	return &NodeClient{objects: client.Resource(NodeResource), nodes: client.Resource(nodeResource)}
}

// WriteNode writes the status of a node's WeirNode, one request. If there is none, it is made, as the Node's: it goes when
// the Node goes.
func (c *NodeClient) WriteNode(ctx context.Context, name string, status NodeStatus) error {
	n := &WeirNode{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: status}
	n.APIVersion, n.Kind = GroupVersion.String(), KindNode
	err := c.applyStatus(ctx, n)
	if !apierrors.IsNotFound(err) {
		return err
	}
	owner, err := c.nodes.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get Node %s for its WeirNode: %w", name, err)
	}
	object := &WeirNode{TypeMeta: n.TypeMeta, ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "Node", Name: name, UID: owner.GetUID()},
	}}}
	u := toUnstructured(object)
	delete(u.Object, "status")
	if _, err := c.objects.Apply(ctx, name, u, metav1.ApplyOptions{FieldManager: managerAgent, Force: true}); err != nil {
		return fmt.Errorf("create WeirNode %s: %w", name, err)
	}
	return c.applyStatus(ctx, n)
}

func (c *NodeClient) applyStatus(ctx context.Context, n *WeirNode) error {
	_, err := c.objects.ApplyStatus(ctx, n.Name, toUnstructured(n), metav1.ApplyOptions{FieldManager: managerAgent, Force: true})
	if err != nil {
		return fmt.Errorf("write status of WeirNode %s: %w", n.Name, err)
	}
	return nil
}
