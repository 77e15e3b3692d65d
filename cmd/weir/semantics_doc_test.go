// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every row of docs/policy-semantics.md names what tests it, all of that exists, and no case of testdata/check is left out. A
// test is a case, as in np-ports, or a function of a folder, as in k8s.TestServices.
func TestEverySemanticsRowHasItsTest(t *testing.T) {
	text := read(t, "../../docs/policy-semantics.md")
	named := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") || strings.HasSuffix(line, "| test |") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		if len(cells) != 3 {
			t.Errorf("a row is FIELD | HOW IT IS READ | TEST: %s", line)
			continue
		}
		tests := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1)
		if len(tests) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, test := range tests {
			named[test[1]] = true
		}
	}
	if len(named) == 0 {
		t.Fatal("no row was found")
	}
	cases, err := filepath.Glob("testdata/check/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("find cases: %v, %d found", err, len(cases))
	}
	for _, path := range cases {
		if name := strings.TrimSuffix(filepath.Base(path), ".txtar"); !named[name] {
			t.Errorf("no row of docs/policy-semantics.md names the case %s", name)
		}
	}
	for name := range named {
		folder, function, isGo := strings.Cut(name, ".")
		if !isGo {
			if _, err := os.Stat(filepath.Join("testdata/check", name+".txtar")); err != nil {
				t.Errorf("docs/policy-semantics.md names a case that is not there: %v", err)
			}
			continue
		}
		if !hasTest(t, filepath.Join("../..", folder), function) {
			t.Errorf("docs/policy-semantics.md names %s, which is no test", name)
		}
	}
}

// hasTest says whether a folder's tests have a function.
func hasTest(t *testing.T, folder, function string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.Contains(read(t, name), "\nfunc "+function+"(") {
			return true
		}
	}
	return false
}
