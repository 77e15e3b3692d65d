// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/weirnet/weir/internal/lab"
)

func TestAgentConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte("manifests: /etc/weir\nnode: from-file\nunderlay: [eth0, eth1]\nvxlan-port: 4789\n"+
		"vxlan-vni: 0\nspoof-check: observe\nlog-level: warn\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := parseAgent([]string{"--config", file, "--node", "from-flag", "--unknown-endpoint=drop"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if c.node != "from-flag" {
		t.Errorf("node %q: a flag must win over the file", c.node)
	}
	o := c.overlay
	if strings.Join(o.underlay, " ") != "eth0 eth1" || o.port != 4789 || o.vni != 0 || !o.vniGiven || o.enforceSpoof || !o.dropUnknown {
		t.Errorf("from the file: %+v", o)
	}
	if o.decap != "auto" || o.genericXDP || c.pinPath != "/sys/fs/bpf/weir" || c.metricsAddr != "127.0.0.1:9469" {
		t.Errorf("defaults: %+v", c)
	}
}

func TestAgentConfigIsRefusedByName(t *testing.T) {
	for flags, want := range map[string]string{
		"":                                    "--node is missing",
		"--manifests /m --kubeconfig /k":      "--manifests is for none",
		"--node n --daemonset weir":           `--daemonset "weir": want NAMESPACE/NAME`,
		"--manifests /m --decap peel":         `--decap "peel": want auto or inspect or strip`,
		"--manifests /m --vxlan-port 0":       `--vxlan-port "0"`,
		"--manifests /m --vxlan-vni 16777216": `--vxlan-vni "16777216"`,
		"--manifests /m --xdp-mode offload":   `--xdp-mode "offload"`,
		"--manifests /m --spoof-check no":     `--spoof-check "no"`,
		"--manifests /m --pin-path weir":      `--pin-path "weir": want an absolute path`,
		"--manifests /m --metrics-addr 80":    `--metrics-addr "80"`,
		"--manifests /m --log-level loud":     `--log-level "loud"`,
		"--manifests /m stray":                `unexpected argument "stray"`,
		"--no-such-flag":                      "no-such-flag",
	} {
		var stderr bytes.Buffer
		code := run(context.Background(), append([]string{"agent"}, strings.Fields(flags)...), nil, &bytes.Buffer{}, &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), want) {
			t.Errorf("weir agent %s: exit %d, %s; want %s", flags, code, stderr.String(), want)
		}
	}
	for content, want := range map[string]string{
		"manifest: /m":            `unknown key "manifest"`,
		"node: a\nnode: b":        `"node" already set`,
		"underlay: {eth0: true}":  "underlay: ",
		"config: /etc/other.yaml": `unknown key "config"`,
	} {
		file := filepath.Join(t.TempDir(), "weir.yaml")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := parseAgent([]string{"--config", file}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", content, err, want)
		}
	}
}

// oneAgent is a lab whose first node runs an agent that detects what it can.
type oneAgent struct {
	*testing.T
	lab   *lab.Lab
	node  *lab.Node
	agent *nodeAgent
}

func newOneAgent(t *testing.T) *oneAgent {
	t.Helper()
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	o := &oneAgent{T: t, lab: l, node: l.Nodes[0]}
	t.Cleanup(func() {
		if o.agent != nil {
			if err := o.agent.stop(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Logf("agent:\n%s", o.agent.log)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func (o *oneAgent) must(err error) {
	o.Helper()
	if err != nil {
		o.Fatal(err)
	}
}

func (o *oneAgent) start(flags ...string) {
	o.Helper()
	a, err := startAgent(o.lab, o.node, flags...)
	o.must(err)
	o.agent = a
}

func (o *oneAgent) pod(name, addr string) *lab.Pod {
	o.Helper()
	p, err := o.lab.AddPod(o.node, lab.PodSpec{Name: name, Addr: netip.MustParseAddr(addr)})
	o.must(err)
	return p
}

// eventually waits until probe is true.
func (o *oneAgent) eventually(what string, probe func() bool) {
	o.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if probe() {
			return
		}
	}
	o.Fatalf("waited in vain for %s", what)
}

// readyz is the status line's error, and the body.
func (o *oneAgent) readyz() string {
	body, err := o.agent.get(context.Background(), "/readyz")
	if err != nil {
		return err.Error() + ": " + body
	}
	return body
}

func (o *oneAgent) readySays(parts ...string) {
	o.Helper()
	var got string
	defer func() {
		if o.Failed() {
			o.Logf("/readyz: %s", got)
		}
	}()
	o.eventually(strings.Join(parts, " ... ")+" in /readyz", func() bool {
		got = o.readyz()
		for _, part := range parts {
			if !strings.Contains(got, part) {
				return false
			}
		}
		return true
	})
}

// attached says whether tcx programs are on an interface's egress.
func (o *oneAgent) attached(name string) bool {
	o.Helper()
	found := false
	o.must(o.node.Do(func() error {
		device, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		result, err := link.QueryPrograms(link.QueryOptions{Target: device.Attrs().Index, Attach: ebpf.AttachTCXEgress})
		found = err == nil && len(result.Programs) > 0
		return err
	}))
	return found
}

func TestAgentSaysWhetherTheManifestsAreEnforced(t *testing.T) {
	o := newOneAgent(t)
	o.pod("web", "10.42.0.10")
	o.start()
	o.must(o.agent.ready(context.Background()))

	o.must(o.lab.Manifests.Write("bad.yaml", strings.Replace(ingress("web", "", 0), "podSelector", "podSelektor", 1)))
	if got := o.readyz(); !strings.Contains(got, "503") {
		t.Errorf("at once after a change: /readyz says %q", got)
	}
	o.readySays("503", "NetworkPolicy default/web-", "podSelektor")
	if body, err := o.agent.get(context.Background(), "/healthz"); err != nil {
		t.Errorf("/healthz with refused manifests: %v %s", err, body)
	}
	o.eventually("weir_manifests_error 1", func() bool {
		body, err := o.agent.get(context.Background(), "/metrics")
		return err == nil && strings.Contains(body, "\nweir_manifests_error 1\n")
	})
	o.must(o.lab.Manifests.Remove("bad.yaml"))
	o.must(o.agent.ready(context.Background()))

	// A pod whose interface is not there does not keep the rest from being ready; it is named.
	o.must(o.lab.Manifests.Write("ghost.yaml", `apiVersion: v1
kind: Pod
metadata: {name: ghost, namespace: default}
spec: {nodeName: node1, containers: [{name: c, image: none}]}
status: {phase: Running, podIP: 10.42.0.99, podIPs: [{ip: 10.42.0.99}]}
`))
	o.readySays("ready\n", "default/ghost", "10.42.0.99")
	o.must(o.lab.Manifests.Remove("ghost.yaml"))

	o.must(os.Rename(o.lab.Manifests.Dir, o.lab.Manifests.Dir+"-away"))
	o.readySays("503", "manifests")
	if !o.attached("flannel.1") {
		t.Error("the directory vanished, and enforcement with it")
	}
	o.must(os.Rename(o.lab.Manifests.Dir+"-away", o.lab.Manifests.Dir))
	o.must(o.agent.ready(context.Background()))

	o.must(os.Chmod(o.lab.Manifests.Dir, 0o777))
	o.readySays("503", "0777")
	o.must(os.Chmod(o.lab.Manifests.Dir, 0o755))
	o.must(o.agent.ready(context.Background()))
}

func TestAgentFollowsInterfaces(t *testing.T) {
	o := newOneAgent(t)
	first := o.pod("first", "10.42.0.10")
	o.start()
	o.must(o.agent.ready(context.Background()))
	if !o.attached(first.Veth) || !o.attached("flannel.1") || !o.attached("eth0") {
		t.Fatal("not attached to a pod, the VXLAN device and the NIC")
	}
	late := o.pod("late", "10.42.0.11")
	o.eventually("a program on the new pod's interface", func() bool { return o.attached(late.Veth) })

	// The CNI makes its VXLAN device anew.
	o.must(o.node.Do(func() error {
		old, err := netlink.LinkByName("flannel.1")
		if err != nil {
			return err
		}
		v := old.(*netlink.Vxlan)
		fresh := &netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: v.Name, HardwareAddr: v.HardwareAddr},
			VxlanId:   v.VxlanId, Port: v.Port, VtepDevIndex: v.VtepDevIndex, SrcAddr: v.SrcAddr,
		}
		if err := netlink.LinkDel(old); err != nil {
			return err
		}
		if err := netlink.LinkAdd(fresh); err != nil {
			return err
		}
		return netlink.LinkSetUp(fresh)
	}))
	o.eventually("a program on the new VXLAN device", func() bool { return o.attached("flannel.1") })

	// A pod that the manifests no longer know is a stranger: its interface keeps its programs, which count what passes.
	o.must(o.lab.Manifests.Remove("pod-default-late.yaml"))
	o.must(o.agent.ready(context.Background()))
	before, err := o.agent.metrics(context.Background())
	o.must(err)
	o.eventually("what the stranger sends to be counted as that", func() bool {
		shout(t, late, "10.42.0.10:9000")
		now, err := o.agent.metrics(context.Background())
		o.must(err)
		return now.since(before).sum("weir_packets_total", "hook=pod_tx", "reason=unknown_endpoint", "verdict=pass") > 0
	})
	if !o.attached(first.Veth) || !o.attached(late.Veth) {
		t.Error("a pod's interface lost its program")
	}
}

func TestAgentThatCannotWorkEndsWithTheReason(t *testing.T) {
	o := newOneAgent(t)
	o.must(o.node.Do(func() error {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "katran", Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
		})
		if err != nil {
			return err
		}
		t.Cleanup(func() { program.Close() })
		nic, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: nic.Index})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
	o.ends("program katran")
	o.ends("eth9: no such interface", "--underlay", "eth9")
	o.ends("not on a BPF file system", "--pin-path", "/tmp/weir-pins")
}

// ends starts an agent that is to give up.
func (o *oneAgent) ends(why string, flags ...string) {
	o.Helper()
	o.start(flags...)
	select {
	case <-o.agent.done:
	case <-time.After(20 * time.Second):
		o.Fatalf("an agent with %v still runs\n%s", flags, o.agent.log)
	}
	if code := o.agent.cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(o.agent.log.String(), why) {
		o.Errorf("an agent with %v: exit %d, want %d and %q\n%s", flags, code, exitFailed, why, o.agent.log)
	}
}

func TestOneAgentPerPinPath(t *testing.T) {
	o := newOneAgent(t)
	o.start()
	o.must(o.agent.ready(context.Background()))
	first := o.agent
	o.ends("another agent is using it")
	out, err := o.node.Run(context.Background(), "env", "WEIR_VERB=agent", first.cmd.Path, "agent", "cleanup")
	if err == nil || !strings.Contains(out, "another agent is using it") {
		t.Errorf("cleanup under a running agent: %v, %s", err, out)
	}
	o.agent = first
	o.must(o.agent.ready(context.Background()))
}
