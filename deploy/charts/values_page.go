// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

const valuesHead = `# Values of the chart

Every value of ` + "`deploy/charts/weir`" + `, from its ` + "`values.yaml`" + ` by ` + "`make chart`" + `. A value that is not here is refused, and so is one of a
wrong form: ` + "`values.schema.json`" + ` is strict. ` + "`values-k3s.yaml`" + ` beside it holds what differs on k3s.

| value | default | |
|---|---|---|
`

// valuesPage is a table of the values: path, default, and what the comment above says.
func valuesPage(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "values.yaml"))
	if err != nil {
		return "", fmt.Errorf("read values: %w", err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return "", fmt.Errorf("read values: %w", err)
	}
	var text strings.Builder
	text.WriteString(valuesHead)
	if err := valueRows(&text, document.Content[0], ""); err != nil {
		return "", err
	}
	return text.String(), nil
}

// valueRows writes a row for each field of an object that has a comment, and goes into those that have none.
func valueRows(text *strings.Builder, object *yaml.Node, prefix string) error {
	for i := 0; i+1 < len(object.Content); i += 2 {
		key, value := object.Content[i], object.Content[i+1]
		path := prefix + key.Value
		about, documented := strings.CutPrefix(strings.TrimSpace(lastComment(key.HeadComment)), "# -- ")
		switch {
		case documented:
			var plain any
			if err := value.Decode(&plain); err != nil {
				return fmt.Errorf("read value %s: %w", path, err)
			}
			standard, err := json.Marshal(plain)
			if err != nil {
				return fmt.Errorf("write value %s: %w", path, err)
			}
			fmt.Fprintf(text, "| `%s` | `%s` | %s |\n", path, standard, strings.ReplaceAll(strings.ReplaceAll(about, "\n# ", " "), "|", "\\|"))
		case value.Kind == yaml.MappingNode:
			if err := valueRows(text, value, path+"."); err != nil {
				return err
			}
		default:
			return fmt.Errorf("value %s has no comment that begins with # --", path)
		}
	}
	return nil
}

// lastComment is the part of a comment after its last blank line: what stands above belongs to the file.
func lastComment(comment string) string {
	parts := strings.Split(comment, "\n\n")
	return parts[len(parts)-1]
}
