// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/k8s"
)

const agentHelp = `Usage: weir agent --node NAME [--kubeconfig FILE] [flags]
       weir agent --manifests DIR [--node NAME] [flags]
       weir agent cleanup [--pin-path DIR]

Enforces the policies of a cluster on this node: NetworkPolicies, CiliumNetworkPolicies, CiliumClusterwideNetworkPolicies
and ClusterNetworkPolicies, as far as the cluster has these kinds. Without --kubeconfig it reaches the API server as a pod
of the cluster does. An object that is wrong is enforced as far as it can be read, and keeps nothing else from being
enforced. While the API server does not answer, what it told last stays enforced.

With --manifests it enforces the policies of a directory of Kubernetes manifests instead. Changes of the directory are
applied as they happen; a set that is wrong is refused as a whole and by name, and the last good one stays enforced.

Enforcement outlives the agent: SIGTERM and kill -9 leave it as it is, and the next agent takes over without a gap.
"weir agent cleanup" takes weir off this node.

--metrics-addr serves /metrics, /healthz (200 while the agent works) and /readyz (200 once the cluster's policies, or the
manifests as they are now, are enforced, else 503 and why).

Flags, which a YAML file given by --config can hold under the same names (flags win):
`

const (
	defaultPinPath     = "/sys/fs/bpf/weir"
	defaultMetricsAddr = "127.0.0.1:9469"
)

// agentConfig is what the flags and the config file say.
type agentConfig struct {
	manifests   string // empty: the cluster's
	kubeconfig  string // empty: as a pod
	daemonSet   string // the agent's own, "namespace/name"; empty: none
	node        string
	pinPath     string
	metricsAddr string
	policy      k8s.Options
	cni         cniConfig
	overlay     overlayConfig
	log         logConfig
}

type overlayConfig struct {
	underlay     []string // empty: detected
	port         uint16   // 0: detected
	vni          uint32
	vniGiven     bool   // false: detected
	decap        string // auto, inspect, strip
	enforceSpoof bool
	dropUnknown  bool
	genericXDP   bool
}

type logConfig struct {
	format string
	level  slog.Level
}

// agentFlags are the flags as given, before they are checked.
type agentFlags struct {
	set                                       *flag.FlagSet
	config, manifests, node, underlay         *string
	kubeconfig, daemonSet                     *string
	port, vni                                 *string
	decap, spoofCheck, unknownEndpoint, xdp   *string
	pinPath, metricsAddr, logFormat, logLevel *string
	policy                                    *policyFlags
	cni                                       *cniFlags
}

func newAgentFlags(output io.Writer) *agentFlags {
	set := flag.NewFlagSet("weir agent", flag.ContinueOnError)
	set.SetOutput(output)
	set.Usage = func() {
		fmt.Fprint(set.Output(), agentHelp)
		set.PrintDefaults()
	}
	return &agentFlags{
		set:             set,
		policy:          newPolicyFlags(set),
		cni:             newCNIFlags(set),
		config:          set.String("config", "", "YAML `FILE` that holds these flags by their names"),
		manifests:       set.String("manifests", "", "directory of Kubernetes YAML, `DIR`; others must not be able to write to it"),
		kubeconfig:      set.String("kubeconfig", "", "`FILE` that says how to reach the API server; default: as a pod of the cluster does"),
		daemonSet:       set.String("daemonset", "", "`NAMESPACE/NAME` of the agent's own DaemonSet: annotated with "+k8s.UninstallAnnotation+"=true, it takes weir off the nodes"),
		node:            set.String("node", "", "`NAME` of this node among the Nodes; with --manifests the default is the host's name"),
		underlay:        set.String("underlay", "", "underlay interfaces, `IF,...`; default: those below the VXLAN device, or with the node's InternalIP"),
		port:            set.String("vxlan-port", "", "UDP `PORT` of the overlay; default: that of the VXLAN device, else 8472"),
		vni:             set.String("vxlan-vni", "", "VXLAN network identifier, `VNI`; default: that of the VXLAN device, else 1"),
		decap:           set.String("decap", "auto", "`MODE`: who removes the outer headers of allowed packets: inspect (the kernel), strip (XDP), auto (strip where that is safe)"),
		spoofCheck:      set.String("spoof-check", "enforce", "`MODE`: what to do with packets that break the overlay's rules: observe (count) or enforce (drop)"),
		unknownEndpoint: set.String("unknown-endpoint", "pass", "`MODE`: what to do with packets to an address of our podCIDR that no pod has: pass or drop"),
		xdp:             set.String("xdp-mode", "native", "`MODE`: native (in the driver) or generic (any driver, several times slower)"),
		pinPath:         set.String("pin-path", defaultPinPath, "directory in a BPF file system where programs and tables live, `DIR`; one agent each"),
		metricsAddr:     set.String("metrics-addr", defaultMetricsAddr, "address of /metrics, /healthz and /readyz, `ADDR`; empty: none"),
		logFormat:       set.String("log-format", "text", "`FORMAT`: text or json"),
		logLevel:        set.String("log-level", "info", "`LEVEL`: debug, info, warn or error; sampled drops are logged at info, sampled passes at debug"),
	}
}

// parseAgent reads flags and config file. All that is wrong is in the error.
func parseAgent(args []string, output io.Writer) (agentConfig, error) {
	f := newAgentFlags(output)
	if err := f.set.Parse(args); err != nil {
		return agentConfig{}, err
	}
	if f.set.NArg() > 0 {
		return agentConfig{}, fmt.Errorf("read flags: unexpected argument %q", f.set.Arg(0))
	}
	if *f.config != "" {
		if err := f.readFile(*f.config); err != nil {
			return agentConfig{}, err
		}
	}
	return f.check()
}

// readFile sets from a YAML file what no flag has set.
func (f *agentFlags) readFile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(data, &values); err != nil {
		return fmt.Errorf("read config %s: %w", path, err)
	}
	given := map[string]bool{}
	f.set.Visit(func(g *flag.Flag) { given[g.Name] = true })
	var errs []error
	for _, name := range sortedKeys(values) {
		if f.set.Lookup(name) == nil || name == "config" {
			errs = append(errs, fmt.Errorf("read config %s: unknown key %q", path, name))
			continue
		}
		text, err := scalar(values[name])
		if err == nil && !given[name] {
			err = f.set.Set(name, text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read config %s: %s: %w", path, name, err))
		}
	}
	return errors.Join(errs...)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// scalar is a YAML value as a flag would be written; lists become comma-separated.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			text, err := scalar(e)
			if err != nil {
				return "", err
			}
			parts[i] = text
		}
		return strings.Join(parts, ","), nil
	}
	return "", fmt.Errorf("%v is neither text, a number, true or false, nor a list of them", v)
}

func (f *agentFlags) check() (agentConfig, error) {
	var errs []error
	bad := func(name, value, want string) {
		errs = append(errs, fmt.Errorf("read flags: --%s %q: want %s", name, value, want))
	}
	choice := func(name, value string, options ...string) string {
		if !slices.Contains(options, value) {
			bad(name, value, strings.Join(options, " or "))
		}
		return value
	}
	c := agentConfig{
		manifests: *f.manifests, kubeconfig: *f.kubeconfig, daemonSet: *f.daemonSet, node: *f.node, pinPath: *f.pinPath, metricsAddr: *f.metricsAddr,
		overlay: overlayConfig{
			decap:        choice("decap", *f.decap, "auto", "inspect", "strip"),
			enforceSpoof: choice("spoof-check", *f.spoofCheck, "observe", "enforce") == "enforce",
			dropUnknown:  choice("unknown-endpoint", *f.unknownEndpoint, "pass", "drop") == "drop",
			genericXDP:   choice("xdp-mode", *f.xdp, "native", "generic") == "generic",
		},
		log: logConfig{format: choice("log-format", *f.logFormat, "text", "json")},
	}
	var err error
	if c.policy, err = f.policy.options(); err != nil {
		errs = append(errs, err)
	}
	if c.cni, err = f.cni.config(*f.manifests == ""); err != nil {
		errs = append(errs, err)
	}
	if c.manifests != "" && c.kubeconfig+c.daemonSet != "" {
		errs = append(errs, errors.New("read flags: --kubeconfig and --daemonset are for a cluster, --manifests is for none"))
	}
	if namespace, name, ok := strings.Cut(c.daemonSet, "/"); c.daemonSet != "" && (!ok || namespace == "" || name == "") {
		bad("daemonset", c.daemonSet, "NAMESPACE/NAME")
	}
	if c.node == "" && c.manifests != "" {
		c.node, _ = os.Hostname()
	}
	if c.node == "" {
		errs = append(errs, errors.New("read flags: --node is missing"))
	}
	for _, name := range strings.Split(*f.underlay, ",") {
		if name = strings.TrimSpace(name); name != "" {
			c.overlay.underlay = append(c.overlay.underlay, name)
		}
	}
	if *f.port != "" {
		port, err := strconv.ParseUint(*f.port, 10, 16)
		if err != nil || port == 0 {
			bad("vxlan-port", *f.port, "1 to 65535")
		}
		c.overlay.port = uint16(port)
	}
	if *f.vni != "" {
		vni, err := strconv.ParseUint(*f.vni, 10, 24)
		if err != nil {
			bad("vxlan-vni", *f.vni, "0 to 16777215")
		}
		c.overlay.vni, c.overlay.vniGiven = uint32(vni), true
	}
	if !strings.HasPrefix(c.pinPath, "/") {
		bad("pin-path", c.pinPath, "an absolute path")
	}
	if _, _, err := net.SplitHostPort(c.metricsAddr); err != nil && c.metricsAddr != "" {
		bad("metrics-addr", c.metricsAddr, "HOST:PORT")
	}
	if err := c.log.level.UnmarshalText([]byte(*f.logLevel)); err != nil {
		bad("log-level", *f.logLevel, "debug, info, warn or error")
	}
	return c, errors.Join(errs...)
}

// logger writes to w in the format asked for.
func (c logConfig) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.level}
	if c.format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
