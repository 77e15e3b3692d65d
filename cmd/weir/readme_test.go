// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// README.md has one row for each flag of the agent, in the words of --help, and no other.
func TestREADMEHasTheAgentsFlags(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile("(?m)^\\| `--.*$").FindAllString(string(text), -1)
	var want []string
	newAgentFlags(io.Discard).set.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		standard := "`" + f.DefValue + "`"
		if f.DefValue == "" {
			standard = ""
		}
		call := strings.TrimSuffix("--"+f.Name+" "+value, " ") // a switch takes no value
		want = append(want, fmt.Sprintf("| `%s` | %s | %s |", call, standard, usage))
	})
	if !slices.Equal(got, want) {
		t.Errorf("flags in README.md:\n%s\nof the agent:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
