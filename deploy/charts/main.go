// SPDX-License-Identifier: Apache-2.0

// Command charts renders weir's chart with Helm's own engine: as the plain manifest deploy/weir.yaml, and as the page of its
// values, docs/helm-values.md. Both are committed, and a test renders them again.
//
// It is a module of its own: Helm is none of the agent's dependencies. Helm itself can be built from here, too:
// go build helm.sh/helm/v4/cmd/helm.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	root := flag.String("root", "../..", "the repository, `DIR`")
	flag.Parse()
	if err := write(*root); err != nil {
		fmt.Fprintln(os.Stderr, "charts:", err)
		os.Exit(1)
	}
}

func write(root string) error {
	for path, render := range pages() {
		text, err := render(filepath.Join(root, "deploy/charts/weir"))
		if err != nil {
			return fmt.Errorf("render %s: %w", path, err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

// pages are the files that are made from the chart.
func pages() map[string]func(dir string) (string, error) {
	return map[string]func(dir string) (string, error){"deploy/weir.yaml": plain, "docs/helm-values.md": valuesPage}
}
