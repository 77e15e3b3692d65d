// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// file is something in the image: an absolute path inside, and what is there.
type file struct {
	path string
	mode int64
	data []byte
}

// compile builds weir's programs for an architecture, static and without paths of this machine, below dir.
func compile(ctx context.Context, root, dir, arch, version string, stderr io.Writer) ([]file, error) {
	var out []file
	for _, program := range []string{"weir", "weir-cni"} {
		target, err := filepath.Abs(filepath.Join(dir, program))
		if err != nil {
			return nil, fmt.Errorf("compile %s: %w", program, err)
		}
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w -X main.release="+version, "-o", target, "./cmd/"+program)
		build.Dir = root
		// A workspace, or flags from outside, would make it another program.
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0")
		build.Stdout, build.Stderr = stderr, stderr
		if err := build.Run(); err != nil {
			return nil, fmt.Errorf("compile %s for %s: %w", program, arch, err)
		}
		data, err := os.ReadFile(target)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", program, err)
		}
		out = append(out, file{path: "/" + program, mode: 0o755, data: data})
	}
	return out, nil
}

// licences are the texts that must go with the programs.
func licences(root string) ([]file, error) {
	paths, err := filepath.Glob(filepath.Join(root, "LICENSES", "*"))
	if err != nil {
		return nil, fmt.Errorf("find licences: %w", err)
	}
	var out []file
	for _, path := range append(paths, filepath.Join(root, "LICENSE")) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read licence: %w", err)
		}
		out = append(out, file{path: "/licenses/" + filepath.Base(path), mode: 0o644, data: data})
	}
	return out, nil
}

// commit is the revision that root is at and its time, which is the image's. SOURCE_DATE_EPOCH wins
// (https://reproducible-builds.org/specs/source-date-epoch/); without either, the epoch itself.
func commit(ctx context.Context, root string) (revision string, at time.Time) {
	at = time.Unix(0, 0)
	out, err := exec.CommandContext(ctx, "git", "-C", root, "log", "-1", "--format=%H %ct").Output()
	if hash, seconds, ok := strings.Cut(string(bytes.TrimSpace(out)), " "); err == nil && ok {
		revision = hash
		if n, err := strconv.ParseInt(seconds, 10, 64); err == nil {
			at = time.Unix(n, 0)
		}
	}
	if n, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		at = time.Unix(n, 0)
	}
	return revision, at
}
