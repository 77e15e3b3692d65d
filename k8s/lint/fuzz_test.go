// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirnet/weir/k8s"
)

// FuzzRun: whatever a file holds, lint ends, and each finding is of a known rule and on a line that the file has.
func FuzzRun(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatal(err, len(files))
	}
	for _, file := range files {
		for _, c := range scenarios(f, file) {
			var all []string
			for _, text := range c.files {
				all = append(all, text)
			}
			slices.Sort(all)
			f.Add([]byte(strings.Join(all, "\n---\n")))
		}
	}
	var ids []string
	for _, rule := range Rules() {
		ids = append(ids, rule.ID)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		in, err := k8s.Inspect(dir)
		if err != nil {
			t.Fatal(err)
		}
		report, err := Run(in, k8s.Options{})
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Count(data, []byte("\n")) + 1
		for _, found := range report.Findings {
			if !slices.Contains(ids, found.Rule) || found.File != "a.yaml" || found.Line < 1 || found.Line > lines || found.Message == "" {
				t.Errorf("finding %+v in %d lines", found, lines)
			}
		}
		if err := WriteSARIF(new(bytes.Buffer), report, dir, ""); err != nil {
			t.Error(err)
		}
	})
}
