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

// furnish gives the node a view of the machine that it can change without changing the machine.
func (f *Furnishing) furnish() error {
	if err := syscall.Sethostname([]byte(f.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	groups, err := joinCgroups(f.Cgroup)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return mount("proc", "/proc", "proc", 0, "") },
		f.showSysctls,
		func() error { return f.mountSys(groups) },
		f.overlays,
		f.directories,
		f.installPlugins,
		// Containers' mounts must reach the kubelet's and the agent's views.
		func() error { return mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, "") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// showSysctls shows the kubelet files with the values it insists on, rather than change the kernel that all share.
func (f *Furnishing) showSysctls() error {
	dir := filepath.Join(f.Dir, "sysctl")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, value := range map[string]string{"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10",
		"kernel/panic_on_oops": "1", "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000"} {
		path := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(path); err != nil {
			continue // not in this kernel
		}
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := mount(file, path, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// mountSys gives the node the /sys of its network namespace, its own cgroups, and a bpffs that lasts as long as it does.
func (f *Furnishing) mountSys(groups []hierarchy) error {
	sys := filepath.Join(f.Dir, "sys")
	if err := os.MkdirAll(sys, 0o755); err != nil {
		return err
	}
	if err := mount("sysfs", sys, "sysfs", 0, ""); err != nil {
		return err
	}
	if err := mountCgroups(filepath.Join(sys, "fs/cgroup"), groups); err != nil {
		return err
	}
	if err := mount("bpf", filepath.Join(sys, "fs/bpf"), "bpf", 0, "mode=0700"); err != nil {
		return err
	}
	return mount(sys, "/sys", "", syscall.MS_BIND|syscall.MS_REC, "")
}

// overlays send what the node writes into its own folder; under /usr it sees the unpacked packages.
func (f *Furnishing) overlays() error {
	for name, lower := range map[string]string{"etc": "/etc", "var": "/var", "opt": "/opt", "usr": filepath.Join(f.Debian, "usr") + ":/usr"} {
		upper, work := filepath.Join(f.Dir, "changes", name), filepath.Join(f.Dir, "work", name)
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755), os.MkdirAll("/"+name, 0o755)); err != nil {
			return err
		}
		if err := mount("overlay", "/"+name, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work); err != nil {
			return err
		}
	}
	return nil
}

// directories are those that forget with each restart, and those that cannot be overlays, since containerd makes some.
func (f *Furnishing) directories() error {
	if err := mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"/run/netns", "/run/lock", "/run/flannel", "/var/log/pods", "/etc/cni/net.d", "/etc/kube-flannel", "/opt/cni/bin"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"containerd", "kubelet"} {
		own, place := filepath.Join(f.Dir, name), "/var/lib/"+name
		if err := errors.Join(os.MkdirAll(own, 0o755), os.MkdirAll(place, 0o755)); err != nil {
			return err
		}
		if err := mount(own, place, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// installPlugins puts the CNI plugins where Kubernetes' own packages put them, and not where Debian does.
func (f *Furnishing) installPlugins() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	plugins := map[string]string{"flannel": self}
	for _, name := range []string{"bridge", "host-local", "loopback", "portmap"} {
		plugins[name] = filepath.Join("/usr/lib/cni", name)
	}
	for name, source := range plugins {
		content, err := os.ReadFile(source)
		if err != nil {
			return fmt.Errorf("install CNI plugin: %w", err)
		}
		if err := os.WriteFile(filepath.Join("/opt/cni/bin", name), content, 0o755); err != nil {
			return fmt.Errorf("install CNI plugin: %w", err)
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := syscall.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s%s on %s: %w", kind, source, target, err)
	}
	return nil
}
