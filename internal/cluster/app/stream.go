// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"time"
)

// stream sends numbers at an interval and prints, for each that comes back, the number and when it was sent and received,
// in nanoseconds since 1970. What does not come back is not printed. A TCP connection stays open until its kernel gives
// up, or the time is over; with UDP every number is a datagram, so that each missing one is a lost packet.
func stream(args []string) error {
	flags := flag.NewFlagSet("stream", flag.ExitOnError)
	interval := flags.Duration("interval", 10*time.Millisecond, "")
	lasting := flags.Duration("for", time.Hour, "")
	datagrams := flags.Bool("udp", false, "")
	flags.Parse(args)
	network := "tcp"
	if *datagrams {
		network = "udp"
	}
	connection, err := net.DialTimeout(network, flags.Arg(0), 3*time.Second)
	if err != nil {
		return err
	}
	defer connection.Close()
	end := time.Now().Add(*lasting)
	connection.SetReadDeadline(end.Add(2 * time.Second)) // for the last echoes
	fmt.Println("connected")
	go func() {
		for number := 0; time.Now().Before(end); number++ {
			if _, err := fmt.Fprintf(connection, "%d %d\n", number, time.Now().UnixNano()); err != nil && !*datagrams {
				fmt.Fprintln(os.Stderr, "app:", err)
				return
			}
			time.Sleep(*interval)
		}
	}()
	return echoes(connection, *datagrams)
}

func echoes(connection net.Conn, datagrams bool) error {
	for {
		lines := bufio.NewScanner(connection)
		for lines.Scan() {
			fmt.Printf("%s %d\n", lines.Bytes(), time.Now().UnixNano())
		}
		err := lines.Err()
		if late := net.Error(nil); err == nil && !datagrams || errors.As(err, &late) && late.Timeout() {
			return nil
		}
		if !datagrams {
			return err
		} // a refusal says nothing about what follows
	}
}
