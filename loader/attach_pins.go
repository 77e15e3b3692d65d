// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// DefaultBPFFS is where the BPF file system belongs.
const DefaultBPFFS = "/sys/fs/bpf"

// ErrLocked says that another agent uses the pin path.
var ErrLocked = errors.New("another agent is using it")

// PinLock holds a pin path for one agent.
type PinLock struct{ dir *os.File }

// LockPins makes the pin path as CheckPinPath does, and holds it until Close. A BPF file system that is missing is mounted
// at its default place, and nowhere else.
func LockPins(path string) (*PinLock, error) {
	path = filepath.Clean(path)
	parent := filepath.Dir(path)
	if parent == DefaultBPFFS && checkBPFFS(parent) != nil {
		if err := unix.Mount("bpf", DefaultBPFFS, "bpf", 0, "mode=0700"); err != nil {
			return nil, fmt.Errorf("mount BPF file system on %s: %w", DefaultBPFFS, err)
		}
	}
	for {
		if err := CheckPinPath(path); err != nil {
			return nil, err
		}
		l, again, err := lockDirectory(path)
		if err != nil {
			return nil, fmt.Errorf("lock pin path %s: %w", path, err)
		}
		if !again {
			return l, nil
		}
	}
}

// lockDirectory says "again" if a cleanup removed the directory between opening and locking it.
func lockDirectory(path string) (l *PinLock, again bool, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	dir := os.NewFile(uintptr(fd), path)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, false, err
	}
	var held, named unix.Stat_t
	err = unix.Fstat(fd, &held)
	if err == nil {
		err = unix.Lstat(path, &named)
	}
	switch {
	case errors.Is(err, unix.ENOENT), err == nil && held.Ino != named.Ino:
		dir.Close()
		return nil, true, nil
	case err != nil:
		dir.Close()
		return nil, false, err
	}
	return &PinLock{dir}, false, nil
}

// Close lets go of the pin path.
func (l *PinLock) Close() error { return l.dir.Close() }

// DetachAll removes every attachment that is pinned below a pin path. What is gone already is no error, and a pin that is
// not understood is only unpinned.
func DetachAll(pinPath string) error {
	a := &Attacher{dir: filepath.Join(pinPath, "links"), log: slog.New(slog.DiscardHandler), held: map[place]attachment{}}
	if _, err := os.Stat(a.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	_ = a.reopen() // what it does not understand goes with its pin
	for p := range a.held {
		errs = append(errs, a.drop(p))
	}
	errs = append(errs, os.RemoveAll(a.dir))
	return errors.Join(errs...)
}
