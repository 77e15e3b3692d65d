// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cluster"
)

const victim = "WEIR_CLUSTERTEST_VICTIM"

// beVictim is what a process does that TestKilledClusterTakesItsProcessesAlong has started: a cluster of one node.
func beVictim() {
	c, err := cluster.New(context.Background(), cluster.Config{Nodes: 1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(c.Dir)
	select {}
}

func TestKilledClusterTakesItsProcessesAlong(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victim+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := bufio.NewReader(out).ReadString('\n')
	if dir = strings.TrimSpace(dir); err != nil || dir == "" {
		cmd.Process.Kill()
		t.Fatalf("the victim said %q: %v, %v", dir, err, cmd.Wait())
	}
	if found := leavings(filepath.Base(dir)); len(found) < 6 { // etcd, apiserver, two controllers, node and kubelet
		t.Errorf("the cluster runs as only %q", found)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	within(t, 10*time.Second, func(context.Context) error {
		for _, what := range leavings(filepath.Base(dir)) {
			if strings.HasPrefix(what, "process ") {
				return fmt.Errorf("left behind: %s", what)
			}
		}
		return nil
	})
	// Its files and cgroups go when the next cluster comes.
	next, err := cluster.New(t.Context(), cluster.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	if found := leavings(filepath.Base(dir)); len(found) > 0 {
		t.Errorf("left behind: %q", found)
	}
}

// leavings are processes, folders, cgroups and mounts in whose names the cluster's occurs.
func leavings(name string) (found []string) {
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range processes {
		if line, _ := os.ReadFile(file); bytes.Contains(line, []byte(name)) {
			found = append(found, "process "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	for _, pattern := range []string{filepath.Join(os.TempDir(), name+"*"), "/sys/fs/cgroup/" + name + "*", "/sys/fs/cgroup/*/" + name + "*"} {
		paths, _ := filepath.Glob(pattern)
		found = append(found, paths...)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, name) {
			found = append(found, "mount "+line)
		}
	}
	return found
}
