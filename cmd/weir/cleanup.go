// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/weirnet/weir/internal/cni/install"
	"github.com/weirnet/weir/loader"
)

const cleanupHelp = `Usage: weir agent cleanup [--pin-path DIR] [--cni-conf-dir DIR [--cni-bin-dir DIR]]

Takes weir off this node: takes the CNI plugin out of the configurations in --cni-conf-dir, detaches its programs and
removes its tables. Nothing is enforced any more after that.
Where there is nothing to remove, nothing happens. An agent that still runs must be stopped first.

Flags:
`

// runCleanup is "weir agent cleanup". It is idempotent.
func runCleanup(args []string, stdout, stderr io.Writer) int {
	set := flag.NewFlagSet("weir agent cleanup", flag.ContinueOnError)
	set.SetOutput(helpOutput(args, stdout, stderr))
	set.Usage = func() {
		fmt.Fprint(set.Output(), cleanupHelp)
		set.PrintDefaults()
	}
	pinPath := set.String("pin-path", defaultPinPath, "directory where programs and tables live, `DIR`")
	confDir := set.String("cni-conf-dir", "", "directory of network configurations that the CNI plugin is taken out of, `DIR`; empty: it stays")
	binDir := set.String("cni-bin-dir", defaultCNIBinDir, "where the CNI plugin lies, `DIR`")
	err := set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return exitFine
	}
	if err == nil && set.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", set.Arg(0))
		fmt.Fprintf(stderr, "weir agent cleanup: %v\n", err)
	}
	if err != nil {
		return exitUsage
	}
	err = nil
	if *confDir != "" {
		err = install.Remove(*confDir, *binDir)
	}
	if err = errors.Join(err, cleanup(*pinPath)); err != nil {
		fmt.Fprintf(stderr, "weir agent cleanup: %v\n", err)
		return exitFailed
	}
	return exitFine
}

func cleanup(pinPath string) error {
	if _, err := os.Lstat(pinPath); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := loader.LockPins(pinPath)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := loader.DetachAll(pinPath); err != nil {
		return err
	}
	return loader.Remove(pinPath)
}
