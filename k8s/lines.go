// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
)

// lineIndex finds fields in the text of manifests. It parses a document when it is first asked about it.
type lineIndex struct {
	files     map[string][]byte
	documents map[string][]document // of a file, once it is cut
	trees     map[Origin]*yaml.Node // nil: cannot be parsed
}

func newLineIndex(files []file) *lineIndex {
	x := &lineIndex{files: map[string][]byte{}, documents: map[string][]document{}, trees: map[Origin]*yaml.Node{}}
	for _, f := range files {
		x.files[f.name] = bytes.TrimPrefix(f.data, []byte("\xef\xbb\xbf"))
	}
	return x
}

// document is the document at origin and its tree; nil if it cannot be parsed.
func (x *lineIndex) document(origin Origin) (document, *yaml.Node) {
	documents, cut := x.documents[origin.File]
	if !cut {
		documents = documentsOf(origin.File, x.files[origin.File])
		x.documents[origin.File] = documents
	}
	if origin.Document < 1 || origin.Document > len(documents) {
		return document{}, nil
	}
	doc := documents[origin.Document-1]
	tree, parsed := x.trees[origin]
	if !parsed {
		var root yaml.Node
		if yaml.Unmarshal(doc.data, &root) == nil && len(root.Content) == 1 {
			tree = root.Content[0]
		}
		x.trees[origin] = tree
	}
	return doc, tree
}

func (x *lineIndex) line(origin Origin, object, path string) int {
	if _, known := x.files[origin.File]; !known {
		return 0
	}
	doc, tree := x.document(origin)
	if tree == nil {
		return doc.line + 1 + blankLines(doc.data)
	}
	tree = itemOf(tree, object)
	line := tree.Line
	for _, step := range steps(path) {
		next, at := child(tree, step)
		if next == nil {
			break
		}
		tree, line = next, at
	}
	return doc.line + line
}

// documentsOf cuts a file as the decoder does.
func documentsOf(name string, data []byte) []document {
	if !isJSON(name, bytes.TrimSpace(data)) {
		return split(data)
	}
	var documents []document
	stream := json.NewDecoder(bytes.NewReader(data))
	for {
		var raw json.RawMessage
		if stream.Decode(&raw) != nil {
			return documents
		}
		before := data[:int(stream.InputOffset())-len(raw)]
		documents = append(documents, document{line: bytes.Count(before, []byte("\n")), data: raw})
	}
}

// blankLines are the lines before the first that says something.
func blankLines(data []byte) int {
	n := 0
	for line := range bytes.Lines(data) {
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' {
			return n
		}
		n++
	}
	return 0
}

// itemOf is the object of that name among the items of a list, or tree if it is no list.
func itemOf(tree *yaml.Node, object string) *yaml.Node {
	items, _ := child(tree, "items")
	if items == nil || items.Kind != yaml.SequenceNode {
		return tree
	}
	for _, item := range items.Content {
		if item = itemOf(item, object); item.Kind == yaml.MappingNode && calledLike(item, object) {
			return item
		}
	}
	return tree
}

// calledLike compares an object's name, "Kind namespace/name", with what the object itself says. Items of a typed list
// need not repeat their kind, and the namespace default need not be written.
func calledLike(item *yaml.Node, object string) bool {
	text := func(n *yaml.Node, key string) string {
		if n == nil {
			return ""
		}
		if value, _ := child(n, key); value != nil {
			return value.Value
		}
		return ""
	}
	kindName, rest, _ := strings.Cut(object, " ")
	namespace, own, namespaced := strings.Cut(rest, "/")
	if !namespaced {
		namespace, own = "", rest
	}
	metadata, _ := child(item, "metadata")
	found, k := text(metadata, "namespace"), text(item, "kind")
	if namespaced && found == "" {
		found = corev1.NamespaceDefault
	}
	return text(metadata, "name") == own && found == namespace && (k == "" || k == kindName)
}

// child is the value of a key, or an item of a list, and the line that it begins on.
func child(n *yaml.Node, step string) (*yaml.Node, int) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i+1], n.Content[i].Line
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i].Line
		}
	}
	return nil, 0
}

// steps takes a path apart: "spec.ingress[0]" is spec, ingress, 0. What is in brackets is one step, dots and all.
func steps(path string) []string {
	var all []string
	for path != "" {
		if rest, ok := strings.CutPrefix(path, "["); ok {
			step, after, _ := strings.Cut(rest, "]")
			all, path = append(all, step), strings.TrimPrefix(after, ".")
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		all, path = append(all, path[:end]), strings.TrimPrefix(path[end:], ".")
	}
	return all
}
