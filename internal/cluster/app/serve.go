// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Count is what came from one address.
type Count struct {
	UDP  int `json:"udp"`  // datagrams to :8080
	TCP  int `json:"tcp"`  // connections to :8081
	HTTP int `json:"http"` // requests to :8080
}

type counts struct {
	mu   sync.Mutex
	from map[string]*Count
}

func (c *counts) add(address string, what func(*Count)) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := at.Addr().Unmap().String()
	if c.from[name] == nil {
		c.from[name] = &Count{}
	}
	what(c.from[name])
}

// serve answers, and sends, if asked to, before it does anything else: a pod that sends from its first instruction.
func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	to := flags.String("to", "", "address of a pod to send to from the first moment: a datagram each millisecond, a connection each ten")
	lasting := flags.Duration("for", 10*time.Second, "how long to send")
	flags.Parse(args)
	sent := &Sent{}
	if *to != "" {
		go sent.datagrams(*to, *lasting)
		go sent.connections(*to, *lasting)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)

	c := &counts{from: map[string]*Count{}}
	packets, err := net.ListenPacket("udp", ":8080")
	if err != nil {
		return err
	}
	go func() {
		buffer := make([]byte, 65536)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			c.add(from.String(), func(count *Count) { count.UDP++ })
			packets.WriteTo(buffer[:n], from)
		}
	}()
	listener, err := net.Listen("tcp", ":8081")
	if err != nil {
		return err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			c.add(connection.RemoteAddr().String(), func(count *Count) { count.TCP++ })
			go func() {
				defer connection.Close()
				io.Copy(connection, connection)
			}()
		}
	}()

	host, _ := os.Hostname()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.add(r.RemoteAddr, func(count *Count) { count.HTTP++ })
		fmt.Fprintf(w, "host=%s from=%s\n", host, r.RemoteAddr)
	})
	// What came from whom: the question itself is not counted.
	mux.HandleFunc("/counts", func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		json.NewEncoder(w).Encode(c.from)
	})
	mux.HandleFunc("/sent", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(sent.values()) })
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(":8080", mux) }()
	select {
	case err := <-failed:
		return err
	case <-stop:
		return nil
	}
}
