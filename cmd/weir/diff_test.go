// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// differ runs the verb.
func differ(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = runDiff(context.Background(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// TestDiffCases pins what is written for each kind of change.
func TestDiffCases(t *testing.T) {
	for pattern, base := range map[string]string{"testdata/diff/seed.txtar": "", "testdata/diff/[^s]*.txtar": read(t, clusterFile)} {
		replayCases(t, pattern, base, func(args []string) (int, string) {
			code, out, errs := differ(t, "", args...)
			return code, out + errs
		})
	}
}

// TestDiffRefusals: trouble is exit code 2, and nothing is written.
func TestDiffRefusals(t *testing.T) {
	good := manifests(t, map[string]string{"cluster.yaml": read(t, clusterFile)})
	bad := manifests(t, map[string]string{"a.yaml": "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\nspec: {podSelector: {}, ingres: []}\n"})
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"one directory", []string{good}, "OLD NEW are wanted, 1 given"},
		{"unknown output", []string{good, good, "--output", "xml"}, `--output is "xml": it must be json or text`},
		{"no directory", []string{good, good + "/none"}, "read " + good + "/none: "},
		{"invalid objects", []string{bad, good}, "ingres"},
		{"no flows", []string{good, good, "--flows", good + "/none"}, "open flows: open " + good + "/none: no such file or directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errs := differ(t, "", c.args...)
			if code != diffTrouble || out != "" || !strings.Contains(errs, c.says) {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, out, errs)
			}
		})
	}
	code, out, errs := differ(t, "\ufeff"+`{"src":"default/web","dst":"default/db","protocol":"TCP","port":80}`, good, good, "--flows", "-")
	if code != diffSame || errs != "" || !strings.HasPrefix(out, "0 flows cut, 0 newly admitted, 1 as before, 0 unknown") {
		t.Errorf("flows from standard input: exit code %d, %q, %q", code, out, errs)
	}
}
