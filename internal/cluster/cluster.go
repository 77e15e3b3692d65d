// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a real Kubernetes cluster out of namespaces on one machine, for the tests of `make test-k8s`:
// etcd, apiserver, and, if asked for, nodes with kubelet, containerd, flannel and kube-proxy. Only what it is built from
// comes from outside: the Go proxy and Debian's archive. No registry, no daemon and nothing installed.
//
//	         pods   10.244.0.0/24                 10.244.1.0/24   pods
//	          |                                                    |
//	        cni0, flannel.1                            flannel.1, cni0
//	          |                                                    |
//	        eth0     192.0.2.11   "the NIC": XDP   192.0.2.12    eth0
//	n1: network, mount, pid, cgroup namespaces                     n2
//	          |                                                    |
//	          +-------- control plane's network namespace ---------+
//	                     br0 192.0.2.1: apiserver :6443
//	                     loopback: etcd, controller-manager, scheduler
//
// Nothing listens on the machine's own interfaces. Everything dies with the process that made the cluster, however it
// ends; files and cgroups that it leaves then are removed by the next New.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/weirnet/weir/internal/lab"
)

// Addresses of the cluster.
const (
	APIServer   = "192.0.2.1"
	PodCIDR     = "10.244.0.0/16"
	ServiceCIDR = "10.96.0.0/16"
)

// Config chooses what the cluster consists of. The zero value is etcd and an apiserver, which are there in seconds.
type Config struct {
	Nodes       int       // how many: n1, n2, ...; with nodes come controller-manager and scheduler
	KubeProxy   string    // mode of kube-proxy on the nodes: iptables or nftables; empty: none
	Controllers bool      // controller-manager and scheduler even without nodes
	Log         io.Writer // what takes how long; nil: nowhere
}

// Cluster is a running cluster.
type Cluster struct {
	Dir        string // private to this cluster, removed with it
	Kubeconfig string // of an administrator; its server is reached inside Space and inside nodes
	Tools      Tools
	Nodes      []*Node
	Space      *lab.Space // the control plane's network namespace

	name   string
	config Config
	cache  *cache
	client *http.Client // of the apiserver and its like
	start  time.Time
	control
}

// New builds and starts a cluster and returns when its nodes are ready. It must be closed.
func New(ctx context.Context, config Config) (*Cluster, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("start cluster: it takes root")
	}
	c := &Cluster{config: config, start: time.Now()}
	if err := c.up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start cluster: %w", err), c.diagnosis(), c.Close())
	}
	return c, nil
}

func (c *Cluster) up(ctx context.Context) (err error) {
	if err := sweep(); err != nil {
		return err
	}
	if c.Dir, err = os.MkdirTemp("", fmt.Sprintf("weirk8s-%d-", os.Getpid())); err != nil {
		return err
	}
	c.name = filepath.Base(c.Dir)
	if c.cache, err = newCache(c.say); err != nil {
		return err
	}
	if err := seenByNodes(c.Dir, c.cache.dir); err != nil {
		return err
	}
	if err := errors.Join(c.cache.controlPlaneTools(ctx, &c.Tools), os.Mkdir(filepath.Join(c.Dir, "log"), 0o755)); err != nil {
		return err
	}
	if err := ownTools(ctx, &c.Tools, c.Dir); err != nil {
		return err
	}
	if c.config.Nodes > 0 {
		if err := c.cache.nodeTools(ctx, &c.Tools); err != nil {
			return err
		}
	}
	c.say("tools are there")
	if err := c.startNetwork(); err != nil {
		return err
	}
	c.client = c.newClient()
	if err := c.startControlPlane(ctx); err != nil {
		return err
	}
	if c.config.Nodes > 0 {
		return c.startNodes(ctx)
	}
	return nil
}

// Close ends the cluster: its processes are killed, its namespaces, cgroups and files go. Calling it again does nothing.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.close())
	}
	c.Nodes = nil
	c.control.close()
	if c.Space != nil {
		if c.client != nil {
			c.client.CloseIdleConnections()
		}
		c.Space.Close()
		c.Space = nil
	}
	if c.Dir != "" {
		errs = append(errs, os.RemoveAll(c.Dir))
		c.Dir = ""
	}
	return errors.Join(errs...)
}

// seenByNodes tells whether nodes, who have some folders of their own, find these where they are.
func seenByNodes(dirs ...string) error {
	for _, dir := range dirs {
		for _, own := range []string{"/etc/", "/opt/", "/run/", "/usr/", "/var/"} {
			if strings.HasPrefix(dir+"/", own) {
				return fmt.Errorf("use %s: nodes have another %s; TMPDIR and XDG_CACHE_HOME name other places", dir, own)
			}
		}
	}
	return nil
}

// say tells how far the cluster has come, and when.
func (c *Cluster) say(format string, args ...any) {
	if c.config.Log != nil {
		fmt.Fprintf(c.config.Log, "[%6.1f s] %s\n", time.Since(c.start).Seconds(), fmt.Sprintf(format, args...))
	}
}

// diagnosis is the end of each log, for the error of a cluster that did not come up.
func (c *Cluster) diagnosis() error {
	if c.Dir == "" {
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(c.Dir, "log", "*.log"))
	var errs []error
	for _, file := range files {
		if content, err := os.ReadFile(file); err == nil && len(content) > 0 {
			errs = append(errs, fmt.Errorf("%s: ...%s", filepath.Base(file), tail(content, 1500)))
		}
	}
	return errors.Join(errs...)
}

// logTo sends what a process prints to a file below Dir.
func (c *Cluster) logTo(cmd *exec.Cmd, name string) error {
	file, err := os.OpenFile(filepath.Join(c.Dir, "log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = file, file
	return nil
}

// poll asks until the answer is nil, and returns the last one when time is up.
func poll(ctx context.Context, every time.Duration, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(every):
		}
	}
}
