// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// What a node has of Debian's. The packages are unpacked into a folder that nodes see over their /usr; nothing is
// installed on this machine, and no service starts.
var packages = []string{"containerd", "runc", "containernetworking-plugins", "conntrack", "iptables", "nftables", "tcpdump"}

// debianPackages downloads the packages, and those of their dependencies that this machine lacks. apt checks what it
// downloads against the archive's signatures.
func (c *cache) debianPackages(ctx context.Context) (string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("tell which Debian this is: %w", err)
	}
	return c.folder("debian", [][]byte{release, []byte(strings.Join(packages, " "))}, func(dir string) error {
		names, err := missing(ctx)
		if err != nil { // the lists may be missing, or older than the archive
			if _, err := run(ctx, "", nil, "apt-get", "update", "-qq"); err != nil {
				return err
			}
			if names, err = missing(ctx); err != nil {
				return err
			}
		}
		archives := filepath.Join(dir, ".archives")
		if err := os.Mkdir(archives, 0o755); err != nil {
			return err
		}
		download := func() error {
			_, err := run(ctx, archives, nil, "apt-get", append([]string{"download", "-qq", "-o", "APT::Sandbox::User=root"}, names...)...)
			return err
		}
		if err := download(); err != nil { // the lists may name versions that the archive has replaced since
			if _, err := run(ctx, "", nil, "apt-get", "update", "-qq"); err != nil {
				return err
			}
			if err := download(); err != nil {
				return err
			}
		}
		files, err := filepath.Glob(filepath.Join(archives, "*.deb"))
		if err != nil {
			return err
		}
		if len(files) < len(names) {
			return fmt.Errorf("download %d packages: only %d came", len(names), len(files))
		}
		for _, file := range files {
			if _, err := run(ctx, "", nil, "dpkg-deb", "-x", file, dir); err != nil {
				return err
			}
		}
		return errors.Join(os.RemoveAll(archives), alternatives(dir))
	})
}

var toInstall = regexp.MustCompile(`(?m)^Inst (\S+)`)

// missing are the packages that installing ours would bring, whether or not ours are installed here already.
func missing(ctx context.Context) ([]string, error) {
	arguments := append([]string{"install", "-s", "-y", "-qq", "--no-install-recommends", "--reinstall"}, packages...)
	out, err := run(ctx, "", []string{"LC_ALL=C"}, "apt-get", arguments...)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, match := range toInstall.FindAllStringSubmatch(out, -1) {
		names = append(names, match[1])
	}
	if len(names) < len(packages) {
		return nil, fmt.Errorf("find %v in Debian's archive: apt-get knows only %v", packages, names)
	}
	return names, nil
}

// alternatives are the links that the packages' scripts, which do not run, would have made.
func alternatives(dir string) error {
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		if err := os.Symlink("xtables-nft-multi", filepath.Join(dir, "usr/sbin", name)); err != nil {
			return fmt.Errorf("choose an iptables: %w", err)
		}
	}
	return nil
}
