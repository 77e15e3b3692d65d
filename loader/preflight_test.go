// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// addOverlay makes the interface that the rules of these tests are about, and returns its index.
func addOverlay(t *testing.T) int {
	t.Helper()
	ok(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1", Group: 7}, VxlanId: 1, Port: 8472}))
	l, err := netlink.LinkByName("flannel.1")
	ok(t, err)
	return l.Attrs().Index
}

func TestStripIsSafeOnlyWhereTheStackTakesInnerPackets(t *testing.T) {
	if !isolate(t) {
		return
	}
	addOverlay(t)
	for name, c := range map[string]struct {
		all, nic string
		reason   string // empty: safe
	}{
		"no filter":              {all: "0", nic: "0"},
		"loose":                  {all: "0", nic: "2"},
		"loose wins over strict": {all: "1", nic: "2"},
		"strict on the NIC":      {all: "0", nic: "1", reason: "rp_filter of eth0 is 1"},
		"strict everywhere":      {all: "1", nic: "0", reason: "rp_filter of eth0 is 1"},
		"unreadable":             {all: "0", nic: "x", reason: "read rp_filter of eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			for conf, value := range map[string]string{"all": c.all, "eth0": c.nic} {
				dir := filepath.Join(proc, "sys/net/ipv4/conf", conf)
				ok(t, os.MkdirAll(dir, 0o755))
				ok(t, os.WriteFile(filepath.Join(dir, "rp_filter"), []byte(value+"\n"), 0o644))
			}
			safe, reason := Preflight{ProcDir: proc}.StripSafe(context.Background(), []string{"eth0"}, "flannel.1")
			if safe != (c.reason == "") || !strings.Contains(reason, c.reason) {
				t.Errorf("got %v, %q; want reason %q", safe, reason, c.reason)
			}
		})
	}
}

// Without any command to print them: PATH is empty.
func TestThisHostsRulesetsAreRead(t *testing.T) {
	if !isolate(t) {
		return
	}
	t.Setenv("PATH", "")
	if safe, reason := (Preflight{}).StripSafe(context.Background(), []string{"lo"}, "flannel.1"); safe || !strings.Contains(reason, "find overlay interface flannel.1") {
		t.Errorf("without the interface: %v, %q", safe, reason)
	}
	addOverlay(t)
	if safe, reason := (Preflight{}).StripSafe(context.Background(), []string{"lo"}, "flannel.1"); !safe || reason != "" {
		t.Errorf("without rules: %v, %q", safe, reason)
	}
	ended, end := context.WithCancel(context.Background())
	end()
	if safe, reason := (Preflight{}).StripSafe(ended, []string{"lo"}, "flannel.1"); safe || !strings.Contains(reason, context.Canceled.Error()) {
		t.Errorf("out of time: %v, %q", safe, reason)
	}
}

// What may not be read may hold anything.
func TestUnreadableRulesetsAreNotSafe(t *testing.T) {
	if !isolate(t) {
		return
	}
	addOverlay(t)
	proc := t.TempDir()
	dir := filepath.Join(proc, "sys/net/ipv4/conf/all")
	ok(t, os.MkdirAll(dir, 0o755))
	ok(t, os.WriteFile(filepath.Join(dir, "rp_filter"), []byte("0"), 0o644))
	ok(t, os.Mkdir(filepath.Join(proc, "net"), 0o755))
	for _, list := range []string{"ip_tables_names", "ip6_tables_names", "arp_tables_names"} {
		path := filepath.Join(proc, "net", list)
		ok(t, os.WriteFile(path, []byte("nosuchtable\n"), 0o644))
		if safe, reason := (Preflight{ProcDir: proc}).StripSafe(context.Background(), nil, "flannel.1"); safe || !strings.Contains(reason, "tables table nosuchtable") {
			t.Errorf("%s: %v, %q", list, safe, reason)
		}
		ok(t, os.Remove(path))
	}
	if safe, reason := (Preflight{ProcDir: proc}).StripSafe(context.Background(), nil, "flannel.1"); !safe {
		t.Errorf("without a list: %q", reason)
	}
}
