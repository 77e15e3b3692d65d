// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"
)

// What is committed is what this program writes.
func TestDefinitionsAreCommitted(t *testing.T) {
	for path, crd := range files() {
		want, err := format(crd)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("deploy/crds/%s is not what deploy/crds/schema writes: run make crds", path)
		}
	}
}

func decode(t *testing.T, data []byte) map[string]any {
	t.Helper()
	text, err := yaml.YAMLToJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		t.Fatal(err)
	}
	return integers(object).(map[string]any)
}

func decodeAll(t *testing.T, archive *txtar.Archive) (out []map[string]any) {
	t.Helper()
	for _, f := range archive.Files {
		out = append(out, decode(t, f.Data))
	}
	return out
}

// Each mistake is refused at the door, with the field and what to do; and the agent would refuse it, too, or lint warn of it.
func TestMistakesAreRefusedByName(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/refused.txtar")
	if err != nil {
		t.Fatal(err)
	}
	kinds := judges(t)
	said := agent(t, decodeAll(t, archive)...)
	for i, f := range archive.Files {
		t.Run(f.Name, func(t *testing.T) {
			first, _, _ := strings.Cut(string(f.Data), "\n")
			field, says, ok := strings.Cut(strings.TrimPrefix(first, "# "), ": ")
			if !ok {
				t.Fatalf("the first line says neither field nor message: %s", first)
			}
			object := decode(t, f.Data)
			if odd := f.Name == "end-below-port" || f.Name == "log-too-long"; odd != (said[i] == "") { // Cilium's limits, and lint's
				t.Errorf("the agent says %q", said[i])
			}
			errs := kinds[object["kind"].(string)].refuse(t, object)
			if !slices.ContainsFunc(errs, func(e string) bool { return strings.Contains(e, field) && strings.Contains(e, says) }) {
				t.Errorf("refused with %q, want %s: %s", errs, field, says)
			}
		})
	}
}

// What weir cannot enforce reaches it all the same, every field of it.
func TestWhatReachesTheAgentIsWhole(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/taken.txtar")
	if err != nil {
		t.Fatal(err)
	}
	kinds := judges(t)
	said := agent(t, decodeAll(t, archive)...)
	for i, f := range archive.Files {
		t.Run(f.Name, func(t *testing.T) {
			object := decode(t, f.Data)
			if said[i] != "" {
				t.Errorf("the agent does not take it: %s", said[i])
			}
			before, _ := json.Marshal(object)
			if errs := kinds[object["kind"].(string)].refuse(t, object); len(errs) > 0 {
				t.Errorf("refused: %s", strings.Join(errs, "; "))
			}
			if after, _ := json.Marshal(object); string(after) != string(before) {
				t.Errorf("%s became %s", before, after)
			}
		})
	}
}

// Every field that Cilium knows is in the schema.
func TestEveryFieldOfCiliumIsKnown(t *testing.T) {
	data, err := os.ReadFile("../../../k8s/testdata/cilium-1.20-fields.json")
	if err != nil {
		t.Fatal(err)
	}
	j := judges(t)["CiliumClusterwideNetworkPolicy"]
	for _, e := range j.refuse(t, decode(t, data)) {
		if strings.Contains(e, "unknown field") {
			t.Error(e)
		}
	}
}
