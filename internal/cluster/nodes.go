// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + AppImage + `"
  disable_apparmor = true
  restrict_oom_score_adj = true # lowering it takes a capability that a container that runs this may lack
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "/usr/sbin/runc"
      SystemdCgroup = false
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: ""
volumePluginDir: /var/lib/kubelet/volumeplugins
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
nodeStatusUpdateFrequency: 2s
`

const flannelConfig = `{"Network": "` + PodCIDR + `", "Backend": {"Type": "vxlan"}}
`

// FlannelConflist is where flannel's manifest puts its CNI configuration, and what it says.
const (
	FlannelConflistPath = "/etc/cni/net.d/10-flannel.conflist"
	FlannelConflist     = `{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
`
)

const flannelRole = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: flannel}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get]}
- {apiGroups: [""], resources: [nodes], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [nodes, nodes/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: flannel}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flannel}
subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: flannel}]
`

func (c *Cluster) startNodes(ctx context.Context) error {
	if err := c.Apply(ctx, flannelRole); err != nil {
		return err
	}
	image, err := c.writeAppImage()
	if err != nil {
		return err
	}
	for number := range c.config.Nodes {
		ip := underlay.Addr()
		for range 11 + number {
			ip = ip.Next()
		}
		name := nodeName(number)
		c.Nodes = append(c.Nodes, &Node{Name: name, IP: ip, cluster: c, dir: filepath.Join(c.Dir, name)})
	}
	return c.each(func(n *Node) error {
		if err := n.boot(ctx); err != nil {
			return err
		}
		if err := n.importImage(ctx, image); err != nil {
			return err
		}
		if err := n.startKubernetes(ctx); err != nil {
			return err
		}
		return n.awaitReady(ctx)
	})
}

// each does something on all nodes at once.
func (c *Cluster) each(f func(*Node) error) error {
	errs := make([]error, len(c.Nodes))
	var wait sync.WaitGroup
	for i, n := range c.Nodes {
		wait.Go(func() { errs[i] = f(n) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// boot switches the node on and starts containerd.
func (n *Node) boot(ctx context.Context) error {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	if err := n.powerOn(ctx); err != nil {
		return fmt.Errorf("switch on %s: %w", n.Name, err)
	}
	for path, text := range map[string]string{"/etc/containerd.toml": containerdConfig, "/var/lib/kubelet/config.yaml": kubeletConfig,
		"/etc/kube-flannel/net-conf.json": flannelConfig} {
		if err := os.WriteFile(n.Path(path), []byte(text), 0o644); err != nil {
			return fmt.Errorf("configure %s: %w", n.Name, err)
		}
	}
	if err := n.StartService("containerd", false, "containerd", "--config=/etc/containerd.toml"); err != nil {
		return err
	}
	if err := poll(ctx, 100*time.Millisecond, func() error { _, err := n.Exec(ctx, "ctr", "version"); return err }); err != nil {
		return fmt.Errorf("wait for containerd: %w", err)
	}
	return nil
}

// startKubernetes starts what makes a node of the machine.
func (n *Node) startKubernetes(ctx context.Context) error {
	tools := n.cluster.Tools
	if err := n.StartService("kubelet", false, filepath.Join(tools.Kubernetes, "kubelet"), "--config=/var/lib/kubelet/config.yaml",
		"--kubeconfig="+n.cluster.kubeconfig(n.Name), "--hostname-override="+n.Name, "--node-ip="+n.IP.String()); err != nil {
		return err
	}
	// It gives up while the node has no podCIDR.
	if err := n.StartService("flanneld", true, "env", "NODE_NAME="+n.Name, tools.Flanneld, "-kubeconfig-file="+n.cluster.kubeconfig("flannel"),
		"-iface=eth0"); err != nil {
		return err
	}
	if n.cluster.config.KubeProxy != "" {
		if err := n.StartKubeProxy(n.cluster.config.KubeProxy); err != nil {
			return err
		}
	}
	if err := poll(ctx, 100*time.Millisecond, func() error {
		_, err := os.Stat(n.Path("/run/flannel/subnet.env"))
		return err
	}); err != nil {
		return fmt.Errorf("wait for flannel on %s: %w: ...%s", n.Name, err, tail([]byte(n.Log("flanneld")), 800))
	}
	n.cluster.say("%s has its subnet", n.Name)
	if _, err := os.Stat(n.Path(FlannelConflistPath)); err == nil {
		return nil // from before a restart, and perhaps not only flannel's any more
	}
	return os.WriteFile(n.Path(FlannelConflistPath), []byte(FlannelConflist), 0o644)
}

// StartKubeProxy starts kube-proxy in a mode: iptables or nftables.
func (n *Node) StartKubeProxy(mode string) error {
	return n.StartService("kube-proxy", false, filepath.Join(n.cluster.Tools.Kubernetes, "kube-proxy"), "--kubeconfig="+n.cluster.kubeconfig("proxy"),
		"--hostname-override="+n.Name, "--cluster-cidr="+PodCIDR, "--proxy-mode="+mode,
		// Left as they are: they belong to the machine.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0")
}

// StopKubeProxy stops kube-proxy and removes its rules.
func (n *Node) StopKubeProxy(ctx context.Context) error {
	if err := n.StopService("kube-proxy"); err != nil {
		return err
	}
	_, err := n.Exec(ctx, filepath.Join(n.cluster.Tools.Kubernetes, "kube-proxy"), "--cleanup")
	return err
}

// awaitReady returns when the apiserver has heard from the kubelet since the call, and that the node is ready.
func (n *Node) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	since := time.Now().Truncate(time.Second)
	err := poll(ctx, 300*time.Millisecond, func() error {
		const ready = `.status.conditions[?(@.type=="Ready")]`
		out, err := n.cluster.Kubectl(ctx, "get", "node", n.Name, "-o", "jsonpath={"+ready+".status} {"+ready+".lastHeartbeatTime}")
		if err != nil {
			return err
		}
		status, heard, _ := strings.Cut(out, " ")
		at, err := time.Parse(time.RFC3339, heard)
		if err != nil {
			return fmt.Errorf("read when %s was heard of: %w", n.Name, err)
		}
		if status != "True" || at.Before(since) {
			return fmt.Errorf("node %s is ready: %s, since %s", n.Name, status, heard)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w", n.Name, err)
	}
	n.cluster.say("%s is ready", n.Name)
	return nil
}

// Restart switches the node off, as a power cut would, and on again: its network namespace, its bpffs and /run are new
// then. It returns when the node is ready.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.powerOff(); err != nil {
		return err
	}
	n.cluster.say("%s is off", n.Name)
	if err := n.boot(ctx); err != nil {
		return fmt.Errorf("restart %s: %w", n.Name, err)
	}
	n.cluster.say("%s is on", n.Name)
	if err := n.startKubernetes(ctx); err != nil {
		return fmt.Errorf("restart %s: %w", n.Name, err)
	}
	return n.awaitReady(ctx)
}
