// SPDX-License-Identifier: Apache-2.0

// Command image builds weir's container image: no daemon, no root, nothing below it. It compiles the programs, lays them into
// one layer per architecture, and writes a tar that `ctr images import`, `docker load` and `podman load` accept; or it pushes.
// Two runs on one commit with one Go toolchain give the same bytes.
//
// It is a module of its own: the agent, which runs as root, then depends on none of what talks to registries.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

const usage = `Usage: image [flags]

Builds weir's image for the architectures given and writes it to a tar; with --push, to the registry that --name names too
(credentials: those of docker login).

Flags:
`

// config is what the flags say.
type config struct {
	root   string // of the repository
	name   name.Tag
	out    string // empty: no tar
	arches []string
	push   bool
	labels labels
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, err := parse(ctx, args, stderr)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "weir-image-")
	if err != nil {
		return fmt.Errorf("make a work directory: %w", err)
	}
	defer os.RemoveAll(work)
	var platforms []platform
	for _, arch := range c.arches {
		programs, err := compile(ctx, c.root, filepath.Join(work, arch), arch, c.labels.version, stderr)
		if err != nil {
			return err
		}
		texts, err := licences(c.root)
		if err != nil {
			return err
		}
		platforms = append(platforms, platform{arch: arch, files: append(programs, texts...)})
	}
	index, err := assemble(platforms, c.labels)
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return fmt.Errorf("hash image: %w", err)
	}
	if c.out != "" {
		if err := save(index, c.name, c.out); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s %s %s (%s)\n", c.out, c.name, digest, strings.Join(c.arches, ", "))
	}
	if c.push {
		if err := push(ctx, index, c.name); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "pushed %s@%s\n", c.name, digest)
	}
	return nil
}

func parse(ctx context.Context, args []string, stderr io.Writer) (config, error) {
	set := flag.NewFlagSet("image", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() {
		fmt.Fprint(stderr, usage)
		set.PrintDefaults()
	}
	root := set.String("root", "../..", "the repository, `DIR`")
	ref := set.String("name", "", "repository and tag of the image, `NAME:TAG` (required)")
	out := set.String("out", "", "`FILE` to write the tar to; empty: none")
	arches := set.String("arch", runtime.GOARCH, "architectures, `ARCH,...`: amd64, arm64")
	pushed := set.Bool("push", false, "push the image to the registry of --name")
	version := set.String("version", "", "`VERSION` for the image's label; default: the tag")
	if err := set.Parse(args); err != nil {
		return config{}, err
	}
	if set.NArg() > 0 {
		return config{}, fmt.Errorf("read flags: unexpected argument %q", set.Arg(0))
	}
	if *out == "" && !*pushed {
		return config{}, errors.New("read flags: nothing to do, give --out or --push")
	}
	tag, err := name.NewTag(*ref, name.StrictValidation)
	if err != nil {
		return config{}, fmt.Errorf("read flags: --name: %w", err)
	}
	c := config{root: *root, name: tag, out: *out, push: *pushed}
	for _, arch := range strings.Split(*arches, ",") {
		if arch != "amd64" && arch != "arm64" {
			return config{}, fmt.Errorf("read flags: --arch %q: want amd64 or arm64: the BPF objects are little endian, and others are not tested", arch)
		}
		if !slices.Contains(c.arches, arch) {
			c.arches = append(c.arches, arch)
		}
	}
	revision, created := commit(ctx, *root)
	c.labels = labels{version: *version, revision: revision, created: created}
	if c.labels.version == "" {
		c.labels.version = tag.TagStr()
	}
	return c, nil
}

// labels are what an image says about where it comes from.
type labels struct {
	version, revision string
	created           time.Time
}

func (l labels) strings() map[string]string {
	out := map[string]string{
		"org.opencontainers.image.title":       "weir",
		"org.opencontainers.image.description": "Kubernetes network policy in XDP on the NIC, on top of a VXLAN overlay",
		"org.opencontainers.image.vendor":      "weirnet",
		"org.opencontainers.image.url":         "https://github.com/weirnet/weir",
		"org.opencontainers.image.source":      "https://github.com/weirnet/weir",
		"org.opencontainers.image.licenses":    "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
		"org.opencontainers.image.version":     l.version,
		"org.opencontainers.image.created":     l.created.UTC().Format(time.RFC3339),
	}
	if l.revision != "" {
		out["org.opencontainers.image.revision"] = l.revision
	}
	return out
}
