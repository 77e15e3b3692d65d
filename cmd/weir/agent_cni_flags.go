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

	defaultCNICacheDir = "/var/lib/cni"
)

// cniFlags are the flags about pods that start, as given.
type cniFlags struct {
	set                                                     *flag.FlagSet
	socket, confDir, binDir, plugin, agentMissing, cacheDir *string
}

func newCNIFlags(set *flag.FlagSet) *cniFlags {
	return &cniFlags{
		set: set,
		socket: set.String("socket", cni.DefaultSocket, "unix socket where the CNI plugin asks, `FILE`, alone in a directory of root's; empty, and "+
			"unless it is named with --manifests: none"),
		confDir: set.String("cni-conf-dir", "", "directory of network configurations, `DIR`: the CNI plugin is chained to the first one, "+
			"so that no pod runs before its policy is enforced; empty: not installed"),
		binDir: set.String("cni-bin-dir", defaultCNIBinDir, "where the container runtime looks for CNI plugins, `DIR`"),
		plugin: set.String("cni-plugin", defaultCNIPlugin, "the CNI plugin to install, `FILE`; empty: one that is installed is removed"),
		agentMissing: set.String("cni-agent-missing", "deny", "`MODE`: what the CNI plugin does with a pod that starts while no agent answers: deny "+
			"(the kubelet tries again) or allow (it runs unguarded until it is found)"),
		cacheDir: set.String("cni-cache-dir", defaultCNICacheDir, "where the container runtime writes down how it has connected pods, `DIR`: how pods are "+
			"met that start without the plugin; empty, and unless it is named with --manifests: it is not read"),
	}
}

// config checks the flags. By default there is a socket, and a runtime's records are read, only where there is a cluster.
func (f *cniFlags) config(cluster bool) (cniConfig, error) {
	c := cniConfig{socket: *f.socket, confDir: *f.confDir, binDir: *f.binDir, plugin: *f.plugin, agentMissing: *f.agentMissing, cacheDir: *f.cacheDir}
	named := map[string]bool{}
	f.set.Visit(func(g *flag.Flag) { named[g.Name] = true })
	if !cluster && !named["socket"] {
		c.socket = ""
	}
	if !cluster && !named["cni-cache-dir"] {
		c.cacheDir = ""
	}
	var errs []error
	for _, p := range []struct{ name, path string }{{"socket", c.socket}, {"cni-conf-dir", c.confDir}, {"cni-bin-dir", c.binDir}, {"cni-plugin", c.plugin},
		{"cni-cache-dir", c.cacheDir}} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			errs = append(errs, fmt.Errorf("read flags: --%s %q: want an absolute path", p.name, p.path))
		}
	}
	if c.agentMissing != "deny" && c.agentMissing != "allow" {
		errs = append(errs, fmt.Errorf("read flags: --cni-agent-missing %q: want deny or allow", c.agentMissing))
	}
	if c.confDir != "" && (c.binDir == "" || c.plugin != "" && c.socket == "") {
		errs = append(errs, errors.New("read flags: --cni-conf-dir needs --socket and --cni-bin-dir"))
	}
	return c, errors.Join(errs...)
}
