// SPDX-License-Identifier: Apache-2.0

// Command node is the first process of a node of internal/cluster: it furnishes the namespaces it was started in, starts
// the node's services and reaps what they leave. Under the name "flannel" it is flannel's CNI plugin, whose module the
// Go proxy does not serve.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Mounts and forks concern the calling thread's namespaces: all are done by the first one.
func init() { runtime.LockOSThread() }

func main() {
	if filepath.Base(os.Args[0]) == "flannel" {
		if err := plugin(os.Stdin, os.Stdout); err != nil {
			// What the CNI specification wants to be told.
			json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": "0.3.1", "code": 100, "msg": err.Error()})
			os.Exit(1)
		}
		return
	}
	if err := node(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

// Furnishing is the first line of the input.
type Furnishing struct {
	Name   string // of the host
	Dir    string // private to the node, outside of what it sees changed
	Debian string // unpacked packages
	Cgroup string // name of the node's own
}

// Order is each further line: a service to start or to stop.
type Order struct {
	Service string // its output goes to Dir/../log/NAME-SERVICE.log
	Args    []string
	Restart bool // whenever it ends by itself, a second later
	Stop    bool
}

// node carries out orders until there are no more: with the first process, all of the node ends. Each line of the input
// is answered by one, which is empty or an error.
func node(in io.Reader, out io.Writer) error {
	lines := make(chan []byte)
	go func() {
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			lines <- append([]byte(nil), scanner.Bytes()...)
		}
		close(lines)
	}()
	answer := func(err error) {
		text := ""
		if err != nil {
			text = err.Error()
		}
		line, _ := json.Marshal(text)
		fmt.Fprintf(out, "%s\n", line)
	}

	var f Furnishing
	if err := json.Unmarshal(<-lines, &f); err != nil {
		return fmt.Errorf("read furnishing: %w", err)
	}
	if err := f.furnish(); err != nil {
		err = fmt.Errorf("furnish %s: %w", f.Name, err)
		answer(err)
		return err
	}
	answer(nil)

	services := newServices(f.Name, filepath.Join(f.Dir, "..", "log"))
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return nil
			}
			var order Order
			if err := json.Unmarshal(line, &order); err != nil {
				answer(fmt.Errorf("read order: %w", err))
				continue
			}
			answer(services.carryOut(order))
		case exit := <-services.exits:
			services.ended(exit)
		case name := <-services.due:
			services.restart(name)
		}
	}
}
