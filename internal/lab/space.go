// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Space is a network namespace. It lives until it is closed, or as long as this process: nothing of it is left behind even after
// kill -9, because no name in the file system holds it (Lab.Publish is the exception).
type Space struct {
	Name string
	file *os.File    // the namespace itself
	work chan func() // to the thread that every process of this namespace is started from
}

// NewSpace makes a namespace with its loopback up. Processes started in it share one private view of the file system,
// which mount may furnish.
func NewSpace(name string, mount func() error) (*Space, error) {
	s := &Space{Name: name, work: make(chan func())}
	ready := make(chan error, 1)
	onThread(func() {
		err := s.enter(mount)
		ready <- err
		if err != nil {
			return
		}
		for f := range s.work {
			f()
		}
	})
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	return s, nil
}

// enter turns the calling thread into the one that processes are started from.
func (s *Space) enter(mount func() error) error {
	if err := syscall.Unshare(syscall.CLONE_NEWNET | syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	var err error
	if s.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := mount(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// Close lets the namespace go once no process and no socket is left in it. What was started in it is killed.
func (s *Space) Close() {
	close(s.work)
	s.file.Close()
}

// File is another descriptor of the namespace, for those who hand it to the kernel.
func (s *Space) File() (*os.File, error) {
	fd, err := unix.FcntlInt(s.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate namespace %s: %w", s.Name, err)
	}
	return os.NewFile(uintptr(fd), s.Name), nil
}

// onThread runs f on a thread of its own, which ends with f; never on the process's first thread, which cannot end.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if syscall.Gettid() == os.Getpid() {
			started := make(chan struct{})
			onThread(func() { close(started); f() })
			<-started
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
}

// Do runs f on a thread inside the namespace. Sockets and netlink handles that f opens stay in it.
func (s *Space) Do(f func() error) error {
	err := errors.New("the function did not return") // it left by runtime.Goexit
	done := make(chan struct{})
	onThread(func() {
		defer close(done)
		if _, _, errno := syscall.RawSyscall(sysSetns, s.file.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
			err = fmt.Errorf("enter namespace %s: %w", s.Name, errno)
			return
		}
		err = f()
	})
	<-done
	return err
}

// Start starts cmd in the namespace. It is killed when the namespace is closed, or this process ends, however that happens.
func (s *Space) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // of the thread, which lives as long as the lab
	result := make(chan error)
	s.work <- func() { result <- cmd.Start() }
	if err := <-result; err != nil {
		return fmt.Errorf("start %s in %s: %w", cmd.Path, s.Name, err)
	}
	return nil
}

// Run runs a command in the namespace to its end and returns what it printed.
func (s *Space) Run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	out := &Output{}
	cmd.Stdout, cmd.Stderr = out, out
	err := s.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("run %v in %s: %w: %s", cmd.Args, s.Name, err, out)
	}
	return out.String(), nil
}

// Dial connects from inside the namespace. address is numeric.
func (s *Space) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = s.Do(func() error {
		conn, err = (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// DialFrom is Dial with a given local address, so that a test knows the connection's tuple.
func (s *Space) DialFrom(ctx context.Context, local netip.AddrPort, address string) (conn net.Conn, err error) {
	err = s.Do(func() error {
		d := net.Dialer{KeepAlive: -1, LocalAddr: net.TCPAddrFromAddrPort(local)}
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// Listen listens inside the namespace for "tcp" connections.
func (s *Space) Listen(address string) (l net.Listener, err error) {
	err = s.Do(func() error {
		l, err = (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", address)
		return err
	})
	return l, err
}

// ListenPacket opens a "udp" socket inside the namespace.
func (s *Space) ListenPacket(address string) (c net.PacketConn, err error) {
	err = s.Do(func() error {
		c, err = net.ListenPacket("udp", address)
		return err
	})
	return c, err
}

// HTTP is a client whose connections start inside the namespace, one for each request.
func (s *Space) HTTP(timeout time.Duration) *http.Client {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		// The transport would go on dialling after the request has timed out.
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return s.Dial(ctx, network, address)
	}
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

// Inject sends whole frames out of an interface, as they are.
func (s *Space) Inject(ifname string, frames ...[]byte) error {
	return s.Do(func() error {
		link, err := netlink.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("find %s in %s: %w", ifname, s.Name, err)
		}
		fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		defer syscall.Close(fd)
		for _, frame := range frames {
			if err := syscall.Sendto(fd, frame, 0, &syscall.SockaddrLinklayer{Ifindex: link.Attrs().Index, Halen: 6}); err != nil {
				return fmt.Errorf("send frame on %s of %s: %w", ifname, s.Name, err)
			}
		}
		return nil
	})
}

// Link is the state of one of the namespace's interfaces, statistics included.
func (s *Space) Link(ifname string) (attrs *netlink.LinkAttrs, err error) {
	err = s.Do(func() error {
		link, err := netlink.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("find %s in %s: %w", ifname, s.Name, err)
		}
		attrs = link.Attrs()
		return nil
	})
	return attrs, err
}

// Sysctl sets a value, which belongs to the namespace: "net/ipv4/ip_forward".
func (s *Space) Sysctl(name, value string) error {
	return s.Do(func() error {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl in %s: %w", s.Name, err)
		}
		return nil
	})
}
