// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"

	"github.com/weirnet/weir/internal/cni"
)

const (
	defaultCNIBinDir = "/opt/cni/bin"
	defaultCNIPlugin = "/weir-cni"
)

// cniFlags are the flags about pods that start, as given.
type cniFlags struct {
	set                                           *flag.FlagSet
	socket, confDir, binDir, plugin, agentMissing *string
}

func newCNIFlags(set *flag.FlagSet) *cniFlags {
	return &cniFlags{
		set: set,
		socket: set.String("socket", cni.DefaultSocket, "unix socket where the CNI plugin asks, `FILE`, alone in a directory of root's; empty, and "+
			"unless it is named with --manifests: none"),
		confDir: set.String("cni-conf-dir", "", "directory of network configurations, `DIR`: the CNI plugin is chained to the first one, "+
			"so that no pod runs before its policy is enforced; empty: not installed"),
		binDir: set.String("cni-bin-dir", defaultCNIBinDir, "where the container runtime looks for CNI plugins, `DIR`"),
		plugin: set.String("cni-plugin", defaultCNIPlugin, "the CNI plugin to install, `FILE`"),
		agentMissing: set.String("cni-agent-missing", "deny", "`MODE`: what the CNI plugin does with a pod that starts while no agent answers: deny "+
			"(the kubelet tries again) or allow (it runs unguarded until it is found)"),
	}
}

// config checks the flags. By default there is a socket only where there is a cluster.
func (f *cniFlags) config(cluster bool) (cniConfig, error) {
	c := cniConfig{socket: *f.socket, confDir: *f.confDir, binDir: *f.binDir, plugin: *f.plugin, agentMissing: *f.agentMissing}
	named := false
	f.set.Visit(func(g *flag.Flag) { named = named || g.Name == "socket" })
	if !cluster && !named {
		c.socket = ""
	}
	var errs []error
	for _, p := range []struct{ name, path string }{{"socket", c.socket}, {"cni-conf-dir", c.confDir}, {"cni-bin-dir", c.binDir}, {"cni-plugin", c.plugin}} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			errs = append(errs, fmt.Errorf("read flags: --%s %q: want an absolute path", p.name, p.path))
		}
	}
	if c.agentMissing != "deny" && c.agentMissing != "allow" {
		errs = append(errs, fmt.Errorf("read flags: --cni-agent-missing %q: want deny or allow", c.agentMissing))
	}
	if c.confDir != "" && (c.socket == "" || c.binDir == "" || c.plugin == "") {
		errs = append(errs, errors.New("read flags: --cni-conf-dir needs --socket, --cni-bin-dir and --cni-plugin"))
	}
	return c, errors.Join(errs...)
}
