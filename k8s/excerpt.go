// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"fmt"
	"path/filepath"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Excerpt is a part of an object as it stands in its file.
type Excerpt struct {
	Origin
	Line int    // of its first line in the file, from 1
	Text string // in YAML, whatever the file is in
}

// Named finds the object that people call name: "CiliumNetworkPolicy default/web". It finds those read from files only.
func (o *Objects) Named(called string) (metav1.Object, bool) {
	for name, object := range o.All() {
		if name == called {
			return object, true
		}
	}
	return nil, false
}

// Excerpt reads the file of an object of dir again and cuts out what is at path, "spec.ingress[0]"; an empty path is the
// object itself. An error says why the file no longer has it; what is known of the place is returned all the same.
func (o *Objects) Excerpt(dir, called, path string) (Excerpt, error) {
	object, ok := o.Named(called)
	if !ok {
		return Excerpt{}, fmt.Errorf("find %s: it was not read from a file", called)
	}
	at := Excerpt{Origin: o.Origin(object)}
	data, err := readFile(filepath.Join(dir, at.File), false)
	if err != nil {
		return at, fmt.Errorf("read %s again: %w", at.File, err)
	}
	doc, tree := newLineIndex([]file{{name: at.File, data: data}}).document(at.Origin)
	if tree == nil {
		return at, fmt.Errorf("find %s in %s: the document is no longer there", called, at.Origin)
	}
	node := itemOf(tree, called)
	at.Line = doc.line + node.Line
	for _, step := range steps(path) {
		if node, _ = child(node, step); node == nil {
			return at, fmt.Errorf("find %s of %s in %s: it is not there", path, called, at.Origin)
		}
	}
	at.Line = doc.line + node.Line
	at.Text, err = nodeText(node)
	return at, err
}

// nodeText writes a node in block style, which shows its structure however tightly its author wrote it.
func nodeText(node *yaml.Node) (string, error) {
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	if err := enc.Encode(unfolded(node, 0)); err != nil {
		return "", fmt.Errorf("write YAML: %w", err)
	}
	return text.String(), nil
}

// resolved is the node that an alias stands for.
func resolved(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

// unfolded is a copy without flow style and without aliases, whose anchors may be outside of it. Lists of plain values, and
// what is empty, stay on one line.
func unfolded(node *yaml.Node, depth int) *yaml.Node {
	const deepest = 100 // an alias may contain itself
	out := *resolved(node)
	out.Anchor = ""
	out.Content = nil
	plain := true
	for _, child := range resolved(node).Content {
		if depth < deepest {
			out.Content = append(out.Content, unfolded(child, depth+1))
		}
		plain = plain && resolved(child).Kind == yaml.ScalarNode
	}
	if len(out.Content) > 0 && !(plain && out.Kind == yaml.SequenceNode) {
		out.Style &^= yaml.FlowStyle
	}
	return &out
}
