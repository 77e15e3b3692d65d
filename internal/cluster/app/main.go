// SPDX-License-Identifier: Apache-2.0

// Command app is all that is in the pods of internal/cluster: server, client and pause in one.
//
//	app                        do nothing until told to end (pause)
//	app serve [flags]          HTTP and UDP echo on :8080, TCP echo on :8081; counts who sent what
//	app get URL                print what a URL has; exit code 1 if it cannot be had in time
//	app udp ADDRESS            ask a server for an echo
//	app stream [-udp] ADDRESS  keep one connection busy and print each echo with its times
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	mode, args := "", []string(nil)
	if len(os.Args) > 1 {
		mode, args = os.Args[1], os.Args[2:]
	}
	verbs := map[string]func([]string) error{"": pause, "serve": serve, "get": get, "udp": udp, "stream": stream}
	verb, ok := verbs[mode]
	if !ok {
		fmt.Fprintf(os.Stderr, "app: unknown verb %q\n", mode)
		os.Exit(2)
	}
	if err := verb(args); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// pause is the sandbox's first process: it reaps, and ends when told.
func pause([]string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return nil
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
	return nil
}
