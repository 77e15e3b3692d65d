// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// get asks once, on a connection of its own.
func get(args []string) error {
	flags := flag.NewFlagSet("get", flag.ExitOnError)
	timeout := flags.Duration("timeout", 2*time.Second, "")
	flags.Parse(args)
	client := http.Client{Timeout: *timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(flags.Arg(0))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

func udp(args []string) error {
	flags := flag.NewFlagSet("udp", flag.ExitOnError)
	timeout := flags.Duration("timeout", 2*time.Second, "")
	flags.Parse(args)
	connection, err := net.Dial("udp", flags.Arg(0))
	if err != nil {
		return err
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(*timeout))
	if _, err := connection.Write([]byte("hello")); err != nil {
		return err
	}
	buffer := make([]byte, 64)
	n, err := connection.Read(buffer)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", buffer[:n])
	return nil
}

// stream writes a numbered line to a connection's other end at an interval and prints, for each that comes back, its
// number and when it was sent and received, in nanoseconds since 1970. What does not come back is not printed; the
// connection stays open until its kernel gives up or the time is over.
func stream(args []string) error {
	flags := flag.NewFlagSet("stream", flag.ExitOnError)
	interval := flags.Duration("interval", 10*time.Millisecond, "")
	lasting := flags.Duration("for", time.Hour, "")
	flags.Parse(args)
	connection, err := net.DialTimeout("tcp", flags.Arg(0), 3*time.Second)
	if err != nil {
		return err
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(*lasting))
	go func() {
		for number := 0; ; number++ {
			if _, err := fmt.Fprintf(connection, "%d %d\n", number, time.Now().UnixNano()); err != nil {
				return
			}
			time.Sleep(*interval)
		}
	}()
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		fmt.Printf("%s %d\n", lines.Bytes(), time.Now().UnixNano())
	}
	var late net.Error
	if err := lines.Err(); err != nil && !(errors.As(err, &late) && late.Timeout()) {
		return err
	}
	return nil
}
