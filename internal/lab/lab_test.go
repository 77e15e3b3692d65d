// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/packet"
)

// newLab is a lab with one pod on each node.
func newLab(t *testing.T, config Config) (l *Lab, a, b *Pod) {
	t.Helper()
	l, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	a, err = l.AddPod(l.Nodes[0], PodSpec{Name: "a", Addr: netip.MustParseAddr("10.42.0.10"), Labels: map[string]string{"app": "a"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.AddPod(l.Nodes[1], PodSpec{Name: "b", Addr: netip.MustParseAddr("10.42.1.10"), Ports: []int{8080}})
	if err != nil {
		t.Fatal(err)
	}
	return l, a, b
}

// fetch connects to address and returns what the server says.
func fetch(p *Pod, address string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c, err := p.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	got, err := io.ReadAll(c)
	return string(got), err
}

func serve(t *testing.T, p *Pod, address, banner string) {
	t.Helper()
	listener, err := p.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, banner+c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}()
}

func TestPodsTalkThroughTheTunnel(t *testing.T) {
	for name, config := range map[string]Config{"plain": {}, "strict rp_filter": {RPFilter: 1}} {
		t.Run(name, func(t *testing.T) {
			l, a, b := newLab(t, config)
			serve(t, b, ":8080", "hello ")
			before, err := l.Nodes[1].Link("flannel.1")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := fetch(a, "10.42.1.10:8080"); err != nil || got != "hello 10.42.0.10" {
				t.Fatalf("got %q, %v", got, err)
			}
			after, err := l.Nodes[1].Link("flannel.1")
			if err != nil {
				t.Fatal(err)
			}
			if got := after.Statistics.RxPackets - before.Statistics.RxPackets; got < 4 {
				t.Errorf("a TCP connection moved %d packets through flannel.1", got)
			}
		})
	}
}

func TestServiceIsTranslatedOnItsWayToARemotePod(t *testing.T) {
	l, a, b := newLab(t, Config{})
	if err := l.AddService("web", 80, b, 8080); err != nil {
		t.Fatal(err)
	}
	serve(t, b, ":8080", "hello ")
	if got, err := fetch(a, ServiceIP+":80"); err != nil || got != "hello 10.42.0.10" {
		t.Fatalf("through the Service: %q, %v", got, err)
	}
}

func TestReusedAddressReachesTheNewPod(t *testing.T) {
	l, a, b := newLab(t, Config{})
	serve(t, b, ":8080", "old ")
	if got, err := fetch(a, "10.42.1.10:8080"); err != nil || got != "old 10.42.0.10" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := l.RemovePod(b); err != nil {
		t.Fatal(err)
	}
	c, err := l.AddPod(l.Nodes[1], PodSpec{Name: "c", Addr: b.Addr})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, c, ":8080", "new ")
	if got, err := fetch(a, "10.42.1.10:8080"); err != nil || got != "new 10.42.0.10" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestInjectedFrameArrives(t *testing.T) {
	l, _, b := newLab(t, Config{})
	socket, err := b.ListenPacket(":9000")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	nic, err := l.Nodes[1].Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	lan, err := l.LAN.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	inner := packet.UDP(netip.MustParseAddrPort("10.42.0.66:1234"), netip.MustParseAddrPort("10.42.1.10:9000"), []byte("forged")...)
	inner.SrcMAC, inner.DstMAC = l.Nodes[0].VTEPMAC, l.Nodes[1].VTEPMAC
	outer := packet.Underlay(netip.MustParseAddr(LANIP), l.Nodes[1].IP).Via(packet.MAC(lan.HardwareAddr), packet.MAC(nic.HardwareAddr))
	if err := l.LAN.Inject("eth0", packet.VXLAN(outer, VNI, inner.Bytes())); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	socket.SetReadDeadline(time.Now().Add(3 * time.Second))
	n, from, err := socket.ReadFrom(buffer)
	if err != nil || string(buffer[:n]) != "forged" || from.String() != "10.42.0.66:1234" {
		t.Fatalf("without weir the forged packet must arrive: %q from %v, %v", buffer[:n], from, err)
	}
}

func TestNodeProcessesShareOneBPFFileSystem(t *testing.T) {
	l, _, _ := newLab(t, Config{})
	ctx := context.Background()
	if _, err := l.Nodes[0].Run(ctx, "mkdir", "/sys/fs/bpf/weir"); err != nil {
		t.Fatal(err)
	}
	if out, err := l.Nodes[0].Run(ctx, "ls", "/sys/fs/bpf", "/sys/class/net"); err != nil || !strings.Contains(out, "weir") || !strings.Contains(out, "flannel.1") {
		t.Errorf("node1 sees %q, %v", out, err)
	}
	if out, err := l.Nodes[1].Run(ctx, "ls", "/sys/fs/bpf"); err != nil || strings.Contains(out, "weir") {
		t.Errorf("node2 sees node1's: %q, %v", out, err)
	}
	if _, err := os.Stat("/sys/fs/bpf/weir"); err == nil {
		t.Error("the pin of node1 is visible outside the lab")
	}
}

func TestCloseEndsProcessesAndLeavesNoFile(t *testing.T) {
	l, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Publish(); err != nil {
		t.Error(err)
	}
	cmd := exec.Command("sleep", "60")
	if err := l.Nodes[0].Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		cmd.Process.Kill()
		t.Error("a process outlived the lab")
	}
	names, _ := os.ReadDir("/run/netns")
	for _, name := range names {
		if strings.HasPrefix(name.Name(), l.Name+"-") {
			t.Errorf("%s is left", name.Name())
		}
	}
	if _, err := os.Stat(l.Dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}
