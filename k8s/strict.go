// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"sort"
	"strings"
)

// checker collects what is wrong with one object.
type checker struct {
	origin   Origin
	object   string
	problems []error
	fields   fieldCache
	open     []string // fields below which shape notes unknown ones instead of refusing them
	unknowns []UnknownField
}

// fieldCache holds what fieldsOf has found out.
type fieldCache map[reflect.Type]map[string]reflect.Type

func (c *checker) bad(path, format string, args ...any) {
	c.problems = append(c.problems, &Problem{Origin: c.origin, Object: c.object, Path: path, Message: fmt.Sprintf(format, args...)})
}

// shape compares a JSON tree with the Go type it is to be decoded into and names each field that the type does not have
// and each value of a wrong type, by its full path. strict are the fields below which null is refused.
func (c *checker) shape(tree any, t reflect.Type, path string, strict []string) {
	if tree == nil {
		if under(path, strict) {
			c.bad(path, "has no value; give it one or leave the field out")
		}
		return
	}
	if t.Kind() == reflect.Pointer {
		c.shape(tree, t.Elem(), path, strict)
		return
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		c.opaque(tree, t, path)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		object, ok := tree.(map[string]any)
		if !ok {
			c.mismatch(path, tree, "an object")
			return
		}
		fields, known := c.fields[t]
		if !known {
			fields = fieldsOf(t)
			c.fields[t] = fields
		}
		for _, key := range sorted(object) {
			field, known := fields[key]
			if !known {
				c.unknown(path, key, fields)
				continue
			}
			c.shape(object[key], field, join(path, key), strict)
		}
	case reflect.Map:
		object, ok := tree.(map[string]any)
		if !ok {
			c.mismatch(path, tree, "an object")
			return
		}
		for _, key := range sorted(object) {
			c.shape(object[key], t.Elem(), path+"["+key+"]", strict)
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			if _, ok := tree.(string); !ok {
				c.mismatch(path, tree, "a string")
			}
			return
		}
		list, ok := tree.([]any)
		if !ok {
			c.mismatch(path, tree, "a list")
			return
		}
		for i, item := range list {
			c.shape(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i), strict)
		}
	default:
		c.scalar(tree, t, path)
	}
}

func (c *checker) scalar(tree any, t reflect.Type, path string) {
	switch t.Kind() {
	case reflect.String:
		if _, ok := tree.(string); !ok {
			c.mismatch(path, tree, "a string")
		}
	case reflect.Bool:
		if _, ok := tree.(bool); !ok {
			c.mismatch(path, tree, "true or false")
		}
	case reflect.Float32, reflect.Float64:
		switch tree.(type) {
		case int64, float64:
		default:
			c.mismatch(path, tree, "a number")
		}
	case reflect.Interface:
	default:
		n, ok := tree.(int64)
		if !ok {
			c.mismatch(path, tree, "an integer")
			return
		}
		unsigned := t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64
		if zero := reflect.New(t).Elem(); unsigned && (n < 0 || zero.OverflowUint(uint64(n))) || !unsigned && zero.OverflowInt(n) {
			c.bad(path, "%d is out of range", n)
		}
	}
}

// opaque tries the type's own decoder, which does not say more than why it failed.
func (c *checker) opaque(tree any, t reflect.Type, path string) {
	data, err := json.Marshal(tree)
	if err == nil {
		err = json.Unmarshal(data, reflect.New(t).Interface())
	}
	if err != nil {
		c.bad(path, "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
}

func (c *checker) mismatch(path string, tree any, want string) {
	got, hint := "", ""
	switch v := tree.(type) {
	case map[string]any:
		got = "an object"
	case []any:
		got = "a list"
	case string:
		got = fmt.Sprintf("the string %q", v)
	case bool:
		got = fmt.Sprint(v)
	case int64:
		got = fmt.Sprint(v)
	case float64:
		got = fmt.Sprint(v)
		if v == math.Trunc(v) {
			got = fmt.Sprintf("%.1f", v)
		}
	}
	if want == "a string" {
		switch tree.(type) {
		case bool, int64, float64:
			hint = "; quote it"
		}
	}
	if path == "" {
		path = "document"
	}
	c.bad(path, "is %s, must be %s%s", got, want, hint)
}

// unknown is about a field that the struct at path does not have.
func (c *checker) unknown(path, key string, fields map[string]reflect.Type) {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	near := nearest(key, names)
	switch {
	case under(path, c.open):
		c.unknowns = append(c.unknowns, UnknownField{Path: join(path, key), Near: near})
	case near != "":
		c.bad(join(path, key), "unknown field, did you mean %s?", near)
	default:
		c.bad(join(path, key), "unknown field, remove it")
	}
}

// fieldsOf lists a struct's fields by JSON name, those of embedded structs included.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		field := t.Field(i)
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case tag == "-":
		case field.Anonymous && tag == "":
			for name, inner := range fieldsOf(field.Type) {
				fields[name] = inner
			}
		case tag != "":
			fields[tag] = field.Type
		}
	}
	return fields
}

func under(path string, roots []string) bool {
	for _, root := range roots {
		if rest, ok := strings.CutPrefix(path, root); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func sorted(object map[string]any) []string {
	keys := make([]string, 0, len(object))
	for key := range object {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// nearest is the name that the fewest slips turn into word; empty if none is near enough to be what was meant.
func nearest(word string, names []string) string {
	if len(word) > 64 {
		return ""
	}
	sort.Strings(names)
	best, limit := "", max(1, len(word)/3)+1
	for _, candidate := range names {
		if d := distance(strings.ToLower(word), strings.ToLower(candidate)); d < limit {
			best, limit = candidate, d
		}
	}
	return best
}

// distance counts the insertions, deletions, substitutions and swaps of neighbours that turn a into b (optimal string
// alignment, after Damerau 1964).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j-1]+cost, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
