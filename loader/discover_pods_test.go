// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The lab of these tests:
//
//	   bridge cni0 10.42.0.1/24            routed
//	  ┌─────┴──────┐                         │
//	vethA        vethB                     caliC
//	  │            │                         │
//	eth0 .2      eth0 .3                  eth0 10.42.0.4/32
type podLab struct {
	t    *testing.T
	dir  string // mounted namespaces
	host netns.NsHandle
}

func newPodLab(t *testing.T) *podLab {
	t.Helper()
	host, err := netns.Get()
	ok(t, err)
	lab := &podLab{t: t, dir: t.TempDir(), host: host}
	ok(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}))
	addAddr(t, "cni0", "10.42.0.1/24")
	return lab
}

// namespace mounts a new network namespace in the lab's directory.
func (lab *podLab) namespace(name string) netns.NsHandle {
	lab.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := netns.New()
	ok(lab.t, err)
	path := filepath.Join(lab.dir, name)
	ok(lab.t, os.WriteFile(path, nil, 0o600))
	ok(lab.t, unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, ""))
	ok(lab.t, netns.Set(lab.host))
	lab.t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH); ns.Close() })
	return ns
}

// pod puts a veth's other end into ns as eth0 with the given addresses.
func (lab *podLab) pod(host string, ns netns.NsHandle, bridged bool, addrs ...string) Device {
	lab.t.Helper()
	d := addVeth(lab.t, host)
	inner, err := netlink.LinkByName(host + "p")
	ok(lab.t, err)
	ok(lab.t, netlink.LinkSetNsFd(inner, int(ns)))
	if bridged {
		bridge, err := netlink.LinkByName("cni0")
		ok(lab.t, err)
		ok(lab.t, netlink.LinkSetMaster(up(lab.t, host), bridge))
	}
	up(lab.t, host)
	for _, a := range addrs {
		lab.inside(ns, host+"p", a)
	}
	return d
}

func (lab *podLab) inside(ns netns.NsHandle, name, cidr string) {
	lab.t.Helper()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	ok(lab.t, err)
	defer h.Close()
	l, err := h.LinkByName(name)
	ok(lab.t, err)
	ok(lab.t, h.LinkSetUp(l))
	a, err := netlink.ParseAddr(cidr)
	ok(lab.t, err)
	ok(lab.t, h.AddrAdd(l, a))
}

func (lab *podLab) finder() *PodFinder {
	return &PodFinder{CNIDir: filepath.Join(lab.dir, "cni")}
}

func pods(pairs ...string) (out []PodAddress) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, PodAddress{Key: pairs[i], Pod: pairs[i], Addr: netip.MustParseAddr(pairs[i+1])})
	}
	return out
}

func expectFound(t *testing.T, f *PodFinder, want map[string]string, list []PodAddress) map[string]PodInterface {
	t.Helper()
	found, missing := f.Find(observe(t), list)
	for key, w := range want {
		if got := found[key].Name + " by " + found[key].Evidence; got != w {
			t.Errorf("%s: got %q, want %q (missing: %v)", key, got, w, missing[key])
		}
	}
	if len(found) != len(want) {
		t.Errorf("found %v, want %v", found, want)
	}
	return found
}

func TestSilentPodsOnABridgeAreFoundByTheirNamespace(t *testing.T) {
	if !isolate(t) {
		return
	}
	lab := newPodLab(t)
	lab.pod("vethA", lab.namespace("a"), true, "10.42.0.2/24")
	lab.pod("vethB", lab.namespace("b"), true, "10.42.0.3/24")
	f := lab.finder()
	found := expectFound(t, f, map[string]string{"default/a": "vethA by namespace", "default/b": "vethB by namespace"},
		pods("default/a", "10.42.0.2", "default/b", "10.42.0.3"))
	if found["default/a"].PodMAC == [6]byte{} || found["default/a"].HostMAC == [6]byte{} {
		t.Errorf("MACs are missing: %+v", found["default/a"])
	}
	_, missing := f.Find(observe(t), pods("default/late", "10.42.0.9"))
	if err := missing["default/late"]; !errors.Is(err, ErrNoInterface) {
		t.Errorf("a pod without interface: got %v, want %v", err, ErrNoInterface)
	}
}

func TestRoutedPodInANamespaceThatOnlyAProcessHolds(t *testing.T) {
	if !isolate(t) {
		return
	}
	lab := newPodLab(t)
	sleep := exec.Command("sleep", "60")
	sleep.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	ok(t, sleep.Start())
	defer func() { sleep.Process.Kill(); sleep.Wait() }()
	ns, err := netns.GetFromPid(sleep.Process.Pid)
	ok(t, err)
	lab.pod("caliC", ns, false, "10.42.0.4/32")
	f := lab.finder()
	expectFound(t, f, map[string]string{"default/c": "caliC by namespace"}, pods("default/c", "10.42.0.4"))
	addRoute(t, "caliC", "10.42.0.4/32", "")
	f.found = nil
	expectFound(t, f, map[string]string{"default/c": "caliC by route"}, pods("default/c", "10.42.0.4"))
}

func TestAPodCannotPullItsNeighboursPolicyOver(t *testing.T) {
	if !isolate(t) {
		return
	}
	lab := newPodLab(t)
	victim := lab.pod("vethA", lab.namespace("a"), true, "10.42.0.2/24")
	thief := lab.namespace("b")
	lab.pod("vethB", thief, true, "10.42.0.3/24")
	list := pods("default/a", "10.42.0.2", "default/b", "10.42.0.3")
	want := map[string]string{"default/a": "vethA by namespace", "default/b": "vethB by namespace"}
	f := lab.finder()
	expectFound(t, f, want, list)
	lab.inside(thief, "vethBp", "10.42.0.2/24")
	expectFound(t, f, want, list)
	expectFound(t, lab.finder(), want, list) // also an agent that starts only now

	// It drops its own address too: now only the host's records can tell, and without them nobody is believed.
	h, err := netlink.NewHandleAt(thief, unix.NETLINK_ROUTE)
	ok(t, err)
	l, err := h.LinkByName("vethBp")
	ok(t, err)
	a, err := netlink.ParseAddr("10.42.0.3/24")
	ok(t, err)
	ok(t, h.AddrDel(l, a)) // takes its secondary addresses along
	h.Close()
	lab.inside(thief, "vethBp", "10.42.0.2/24")
	expectFound(t, f, want, list)
	_, missing := lab.finder().Find(observe(t), list)
	if err := missing["default/a"]; err == nil || !strings.Contains(err.Error(), "vethA, vethB all lead to 10.42.0.2") {
		t.Errorf("two holders: got %v, want both named", err)
	}
	known := append([]PodAddress(nil), list...)
	known[0].Known = victim.Ifindex
	expectFound(t, lab.finder(), map[string]string{"default/a": "vethA by namespace"}, known)
	lab.record("new", "vethA", "10.42.0.2")
	expectFound(t, lab.finder(), map[string]string{"default/a": "vethA by cni record"}, list)
}

// record writes what libcni and host-local leave behind.
func (lab *podLab) record(container, host, addr string) {
	lab.t.Helper()
	ok(lab.t, os.MkdirAll(filepath.Join(lab.dir, "cni/results"), 0o755))
	ok(lab.t, os.MkdirAll(filepath.Join(lab.dir, "cni/networks/cbr0"), 0o755))
	result := fmt.Sprintf(`{"kind":"cniCacheV1","containerId":%q,"ifName":"eth0","networkName":"cbr0","result":{"cniVersion":"1.0.0",
		"interfaces":[{"mac":"00:00:5e:00:53:01","name":"cni0"},{"mac":"00:00:5e:00:53:02","name":%q},
		{"mac":"00:00:5e:00:53:03","name":"eth0","sandbox":"/var/run/netns/x"}],"ips":[{"address":"%s/24","interface":2}]}}`, container, host, addr)
	ok(lab.t, os.WriteFile(filepath.Join(lab.dir, "cni/results/cbr0-"+container+"-eth0"), []byte(result), 0o600))
	ok(lab.t, os.WriteFile(filepath.Join(lab.dir, "cni/networks/cbr0", addr), []byte(container+"\neth0"), 0o600))
}

func TestOldRecordsOfAnAddressAreNotBelieved(t *testing.T) {
	if !isolate(t) {
		return
	}
	lab := newPodLab(t)
	lab.pod("vethA", lab.namespace("a"), true, "10.42.0.2/24")
	hidden, err := netns.New()
	ok(t, err)
	ok(t, netns.Set(lab.host))
	lab.pod("vethB", hidden, true)
	lab.record("old", "vethA", "10.42.0.3") // vethA is seen to hold another address
	expectFound(t, lab.finder(), nil, pods("default/b", "10.42.0.3"))
	lab.record("new", "vethB", "10.42.0.3") // the address is not, or no longer, on vethB: the host's record is all there is
	expectFound(t, lab.finder(), map[string]string{"default/b": "vethB by cni record"}, pods("default/b", "10.42.0.3"))
}

func blind(int) (map[int]endpointInside, error) { return nil, errors.New("nobody may look") }

func TestWithoutNamespacesTheBridgeTells(t *testing.T) {
	if !isolate(t) {
		return
	}
	lab := newPodLab(t)
	d := lab.pod("vethA", lab.namespace("a"), true, "10.42.0.2/24")
	f := lab.finder()
	f.look = blind
	expectFound(t, f, nil, pods("default/a", "10.42.0.2"))
	mac, _ := net.ParseMAC("00:00:5e:00:53:0a")
	bridge, err := netlink.LinkByName("cni0")
	ok(t, err)
	ok(t, netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: bridge.Attrs().Index, State: netlink.NUD_REACHABLE, IP: net.ParseIP("10.42.0.2").To4(), HardwareAddr: mac}))
	ok(t, netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: d.Ifindex, Family: familyBridge, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac}))
	found := expectFound(t, f, map[string]string{"default/a": "vethA by neighbour"}, pods("default/a", "10.42.0.2"))
	if found["default/a"].PodMAC != toMAC(mac) {
		t.Errorf("pod MAC %x, want %s", found["default/a"].PodMAC, mac)
	}
}

func TestANewVethIsFoundWhenTheOldOneGoes(t *testing.T) {
	if !isolate(t) {
		return
	}
	lab := newPodLab(t)
	old := lab.pod("vethA", lab.namespace("a"), true, "10.42.0.2/24")
	f := lab.finder()
	list := pods("default/a", "10.42.0.2")
	expectFound(t, f, map[string]string{"default/a": "vethA by namespace"}, list)
	lab.pod("vethN", lab.namespace("n"), true, "10.42.0.2/24")
	expectFound(t, f, map[string]string{"default/a": "vethA by namespace"}, list)
	l, err := netlink.LinkByIndex(old.Ifindex)
	ok(t, err)
	ok(t, netlink.LinkDel(l))
	expectFound(t, f, map[string]string{"default/a": "vethN by namespace"}, list)
}
