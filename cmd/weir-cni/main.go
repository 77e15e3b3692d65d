// SPDX-License-Identifier: Apache-2.0

// Command weir-cni is a CNI plugin, chained behind those that make a pod's interface. Its ADD ends when policy for the pod
// is enforced, so that no container of the pod runs before. It changes nothing itself: the agent on the node does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/weirnet/weir/internal/cni"
)

const (
	defaultTimeout = 20 * time.Second // of ADD and CHECK; the runtime gives a pod minutes
	statusTimeout  = 8 * time.Second  // an agent that is being replaced is back by then
	goodbyeTimeout = time.Second      // of DEL and GC, which never fail because the agent is away
)

// Answers to an ADD while no agent is there.
const (
	denyMissing  = "deny"
	allowMissing = "allow"
)

func main() {
	os.Exit(run())
}

func run() int {
	about := "CNI plugin " + cni.PluginType + ": chained behind others, it makes a pod wait until weir enforces its policy"
	funcs := skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status}
	if err := skel.PluginMainFuncsWithError(funcs, version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0"), about); err != nil {
		if printed := err.Print(); printed != nil {
			fmt.Fprintln(os.Stderr, cni.PluginType+": print error:", printed)
		}
		return 1
	}
	return 0
}

// config is our entry of the network configuration, with what the runtime adds to it.
type config struct {
	CNIVersion     string          `json:"cniVersion"`
	Socket         string          `json:"socket"`
	OnAgentMissing string          `json:"onAgentMissing"`
	Timeout        string          `json:"timeout"` // as flags write it: 20s
	PrevResult     json.RawMessage `json:"prevResult"`
	Valid          []attachment    `json:"cni.dev/valid-attachments"`

	timeout time.Duration
}

type attachment struct {
	ContainerID string `json:"containerID"`
}

func readConfig(data []byte) (*config, error) {
	c := &config{Socket: cni.DefaultSocket, OnAgentMissing: denyMissing, timeout: defaultTimeout}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "read configuration of "+cni.PluginType, err.Error())
	}
	if c.OnAgentMissing != denyMissing && c.OnAgentMissing != allowMissing {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("onAgentMissing is %q", c.OnAgentMissing),
			"want deny or allow")
	}
	if !filepath.IsAbs(c.Socket) {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("socket is %q", c.Socket), "want an absolute path")
	}
	if c.Timeout != "" {
		d, err := time.ParseDuration(c.Timeout)
		if err != nil || d <= 0 {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("timeout is %q", c.Timeout),
				"want a duration like 20s")
		}
		c.timeout = d
	}
	return c, nil
}

func (c *config) client() cni.Client { return cni.Client{Socket: c.Socket} }

// result is the part of a previous plugin's result that says what the pod's interface is. Its fields are the same from 0.3.1
// on.
type result struct {
	Interfaces []struct {
		Name    string `json:"name"`
		Sandbox string `json:"sandbox"`
	} `json:"interfaces"`
	IPs []struct {
		Address   string `json:"address"`
		Interface *int   `json:"interface"`
	} `json:"ips"`
}

// pod reads what the plugin is told into what the agent needs to know. ok is false for what is no pod of Kubernetes.
func (c *config) pod(args *skel.CmdArgs) (p cni.Pod, ok bool, err error) {
	if len(c.PrevResult) == 0 || string(c.PrevResult) == "null" {
		return p, false, types.NewError(types.ErrInvalidNetworkConfig, cni.PluginType+" has no previous result",
			"it must stand behind the plugin that makes the pod's interface, in a configuration list")
	}
	var r result
	if err := json.Unmarshal(c.PrevResult, &r); err != nil {
		return p, false, types.NewError(types.ErrDecodingFailure, "read previous result", err.Error())
	}
	p = cni.Pod{ContainerID: args.ContainerID, NetNS: args.Netns, Interface: args.IfName}
	for _, pair := range strings.Split(args.Args, ";") {
		switch key, value, _ := strings.Cut(pair, "="); key {
		case "K8S_POD_NAMESPACE":
			p.Namespace = value
		case "K8S_POD_NAME":
			p.Name = value
		case "K8S_POD_UID":
			p.UID = value
		}
	}
	for _, ip := range r.IPs {
		prefix, err := netip.ParsePrefix(ip.Address)
		if err != nil {
			return p, false, types.NewError(types.ErrDecodingFailure, "read previous result", err.Error())
		}
		// A pod's further interfaces are others' business.
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(r.Interfaces) || r.Interfaces[*i].Name != args.IfName) {
			continue
		}
		p.Addrs = append(p.Addrs, prefix.Addr().Unmap())
	}
	return p, p.Namespace != "" && p.Name != "", nil
}

func add(args *skel.CmdArgs) error {
	c, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	p, ok, err := c.pod(args)
	if err != nil {
		return err
	}
	if ok {
		ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
		defer cancel()
		err := c.client().Add(ctx, p)
		switch {
		case err == nil:
		case errors.Is(err, cni.ErrAway) && c.OnAgentMissing == allowMissing:
			fmt.Fprintf(os.Stderr, "%s: pod %s starts unguarded: %v\n", cni.PluginType, &p, err)
		case errors.Is(err, cni.ErrAway):
			return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("pod %s waits for the weir agent of this node, in vain for %s", &p, c.timeout),
				err.Error())
		default:
			return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("policy of pod %s is not enforced yet", &p), err.Error())
		}
	}
	_, err = os.Stdout.Write(append(c.PrevResult, '\n'))
	return err
}

func check(args *skel.CmdArgs) error {
	c, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	p, ok, err := c.pod(args)
	if err != nil || !ok {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	if err := c.client().Check(ctx, p); err != nil {
		return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("policy of pod %s is not known to be enforced", &p), err.Error())
	}
	return nil
}

// del never fails: what cannot be told now the agent sees for itself.
func del(args *skel.CmdArgs) error {
	if c, err := readConfig(args.StdinData); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), goodbyeTimeout)
		defer cancel()
		c.client().Release(ctx, args.ContainerID)
	}
	return nil
}

func gc(args *skel.CmdArgs) error {
	c, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	keep := make([]string, len(c.Valid))
	for i, a := range c.Valid {
		keep[i] = a.ContainerID
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeTimeout)
	defer cancel()
	c.client().Keep(ctx, keep)
	return nil
}

func status(args *skel.CmdArgs) error {
	c, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(c.timeout, statusTimeout))
	defer cancel()
	if err := c.client().Status(ctx); err != nil && c.OnAgentMissing == denyMissing {
		return types.NewError(errNotAvailable, "pods cannot be added without the weir agent of this node", err.Error())
	}
	return nil
}

const errNotAvailable = 50 // of STATUS: the plugin cannot service ADD
