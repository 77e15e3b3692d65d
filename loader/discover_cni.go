// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// cniResult is the part of libcni's cached results that names interfaces (container networking specification 1.0).
type cniResult struct {
	ContainerID string `json:"containerId"`
	IfName      string `json:"ifName"`
	Result      struct {
		Interfaces []struct {
			Name    string `json:"name"`
			MAC     string `json:"mac"`
			Sandbox string `json:"sandbox"`
		} `json:"interfaces"`
		IPs []struct {
			Address   string `json:"address"`
			Interface *int   `json:"interface"`
		} `json:"ips"`
	} `json:"result"`
}

// byRecord: the container runtime keeps the result of each CNI call, which names the host side of the veth. Where the
// address manager keeps a record of its own (host-local: a file per address), that decides which container is the latest.
func (f *PodFinder) byRecord(n *Network, pods []PodAddress, out map[string][]candidate) {
	dir := f.CNIDir
	if dir == "" {
		dir = "/var/lib/cni"
	}
	wanted := map[netip.Addr]string{}
	for _, p := range pods {
		wanted[p.Addr] = p.Key
	}
	files, _ := filepath.Glob(filepath.Join(dir, "results", "*"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		var r cniResult
		if err != nil || json.Unmarshal(data, &r) != nil {
			continue
		}
		for _, ip := range r.Result.IPs {
			p, err := netip.ParsePrefix(ip.Address)
			key, ok := wanted[p.Addr()]
			if err != nil || !ok || !latestHolder(dir, p.Addr(), r.ContainerID) {
				continue
			}
			for _, i := range r.Result.Interfaces {
				if l := n.byName(i.Name); i.Sandbox == "" && l != nil && l.Type() == "veth" {
					out[key] = append(out[key], candidate{link: l, rank: rankUnverified, evidence: "cni record"})
				}
			}
		}
	}
}

// latestHolder is false if host-local has given the address to another container since.
func latestHolder(dir string, a netip.Addr, container string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "networks", "*", a.String()))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		first, _, _ := strings.Cut(string(data), "\n")
		if strings.TrimSpace(first) != container {
			return false
		}
	}
	return true
}
