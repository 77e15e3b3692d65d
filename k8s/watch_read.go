// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"encoding/json"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	strictjson "sigs.k8s.io/json"
)

// reader reads objects of one kind as they come from the API server, as strictly as manifests are read. What the API
// server keeps about an object for itself is not looked at. It is not safe for concurrent use.
type reader struct {
	kind   kind
	fields fieldCache
}

func newReader(name string) *reader {
	for _, k := range kinds() {
		if k.name == name {
			return &reader{kind: k, fields: fieldCache{}}
		}
	}
	panic("k8s: unknown kind " + name)
}

// tree is what is read of an object.
func (r *reader) tree(x any) (map[string]any, error) {
	var root map[string]any
	switch x := x.(type) {
	case *unstructured.Unstructured:
		root = x.Object
	default:
		data, err := json.Marshal(x)
		if err == nil {
			err = strictjson.UnmarshalCaseSensitivePreserveInts(data, &root)
		}
		if err != nil {
			return nil, fmt.Errorf("read object: %w", err)
		}
	}
	out := map[string]any{"apiVersion": r.kind.apiVersion, "kind": r.kind.name}
	for key, value := range root {
		switch key {
		case "apiVersion", "kind", "status":
		case "metadata":
			from, _ := value.(map[string]any)
			meta := map[string]any{}
			for _, field := range []string{"name", "namespace", "labels"} {
				if from[field] != nil {
					meta[field] = from[field]
				}
			}
			if annotations, _ := from["annotations"].(map[string]any); annotations[AuditAnnotation] != nil {
				meta["annotations"] = map[string]any{AuditAnnotation: annotations[AuditAnnotation]}
			}
			out["metadata"] = meta
		default:
			out[key] = value
		}
	}
	return out, nil
}

// decode makes an object of a tree; nil if something is wrong with it.
func (r *reader) decode(tree map[string]any) (metav1.Object, []*Problem) {
	d := &decoder{objects: &Objects{origins: map[metav1.Object]Origin{}}, kinds: map[string]kind{r.kind.name: r.kind}, seen: map[string]Origin{},
		fields: r.fields, lenient: true}
	d.object(tree, Origin{}, "", "")
	for object := range d.objects.origins {
		return object, nil
	}
	return nil, Problems(errors.Join(d.problems...))
}

// policy reads a policy object. One that something is wrong with is read as far as it can be.
func (r *reader) policy(x any) (*policyObject, error) {
	if p, ok := x.(*policyObject); ok {
		return p, nil
	}
	object, ok := x.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("read %s: it is a %T", r.kind.name, x)
	}
	out := &policyObject{ref: PolicyRef{Kind: r.kind.name, Namespace: object.GetNamespace(), Name: object.GetName(), UID: string(object.GetUID()),
		Generation: object.GetGeneration(), ResourceVersion: object.GetResourceVersion()}}
	tree, err := r.tree(x)
	if err != nil {
		return nil, err
	}
	var problems []*Problem
	if out.object, problems = r.decode(tree); out.object == nil {
		out.object, out.refused = r.salvage(out.ref, tree, problems)
	}
	return out, nil
}

// object reads an object that is no policy. What is wrong with one that only lends policies its facts is left out.
func (r *reader) object(u *unstructured.Unstructured) (metav1.Object, error) {
	tree, err := r.tree(u)
	if err != nil {
		return nil, err
	}
	object, problems := r.decode(tree)
	if object == nil {
		object = r.kind.make()
		if data, err := json.Marshal(tree); err != nil || json.Unmarshal(data, object) != nil {
			return nil, fmt.Errorf("read %s %s: %w", r.kind.name, u.GetName(), problems[0])
		}
	}
	return object, nil
}
