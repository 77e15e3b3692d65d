// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"errors"
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Inspection is a directory of manifests for somebody who wants to know all that is wrong with it.
type Inspection struct {
	Files    []string   // names of the manifests, sorted
	Objects  *Objects   // those that are right
	Problems []*Problem // one for each mistake, in the order of files and documents

	lines *lineIndex
}

// Inspect reads what ReadDir reads. A mistake in one object does not keep the others from being read. The error is that of
// a directory or a file that cannot be read at all.
func Inspect(dir string) (*Inspection, error) {
	files, _, err := readFiles(dir, false)
	if err != nil {
		return nil, err
	}
	d := decodeAll(files, true)
	in := &Inspection{Objects: d.objects, Problems: Problems(errors.Join(d.problems...)), lines: newLineIndex(files)}
	for _, f := range files {
		in.Files = append(in.Files, f.name)
	}
	return in, nil
}

// Line is the line of its file, counted from 1, that a field of an object read from origin is on; of the nearest field
// above it if the object does not have that one. object is the object's name as a Problem or a Status has it.
func (in *Inspection) Line(origin Origin, object, path string) int {
	return in.lines.line(origin, object, path)
}

// Lines is how many lines a file has, the last one included if it has no end.
func (in *Inspection) Lines(file string) int {
	data := in.lines.files[file]
	return max(1, bytes.Count(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))+1)
}

// Tree is an object as its manifest has it, in the types of encoding/json: unlike the decoded object, with the lists that
// are written and empty. It is nil if the object is not in a manifest.
func (in *Inspection) Tree(origin Origin, object string) any {
	_, node := in.lines.document(origin)
	if node == nil {
		return nil
	}
	var tree any
	if itemOf(node, object).Decode(&tree) != nil {
		return nil
	}
	return tree
}

// All are the objects that were read from manifests, by their names: "NetworkPolicy default/web".
func (o *Objects) All() iter.Seq2[string, metav1.Object] {
	return func(yield func(string, metav1.Object) bool) {
		for object := range o.origins {
			typed, ok := object.(interface{ GetObjectKind() schema.ObjectKind })
			if !ok {
				continue
			}
			if kind := typed.GetObjectKind().GroupVersionKind().Kind; kind != "" && !yield(name(kind, object), object) {
				return
			}
		}
	}
}

// Without is o but for the policies and pods with the given names. What else there is stays.
func (o *Objects) Without(names []string) *Objects {
	out := *o
	out.Pods = without("Pod", o.Pods, names)
	out.NetworkPolicies = without("NetworkPolicy", o.NetworkPolicies, names)
	out.CiliumNetworkPolicies = without("CiliumNetworkPolicy", o.CiliumNetworkPolicies, names)
	out.CiliumClusterwideNetworkPolicies = without("CiliumClusterwideNetworkPolicy", o.CiliumClusterwideNetworkPolicies, names)
	out.ClusterNetworkPolicies = without("ClusterNetworkPolicy", o.ClusterNetworkPolicies, names)
	return &out
}

func without[T metav1.Object](kind string, objects []T, names []string) []T {
	var kept []T
	for _, object := range objects {
		if !slices.Contains(names, name(kind, object)) {
			kept = append(kept, object)
		}
	}
	return kept
}

// Problems takes apart an error of this package that joins problems; none if it is of another kind.
func Problems(err error) []*Problem {
	if problem, ok := err.(*Problem); ok {
		return []*Problem{problem}
	}
	var all []*Problem
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, each := range joined.Unwrap() {
			all = append(all, Problems(each)...)
		}
	}
	return all
}

// PodLabels is all that selectors of a Model can see of a pod in a namespace with the given labels (policy.Pod).
func PodLabels(pod *corev1.Pod, namespace map[string]string) map[string]string {
	return podLabels(pod, namespace)
}

// Labels that pods of a Model have because of their namespace: its name, and, behind the prefix, its labels.
const (
	NamespaceNameLabel   = labelNamespace
	NamespaceLabelPrefix = labelNamespaceLabel
)

// Nearest is the one of names that word may be a slip of; empty if there is none.
func Nearest(word string, names []string) string { return nearest(word, slices.Clone(names)) }
