// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// TestPolicyFlags: each switch reaches translation under its name, from a flag and from the config file, and every verb that
// reads policies refuses what is none.
func TestPolicyFlags(t *testing.T) {
	for _, c := range []struct {
		flag, line string
		want       k8s.Options
	}{
		{"--allow-localhost=always", "allow-localhost: always", k8s.Options{}},
		{"--allow-localhost=policy", "allow-localhost: policy", k8s.Options{Policy: policy.Options{HostByRule: true}}},
		{"--policy-cidr-match-mode=nodes", "policy-cidr-match-mode: nodes", k8s.Options{CIDRMatchNodes: true}},
		{"--policy-cidr-match-mode=", "policy-cidr-match-mode: ''", k8s.Options{}},
		{"--ipblock-match=world", "ipblock-match: world", k8s.Options{IPBlockCilium: true}},
		{"--node-selector-labels", "node-selector-labels: true", k8s.Options{NodeSelectorLabels: true}},
		{"--cilium-compat=false", "cilium-compat: false", k8s.Options{ICMPZeroIsEchoReply: true}},
	} {
		file := filepath.Join(t.TempDir(), "weir.yaml")
		if err := os.WriteFile(file, []byte("manifests: /m\nnode: n\n"+c.line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"--manifests", "/m", "--node", "n", c.flag}, {"--config", file}} {
			if got, err := parseAgent(args, &bytes.Buffer{}); err != nil || got.policy != c.want {
				t.Errorf("%v: %+v, %v; want %+v", args, got.policy, err, c.want)
			}
		}
	}
	for flag, want := range map[string]string{
		"--allow-localhost=never":         `--allow-localhost "never": want always or policy`,
		"--policy-cidr-match-mode=pods":   `--policy-cidr-match-mode "pods": want nodes, or nothing`,
		"--ipblock-match=pods":            `--ipblock-match "pods": want all or world`,
		"--node-selector-labels=somewhat": "node-selector-labels",
		"--cilium-compat=1.20":            "cilium-compat",
	} {
		for _, verb := range []string{"agent", "check"} {
			var stderr bytes.Buffer
			code := run(context.Background(), []string{verb, "--manifests", t.TempDir(), flag}, nil, &bytes.Buffer{}, &stderr)
			if code != exitUsage || !strings.Contains(stderr.String(), want) {
				t.Errorf("weir %s %s: exit %d, %s; want %s", verb, flag, code, &stderr, want)
			}
		}
	}
}
