// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// cache keeps what is expensive to make, each thing in a folder of its own whose name says what it was made from. It
// can be deleted at any time when nothing runs; several processes may use it at once.
type cache struct {
	dir string
	say func(format string, args ...any)
}

func newCache(say func(format string, args ...any)) (*cache, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("find the user's cache folder: %w", err)
	}
	c := &cache{dir: filepath.Join(base, "weir"), say: say}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cache folder: %w", err)
	}
	return c, nil
}

// folder returns the cached folder that fill made from these sources, after having it made if it is not there. What
// fill leaves unfinished is never seen: the folder gets its name at the end.
func (c *cache) folder(name string, sources [][]byte, fill func(dir string) error) (string, error) {
	sum := sha256.New()
	for _, source := range sources {
		one := sha256.Sum256(source)
		sum.Write(one[:])
	}
	dir := filepath.Join(c.dir, name+"-"+hex.EncodeToString(sum.Sum(nil))[:12])
	unlock, err := c.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	temporary, err := os.MkdirTemp(c.dir, ".making-")
	if err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	defer os.RemoveAll(temporary)
	c.say("making %s (kept in %s)", name, dir)
	if err := fill(temporary); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	if err := errors.Join(os.Chmod(temporary, 0o755), os.Rename(temporary, dir)); err != nil {
		return "", fmt.Errorf("keep %s: %w", name, err)
	}
	c.say("made %s", name)
	return dir, nil
}

// lock lets one process at a time make something: two that build the same would take twice as long.
func (c *cache) lock() (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(c.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open cache lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	return func() { file.Close() }, nil
}

// run runs a command on the host to its end, with what it printed in the error.
func run(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := command(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out, diagnostics bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diagnostics
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run %v: %w: %s", cmd.Args, err, tail(diagnostics.Bytes(), 2000))
	}
	return out.String(), nil
}

// command is killed with all of its children when ctx ends.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// tail is the end of what a process printed.
func tail(text []byte, most int) []byte {
	return bytes.TrimSpace(text[max(0, len(text)-most):])
}
