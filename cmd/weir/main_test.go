// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestHelpIsOutputAndMistakesAreNot(t *testing.T) {
	calls := [][]string{{}, {"agent", "cleanup"}}
	for _, v := range verbs() {
		calls = append(calls, []string{v.name})
	}
	for _, call := range calls {
		name := strings.Join(append([]string{"weir"}, call...), " ")
		for _, flag := range []string{"--help", "-h"} {
			var out, errs bytes.Buffer
			code := run(t.Context(), append(call[:len(call):len(call)], flag), nil, &out, &errs)
			if code != exitFine || errs.Len() > 0 || !strings.Contains(out.String(), "Usage: "+name) {
				t.Errorf("%s %s: exit %d, stdout %q, stderr %q", name, flag, code, &out, &errs)
			}
		}
		var out, errs bytes.Buffer
		if code := run(t.Context(), append(call[:len(call):len(call)], "--no-such-flag"), nil, &out, &errs); code != exitUsage || out.Len() > 0 || errs.Len() == 0 {
			t.Errorf("%s --no-such-flag: exit %d, stdout %q, stderr %q", name, code, &out, &errs)
		}
	}
}

func TestAnUnknownVerbIsNamed(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"frobnicate"}, nil, &out, &errs); code != exitUsage || !strings.Contains(errs.String(), `"frobnicate"`) {
		t.Errorf("exit %d, %s", code, &errs)
	}
}

func TestCleanupOfNothing(t *testing.T) {
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"agent", "cleanup", "--pin-path", "/sys/fs/bpf/weir-was-never-here"}, nil, &out, &errs)
	if code != exitFine || out.Len()+errs.Len() > 0 {
		t.Errorf("exit %d, %s%s", code, &out, &errs)
	}
}
