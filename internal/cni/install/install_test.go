// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cni"
)

// As flannel's and k3s's look, and as a plugin without a list does.
const (
	flannel = `{
  "name": "cbr0",
  "cniVersion": "1.0.0",
  "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`
	single = `{"cniVersion":"0.4.0","name":"k8s-pod-network","type":"ptp","mtu":1450,"ipam":{"type":"host-local","subnet":"192.0.2.0/24"}}`
)

type node struct {
	*Installer
	t         *testing.T
	bin, conf string
	plugin    string
	clock     time.Time
}

func newNode(t *testing.T, files map[string]string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, bin: filepath.Join(dir, "bin"), conf: filepath.Join(dir, "net.d"), plugin: filepath.Join(dir, "weir-cni"), clock: time.Now()}
	for _, d := range []string{n.bin, n.conf} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.write(n.plugin, "the plugin")
	for name, content := range files {
		n.write(filepath.Join(n.conf, name), content)
	}
	n.Installer = New(Config{Plugin: n.plugin, BinDir: n.bin, ConfDir: n.conf, Entry: Entry{Socket: "/run/weir/agent.sock", OnAgentMissing: "deny"},
		Log: slog.New(slog.DiscardHandler)})
	n.now = func() time.Time { return n.clock }
	return n
}

func (n *node) write(path, content string) {
	n.t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) ensure() string {
	n.t.Helper()
	path, err := n.Ensure()
	if err != nil {
		n.t.Fatal(err)
	}
	return filepath.Base(path)
}

// files is all that lies in a directory, with its content.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

// obeyed is what a runtime makes of the directory: the first file, and the types in its chain.
func obeyed(t *testing.T, dir string) (name string, chain []string) {
	t.Helper()
	all := files(t, dir)
	var names []string
	for name := range all {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name)) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	name = slices.Min(names)
	var l struct {
		Type    string
		Plugins []struct{ Type string }
	}
	if err := json.Unmarshal([]byte(all[name]), &l); err != nil {
		t.Fatalf("the runtime finds half a file %s: %v: %q", name, err, all[name])
	}
	if l.Type != "" {
		chain = []string{l.Type}
	}
	for _, p := range l.Plugins {
		chain = append(chain, p.Type)
	}
	return name, chain
}

func (n *node) wantObeyed(name string, chain ...string) {
	n.t.Helper()
	got, types := obeyed(n.t, n.conf)
	if got != name || !slices.Equal(types, chain) {
		n.t.Errorf("the runtime obeys %s %v, want %s %v", got, types, name, chain)
	}
}

func TestPluginIsChainedBehindTheFirstConfiguration(t *testing.T) {
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel, "20-other.conf": single, "00-readme.txt": "x"})
	if got := n.ensure(); got != "10-flannel-weir.conflist" {
		t.Errorf("derived %s", got)
	}
	n.wantObeyed("10-flannel-weir.conflist", "flannel", "portmap", "weir-cni")
	made := files(t, n.conf)["10-flannel-weir.conflist"]
	var was, is map[string]any
	if err := errors.Join(json.Unmarshal([]byte(flannel), &was), json.Unmarshal([]byte(made), &is)); err != nil {
		t.Fatal(err)
	}
	was["plugins"] = append(was["plugins"].([]any), map[string]any{"type": "weir-cni", "socket": "/run/weir/agent.sock", "onAgentMissing": "deny"})
	if !reflect.DeepEqual(is, was) {
		t.Errorf("derived %v, want %v", is, was)
	}
	info, err := os.Stat(filepath.Join(n.bin, cni.PluginType))
	if err != nil || info.Mode().Perm() != 0o755 || files(t, n.bin)[cni.PluginType] != "the plugin" {
		t.Errorf("the binary: %v, %v", info, err)
	}
}

func TestWhoMayNotReadTheOriginalMayNotReadTheCopy(t *testing.T) {
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	for _, mode := range []os.FileMode{0o600, 0o644, 0o640} {
		if err := os.Chmod(filepath.Join(n.conf, "10-flannel.conflist"), mode); err != nil {
			t.Fatal(err)
		}
		n.ensure()
		if info, err := os.Stat(filepath.Join(n.conf, "10-flannel-weir.conflist")); err != nil || info.Mode() != mode {
			t.Errorf("mode %v, %v; want %v", info.Mode(), err, mode)
		}
	}
}

func TestSinglePluginBecomesAList(t *testing.T) {
	n := newNode(t, map[string]string{"10-ptp.conf": single})
	n.ensure()
	n.wantObeyed("10-ptp-weir.conflist", "ptp", "weir-cni")
	var l struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	if err := json.Unmarshal([]byte(files(t, n.conf)["10-ptp-weir.conflist"]), &l); err != nil {
		t.Fatal(err)
	}
	if l.CNIVersion != "0.4.0" || l.Name != "k8s-pod-network" || l.Plugins[0]["mtu"] != 1450.0 {
		t.Errorf("list %+v", l)
	}
}

func TestInstallingAgainWritesNothing(t *testing.T) {
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.ensure()
	old := time.Now().Add(-time.Hour)
	for _, path := range []string{filepath.Join(n.conf, "10-flannel-weir.conflist"), filepath.Join(n.bin, cni.PluginType)} {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		n.ensure()
		if info, err := os.Stat(path); err != nil || !info.ModTime().Equal(old) {
			t.Errorf("%s was written again: %v", path, err)
		}
	}
}

func TestANewOriginalIsFollowed(t *testing.T) {
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.ensure()
	n.write(filepath.Join(n.conf, "10-flannel.conflist"), strings.Replace(flannel, "portmap", "bandwidth", 1))
	n.wantObeyed("10-flannel-weir.conflist", "flannel", "portmap", "weir-cni") // it is never not chained
	n.ensure()
	n.wantObeyed("10-flannel-weir.conflist", "flannel", "bandwidth", "weir-cni")
	n.write(filepath.Join(n.conf, "05-first.conf"), single)
	n.ensure()
	n.wantObeyed("05-first-weir.conflist", "ptp", "weir-cni")
	if _, ok := files(t, n.conf)["10-flannel-weir.conflist"]; ok {
		t.Error("what was derived from the second configuration stays")
	}
}

func TestHalfAnOriginalChangesNothing(t *testing.T) {
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.ensure()
	for _, half := range []string{"", flannel[:40], "{}", `{"name":"cbr0","cniVersion":"1.0.0","plugins":[]}`} {
		n.write(filepath.Join(n.conf, "10-flannel.conflist"), half)
		if _, err := n.Ensure(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, want %v", half, err, ErrInvalid)
		}
		n.wantObeyed("10-flannel-weir.conflist", "flannel", "portmap", "weir-cni")
	}
}

func TestAMissingOriginalIsWaitedForAndThenFollowed(t *testing.T) {
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.ensure()
	if err := os.Remove(filepath.Join(n.conf, "10-flannel.conflist")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Ensure(); !errors.Is(err, ErrNone) {
		t.Errorf("without an original: %v, want %v", err, ErrNone)
	}
	n.wantObeyed("10-flannel-weir.conflist", "flannel", "portmap", "weir-cni")
	n.clock = n.clock.Add(bereavement)
	n.Ensure()
	n.wantObeyed("")
}

func TestOldVersionsAreNotChained(t *testing.T) {
	for _, version := range []string{`"cniVersion":"0.2.0"`, `"cniVersion":""`, `"x":"y"`} {
		n := newNode(t, map[string]string{"10-old.conf": strings.Replace(single, `"cniVersion":"0.4.0"`, version, 1)})
		if _, err := n.Ensure(); !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v, want %v", version, err, ErrVersion)
		}
		n.wantObeyed("10-old.conf", "ptp")
	}
}

func TestAChainMadeByHandIsLeftAlone(t *testing.T) {
	byHand := strings.Replace(flannel, `"portmap"`, `"weir-cni"`, 1)
	n := newNode(t, map[string]string{"10-flannel.conflist": byHand})
	if got := n.ensure(); got != "10-flannel.conflist" {
		t.Errorf("the runtime is said to obey %s", got)
	}
	n.wantObeyed("10-flannel.conflist", "flannel", "weir-cni")
}

func TestRemoveRestoresTheNode(t *testing.T) {
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel, "20-other.conf": single})
	n.write(filepath.Join(n.bin, "flannel"), "another plugin")
	conf, bin := files(t, n.conf), files(t, n.bin)
	n.ensure()
	for range 2 {
		if err := Remove(n.conf, n.bin); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(files(t, n.conf), conf) || !reflect.DeepEqual(files(t, n.bin), bin) {
			t.Errorf("left behind: %v %v", files(t, n.conf), files(t, n.bin))
		}
	}
	if err := Remove(filepath.Join(n.conf, "nothing"), filepath.Join(n.bin, "nothing")); err != nil {
		t.Errorf("remove from a node that has neither directory: %v", err)
	}
}

func TestANewBinaryReplacesTheOldOneInOneStep(t *testing.T) {
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.ensure()
	running, err := os.Open(filepath.Join(n.bin, cni.PluginType)) // as an ADD that is under way holds it
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	n.write(n.plugin, "the next version")
	n.ensure()
	if got := files(t, n.bin)[cni.PluginType]; got != "the next version" {
		t.Errorf("the binary is %q", got)
	}
	old := make([]byte, 64)
	if c, _ := running.Read(old); string(old[:c]) != "the plugin" {
		t.Errorf("the running binary became %q", old[:c])
	}
}

func TestWithoutABinaryNothingIsChained(t *testing.T) {
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.cfg.Plugin += "-nowhere"
	if _, err := n.Ensure(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Ensure = %v", err)
	}
	n.wantObeyed("10-flannel.conflist", "flannel", "portmap")
}

// TestRunKeepsThePluginInstalled: another DaemonSet rewrites its file again and again, and takes ours away; a runtime that
// reads the directory all the time never finds half a file, and no chain without our plugin while ours is there.
func TestRunKeepsThePluginInstalled(t *testing.T) {
	n := newNode(t, map[string]string{"10-flannel.conflist": flannel})
	n.now = time.Now
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	ours := filepath.Join(n.conf, "10-flannel-weir.conflist")
	n.await(func() bool { return chained(ours, "portmap") })

	var stop atomic.Bool
	looked := make(chan int)
	go func() {
		bad, good := 0, 0
		for !stop.Load() {
			if data, err := os.ReadFile(ours); err != nil || !json.Valid(data) || !strings.Contains(string(data), cni.PluginType) {
				bad++
			} else {
				good++
			}
		}
		if good == 0 {
			bad = -1
		}
		looked <- bad
	}()
	for range 50 {
		for _, other := range []string{"bandwidth", "portmap"} {
			n.write(filepath.Join(n.conf, "10-flannel.conflist"), strings.Replace(flannel, "portmap", other, 1))
			time.Sleep(2 * time.Millisecond)
		}
	}
	stop.Store(true)
	if bad := <-looked; bad != 0 {
		t.Errorf("%d times there was no whole configuration of ours", bad)
	}
	n.await(func() bool { return chained(ours, "portmap") })
	if err := os.Remove(ours); err != nil {
		t.Fatal(err)
	}
	n.await(func() bool { return chained(ours, "portmap") })
}

func chained(path, behind string) bool {
	data, err := os.ReadFile(path)
	return err == nil && strings.Contains(string(data), behind) && strings.Contains(string(data), cni.PluginType)
}

func (n *node) await(ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("in vain; there is %v", files(n.t, n.conf))
		}
	}
}
