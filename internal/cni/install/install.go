// SPDX-License-Identifier: Apache-2.0

// Package install puts the CNI plugin on a node, and takes it off.
//
// The container runtime obeys the first file of its configuration directory. That file belongs to another plugin, whose
// DaemonSet writes it anew whenever it starts, so nothing is written into it: a copy with our plugin at the end of its
// chain is kept beside it, under a name that sorts just before its own. Whoever rewrites the original cannot take the
// chain apart for a moment, and what is to be restored one day has never been touched. The copy is derived from the
// original whenever that changes, and goes when it goes; nothing else is remembered.
package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weirnet/weir/internal/cni"
)

const (
	quiet = 20 * time.Millisecond // files change in bursts
	poll  = 5 * time.Second       // what nobody announced
)

// Config says what goes where.
type Config struct {
	Plugin  string // the plugin's binary
	BinDir  string // where the container runtime looks for plugins
	ConfDir string // where it looks for network configurations
	Entry   Entry  // ours in the chain
	Log     *slog.Logger
}

// Entry is the plugin's own configuration.
type Entry struct {
	Type           string `json:"type"`
	Socket         string `json:"socket"`
	OnAgentMissing string `json:"onAgentMissing"`
	Timeout        string `json:"timeout,omitempty"`
}

// Installer keeps the plugin installed.
type Installer struct {
	cfg     Config
	last    string               // what was logged last
	missing map[string]time.Time // what was derived from something that is not there, and since when
	now     func() time.Time
}

// New makes an Installer.
func New(cfg Config) *Installer {
	cfg.Entry.Type = cni.PluginType
	return &Installer{cfg: cfg, now: time.Now}
}

// Run installs the plugin and keeps it so until ctx ends; then it stays. What fails is logged and tried again. The error
// is that of a machine that cannot watch files at all.
func (i *Installer) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", i.cfg.ConfDir, err)
	}
	defer watcher.Close()
	due, again := time.NewTimer(0), time.NewTicker(poll)
	defer due.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			due.Reset(quiet)
		case err := <-watcher.Errors:
			i.cfg.Log.Debug("watching network configurations stumbled, polling goes on", "error", err)
		case <-again.C:
			i.round(watcher)
		case <-due.C:
			i.round(watcher)
		}
	}
}

// round does what is to be done, and says so once.
func (i *Installer) round(watcher *fsnotify.Watcher) {
	watcher.Add(i.cfg.ConfDir) // it may have been replaced; a directory that cannot be watched is polled
	done, err := i.Ensure()
	text := done
	if err != nil {
		text = err.Error()
	}
	if text == i.last {
		return
	}
	if i.last = text; err != nil {
		i.cfg.Log.Error("CNI plugin is not installed", "error", err)
		return
	}
	i.cfg.Log.Info("CNI plugin is installed", "configuration", done)
}

// Ensure installs the plugin, or what is missing of it, and returns the configuration that the runtime obeys. It is
// idempotent, and changes files in one step each. Until the binary is in its place no configuration names it.
func (i *Installer) Ensure() (configuration string, err error) {
	if err := i.installBinary(); err != nil {
		return "", err
	}
	return i.chain()
}

func (i *Installer) installBinary() error {
	target := filepath.Join(i.cfg.BinDir, cni.PluginType)
	want, err := sum(i.cfg.Plugin)
	if err != nil {
		return fmt.Errorf("install CNI plugin: %w", err)
	}
	if have, err := sum(target); err == nil && have == want && isExecutable(target) {
		return nil
	}
	data, err := os.ReadFile(i.cfg.Plugin)
	if err == nil {
		err = replace(target, data, 0o755)
	}
	if err != nil {
		return fmt.Errorf("install CNI plugin: %w", err)
	}
	return nil
}

func isExecutable(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm() == 0o755
}

func sum(path string) (digest [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return digest, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return digest, fmt.Errorf("read %s: %w", path, err)
	}
	h.Sum(digest[:0])
	return digest, nil
}

// replace puts a file where it belongs in one step, so that it survives a loss of power whole or not at all. What is half
// written has a name that no runtime reads, and goes with the next try.
func replace(path string, data []byte, mode fs.FileMode) error {
	staged := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".staged")
	if err := os.Remove(staged); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(staged, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(staged))
	}
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		dir.Sync()
		dir.Close()
	}
	return nil
}

// Remove takes the plugin off the node: first out of the chain, then the binary. It is idempotent, and touches nothing
// that is not ours.
func Remove(confDir, binDir string) error {
	ours, err := derived(confDir)
	if err != nil {
		return fmt.Errorf("remove CNI plugin: %w", err)
	}
	var errs []error
	for _, path := range ours {
		errs = append(errs, remove(path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove CNI plugin: %w", err) // whoever is named must be there
	}
	target := filepath.Join(binDir, cni.PluginType)
	if err := errors.Join(remove(target), remove(filepath.Join(binDir, "."+cni.PluginType+".staged"))); err != nil {
		return fmt.Errorf("remove CNI plugin: %w", err)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// same says whether a file has this content and mode already.
func same(path string, data []byte, mode fs.FileMode) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != mode {
		return false
	}
	have, err := os.ReadFile(path)
	return err == nil && bytes.Equal(have, data)
}
