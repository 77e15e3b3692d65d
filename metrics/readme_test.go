// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// README.md has one row for each metric of the golden scrape, with its type, labels and help, and no other.
func TestREADMEHasEveryMetric(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile("(?m)^\\| `weir_.*$").FindAllString(string(text), -1)
	scrape, err := os.ReadFile("testdata/scrape.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	label := regexp.MustCompile(`([a-z]+)="`)
	for _, family := range strings.Split(string(scrape), "# HELP ")[1:] {
		lines := strings.Split(family, "\n")
		name, help, _ := strings.Cut(lines[0], " ")
		kind := lines[1][strings.LastIndex(lines[1], " ")+1:]
		var labels []string
		for _, match := range label.FindAllStringSubmatch(lines[2], -1) {
			if match[1] != "le" { // of a histogram's buckets
				labels = append(labels, match[1])
			}
		}
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", name, kind, strings.Join(labels, ", "), help))
	}
	if !slices.Equal(got, want) {
		t.Errorf("metrics in README.md:\n%s\nas exported:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
