// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const readTimeout = 5 * time.Second // of a question

// ErrForbidden says that somebody else than root asked.
var ErrForbidden = errors.New("only root may ask")

// Guard is what the plugin's questions are answered by.
type Guard interface {
	// Add returns nil once policy for the pod is enforced on the interface that netns shows; it gives up when ctx ends.
	// It may be asked again about the same pod. netns is closed after it returns.
	Add(ctx context.Context, p Pod, netns *os.File) error
	// Check returns nil if policy for the pod is enforced.
	Check(ctx context.Context, p Pod, netns *os.File) error
	// Release forgets the sandboxes that gone names.
	Release(gone func(containerID string) bool)
}

// Server listens for the plugin.
type Server struct {
	path     string
	listener *net.UnixListener
	inode    uint64 // of the socket as we made it
	guard    Guard
	log      *slog.Logger
	allowed  uint32 // user id of those who may ask
}

// Listen makes the socket, in a directory that only root may enter. A socket that an earlier agent left is replaced in one
// step: whoever connects meets the old one or this one.
func Listen(path string, guard Guard, log *slog.Logger) (*Server, error) {
	s := &Server{path: path, guard: guard, log: log}
	if err := s.listen(); err != nil {
		return nil, fmt.Errorf("listen for the CNI plugin: %w", err)
	}
	return s, nil
}

func (s *Server) listen() error {
	dir := filepath.Dir(s.path)
	if err := ownDirectory(dir); err != nil {
		return err
	}
	// Without the chmod in between nobody could reach it either: the directory is closed.
	made := filepath.Join(dir, fmt.Sprintf(".%s.%d", filepath.Base(s.path), os.Getpid()))
	if err := os.Remove(made); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return err
	}
	listener.SetUnlinkOnClose(false)
	fail := func(err error) error { return errors.Join(err, listener.Close(), os.Remove(made)) }
	if err := os.Chmod(made, 0o600); err != nil {
		return fail(err)
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(made, &st); err != nil {
		return fail(fmt.Errorf("look at socket: %w", err))
	}
	if err := os.Rename(made, s.path); err != nil {
		return fail(err)
	}
	s.listener, s.inode = listener, st.Ino
	return nil
}

// ownDirectory makes a directory that only root may enter, or makes sure that an existing one is that.
func ownDirectory(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		return fmt.Errorf("use %s: it is no directory", dir)
	case st.Uid != uint32(os.Geteuid()):
		return fmt.Errorf("use %s: it belongs to user %d", dir, st.Uid)
	case st.Mode&0o077 != 0:
		// What mounts the directory for us made it as directories are made.
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// Serve answers questions until ctx ends; then no more are taken, and those at hand are given up.
func (s *Server) Serve(ctx context.Context) error {
	var asked sync.WaitGroup
	defer asked.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.close()
	defer context.AfterFunc(ctx, func() { s.listener.Close() })()
	for {
		conn, err := s.listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
			s.log.Warn("a question of the CNI plugin was lost", "error", err)
			time.Sleep(readTimeout / 100)
			continue
		}
		if err != nil {
			return fmt.Errorf("listen for the CNI plugin: %w", err)
		}
		asked.Go(func() { s.serve(ctx, conn) })
	}
}

// close gives up the socket; the file only if it is still ours, not that of the agent after us.
func (s *Server) close() {
	s.listener.Close()
	var st syscall.Stat_t
	if syscall.Lstat(s.path, &st) == nil && st.Ino == s.inode {
		os.Remove(s.path)
	}
}

func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	q, netns, err := s.read(conn)
	if netns != nil {
		defer netns.Close()
	}
	if err == nil {
		ctx, cancel := s.limit(ctx, conn, q.Patience)
		err = s.answer(ctx, q, netns)
		cancel()
	}
	if ctx.Err() != nil {
		return // the plugin asks the agent after us
	}
	a := answer{OK: err == nil}
	if err != nil {
		a.Reason = err.Error()
		s.log.Debug("question of the CNI plugin", "error", err)
	}
	line, err := json.Marshal(a)
	if err != nil {
		line = []byte(`{"ok":false}`)
	}
	conn.SetWriteDeadline(time.Now().Add(readTimeout))
	conn.Write(append(line, '\n'))
}

// limit is ctx until the asker has lost patience or has gone.
func (s *Server) limit(ctx context.Context, conn *net.UnixConn, patience time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if patience > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, patience)
		outer := cancel
		cancel = func() { stop(); outer() }
	}
	conn.SetReadDeadline(time.Time{})
	go func() {
		conn.Read(make([]byte, 1)) // nothing more is to come: it ends with the connection
		cancel()
	}()
	return ctx, cancel
}

func (s *Server) answer(ctx context.Context, q *question, netns *os.File) error {
	switch q.Verb {
	case verbAdd:
		return s.guard.Add(ctx, *q.Pod, netns)
	case verbCheck:
		return s.guard.Check(ctx, *q.Pod, netns)
	case verbRelease:
		s.guard.Release(func(id string) bool { return id == q.Containers[0] })
	case verbKeep:
		keep := make(map[string]bool, len(q.Containers))
		for _, id := range q.Containers {
			keep[id] = true
		}
		s.guard.Release(func(id string) bool { return !keep[id] })
	}
	return nil
}

// read takes a question and the descriptor that comes with it.
func (s *Server) read(conn *net.UnixConn) (q *question, netns *os.File, err error) {
	if err := s.authenticate(conn); err != nil {
		return nil, nil, err
	}
	conn.SetReadDeadline(time.Now().Add(readTimeout))
	line, rights := make([]byte, 0, 4096), make([]byte, syscall.CmsgSpace(4))
	for !bytes.HasSuffix(line, []byte{'\n'}) {
		buf := make([]byte, 4096)
		n, oob, _, _, err := conn.ReadMsgUnix(buf, rights)
		if f := received(rights[:oob]); f != nil {
			if netns != nil {
				netns.Close()
			}
			netns = f
		}
		if err == nil && n == 0 || len(line)+n > maxQuestion {
			err = fmt.Errorf("it does not end within %d bytes", maxQuestion)
		}
		if err != nil {
			return nil, netns, fmt.Errorf("read question: %w", err)
		}
		line = append(line, buf[:n]...)
	}
	q = &question{}
	if err := json.Unmarshal(line, q); err != nil {
		return nil, netns, fmt.Errorf("read question: %w", err)
	}
	return q, netns, q.check(netns != nil)
}

// authenticate asks the kernel who connected.
func (s *Server) authenticate(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("ask who connected: %w", err)
	}
	var peer *syscall.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		peer, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); controlErr != nil || err != nil {
		return fmt.Errorf("ask who connected: %w", errors.Join(controlErr, err))
	}
	if peer.Uid != s.allowed {
		return fmt.Errorf("%w: user %d did", ErrForbidden, peer.Uid)
	}
	return nil
}

// received is the first descriptor in a control message; a second one, for which there may be room, is closed.
func received(oob []byte) (first *os.File) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if first == nil {
				first = os.NewFile(uintptr(fd), "netns")
			} else {
				syscall.Close(fd)
			}
		}
	}
	return first
}
