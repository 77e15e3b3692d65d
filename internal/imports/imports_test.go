// SPDX-License-Identifier: Apache-2.0

// Package imports holds the tests of the repository itself: who may import whom, and what stands at the top of each file.
package imports

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/weirnet/weir/"

// allowed is the import table of ARCHITECTURE.md for non-test files: what a folder may import besides the standard
// library. A name without a dot is a folder of this module; it stands for everything below it.
var allowed = map[string][]string{
	"policy":            {},
	"bpf":               {"github.com/cilium/ebpf"},
	"xdp":               {"bpf", "github.com/cilium/ebpf"},
	"tc":                {"bpf", "github.com/cilium/ebpf"},
	"k8s":               {"k8s", "policy", "k8s.io", "sigs.k8s.io", "github.com/fsnotify/fsnotify"},
	"metrics":           {"bpf", "policy", "github.com/prometheus/client_golang"},
	"loader":            {"policy", "bpf", "xdp", "tc", "github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/vishvananda/netns", "golang.org/x/sys"},
	"loader/loadertest": {"loader", "policy", "bpf"}, // for tests only
	"internal/packet":   {"github.com/google/gopacket"},
	"internal/lab":      {"github.com/vishvananda/netlink", "golang.org/x/sys"},
	"bench":             {"loader", "policy", "bpf", "xdp", "internal", "github.com/cilium/ebpf", "golang.org/x/sys"},
}

func TestImportsAreThoseOfTheTable(t *testing.T) {
	forEachFile(t, func(path string, content []byte) {
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "cmd/") {
			return
		}
		folder, table := "", []string(nil)
		for name, may := range allowed {
			if strings.HasPrefix(path, name+"/") && len(name) > len(folder) {
				folder, table = name, may
			}
		}
		if folder == "" {
			t.Errorf("%s is in no folder of the import table", path)
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, content, parser.ImportsOnly)
		if err != nil {
			t.Errorf("parse %s: %v", path, err)
			return
		}
		for _, spec := range file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			local, inside := strings.CutPrefix(name, module)
			if !inside {
				local = name
				if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
					continue // standard library
				}
			}
			if !slices.ContainsFunc(table, func(may string) bool { return local == may || strings.HasPrefix(local, may+"/") }) {
				t.Errorf("%s imports %s, which %s may not", path, name, folder)
			}
		}
	})
}

// Every file says its licence, but for those that cannot hold a comment or are text for people.
func TestEveryFileHasAnSPDXLine(t *testing.T) {
	forEachFile(t, func(path string, content []byte) {
		if strings.HasPrefix(path, "LICENSE") || strings.HasPrefix(path, "bpf/include/") {
			return // the licences themselves; vendored headers keep their own
		}
		if strings.Contains(path, "/testdata/") || strings.Contains(path, "_bpfel.") {
			return
		}
		switch filepath.Ext(path) {
		case ".md", ".mod", ".sum", ".json", ".svg":
			return
		}
		head := content[:min(len(content), 400)]
		if !bytes.Contains(head, []byte("SPDX-License-Identifier:")) {
			t.Errorf("%s has no SPDX line at its top", path)
		}
		if want := licence(path); !bytes.Contains(head, []byte(want)) {
			t.Errorf("%s is not under %s", path, want)
		}
	})
}

func licence(path string) string {
	if ext := filepath.Ext(path); ext == ".c" || ext == ".h" {
		return "GPL-2.0-only OR BSD-2-Clause"
	}
	return "Apache-2.0"
}

func forEachFile(t *testing.T, f func(path string, content []byte)) {
	t.Helper()
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if relative == ".git" || relative == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		f(filepath.ToSlash(relative), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Fatalf("saw only %d files: this is not the repository", files)
	}
}
