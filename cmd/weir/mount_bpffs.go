// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

const mountBPFFSHelp = `Usage: weir mount-bpffs [DIR]

Mounts the BPF file system on DIR, /sys/fs/bpf unless given, where none is mounted yet. systemd does that on its own; this
is for the chart's init container on hosts without it.
`

const defaultBPFFS = "/sys/fs/bpf"

// runMountBPFFS is the verb mount-bpffs. It is idempotent.
func runMountBPFFS(_ context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	set := flag.NewFlagSet("weir mount-bpffs", flag.ContinueOnError)
	set.SetOutput(helpOutput(args, stdout, stderr))
	set.Usage = func() { fmt.Fprint(set.Output(), mountBPFFSHelp) }
	err := set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return exitFine
	}
	if err == nil && set.NArg() > 1 {
		err = fmt.Errorf("unexpected argument %q", set.Arg(1))
		fmt.Fprintf(stderr, "weir mount-bpffs: %v\n", err)
	}
	if err != nil {
		return exitUsage
	}
	dir := defaultBPFFS
	if set.NArg() == 1 {
		dir = set.Arg(0)
	}
	mounted, err := mountBPFFS(dir)
	if err != nil {
		fmt.Fprintf(stderr, "weir mount-bpffs: %v\n", err)
		return exitFailed
	}
	if mounted {
		fmt.Fprintf(stdout, "mounted a BPF file system on %s\n", dir)
	} else {
		fmt.Fprintf(stdout, "%s is a BPF file system already\n", dir)
	}
	return exitFine
}

// mountBPFFS mounts a BPF file system on dir unless one is there, and says whether it did.
func mountBPFFS(dir string) (bool, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	if stat.Type == unix.BPF_FS_MAGIC {
		return false, nil
	}
	// As systemd does it: mode 0700, nothing to run.
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return false, fmt.Errorf("mount a BPF file system on %s: %w", dir, err)
	}
	return true, nil
}
