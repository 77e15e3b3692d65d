// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// What is not a whole record of a pod's own interface is nobody's claim.
func TestRecordsThatNameNoPod(t *testing.T) {
	const good = `{"containerId":"c1","ifName":"eth0","cniArgs":[["K8S_POD_NAMESPACE","n"],["K8S_POD_NAME","p"],["K8S_POD_UID","u"]],
		"result":{"interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/x"},{"name":"net1","sandbox":"/x"}],
		"ips":[{"address":"192.0.2.7/24","interface":1},{"address":"2001:db8::7/64","interface":1},{"address":"198.51.100.7/24","interface":2},
		{"address":"192.0.2.8/24","interface":9},{"address":"junk"}]}}`
	path := filepath.Join(t.TempDir(), "record")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good)
	p, hosts, err := readRecord(path)
	if err != nil || p == nil || p.String() != "n/p" || p.UID != "u" || p.ContainerID != "c1" || p.NetNS != "/x" || len(p.Addrs) != 2 ||
		len(hosts) != 1 || hosts[0] != "veth1" {
		t.Fatalf("record of a pod: %+v %v %v", p, hosts, err)
	}
	for name, text := range map[string]string{
		"second interface": `{"containerId":"c1","ifName":"net1","cniArgs":[["K8S_POD_NAMESPACE","n"],["K8S_POD_NAME","p"]],"result":{"ips":[{"address":"192.0.2.7/24"}]}}`,
		"no pod":           `{"containerId":"c1","ifName":"eth0","result":{"ips":[{"address":"192.0.2.7/24"}]}}`,
		"no address":       `{"containerId":"c1","ifName":"eth0","cniArgs":[["K8S_POD_NAMESPACE","n"],["K8S_POD_NAME","p"]],"result":{}}`,
	} {
		write(text)
		if p, _, err := readRecord(path); p != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	write(good[:100])
	if p, _, err := readRecord(path); p != nil || err == nil {
		t.Errorf("half a record: %+v, %v", p, err)
	}
}
