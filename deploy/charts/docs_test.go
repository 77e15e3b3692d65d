// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
)

// helm lint finds nothing.
func TestChartIsLinted(t *testing.T) {
	for _, m := range lint.RunAll(chartDir, nil, namespace).Messages {
		if m.Severity > support.InfoSev {
			t.Error(m)
		}
	}
}

// What the documents tell people to set, the chart takes, and the files that they name are there.
func TestDocumentsSetValuesThatExist(t *testing.T) {
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range append(paths, "../../README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("--set ([^ `\n\\\\]+)").FindAllStringSubmatch(string(text), -1) {
			found++
			if _, err := tryInstall(m[1]); err != nil {
				t.Errorf("%s: --set %s: %v", path, m[1], err)
			}
		}
		for _, m := range regexp.MustCompile(`deploy/[a-z0-9/.-]+\.yaml`).FindAllString(string(text), -1) {
			if _, err := os.Stat(filepath.Join("../..", m)); err != nil {
				t.Errorf("%s names %s: %v", path, m, err)
			}
		}
	}
	if found == 0 {
		t.Error("no document sets a value")
	}
}

// The values for k3s are values of the chart, and only what differs.
func TestPresetsAreTaken(t *testing.T) {
	paths, err := filepath.Glob(chartDir + "/values-*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("presets: %q, %v", paths, err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var values map[string]any
		if err := yaml.Unmarshal(data, &values); err != nil {
			t.Fatal(err)
		}
		out, err := render(chartDir, values)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if text := out.text(); strings.Contains(path, "k3s") && !strings.Contains(text, "--cni-conf-dir=/var/lib/rancher/k3s/agent/etc/cni/net.d") {
			t.Errorf("%s: the agent is not told where k3s has its configurations", path)
		}
	}
}
