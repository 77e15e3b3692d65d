// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// services are what runs on the node beside containers. Its methods are called by one goroutine.
type services struct {
	prefix string // of the log files
	known  map[string]*service
	exits  chan int    // process ids
	due    chan string // services to be started again
}

type service struct {
	order Order
	pid   int // 0: does not run
}

func newServices(name, logs string) *services {
	s := &services{prefix: filepath.Join(logs, name+"-"), known: map[string]*service{}, exits: make(chan int, 1024), due: make(chan string, 16)}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go s.reap(children)
	return s
}

// reap is what the first process of a namespace is for: orphans become its children.
func (s *services) reap(children <-chan os.Signal) {
	for range children {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			s.exits <- pid
		}
	}
}

func (s *services) carryOut(order Order) error {
	current := s.known[order.Service]
	if order.Stop {
		if current == nil {
			return fmt.Errorf("stop %s: it was not started", order.Service)
		}
		delete(s.known, order.Service)
		if current.pid == 0 {
			return nil
		}
		return s.stop(current)
	}
	if current != nil {
		return fmt.Errorf("start %s: it was started already", order.Service)
	}
	current = &service{order: order}
	if err := s.start(current); err != nil {
		return err
	}
	s.known[order.Service] = current
	return nil
}

// stop asks a service to end, and kills it if it does not.
func (s *services) stop(current *service) error {
	if err := syscall.Kill(current.pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", current.order.Service, err)
	}
	patience := time.After(10 * time.Second)
	for {
		select {
		case exit := <-s.exits:
			if exit == current.pid {
				return nil
			}
			s.ended(exit)
		case <-patience:
			if err := syscall.Kill(current.pid, syscall.SIGKILL); err != nil {
				return fmt.Errorf("kill %s: %w", current.order.Service, err)
			}
			patience = nil
		}
	}
}

func (s *services) start(current *service) error {
	path, err := exec.LookPath(current.order.Args[0])
	if err != nil {
		return fmt.Errorf("start %s: %w", current.order.Service, err)
	}
	log, err := os.OpenFile(s.prefix+current.order.Service+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", current.order.Service, err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("start %s: %w", current.order.Service, err)
	}
	defer null.Close()
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{null.Fd(), log.Fd(), log.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true}}
	if current.pid, err = syscall.ForkExec(path, current.order.Args, attr); err != nil {
		return fmt.Errorf("start %s: %w", current.order.Service, err)
	}
	return nil
}

func (s *services) ended(pid int) {
	for name, current := range s.known {
		if current.pid != pid {
			continue
		}
		if current.pid = 0; current.order.Restart {
			time.AfterFunc(time.Second, func() { s.due <- name })
		}
	}
}

func (s *services) restart(name string) {
	current := s.known[name]
	if current == nil || current.pid != 0 {
		return // stopped meanwhile
	}
	if err := s.start(current); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		time.AfterFunc(time.Second, func() { s.due <- name })
	}
}
