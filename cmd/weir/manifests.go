// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/weirnet/weir/k8s"
)

// manifestSet is a directory of manifests, completed by what a cluster would add, with who is who in it and what it compiles
// to.
type manifestSet struct {
	dir     string
	options k8s.Options // how policies are read
	objects *k8s.Objects
	cluster *cluster
	brain   *brain
}

// openSet reads dir. What is invalid in it is an error that names every mistake.
func openSet(dir string, options k8s.Options) (*manifestSet, error) {
	objs, err := k8s.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := &manifestSet{dir: dir, options: options, objects: k8s.Expand(objs)}
	if s.cluster, err = newCluster(s.objects); err != nil {
		return nil, err
	}
	if s.brain, err = newBrain(s.objects, s.cluster, options); err != nil {
		return nil, err
	}
	return s, nil
}

// warn tells what is not enforced as written.
func (s *manifestSet) warn(stderr io.Writer, verb string) {
	for _, warning := range s.brain.warnings {
		fmt.Fprintf(stderr, "%s: %s\n", verb, warning)
	}
}

// complain writes an error of a verb, one line for each of those that it joins.
func complain(stderr io.Writer, verb string, err error) {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "%s: %s\n", verb, strings.TrimSuffix(line, "\n"))
	}
}

// parseMixed parses flags that may stand before, between and after the other arguments, which it returns.
func parseMixed(flags *flag.FlagSet, args []string) ([]string, error) {
	var rest, literal []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, literal = args[:i], args[i+1:]
	}
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return append(rest, literal...), nil
		}
		rest = append(rest, flags.Arg(0))
		args = flags.Args()[1:]
	}
}
