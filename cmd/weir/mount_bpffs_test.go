// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The second call finds the first one's mount; what is no directory is refused.
func TestMountBPFFSIsIdempotent(t *testing.T) {
	dir := t.TempDir()
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for _, want := range []string{"mounted a BPF file system on " + dir, "is a BPF file system already"} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"mount-bpffs", dir}, nil, &stdout, &stderr); code != exitFine || !strings.Contains(stdout.String(), want) {
			t.Fatalf("exit %d, %q %q, want %q", code, &stdout, &stderr, want)
		}
		var stat unix.Statfs_t
		if err := unix.Statfs(dir, &stat); err != nil || stat.Type != unix.BPF_FS_MAGIC {
			t.Fatalf("%s is of type %#x (%v)", dir, stat.Type, err)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"mount-bpffs", dir + "/nowhere"}, nil, &stdout, &stderr); code != exitFailed {
		t.Errorf("exit %d, %q, want a failure", code, &stderr)
	}
}
