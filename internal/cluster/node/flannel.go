// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// plugin does what flannel's CNI plugin does: it reads what flanneld found out and has the bridge plugin do the work.
func plugin(in io.Reader, out io.Writer) error {
	if os.Getenv("CNI_COMMAND") == "VERSION" {
		return json.NewEncoder(out).Encode(map[string]any{"cniVersion": "0.4.0", "supportedVersions": []string{"0.3.0", "0.3.1", "0.4.0"}})
	}
	var config struct {
		Name       string         `json:"name"`
		CNIVersion string         `json:"cniVersion"`
		Delegate   map[string]any `json:"delegate"`
		Prev       map[string]any `json:"prevResult"`
	}
	if err := json.NewDecoder(in).Decode(&config); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	env, err := subnetEnv("/run/flannel/subnet.env")
	if err != nil {
		return err
	}
	subnet, err := netip.ParsePrefix(env["FLANNEL_SUBNET"])
	if err != nil {
		return fmt.Errorf("read FLANNEL_SUBNET: %w", err)
	}
	d := config.Delegate
	if d == nil {
		d = map[string]any{}
	}
	d["name"], d["cniVersion"], d["type"] = config.Name, config.CNIVersion, "bridge"
	d["mtu"] = json.Number(env["FLANNEL_MTU"])
	d["ipMasq"] = env["FLANNEL_IPMASQ"] != "true"
	d["ipam"] = map[string]any{"type": "host-local", "dataDir": "/run/cni-ipam",
		"ranges": [][]any{{map[string]any{"subnet": subnet.Masked().String()}}},
		"routes": []any{map[string]any{"dst": env["FLANNEL_NETWORK"]}}}
	if config.Prev != nil {
		d["prevResult"] = config.Prev
	}
	input, err := json.Marshal(d)
	if err != nil {
		return err
	}
	bridge := exec.Command(filepath.Join(strings.Split(os.Getenv("CNI_PATH"), ":")[0], "bridge"))
	bridge.Stdin, bridge.Stdout, bridge.Stderr = strings.NewReader(string(input)), out, os.Stderr
	err = bridge.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode()) // it has said why
	}
	return err
}

func subnetEnv(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("learn this node's subnet: %w", err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			env[name] = value
		}
	}
	return env, nil
}
