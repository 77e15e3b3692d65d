// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/weirnet/weir/loader"
)

const cleanupHelp = `Usage: weir agent cleanup [--pin-path DIR]

Takes weir off this node: detaches its programs and removes its tables. Nothing is enforced any more after that.
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
	if err := cleanup(*pinPath); err != nil {
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
