// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
)

// Errors that callers may want to tell apart from a mistake in a manifest.
var (
	ErrUntrusted = errors.New("others may write to it")
	ErrUnsettled = errors.New("it is being written")
)

const (
	maxFileBytes = 64 << 20
	// settle is how long a YAML file that does not end in a newline must have been left alone before it counts as whole.
	settle = 2 * time.Second
)

// file is a manifest as read.
type file struct {
	name string
	data []byte
}

// fingerprint changes whenever the files of a directory do: names, inodes, sizes, times.
type fingerprint string

// look is the directory's fingerprint and the names of its manifests, sorted. Dotfiles and what editors leave behind are no
// manifests. With live, as an agent reads, a directory that others may write to is refused: whoever can put a file there
// decides what is enforced. Others are all but root, root's group and the agent itself.
func look(dir string, live bool) (fingerprint, []string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", nil, fmt.Errorf("read manifests: %w", err)
	}
	if !info.IsDir() {
		return "", nil, fmt.Errorf("read manifests: %s is not a directory", dir)
	}
	if live && !readOnly(dir) {
		if err := trusted(info); err != nil {
			return "", nil, fmt.Errorf("read manifests: directory %s has %w", dir, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", nil, fmt.Errorf("read manifests: %w", err)
	}
	var print strings.Builder
	stamp(&print, "", info)
	var names []string
	for _, entry := range entries {
		if !manifest(entry.Name()) {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, entry.Name()))
		if err != nil {
			return "", nil, fmt.Errorf("read manifests: %w", err)
		}
		if info.IsDir() {
			continue
		}
		stamp(&print, entry.Name(), info)
		names = append(names, entry.Name())
	}
	sort.Strings(names)
	return fingerprint(print.String()), names, nil
}

func stamp(to *strings.Builder, name string, info fs.FileInfo) {
	stat, _ := info.Sys().(*syscall.Stat_t)
	if stat == nil {
		stat = &syscall.Stat_t{}
	}
	fmt.Fprintf(to, "%s\x00%d:%d %d %o %d %d %d\n", name, stat.Dev, stat.Ino, info.Size(), info.Mode(), stat.Uid, info.ModTime().UnixNano(), stat.Ctim.Nano())
}

func manifest(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// trusted says whether nobody but root, root's group and this process may write to a file or directory.
func trusted(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	perm := info.Mode().Perm()
	switch {
	case !ok:
		return fmt.Errorf("no owner: %w", ErrUntrusted)
	case perm&0o002 != 0:
		return fmt.Errorf("mode %04o: %w; chmod o-w it", perm, ErrUntrusted)
	case perm&0o020 != 0 && stat.Gid != 0:
		return fmt.Errorf("mode %04o and group %d: %w; chmod g-w it", perm, stat.Gid, ErrUntrusted)
	case stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("another owner: %w; chown it", ErrUntrusted)
	}
	return nil
}

// readOnly says whether dir is on a read-only mount, as ConfigMaps are: then its mode bits admit nobody.
func readOnly(dir string) bool {
	var stat syscall.Statfs_t
	const readOnlyMount = 1
	return syscall.Statfs(dir, &stat) == nil && stat.Flags&readOnlyMount != 0
}

// readFiles reads every manifest of dir. It fails, with ErrUnsettled, if anything changed meanwhile. With live, as an agent
// reads, files that others may write to are refused, those that somebody has open for writing have to wait, and a YAML file
// without a final newline is taken for half a file while it is younger than settle.
func readFiles(dir string, live bool) ([]file, fingerprint, error) {
	before, names, err := look(dir, live)
	if err != nil {
		return nil, "", err
	}
	var files []file
	var problems []error
	for _, name := range names {
		data, err := readFile(filepath.Join(dir, name), live)
		if err != nil {
			problems = append(problems, fmt.Errorf("read manifest %s: %w", name, err))
			continue
		}
		files = append(files, file{name: name, data: data})
	}
	if len(problems) > 0 {
		return nil, before, errors.Join(problems...)
	}
	after, _, err := look(dir, live)
	if err != nil {
		return nil, before, err
	}
	if before != after {
		return nil, before, fmt.Errorf("read manifests: directory %s changed meanwhile: %w", dir, ErrUnsettled)
	}
	return files, before, nil
}

func readFile(path string, live bool) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, unwrapPath(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, unwrapPath(err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case info.Size() > maxFileBytes:
		return nil, fmt.Errorf("%d bytes, at most %d are read", info.Size(), maxFileBytes)
	case live && openForWriting(f):
		return nil, fmt.Errorf("some process has it open for writing: %w", ErrUnsettled)
	}
	if live && !readOnly(path) {
		if err := trusted(info); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, unwrapPath(err)
	}
	if int64(len(data)) != info.Size() {
		return nil, fmt.Errorf("size changed while reading: %w", ErrUnsettled)
	}
	unfinished := len(data) > 0 && !bytes.HasSuffix(data, []byte("\n")) && filepath.Ext(path) != ".json"
	if age := time.Since(info.ModTime()); live && unfinished && age >= 0 && age < settle {
		return nil, fmt.Errorf("ends in the middle of a line: %w; end it with a newline", ErrUnsettled)
	}
	return data, nil
}

// openForWriting asks for a read lease, which the kernel grants only while no process has the file open for writing
// (fcntl(2)), and gives it back. File systems without leases cannot tell and count as no.
func openForWriting(f *os.File) bool {
	_, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETLEASE, syscall.F_RDLCK)
	if errno == 0 {
		_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETLEASE, syscall.F_UNLCK)
	}
	return errno == syscall.EAGAIN
}

// unwrapPath drops the path of an error that is about to be wrapped with the file's name.
func unwrapPath(err error) error {
	var wrapped *fs.PathError
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
