// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every container is started with a verb that weir has, and flags that the verb has.
func TestFlagsAreThoseOfTheVerbs(t *testing.T) {
	weir := filepath.Join(t.TempDir(), "weir")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", weir, "./cmd/weir")
	build.Dir, build.Env = "../..", append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build weir: %v\n%s", err, out)
	}
	asked := map[string]bool{}
	for name, set := range variants {
		for _, pod := range pods(t, install(t, strings.TrimPrefix(set+",crds.install=false", ","))) {
			for _, c := range append(pod.InitContainers, pod.Containers...) {
				asked[c.Args[0]] = true
				// Flags are read in order: an unknown one is complained of before help is asked for.
				args := append(slices.Clone(c.Args), "--help")
				if c.Args[0] == "mount-bpffs" { // its argument ends its flags
					args = []string{c.Args[0], "--help"}
				}
				if out, err := exec.CommandContext(t.Context(), weir, args...).CombinedOutput(); err != nil {
					t.Errorf("%s: container %s: weir %q: %v\n%.300s", name, c.Name, c.Args, err, out)
				}
			}
		}
	}
	if len(asked) != 5 {
		t.Errorf("asked for %v only", asked)
	}
}
