// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// hierarchy is one of the machine's cgroup hierarchies: of version 1, each with its controllers, or the one of version 2.
type hierarchy struct {
	name        string // of its folder: "memory", "systemd"; empty: version 2
	controllers string // as mount names them: "memory", "name=systemd"
	path        string // of this process's cgroup in it
}

// joinCgroups moves this process into a cgroup of its own in each hierarchy and makes that the root of what it sees: so a
// kubelet believes to own the machine's cgroups.
func joinCgroups(name string) ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read own cgroups: %w", err)
	}
	var groups []hierarchy
	var unified *hierarchy
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("read own cgroups: unexpected line %q", line)
		}
		h := hierarchy{name: strings.TrimPrefix(parts[1], "name="), controllers: parts[1], path: parts[2]}
		if h.name == "" {
			unified = &h
			continue
		}
		groups = append(groups, h)
	}
	if len(groups) == 0 && unified != nil {
		groups = append(groups, *unified)
	}
	for _, h := range groups {
		if err := h.join(name); err != nil {
			return nil, fmt.Errorf("join cgroup %s of %q: %w", name, h.controllers, err)
		}
	}
	if err := syscall.Unshare(syscall.CLONE_NEWCGROUP); err != nil {
		return nil, fmt.Errorf("unshare cgroups: %w", err)
	}
	return groups, nil
}

func (h hierarchy) join(name string) error {
	parent := filepath.Join("/sys/fs/cgroup", h.name, h.path)
	if h.name == "" {
		parent = "/sys/fs/cgroup" // only the root may have processes and children with controllers
	}
	own := filepath.Join(parent, name)
	if err := os.MkdirAll(own, 0o755); err != nil {
		return err
	}
	if h.name == "cpuset" { // empty in a new group
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(own, file), value, 0o644); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte("0"), 0o644)
}

func mountCgroups(at string, groups []hierarchy) error {
	if len(groups) == 1 && groups[0].name == "" {
		if err := mount("cgroup2", at, "cgroup2", 0, ""); err != nil {
			return err
		}
		// A group that has children with controllers has no processes.
		leaf := filepath.Join(at, "init")
		available, err := os.ReadFile(filepath.Join(at, "cgroup.controllers"))
		if err != nil {
			return err
		}
		enable := ""
		for _, controller := range strings.Fields(string(available)) {
			enable += " +" + controller
		}
		return errors.Join(os.MkdirAll(leaf, 0o755), os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644),
			os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte(enable), 0o644))
	}
	if err := mount("tmpfs", at, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, h := range groups {
		dir := filepath.Join(at, h.name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		options := h.controllers
		if strings.HasPrefix(options, "name=") {
			options = "none," + options
		}
		if err := mount("cgroup", dir, "cgroup", 0, options); err != nil {
			return err
		}
	}
	return nil
}
