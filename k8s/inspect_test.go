// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// inspect writes files into a directory and inspects it.
func inspect(t *testing.T, files map[string]string) *Inspection {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in, err := Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestInspectKeepsWhatIsRightAndListsAllThatIsWrong(t *testing.T) {
	in := inspect(t, map[string]string{
		"a.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: fine}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: Wrong}\n---\na: [\n",
		"b.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: b, labels: {x: [], z: []}}\n",
	})
	var got []string
	for _, p := range in.Problems {
		got = append(got, p.Origin.String()+" "+p.Path)
	}
	want := []string{"a.yaml document 2 metadata.name", "a.yaml document 3 ", "b.yaml document 1 metadata.labels[x]", "b.yaml document 1 metadata.labels[z]"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("problems at %q, want %q", got, want)
	}
	if len(in.Objects.Namespaces) != 1 || in.Objects.Namespaces[0].Name != "fine" {
		t.Errorf("%d namespaces are left, want the one that is right", len(in.Objects.Namespaces))
	}
	for name := range in.Objects.All() {
		if name != "Namespace fine" {
			t.Errorf("%s is among the objects", name)
		}
	}
}

// ReadDir and Inspect must not disagree about what is right.
func TestInspectFindsNothingWrongWhereReadDirDoesNot(t *testing.T) {
	in, err := Inspect("testdata/seed")
	if err != nil || len(in.Problems) > 0 {
		t.Fatal(err, in.Problems)
	}
	objs, err := ReadDir("testdata/seed")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in.Objects.CiliumNetworkPolicies, objs.CiliumNetworkPolicies) || len(in.Objects.Workloads.Deployments) != len(objs.Workloads.Deployments) {
		t.Error("the objects differ")
	}
	if _, err := Inspect("testdata/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestLinesOfFields(t *testing.T) {
	const policies = `# a comment

apiVersion: v1
kind: List
items:
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: a}
  spec:
    podSelector: {}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata:
    name: b
    annotations:
      example.com/x.y: "1"
  spec:
    podSelector: {}
    ingress:
    - from:
      - podSelector: {}
      -
        podSelector:
          matchLabels: {app: web}
--- # the second
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: c, namespace: other}
spec:
  podSelector: &all {}
  ingress: [{from: [
    {podSelector: *all}]}]
`
	const stream = "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"x\"}}\n\n{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\n\t\t\"name\": \"y\"\n\t}\n}\n"
	in := inspect(t, map[string]string{"p.yaml": "\xef\xbb\xbf" + policies, "s.json": stream, "n.yaml": "\n# nothing\n---\n\n\na: [\n"})
	for _, c := range []struct {
		file           string
		document, line int
		object, path   string
	}{
		{"p.yaml", 1, 6, "NetworkPolicy default/a", ""},
		{"p.yaml", 1, 10, "NetworkPolicy default/a", "spec.podSelector"},
		{"p.yaml", 1, 11, "NetworkPolicy default/b", ""},
		{"p.yaml", 1, 16, "NetworkPolicy default/b", "metadata.annotations[example.com/x.y]"},
		{"p.yaml", 1, 19, "NetworkPolicy default/b", "spec.ingress"},
		{"p.yaml", 1, 20, "NetworkPolicy default/b", "spec.ingress[0].from"},
		{"p.yaml", 1, 21, "NetworkPolicy default/b", "spec.ingress[0].from[0].podSelector"},
		{"p.yaml", 1, 24, "NetworkPolicy default/b", "spec.ingress[0].from[1].podSelector.matchLabels[app]"},
		{"p.yaml", 1, 20, "NetworkPolicy default/b", "spec.ingress[0].ports[3]"},
		{"p.yaml", 2, 26, "NetworkPolicy other/c", ""},
		{"p.yaml", 2, 32, "NetworkPolicy other/c", "spec.ingress[0].from[0].podSelector.matchLabels"},
		{"s.json", 1, 1, "Namespace x", "metadata.name"},
		{"s.json", 2, 3, "Namespace y", ""},
		{"s.json", 2, 7, "Namespace y", "metadata.name"},
		{"n.yaml", 1, 6, "", ""},
		{"missing.yaml", 1, 0, "", ""},
	} {
		if got := in.Line(Origin{File: c.file, Document: c.document}, c.object, c.path); got != c.line {
			t.Errorf("%s document %d, %s %s: line %d, want %d", c.file, c.document, c.object, c.path, got, c.line)
		}
	}
}

func TestTreeHasTheListsThatAreEmpty(t *testing.T) {
	in := inspect(t, map[string]string{"a.yaml": "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec: {endpointSelector: {}, ingress: [{fromEndpoints: []}]}\n"})
	tree := in.Tree(Origin{File: "a.yaml", Document: 1}, "CiliumNetworkPolicy default/a")
	rule := tree.(map[string]any)["spec"].(map[string]any)["ingress"].([]any)[0].(map[string]any)
	if list, ok := rule["fromEndpoints"].([]any); !ok || len(list) != 0 {
		t.Errorf("the rule is %v", rule)
	}
}

func TestWithoutLeavesOutWhatIsNamedAndNothingElse(t *testing.T) {
	in := inspect(t, map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}]}\n---\n" +
		"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n---\n" +
		"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: other}\nspec: {podSelector: {}}\n"})
	less := in.Objects.Without([]string{"NetworkPolicy default/a", "Namespace other"})
	if len(less.Pods) != 1 || len(less.NetworkPolicies) != 1 || less.NetworkPolicies[0].Namespace != "other" {
		t.Errorf("%d pods and %d policies are left, want the pod and the policy of the other namespace", len(less.Pods), len(less.NetworkPolicies))
	}
	if len(in.Objects.NetworkPolicies) != 2 {
		t.Error("the original has changed")
	}
	if origin := less.Origin(less.Pods[0]); origin.Document != 1 {
		t.Errorf("the pod comes from %s", origin)
	}
}
