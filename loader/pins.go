// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/weirnet/weir/bpf"
)

// Pins live in a directory of their own below the pin path, whose name carries the ABI. It is made aside and renamed
// into place, so that there are either all pins or none. (bpffs allows no dot in a name.)
const (
	pinPrefix = "maps_abi"
	pinAside  = "_new"
)

// Errors of the pin path.
var (
	ErrPinPath = errors.New("pin path cannot be trusted")
	ErrPinABI  = errors.New("pins are of another ABI")
	ErrPinSet  = errors.New("pins do not fit")
)

// CheckPinPath makes the directory path, mode 0700, unless it exists, and says whether pins there can be trusted: it is a
// directory of root's on a BPF file system that nobody else may enter, reached without symbolic links through
// directories in which only root can replace it. (The root of bpffs is writable by all.)
func CheckPinPath(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("check pin path %s: %w: it is not absolute", path, ErrPinPath)
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := checkBPFFS(filepath.Dir(path)); err != nil {
			return err
		}
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make pin path: %w", err)
		}
	}
	return checkExisting(path)
}

func checkExisting(path string) error {
	if err := checkBPFFS(path); err != nil {
		return err
	}
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if err != nil {
			return fmt.Errorf("check pin path: %w", err)
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		mode := info.Mode()
		switch {
		case !mode.IsDir():
			return fmt.Errorf("check pin path: %w: %s is not a directory", ErrPinPath, dir)
		case !ok || int(stat.Uid) != os.Geteuid():
			return fmt.Errorf("check pin path: %w: %s belongs to somebody else", ErrPinPath, dir)
		case dir == filepath.Clean(path) && mode.Perm()&0o077 != 0:
			return fmt.Errorf("check pin path: %w: %s has mode %v, not 0700", ErrPinPath, dir, mode.Perm())
		case mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0:
			return fmt.Errorf("check pin path: %w: %s is writable by others", ErrPinPath, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func checkBPFFS(dir string) error {
	const magic = 0xcafe4a11
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("check pin path %s: %w", dir, err)
	}
	if uint32(stat.Type) != magic {
		return fmt.Errorf("check pin path: %w: %s is not on a BPF file system (mount -t bpf bpf %s)", ErrPinPath, dir, dir)
	}
	return nil
}

// Remove unpins all that is under path, the directory itself included: programs that only a pin keeps attached are
// detached, and what is in the tables is lost. A path that does not exist is no error.
func Remove(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := checkExisting(path); err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// openPinned opens the maps pinned under path, or creates and pins all of them.
func openPinned(path string, specs map[string]*ebpf.MapSpec) (map[string]*ebpf.Map, error) {
	if err := CheckPinPath(path); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("read pin path: %w", err)
	}
	ours := fmt.Sprint(pinPrefix, bpf.ABI)
	dir, found := filepath.Join(path, ours), false
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case name == ours:
			found = true
		case !strings.HasPrefix(name, pinPrefix):
		case strings.HasSuffix(name, pinAside): // somebody died making them; nothing refers to them
			if err := os.RemoveAll(filepath.Join(path, name)); err != nil {
				return nil, fmt.Errorf("remove half-made pins: %w", err)
			}
		default:
			return nil, fmt.Errorf("open pins in %s: %w: they are of ABI %s, this is ABI %d; run the weir that made them, "+
				"or remove them (weir agent cleanup)", path, ErrPinABI, strings.TrimPrefix(name, pinPrefix), bpf.ABI)
		}
	}
	if !found {
		if err := pinAll(dir, specs); err != nil {
			return nil, err
		}
	}
	return loadPinned(dir, specs)
}

// pinAll creates the maps and pins them, all or none.
func pinAll(dir string, specs map[string]*ebpf.MapSpec) error {
	created, err := createMaps(specs)
	if err != nil {
		return err
	}
	defer closeMaps(created)
	aside := dir + pinAside
	if err := os.Mkdir(aside, 0o700); err != nil {
		return fmt.Errorf("make pins: %w", err)
	}
	for name, m := range created {
		if err := m.Pin(filepath.Join(aside, name)); err != nil {
			return fmt.Errorf("pin %s: %w", name, err)
		}
	}
	if err := os.Rename(aside, dir); err != nil {
		return fmt.Errorf("publish pins: %w", err)
	}
	return nil
}

func loadPinned(dir string, specs map[string]*ebpf.MapSpec) (map[string]*ebpf.Map, error) {
	loaded := make(map[string]*ebpf.Map)
	for name, spec := range specs {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if err == nil {
			loaded[name] = m
			err = spec.Compatible(m)
		}
		if err != nil {
			closeMaps(loaded)
			return nil, fmt.Errorf("open pin %s in %s: %w: %w (were they made with other sizes? weir agent cleanup removes them)",
				name, dir, ErrPinSet, err)
		}
	}
	return loaded, nil
}

func createMaps(specs map[string]*ebpf.MapSpec) (map[string]*ebpf.Map, error) {
	created := make(map[string]*ebpf.Map)
	for name, spec := range specs {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			closeMaps(created)
			return nil, fmt.Errorf("create map %s: %w", name, err)
		}
		created[name] = m
	}
	return created, nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close() // a descriptor that was only read from
	}
}
