// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/weirnet/weir/internal/cluster"
)

// defined is the cluster without nodes, with the definitions of deploy/crds as the chart installs them.
func defined(t *testing.T) *cluster.Cluster {
	t.Helper()
	c := chartOnAPIServer(t)
	kubectl(t, c, "wait", "--for=condition=Established", "--timeout=30s", "crd", "ciliumnetworkpolicies.cilium.io",
		"ciliumclusterwidenetworkpolicies.cilium.io", "ciliumcidrgroups.cilium.io")
	return c
}

// A real API server refuses each mistake by field and remedy.
func TestAPIServerRefusesMistakesByName(t *testing.T) {
	c := defined(t)
	archive, err := txtar.ParseFile("../crds/schema/testdata/refused.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		first, _, _ := strings.Cut(string(f.Data), "\n")
		field, says, ok := strings.Cut(strings.TrimPrefix(first, "# "), ": ")
		if !ok {
			t.Fatalf("%s: the first line says neither field nor message: %s", f.Name, first)
		}
		out, err := c.KubectlAs(t.Context(), c.Kubeconfig, strings.NewReader(string(f.Data)), "create", "--dry-run=server", "-f", "-")
		if err == nil {
			t.Errorf("%s: taken: %s", f.Name, out)
		} else if !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %s: %s", f.Name, err, field, says)
		}
	}
}

// All policies of a cilium.io kind that the repository's tests and examples enforce are taken, as they are.
func TestAPIServerTakesWhatWeirEnforces(t *testing.T) {
	c := defined(t)
	var documents []string
	namespaces := regexp.MustCompile(`(?m)^(  namespace:|metadata: \{.*namespace:) *[a-z0-9-]+`)
	keep := func(data []byte) {
		for _, text := range regexp.MustCompile(`(?m)^---.*$`).Split(string(data), -1) {
			if regexp.MustCompile(`(?m)^apiVersion: cilium.io/`).MatchString(text) && !regexp.MustCompile(`(?m)^kind: .*List`).MatchString(text) &&
				!strings.Contains(text, "port: '600', endPort: 599") { // Cilium ignores such an end; the definitions refuse it
				documents = append(documents, namespaces.ReplaceAllString(text, "${1} default"))
			}
		}
	}
	for _, path := range []string{"../crds/schema/testdata/taken.txtar", "../../cmd/weir/testdata", "../../k8s/lint/testdata/public"} {
		err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
			// Mistakes on purpose are in files that say so.
			if err != nil || filepath.Ext(path) != ".txtar" || strings.Contains(path, "refused") || strings.Contains(path, "odd") {
				return err
			}
			archive, err := txtar.ParseFile(path)
			if err != nil {
				return err
			}
			for _, f := range archive.Files {
				if strings.HasSuffix(f.Name, ".yaml") || strings.Contains(path, "taken") {
					keep(f.Data)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(documents) < 100 {
		t.Fatalf("found only %d policies", len(documents))
	}
	out, err := c.KubectlAs(t.Context(), c.Kubeconfig, strings.NewReader(strings.Join(documents, "\n---\n")), "create", "--dry-run=server", "-f", "-")
	if err != nil {
		t.Error(err)
	}
	if got := strings.Count(out, "created"); got != len(documents) {
		t.Errorf("%d of %d policies were taken", got, len(documents))
	}
}

// The chart installs a definition unless somebody else's is there.
func TestChartLeavesForeignDefinitionsAlone(t *testing.T) {
	c := defined(t)
	chart, err := cluster.Chart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const name = "ciliumnetworkpolicies.cilium.io"
	label := func(owner string) {
		kubectl(t, c, "label", "--overwrite", "crd", name, "app.kubernetes.io/name="+owner)
	}
	defer label("weir")
	for owner, want := range map[string]bool{"weir": true, "cilium": false} {
		label(owner)
		out, err := c.Helm(t.Context(), "upgrade", release, chart, "--namespace="+system, "--dry-run=server")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out, "\n  name: "+name+"\n"); got != want {
			t.Errorf("the definition is %s's: the chart installs it: %v, want %v", owner, got, want)
		}
		if !strings.Contains(out, "\n  name: ciliumcidrgroups.cilium.io\n") {
			t.Errorf("the definition is %s's: the chart installs no other", owner)
		}
	}
}
