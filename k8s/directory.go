// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Timing of a Directory; the zero values are replaced by the defaults.
type Timing struct {
	Quiet    time.Duration // a change is read once nothing has changed for so long; default 100 ms
	Patience time.Duration // or once so long has passed since the first change; default 1 s
	Poll     time.Duration // changes that nobody announces are found after so long; default 2 s
	Retry    time.Duration // first wait before what failed is tried again; doubles up to Backoff; default 200 ms
	Backoff  time.Duration // default 30 s
}

// State is how far a source has come.
type State struct {
	// Applied says that what was last applied is what there is: of a Directory, as it is now, to the last file; of a
	// Watcher, as far as the API server has told.
	Applied bool
	Err     error     // why not; nil if it is merely too early
	At      time.Time // of the last successful apply; zero if there was none
	Stale   []string  // what the API server has not told lately; what it told last stays in force
}

// Directory is a source of objects: the manifests of a directory, read again whenever they change. A set that cannot be
// read, or that apply refuses, leaves the one before it in force, and is tried again until it is mended.
type Directory struct {
	path   string
	log    *slog.Logger
	timing Timing

	mu      sync.Mutex
	objects *Objects
	applied fingerprint
	at      time.Time
	err     error
	claims  map[string]*directoryClaim // by the pods' keys

	claimed chan struct{} // claims have changed
}

// NewDirectory makes a source of the manifests in path, which need not exist yet.
func NewDirectory(path string, log *slog.Logger, timing Timing) *Directory {
	defaults := Timing{Quiet: 100 * time.Millisecond, Patience: time.Second, Poll: 2 * time.Second, Retry: 200 * time.Millisecond, Backoff: 30 * time.Second}
	for _, field := range []struct{ value, standard *time.Duration }{{&timing.Quiet, &defaults.Quiet}, {&timing.Patience, &defaults.Patience},
		{&timing.Poll, &defaults.Poll}, {&timing.Retry, &defaults.Retry}, {&timing.Backoff, &defaults.Backoff}} {
		if *field.value <= 0 {
			*field.value = *field.standard
		}
	}
	return &Directory{path: filepath.Clean(path), log: log, timing: timing, claims: map[string]*directoryClaim{}, claimed: make(chan struct{}, 1)}
}

// Current is the set that was last applied; nil before the first.
func (d *Directory) Current() *Objects {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.objects
}

// State looks at the directory and compares it with what was last applied.
func (d *Directory) State() State {
	now, _, err := look(d.path, true)
	d.mu.Lock()
	defer d.mu.Unlock()
	s := State{Err: d.err, At: d.at}
	if err != nil {
		s.Err = err
		return s
	}
	s.Applied = d.objects != nil && d.err == nil && now == d.applied
	return s
}

// Run hands each readable set to apply, one at a time, until ctx ends; then it returns nil. The error is that of a machine
// that cannot watch files at all. The first set is tried before anything is waited for.
func (d *Directory) Run(ctx context.Context, apply func(*Objects) error) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", d.path, err)
	}
	defer watcher.Close()
	poll := time.NewTicker(d.timing.Poll)
	defer poll.Stop()

	var seen fingerprint    // of the last attempt, successful or not
	var first time.Time     // of the changes not yet read
	claimed := false        // claims have changed since the last set
	wait := d.timing.Retry  // before the next try
	due := time.NewTimer(0) // the next try
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			if !d.concerns(event) {
				continue
			}
			if first.IsZero() {
				first = time.Now()
			}
			due.Reset(min(d.timing.Quiet, max(0, d.timing.Patience-time.Since(first))))
		case err := <-watcher.Errors:
			d.log.Warn("watching manifests stumbled, polling goes on", "path", d.path, "error", err)
		case <-poll.C:
			d.watch(watcher)
			if now, _, err := look(d.path, true); (err != nil || now != seen) && first.IsZero() {
				first = time.Now()
				due.Reset(d.timing.Quiet)
			}
		case <-d.claimed:
			claimed = true
			due.Reset(0)
		case <-due.C:
			first = time.Time{}
			d.watch(watcher)
			print, err := d.load(apply, claimed)
			claimed = err != nil && claimed
			if err == nil || print != seen {
				wait = d.timing.Retry
			}
			seen = print
			if err != nil {
				due.Reset(wait)
				wait = min(2*wait, d.timing.Backoff)
			}
		}
	}
}

// load reads the directory and applies it, unless it is what is applied already and no claims have changed.
func (d *Directory) load(apply func(*Objects) error, claimed bool) (fingerprint, error) {
	files, print, err := readFiles(d.path, true)
	if err == nil && !claimed && print == d.applied && d.err == nil && d.objects != nil {
		return print, nil
	}
	var objects *Objects
	if err == nil {
		objects, err = decode(files)
	}
	if err == nil {
		if len(objects.Skipped) > 0 {
			d.log.Debug("objects of no use to policy are skipped", "objects", objects.Skipped)
		}
		waiters := d.fill(objects)
		err = apply(objects)
		for _, w := range waiters {
			w <- err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err == nil:
		d.objects, d.applied, d.at = objects, print, time.Now()
		if d.err != nil {
			d.log.Info("manifests are in order again", "path", d.path)
		}
	case d.err != nil && d.err.Error() == err.Error():
		// said already
	case errors.Is(err, ErrUnsettled):
		d.log.Info("manifests are being written, the last good ones stay in force", "path", d.path, "error", err)
	default:
		d.log.Error("manifests refused, the last good ones stay in force", "path", d.path, "error", err)
	}
	d.err = err
	return print, err
}

// watch makes sure that the directory and its parent are watched, also when either has been replaced. A file system that
// cannot be watched is polled.
func (d *Directory) watch(watcher *fsnotify.Watcher) {
	for _, path := range []string{filepath.Dir(d.path), d.path} {
		if err := watcher.Add(path); err != nil {
			d.log.Debug("cannot watch, polling instead", "path", path, "error", err)
		}
	}
}

// concerns says whether an event is about the directory itself or something in it, but not about its siblings.
func (d *Directory) concerns(event fsnotify.Event) bool {
	return event.Name == d.path || filepath.Dir(event.Name) == d.path
}
