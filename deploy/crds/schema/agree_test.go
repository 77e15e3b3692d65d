// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"
)

// document is an object of one of our kinds, found somewhere in the repository.
type document struct {
	where  string
	object map[string]any
}

// corpus finds every object of a cilium.io kind in the repository's test data and examples.
func corpus(t *testing.T) []document {
	t.Helper()
	var out []document
	keep := func(where string, data []byte) {
		for _, text := range bytes.Split(data, []byte("\n---")) {
			var object map[string]any
			if yaml.Unmarshal(text, &object) != nil { // meant to be broken
				continue
			}
			if version, _ := object["apiVersion"].(string); strings.HasPrefix(version, "cilium.io/") {
				if kind, _ := object["kind"].(string); !strings.HasSuffix(kind, "List") {
					out = append(out, document{where, object})
				}
			}
		}
	}
	root := "../../.."
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "crds" || entry.Name() == "bin") {
			return filepath.SkipDir
		}
		switch filepath.Ext(path) {
		case ".txtar":
			archive, err := txtar.ParseFile(path)
			if err != nil {
				return err
			}
			for _, f := range archive.Files {
				keep(path+" "+f.Name, f.Data)
			}
		case ".yaml", ".yml":
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			keep(path, data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// agent is what the agent says about each of the objects: empty if it takes it. weir is asked, not imported: this module must
// not follow each change of the other's dependencies.
func agent(t testing.TB, objects ...map[string]any) []string {
	t.Helper()
	dir := t.TempDir()
	weir, manifests := filepath.Join(dir, "weir"), filepath.Join(dir, "manifests")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", weir, "./cmd/weir")
	build.Dir, build.Env = "../../..", append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build weir: %v\n%s", err, out)
	}
	if err := os.Mkdir(manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	index := map[string]int{}
	for i, object := range objects {
		name := fmt.Sprintf("o%d", i) // the same name twice would be a mistake of its own
		object = maps.Clone(object)
		metadata, _ := object["metadata"].(map[string]any)
		metadata = maps.Clone(metadata)
		metadata["name"] = name
		object["metadata"] = metadata
		data, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(manifests, name+".json"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		index[name+".json"] = i
	}
	out, err := exec.CommandContext(t.Context(), weir, "lint", "--manifests", manifests, "--output", "json", "--node-selector-labels").Output()
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("weir lint: %v", err)
	}
	said := make([]string, len(objects))
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		var finding struct{ Rule, File, Path, Message string }
		if line == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &finding); err != nil {
			t.Fatalf("weir lint says %s: %v", line, err)
		}
		if finding.Rule == "invalid-object" {
			said[index[finding.File]] += finding.Path + ": " + finding.Message + "; "
		}
	}
	return said
}

func judges(t testing.TB) map[string]*judge {
	t.Helper()
	out := map[string]*judge{}
	for _, crd := range files() {
		out[crd.Spec.Names.Kind] = newJudge(t, crd)
	}
	return out
}

// What the agent takes, the API server takes, but for what lint warns of; and what the agent refuses, the API server refuses
// first, but for what no schema can say.
func TestSchemasAgreeWithTheAgent(t *testing.T) {
	kinds := judges(t)
	all := slices.DeleteFunc(corpus(t), func(d document) bool {
		kind, _ := d.object["kind"].(string)
		return kinds[kind] == nil
	})
	objects := make([]map[string]any, len(all))
	for i, d := range all {
		objects[i] = d.object
	}
	taken, refused, beyond := 0, 0, 0
	for i, said := range agent(t, objects...) {
		where := fmt.Sprintf("%s: %s %v", all[i].where, all[i].object["kind"], all[i].object["metadata"])
		errs := kinds[all[i].object["kind"].(string)].refuse(t, integers(objects[i]).(map[string]any))
		switch {
		case said == "" && len(errs) == 0:
			taken++
		case said == "" && lintWarns(errs):
			beyond++
		case said == "":
			t.Errorf("the agent takes %s, the schema does not: %s", where, strings.Join(errs, "; "))
		case len(errs) > 0:
			refused++
		case sayable(said):
			t.Errorf("the schema takes %s, the agent does not: %s", where, said)
		default:
			beyond++
		}
	}
	t.Logf("%d objects: both take %d, both refuse %d, %d go beyond a schema", len(all), taken, refused, beyond)
	if taken < 200 {
		t.Errorf("of %d objects both take %d: this is not the corpus", len(all), taken)
	}
}

// lintWarns says whether all that the schema refuses is what the agent takes as Cilium does, and reports.
func lintWarns(errs []string) bool {
	for _, e := range errs {
		if !strings.Contains(e, "endPort") {
			return false
		}
	}
	return true
}

// sayable says whether a schema could have said that.
func sayable(said string) bool {
	for _, cannot := range []string{"matchLabels", "must lie inside cidr", "metadata."} {
		if strings.Contains(said, cannot) {
			return false
		}
	}
	return true
}

// integers makes whole numbers what the API server's decoder makes of them.
func integers(tree any) any {
	switch v := tree.(type) {
	case map[string]any:
		for key := range v {
			v[key] = integers(v[key])
		}
	case []any:
		for i := range v {
			v[i] = integers(v[i])
		}
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	}
	return tree
}
