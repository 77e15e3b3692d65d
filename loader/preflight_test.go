// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStripIsSafeOnlyWhereTheStackTakesInnerPackets(t *testing.T) {
	for name, c := range map[string]struct {
		all, nic, rules string
		reason          string // empty: safe
	}{
		"no filter":              {all: "0", nic: "0"},
		"loose":                  {all: "0", nic: "2"},
		"loose wins over strict": {all: "1", nic: "2"},
		"strict on the NIC":      {all: "0", nic: "1", reason: "rp_filter of eth0 is 1"},
		"strict everywhere":      {all: "1", nic: "0", reason: "rp_filter of eth0 is 1"},
		"rules about others":     {rules: "-A FORWARD -i flannel.10 -j DROP\niifname \"cni0\" accept"},
		"iptables":               {rules: "*filter\n-A FORWARD -i flannel.1 -j MARK\n", reason: "-A FORWARD -i flannel.1 -j MARK"},
		"iptables, wildcard":     {rules: "-A FORWARD -i flannel+ -j DROP", reason: "flannel+"},
		"nft":                    {rules: "chain c {\n iifname \"flannel.1\" drop\n}", reason: "iifname \"flannel.1\" drop"},
		"nft, set":               {rules: "iifname { \"eth1\", \"flannel.1\" } drop", reason: "flannel.1"},
		"nft, wildcard":          {rules: "iifname \"flannel*\" drop", reason: "flannel*"},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			for conf, value := range map[string]string{"all": c.all, "eth0": c.nic} {
				dir := filepath.Join(proc, "sys/net/ipv4/conf", conf)
				ok(t, os.MkdirAll(dir, 0o755))
				if value == "" {
					value = "0"
				}
				ok(t, os.WriteFile(filepath.Join(dir, "rp_filter"), []byte(value+"\n"), 0o644))
			}
			p := Preflight{ProcDir: proc, Rulesets: func(context.Context) ([]string, error) { return []string{c.rules}, nil }}
			safe, reason := p.StripSafe(context.Background(), []string{"eth0"}, "flannel.1")
			if safe != (c.reason == "") || !strings.Contains(reason, c.reason) {
				t.Errorf("got %v, %q; want reason %q", safe, reason, c.reason)
			}
		})
	}
}

func TestThisHostsRulesetsAreRead(t *testing.T) {
	if !isolate(t) {
		return
	}
	if _, reason := (Preflight{}).StripSafe(context.Background(), []string{"lo"}, "flannel.1"); strings.Contains(reason, "read") {
		t.Error(reason)
	}
}
