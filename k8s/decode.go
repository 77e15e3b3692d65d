// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// ReadDir reads the *.yaml, *.yml and *.json files of dir, not those of its subdirectories. Either every document is what
// the API server would accept, and Objects is complete, or the error joins one Problem for each mistake.
func ReadDir(dir string) (*Objects, error) {
	files, _, err := readFiles(dir, false)
	if err != nil {
		return nil, err
	}
	return decode(files)
}

// Decode reads one manifest from memory, as ReadDir would read a file called name.
func Decode(name string, data []byte) (*Objects, error) {
	return decode([]file{{name: name, data: data}})
}

func decode(files []file) (*Objects, error) {
	d := decodeAll(files, false)
	if len(d.problems) > 0 {
		return nil, errors.Join(d.problems...)
	}
	return d.objects, nil
}

// decodeAll decodes files; each problem is a *Problem. With lenient, the objects that something is wrong with are left out.
func decodeAll(files []file, lenient bool) *decoder {
	d := &decoder{objects: &Objects{origins: map[metav1.Object]Origin{}}, kinds: map[string]kind{}, seen: map[string]Origin{}, fields: fieldCache{},
		lenient: lenient}
	for _, k := range kinds() {
		d.kinds[k.name] = k
	}
	for _, f := range files {
		d.file(f)
	}
	d.problems = append(d.problems, d.objects.conflicts()...)
	return d
}

type decoder struct {
	objects  *Objects
	kinds    map[string]kind
	seen     map[string]Origin // of an object's name
	fields   fieldCache
	blankEnd bool // the document being decoded ends in a blank value
	lenient  bool // leave out the objects that something is wrong with
	problems []error
}

// document is one document of a file and the line it starts on, counted from 0.
type document struct {
	line int
	data []byte
}

func (d *decoder) file(f file) {
	data := bytes.TrimPrefix(f.data, []byte("\xef\xbb\xbf"))
	if text := bytes.TrimSpace(data); isJSON(f.name, text) {
		d.jsonFile(f.name, text)
		return
	}
	for i, doc := range split(data) {
		origin := Origin{File: f.name, Document: i + 1}
		converted, err := yaml.YAMLToJSONStrict(doc.data)
		c := checker{origin: origin}
		var tree any
		if err != nil {
			// Without the strictness it may still tell its name.
			if tolerant, again := yaml.YAMLToJSON(doc.data); again == nil {
				_ = json.Unmarshal(tolerant, &tree)
			}
			c.object = d.head(tree)
			c.bad("", "%s", yamlMessage(err, doc.line))
		} else if err := strictjson.UnmarshalCaseSensitivePreserveInts(converted, &tree); err != nil {
			c.bad("", "%s", err)
		} else {
			d.blankEnd = endsBlank(doc.data)
			d.object(tree, origin, "", "")
			d.blankEnd = false
		}
		d.problems = append(d.problems, c.problems...)
	}
}

// endsBlank says whether the last thing in a document is a field or an item without a value.
func endsBlank(doc []byte) bool {
	lines := strings.Split(string(doc), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		if at := strings.Index(line, " #"); at >= 0 {
			line = strings.TrimSpace(line[:at])
		}
		if line != "" && line[0] != '#' {
			return strings.HasSuffix(line, ":") || line == "-" || strings.HasSuffix(line, " -")
		}
	}
	return false
}

// isJSON says whether a file is a stream of JSON objects. YAML may begin with a brace too.
func isJSON(name string, text []byte) bool {
	if len(text) == 0 || text[0] != '{' {
		return false
	}
	if filepath.Ext(name) == ".json" {
		return true
	}
	var syntax *json.SyntaxError
	err := json.NewDecoder(bytes.NewReader(text)).Decode(new(json.RawMessage))
	return !errors.As(err, &syntax) && !bytes.Contains(text, []byte("\n---"))
}

func (d *decoder) jsonFile(name string, data []byte) {
	stream := json.NewDecoder(bytes.NewReader(data))
	for i := 1; ; i++ {
		origin := Origin{File: name, Document: i}
		c := checker{origin: origin}
		var raw json.RawMessage
		err := stream.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return
		}
		var tree any
		var twice []error
		if err == nil {
			twice, err = strictjson.UnmarshalStrict(raw, &tree, strictjson.DisallowDuplicateFields)
		}
		if err != nil {
			c.bad("", "not valid JSON: %s", err)
			d.problems = append(d.problems, c.problems...)
			return
		}
		c.object = d.head(tree)
		for _, err := range twice {
			var field strictjson.FieldError
			if errors.As(err, &field) {
				c.bad(field.FieldPath(), "field given twice, keep one")
			}
		}
		if len(twice) == 0 {
			d.object(tree, origin, "", "")
		}
		d.problems = append(d.problems, c.problems...)
	}
}

// split cuts a YAML stream at its document markers. Documents of comments and blanks only are left out.
func split(data []byte) []document {
	var documents []document
	var current document
	content := false
	flush := func(next int) {
		if content {
			documents = append(documents, current)
		}
		current, content = document{line: next}, false
	}
	for i, line := range bytes.SplitAfter(data, []byte("\n")) {
		switch {
		case marker(line, "---"):
			flush(i)
			line = append([]byte("   "), line[3:]...)
		case marker(line, "..."):
			flush(i + 1)
			continue
		}
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' && !(line[0] == '%' && !content) {
			content = true
		} else if len(text) > 0 && line[0] == '%' && !content {
			line = []byte("\n") // a directive of the document to come
		}
		current.data = append(current.data, line...)
	}
	flush(0)
	return documents
}

func marker(line []byte, mark string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(mark))
	return ok && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0])))
}

// yamlMessage is the cause of a YAML error, with lines counted from the start of the file.
func yamlMessage(err error, offset int) string {
	text := strings.NewReplacer("yaml: ", "", "unmarshal errors:\n  ", "", "\n  ", "; ", "already set in map", "given twice").Replace(err.Error())
	text = strings.TrimPrefix(text, "error converting YAML to JSON: ")
	return "not valid YAML: " + regexp.MustCompile(`line \d+`).ReplaceAllStringFunc(text, func(line string) string {
		n, _ := strconv.Atoi(line[len("line "):])
		return fmt.Sprintf("line %d", n+offset)
	})
}

// head is what a tree calls itself, as far as it says.
func (d *decoder) head(tree any) string {
	root, _ := tree.(map[string]any)
	metadata, _ := root["metadata"].(map[string]any)
	named := metav1.ObjectMeta{}
	named.Name, _ = metadata["name"].(string)
	named.Namespace, _ = metadata["namespace"].(string)
	kindName, _ := root["kind"].(string)
	if named.Name == "" {
		return kindName
	}
	if d.kinds[kindName].namespaced && named.Namespace == "" {
		named.Namespace = metav1.NamespaceDefault
	}
	return strings.TrimSpace(name(kindName, &named))
}

// object decodes one object, or each item of a list of objects. Items of a typed list need not repeat apiVersion and kind.
func (d *decoder) object(tree any, origin Origin, listVersion, listKind string) {
	c := checker{origin: origin, object: d.head(tree), fields: d.fields}
	defer func() { d.problems = append(d.problems, c.problems...) }()
	root, ok := tree.(map[string]any)
	if !ok {
		c.mismatch("", tree, "an object")
		return
	}
	if root["kind"] == nil && root["apiVersion"] == nil && listKind != "" {
		root["apiVersion"], root["kind"] = listVersion, listKind
		c.object = d.head(tree)
	}
	version, kindName := root["apiVersion"], root["kind"]
	for _, field := range []string{"apiVersion", "kind"} {
		if text, ok := root[field].(string); !ok || text == "" {
			c.bad(field, "missing, every object must have it")
		}
	}
	if len(c.problems) > 0 {
		return
	}
	if items, ok := root["items"].([]any); ok && strings.HasSuffix(kindName.(string), "List") {
		itemKind := strings.TrimSuffix(kindName.(string), "List")
		for _, item := range items {
			d.object(item, origin, version.(string), itemKind)
		}
		return
	}
	k, wanted := d.kind(&c, version.(string), kindName.(string))
	if !wanted {
		return
	}
	object := k.make()
	if k.name == "NetworkPolicy" && root["spec"] == nil {
		c.bad("spec", "missing; write spec: {podSelector: {}} to isolate every pod of the namespace")
	}
	strict := k.strict
	c.open = k.open
	if k.nulls && !d.blankEnd {
		strict = nil
	}
	if len(c.problems) == 0 {
		c.shape(root, reflect.TypeOf(object), "", strict)
	}
	if len(c.problems) > 0 {
		return
	}
	data, err := json.Marshal(root)
	if err == nil {
		err = strictjson.UnmarshalCaseSensitivePreserveInts(data, object)
	}
	if err != nil {
		c.bad("", "cannot be decoded: %s", err)
		return
	}
	if k.unknown != nil {
		k.unknown(object, c.unknowns)
	}
	c.metadata(k, object)
	c.object = name(k.name, object)
	if k.check != nil {
		k.check(&c, object)
	}
	if first, twice := d.seen[c.object]; twice {
		c.bad("metadata.name", "the same object is in %s already, remove one", first)
	}
	d.seen[c.object] = origin
	if d.lenient && len(c.problems) > 0 {
		return
	}
	d.objects.origins[object] = origin
	k.keep(d.objects, object)
}

// kind finds out what to do with an object: decode it, or leave it alone, or refuse it.
func (d *decoder) kind(c *checker, version, kindName string) (kind, bool) {
	if k, ok := d.kinds[kindName]; ok && (k.apiVersion == version || contains(k.also, version)) {
		return k, true
	}
	gv, err := schema.ParseGroupVersion(version)
	if err != nil {
		c.bad("apiVersion", "%q is not GROUP/VERSION", version)
		return kind{}, false
	}
	useless, ours := unused()[gv.Group]
	names := append([]string(nil), useless...)
	for _, k := range d.kinds {
		if g, _ := schema.ParseGroupVersion(k.apiVersion); g.Group == gv.Group {
			names = append(names, k.name)
			if k.name == kindName {
				c.bad("apiVersion", "%s is not supported, write %s", version, k.apiVersion)
				return kind{}, false
			}
		}
	}
	switch {
	case ours && contains(useless, kindName), !ours && !strings.HasSuffix(kindName, "NetworkPolicy"):
		d.objects.Skipped = append(d.objects.Skipped, fmt.Sprintf("%s (%s)", c.object, c.origin))
	case !ours && d.kinds[kindName].name != "":
		c.bad("apiVersion", "%s is not supported, write %s", version, d.kinds[kindName].apiVersion)
	case nearest(kindName, names) != "":
		c.bad("kind", "unknown kind of %s, did you mean %s?", version, nearest(kindName, names))
	default:
		c.bad("kind", "%s of %s is not supported, remove the object", kindName, version)
	}
	return kind{}, false
}

func contains(list []string, word string) bool {
	for _, item := range list {
		if item == word {
			return true
		}
	}
	return false
}
