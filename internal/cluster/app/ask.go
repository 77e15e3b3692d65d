// SPDX-License-Identifier: Apache-2.0

package main

import (
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
