// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/weirnet/weir/bpf"
)

// AttachConfig configures an Attacher.
type AttachConfig struct {
	PinPath string // directory of the pins, made by LockPins
	Generic bool   // XDP in generic mode: after the skb, slow
	NoTCX   bool   // clsact even where the kernel has tcx
	Log     *slog.Logger
}

// Attacher keeps programs on interfaces. Each attachment is pinned: it outlives the agent, and the next agent takes it over
// and replaces its program in one step, so that no packet passes unjudged in between. Not safe for concurrent use.
type Attacher struct {
	dir      string
	generic  bool
	noTCX    bool
	log      *slog.Logger
	programs Programs
	held     map[place]attachment
}

// place is where a program sits. Interfaces are known by number: names may not be pins.
type place struct {
	hook    bpf.Hook
	ifindex int
}

func (p place) String() string { return fmt.Sprintf("%s-%d", bpf.HookName(p.hook), p.ifindex) }

// attachment is a tcx or XDP link, or a clsact filter.
type attachment interface {
	update(*ebpf.Program) error
	detach() error
	alive() bool // its interface still exists
	close() error
}

// NewAttacher takes over the attachments that are pinned. Their programs stay as they are until Use.
func NewAttacher(cfg AttachConfig) (*Attacher, error) {
	a := &Attacher{
		dir: filepath.Join(cfg.PinPath, "links"), generic: cfg.Generic, noTCX: cfg.NoTCX, log: cfg.Log,
		held: map[place]attachment{},
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if err := os.Mkdir(a.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create directory of links: %w", err)
	}
	if err := a.reopen(); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// reopen takes up all that is pinned, and names the pins that are not ours.
func (a *Attacher) reopen() error {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return fmt.Errorf("list pinned links: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(a.dir, e.Name())
		p, ok := parsePlace(e.Name())
		switch {
		case !ok && e.IsDir() && strings.HasPrefix(e.Name(), qdiscMark):
		case !ok:
			errs = append(errs, fmt.Errorf("reopen link %s: not a name of ours", path))
		case e.IsDir():
			a.held[p] = &filter{place: p, dir: a.dir}
		default:
			l, err := link.LoadPinnedLink(path, nil)
			if err != nil {
				errs = append(errs, fmt.Errorf("reopen link %s: %w", path, err))
				continue
			}
			a.held[p] = &pinnedLink{l, p.ifindex}
		}
	}
	return errors.Join(errs...)
}

func parsePlace(name string) (place, bool) {
	hook, number, ok := strings.Cut(name, "-")
	ifindex, err := strconv.Atoi(number)
	if !ok || err != nil {
		return place{}, false
	}
	for h := bpf.Hook(0); h < bpf.HookCount; h++ {
		if bpf.HookName(h) == hook {
			return place{h, ifindex}, true
		}
	}
	return place{}, false
}

// Use makes these the programs of all attachments, present and future. Each attachment changes in one step.
func (a *Attacher) Use(programs Programs) error {
	a.programs = programs
	for p, held := range a.held {
		if !held.alive() {
			if err := a.drop(p); err != nil {
				return err
			}
			continue
		}
		program := programs[p.hook]
		if program == nil {
			return fmt.Errorf("replace program of %s: no program for this hook", p)
		}
		if err := held.update(program); err != nil {
			return fmt.Errorf("replace program of %s: %w", p, err)
		}
	}
	return nil
}

// Attach puts a hook's program on an interface; nothing happens if it is there already. Nobody else's program is replaced.
func (a *Attacher) Attach(hook bpf.Hook, d Device) error {
	p := place{hook, d.Ifindex}
	program := a.programs[hook]
	if program == nil {
		return fmt.Errorf("attach %s to %s: no program for this hook", bpf.HookName(hook), d.Name)
	}
	if held, ok := a.held[p]; ok {
		if held.alive() && (hook != bpf.HookUnderlayRx || a.runs(held, d)) {
			return nil
		}
		if err := a.drop(p); err != nil {
			return err
		}
	}
	var made attachment
	var err error
	if hook == bpf.HookUnderlayRx {
		made, err = a.attachXDP(p, d, program)
	} else {
		made, err = a.attachTC(p, program)
	}
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", bpf.HookName(hook), d.Name, err)
	}
	a.held[p] = made
	a.log.Info("attached", "hook", bpf.HookName(hook), "interface", d.Name, "ifindex", d.Ifindex)
	return nil
}

// Prune detaches what keep does not want, and forgets what went with its interface.
func (a *Attacher) Prune(keep func(hook bpf.Hook, ifindex int) bool) error {
	var errs []error
	for p, held := range a.held {
		if alive := held.alive(); alive && keep(p.hook, p.ifindex) {
			continue
		}
		errs = append(errs, a.drop(p))
		a.log.Info("detached", "hook", bpf.HookName(p.hook), "ifindex", p.ifindex)
	}
	return errors.Join(errs...)
}

// Attached says whether a hook's program is on an interface.
func (a *Attacher) Attached(hook bpf.Hook, ifindex int) bool {
	held, ok := a.held[place{hook, ifindex}]
	return ok && held.alive()
}

// Lost says whether an attachment has gone with its interface, or has been taken off it, since the last Attach or Prune. It
// asks about pinned links only, and is cheap: nobody tells of a link's end.
func (a *Attacher) Lost() bool {
	for p, held := range a.held {
		l, ok := held.(*pinnedLink)
		if ok && (!l.alive() || p.hook == bpf.HookUnderlayRx && a.running(l) == nil) {
			return true
		}
	}
	return false
}

// Count returns the number of attachments of a hook.
func (a *Attacher) Count(hook bpf.Hook) (n int) {
	for p := range a.held {
		if p.hook == hook {
			n++
		}
	}
	return n
}

// Close gives back the descriptors. What is pinned stays attached.
func (a *Attacher) Close() error {
	var errs []error
	for p, held := range a.held {
		errs = append(errs, held.close())
		delete(a.held, p)
	}
	return errors.Join(errs...)
}

func (a *Attacher) drop(p place) error {
	held := a.held[p]
	delete(a.held, p)
	err := held.detach()
	if unpin := os.Remove(filepath.Join(a.dir, p.String())); unpin != nil && !errors.Is(unpin, fs.ErrNotExist) {
		err = errors.Join(err, unpin)
	}
	if err = errors.Join(err, held.close()); err != nil {
		return fmt.Errorf("detach %s: %w", p, err)
	}
	return nil
}

func (a *Attacher) attachTC(p place, program *ebpf.Program) (attachment, error) {
	if !a.noTCX {
		made, err := link.AttachTCX(link.TCXOptions{
			Interface: p.ifindex, Program: program, Attach: tcxPoint(p.hook), Anchor: link.Head(),
		})
		if err == nil {
			return a.pin(p, made)
		}
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return nil, err
		}
	}
	f := &filter{place: p, dir: a.dir}
	return f, f.create(program)
}

// tcxPoint: "ingress" of a veth's host side is what comes out of the pod.
func tcxPoint(hook bpf.Hook) ebpf.AttachType {
	if hook == bpf.HookPodTx {
		return ebpf.AttachTCXIngress
	}
	return ebpf.AttachTCXEgress
}

func (a *Attacher) pin(p place, l link.Link) (attachment, error) {
	if err := l.Pin(filepath.Join(a.dir, p.String())); err != nil {
		return nil, errors.Join(fmt.Errorf("pin link: %w", err), l.Detach(), l.Close())
	}
	return &pinnedLink{l, p.ifindex}, nil
}

func programName(id ebpf.ProgramID) string {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "unknown program"
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil || info.Name == "" {
		return "unnamed program"
	}
	return "program " + info.Name
}
