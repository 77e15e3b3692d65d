// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"
)

var ours = regexp.MustCompile(`^weirk8s-([0-9]+)-`)

// sweep removes files and cgroups of clusters whose process was killed; all else died with it.
func sweep() error {
	var errs []error
	entries, err := os.ReadDir(os.TempDir())
	if err != nil {
		return fmt.Errorf("look for dead clusters: %w", err)
	}
	for _, entry := range entries {
		if match := ours.FindStringSubmatch(entry.Name()); match != nil && !alive(match[1]) {
			errs = append(errs, os.RemoveAll(filepath.Join(os.TempDir(), entry.Name())))
		}
	}
	for _, dir := range cgroups(func(name string) bool {
		match := ours.FindStringSubmatch(name)
		return match != nil && !alive(match[1])
	}) {
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

func alive(pid string) bool {
	number, err := strconv.Atoi(pid)
	return err == nil && syscall.Kill(number, 0) == nil
}

func removeCgroups(name string) error {
	var errs []error
	for _, dir := range cgroups(func(n string) bool { return n == name }) {
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

// cgroups finds the topmost groups of some name in all hierarchies.
func cgroups(wanted func(name string) bool) (found []string) {
	filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil // groups come and go
		}
		if wanted(entry.Name()) {
			found = append(found, path)
			return fs.SkipDir
		}
		return nil
	})
	return found
}

// removeTree removes a cgroup and those below it. Their last processes may take a moment to be gone.
func removeTree(dir string) error {
	var dirs []string
	filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	slices.Reverse(dirs)
	deadline := time.Now().Add(5 * time.Second)
	for _, dir := range dirs {
		for {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("remove cgroup: %w", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}
