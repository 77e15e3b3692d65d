// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weirnet/weir/internal/lab"
)

// Node is a machine of the cluster: its own network, mounts, processes and cgroups.
type Node struct {
	Name  string
	IP    netip.Addr // of eth0, in the underlay
	Space *lab.Space // its network namespace; another one after a restart

	cluster *Cluster
	dir     string
	init    *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Scanner
	mu      sync.Mutex // over orders
	ended   chan struct{}
}

func nodeName(number int) string { return "n" + strconv.Itoa(number+1) }

// Node finds a node by its name.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// powerOn makes the node's namespaces and its first process.
func (n *Node) powerOn(ctx context.Context) error {
	c := n.cluster
	var err error
	if n.Space, err = c.Plug(n.Name, n.IP); err != nil {
		return err
	}
	n.init = exec.Command(c.Tools.NodeInit)
	// Go's fork waits for the mapping of users, which there is none of.
	n.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	if err := c.logTo(n.init, n.Name); err != nil {
		return err
	}
	defer n.init.Stderr.(io.Closer).Close()
	n.init.Stdout = nil
	if n.orders, err = n.init.StdinPipe(); err != nil {
		return err
	}
	answers, err := n.init.StdoutPipe()
	if err != nil {
		return err
	}
	n.answers = bufio.NewScanner(answers)
	if err := n.Space.Start(n.init); err != nil {
		return err
	}
	n.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		cmd.Process.Wait() // not cmd.Wait, which closes the answers before they are read
		close(ended)
	}(n.init, n.ended)
	return n.order(map[string]string{"Name": n.Name, "Dir": n.dir, "Debian": c.Tools.Debian, "Cgroup": c.name + "-" + n.Name})
}

// powerOff kills everything on the node at once. Its disks stay.
func (n *Node) powerOff() error {
	if n.init != nil && n.init.Process != nil {
		n.init.Process.Kill()
		select {
		case <-n.ended:
		case <-time.After(20 * time.Second):
			return fmt.Errorf("switch off %s: its processes do not end", n.Name)
		}
		n.orders.Close()
	}
	n.init = nil
	if n.Space != nil {
		n.Space.Close()
		n.Space = nil
	}
	return nil
}

func (n *Node) close() error {
	return errors.Join(n.powerOff(), removeCgroups(n.cluster.name+"-"+n.Name))
}

// order has the first process do something.
func (n *Node) order(order any) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	line, err := json.Marshal(order)
	if err != nil {
		return err
	}
	if _, err := n.orders.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("command %s: %w", n.Name, err)
	}
	if !n.answers.Scan() {
		return fmt.Errorf("command %s: no answer: %v", n.Name, errors.Join(n.answers.Err(), io.ErrUnexpectedEOF))
	}
	var complaint string
	if err := json.Unmarshal(n.answers.Bytes(), &complaint); err != nil {
		return fmt.Errorf("command %s: read answer: %w", n.Name, err)
	}
	if complaint != "" {
		return errors.New(complaint)
	}
	return nil
}

// StartService starts a program that is no container: as systemd would, again and again if restart is set.
func (n *Node) StartService(name string, restart bool, args ...string) error {
	return n.order(map[string]any{"Service": name, "Args": args, "Restart": restart})
}

// StopService asks a service to end, and returns when it has.
func (n *Node) StopService(name string) error {
	return n.order(map[string]any{"Service": name, "Stop": true})
}

// Exec runs a command on the node and returns what it printed to stdout.
func (n *Node) Exec(ctx context.Context, command ...string) (string, error) {
	return n.run(ctx, nil, command...)
}

func (n *Node) run(ctx context.Context, stdin io.Reader, command ...string) (string, error) {
	cmd := n.Command(ctx, command...)
	cmd.Stdin = stdin
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := n.Space.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), &CommandError{Args: append([]string{n.Name + ":"}, command...), Complaint: strings.TrimSpace(complaint.String()), Err: err}
	}
	return out.String(), nil
}

// Command is a command on the node that is not started yet; n.Space.Start starts it.
func (n *Node) Command(ctx context.Context, what ...string) *exec.Cmd {
	enter := []string{"--target=" + strconv.Itoa(n.init.Process.Pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}
	cmd := command(ctx, "nsenter", append(enter, what...)...) // which forks
	cmd.Env = append(os.Environ(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Dir = "/"
	return cmd
}

// Path is where this process finds a file of the node's.
func (n *Node) Path(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", n.init.Process.Pid, path)
}

// Log is what the node's service has printed.
func (n *Node) Log(service string) string {
	text, err := os.ReadFile(filepath.Join(n.cluster.Dir, "log", n.Name+"-"+service+".log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}
