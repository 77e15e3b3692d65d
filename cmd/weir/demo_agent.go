// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weirnet/weir/internal/lab"
)

const agentMetrics = "127.0.0.1:9469"

// nodeAgent is a real agent process on a node of the lab.
type nodeAgent struct {
	node *lab.Node
	cmd  *exec.Cmd
	log  *lab.Output
	done chan struct{} // closed when the process has ended
}

// startAgent starts this very program as the agent of a node of the lab.
func startAgent(l *lab.Lab, n *lab.Node, flags ...string) (*nodeAgent, error) {
	return startAgentOn(n, append([]string{"--manifests", l.Manifests.Dir}, flags...)...)
}

// startAgentOn is startAgent for an agent with another source of policy.
func startAgentOn(n *lab.Node, flags ...string) (*nodeAgent, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own executable: %w", err)
	}
	args := append([]string{"agent", "--node", n.NodeID, "--metrics-addr", agentMetrics}, flags...)
	a := &nodeAgent{node: n, cmd: exec.Command(self, args...), log: &lab.Output{}, done: make(chan struct{})}
	a.cmd.Env = append(os.Environ(), "WEIR_VERB=agent") // tells a test binary what it is now
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	if err := n.Start(a.cmd); err != nil {
		return nil, err
	}
	go func() {
		a.cmd.Wait()
		close(a.done)
	}()
	return a, nil
}

// ready waits until the agent says that the manifests as they are now are enforced.
func (a *nodeAgent) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		body, last := a.get(ctx, "/readyz")
		if last == nil {
			return nil
		}
		if body != "" {
			last = fmt.Errorf("%w: %s", last, strings.TrimSpace(body))
		}
		select {
		case <-a.done:
			return fmt.Errorf("wait for the agent of %s: it ended: %v\n%s", a.node.NodeID, a.cmd.ProcessState, a.log)
		case <-ctx.Done():
			return fmt.Errorf("wait for the agent of %s: %w\n%s", a.node.NodeID, last, a.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (a *nodeAgent) get(ctx context.Context, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agentMetrics+path, nil)
	if err != nil {
		return "", err
	}
	response, err := a.node.HTTP(5 * time.Second).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s", path, response.Status)
	}
	return string(body), err
}

// metrics reads the agent's counters.
func (a *nodeAgent) metrics(ctx context.Context) (samples, error) {
	body, err := a.get(ctx, "/metrics")
	if err != nil {
		return nil, fmt.Errorf("read metrics of %s: %w", a.node.NodeID, err)
	}
	return parseSamples(body)
}

// stop ends the process by a signal and waits for it.
func (a *nodeAgent) stop(signal syscall.Signal) error {
	if err := a.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the agent of %s: %w", a.node.NodeID, err)
	}
	select {
	case <-a.done:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("stop the agent of %s: still there 10 s after %v\n%s", a.node.NodeID, signal, a.log)
	}
}

// sample is one line of Prometheus' text format.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

type samples []sample

// parseSamples reads the text format as far as this project's own metrics use it.
func parseSamples(text string) (samples, error) {
	var out samples
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		s := sample{labels: map[string]string{}}
		end := strings.IndexAny(line, "{ ")
		if end < 0 {
			return nil, fmt.Errorf("read metric %q: no value", line)
		}
		s.name, line = line[:end], line[end:]
		for line[0] != ' ' {
			name, rest, ok := strings.Cut(line[1:], "=")
			quoted, err := strconv.QuotedPrefix(rest)
			if !ok || err != nil {
				return nil, fmt.Errorf("read metric %s: labels %q", s.name, line)
			}
			s.labels[name], _ = strconv.Unquote(quoted)
			line = strings.TrimPrefix(rest[len(quoted):], "}")
			if line == "" {
				return nil, fmt.Errorf("read metric %s: no value", s.name)
			}
		}
		var err error
		if s.value, err = strconv.ParseFloat(strings.TrimSpace(line), 64); err != nil {
			return nil, fmt.Errorf("read metric %s: %w", s.name, err)
		}
		out = append(out, s)
	}
	return out, lines.Err()
}

// sum adds up the samples of a name that have all the given labels: "hook=pod_rx".
func (s samples) sum(name string, labels ...string) uint64 {
	var total float64
next:
	for _, one := range s {
		if one.name != name {
			continue
		}
		for _, label := range labels {
			key, value, _ := strings.Cut(label, "=")
			if one.labels[key] != value {
				continue next
			}
		}
		total += one.value
	}
	return uint64(total)
}

// since is what was counted between an earlier reading and this one; only what moved.
func (s samples) since(earlier samples) samples {
	was := map[string]float64{}
	for _, one := range earlier {
		was[one.name+fmt.Sprint(one.labels)] = one.value
	}
	var out samples
	for _, one := range s {
		if one.value -= was[one.name+fmt.Sprint(one.labels)]; one.value != 0 {
			out = append(out, one)
		}
	}
	return out
}
