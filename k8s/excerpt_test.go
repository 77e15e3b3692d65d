// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An excerpt is found again in whatever form its object was written, on the line where it begins.
func TestExcerptIsWhatTheFileSays(t *testing.T) {
	block := `# a comment
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: first}
spec: {podSelector: {}}
---

---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: second
spec:
  podSelector: {}
  ingress:
  - from:
    - podSelector: {}
  - ports: # of the web
    - port: 80
`
	flow := `{apiVersion: v1, kind: List, items: [
  {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: flow, namespace: a}, spec: {podSelector: {}, ingress: [{}]}},
  {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: flow, namespace: b}, spec: {podSelector: {},
    ingress: [{ports: [{port: 1}, {port: 2}], from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [v, w]}]}}]}]}}]}
`
	anchors := `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: anchors}
spec:
  podSelector: &all {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: *all}]
`
	json := `{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "json1"}, "spec": {"podSelector": {}}}
{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "json2"},
	"spec": {"podSelector": {},
	"egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]}}
`
	cilium := `apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: all}
specs:
- endpointSelector: {}
  egressDeny: [{toEntities: [world]}]
`
	dir := t.TempDir()
	for name, text := range map[string]string{"cilium.yaml": cilium, "block.yaml": block, "flow.yaml": flow, "anchors.yaml": anchors, "two.json": json} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	objs, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		object, path, origin string
		line                 int
		text                 string
	}{
		{"NetworkPolicy default/second", "spec.ingress[1]", "block.yaml document 2", 18, "ports: # of the web\n  - port: 80\n"},
		{"NetworkPolicy default/first", "spec", "block.yaml document 1", 5, "podSelector: {}\n"},
		{"NetworkPolicy a/flow", "spec.ingress[0]", "flow.yaml document 1", 2, "{}\n"},
		{"NetworkPolicy b/flow", "spec.ingress[0]", "flow.yaml document 1", 4,
			"ports:\n  - port: 1\n  - port: 2\nfrom:\n  - podSelector:\n      matchExpressions:\n        - key: app\n          operator: In\n          values: [v, w]\n"},
		{"NetworkPolicy default/anchors", "spec.ingress[0]", "anchors.yaml document 1", 7, "from:\n  - podSelector:\n      matchLabels:\n        app: web\n"},
		{"CiliumClusterwideNetworkPolicy all", "specs[0].egressDeny[0]", "cilium.yaml document 1", 6, "toEntities: [world]\n"},
		{"NetworkPolicy default/json2", "spec.egress[0]", "two.json document 2", 4, "\"ports\":\n  - \"port\": 53\n    \"protocol\": \"UDP\"\n"},
	} {
		got, err := objs.Excerpt(dir, c.object, c.path)
		if err != nil || got.String() != c.origin || got.Line != c.line || got.Text != c.text {
			t.Errorf("%s %s: %v line %d, %v\n%s", c.object, c.path, got.Origin, got.Line, err, got.Text)
		}
	}
	for object, path := range map[string]string{"NetworkPolicy default/third": "spec", "NetworkPolicy default/second": "spec.ingress[2]",
		"NetworkPolicy default/first": "spec.ingress[0]"} {
		if got, err := objs.Excerpt(dir, object, path); err == nil || !strings.Contains(err.Error(), object) {
			t.Errorf("%s %s: %+v, %v", object, path, got, err)
		}
	}
}
