// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The tables that iptables-legacy, ip6tables-legacy and arptables-legacy keep. Those of ebtables-legacy are not read: the kernel
// lists them nowhere, asking for one by its name creates it, and they see only what bridges forward, which an overlay's
// interface that has routes is no part of.

const (
	xtTableName = 32 // size of a table's name
	// Match and target begin alike: their size in two bytes, a name, a revision.
	xtHeader  = 32
	xtNameEnd = 31
)

// xtProtocol is how the kernel lays out one protocol's tables.
type xtProtocol struct {
	name, list         string // as users call it; the file of table names, below /proc
	family, level      int    // of the socket whose options the tables are
	info               int    // option: where chains begin; the next one: the entries
	hooks              []string
	interfaces         int // offset in an entry of in, out, and their masks
	target, next, size int // offsets in an entry of its target's offset and its own length; size before matches
}

func xtProtocols() []xtProtocol {
	hooks := []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
	return []xtProtocol{
		{"iptables", "ip_tables_names", unix.AF_INET, unix.SOL_IP, 64, hooks, 16, 88, 90, 112},
		{"ip6tables", "ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 64, hooks, 64, 140, 142, 168},
		{"arptables", "arp_tables_names", unix.AF_INET, unix.SOL_IP, 96, []string{"INPUT", "OUTPUT", "FORWARD"}, 94, 164, 166, 192},
	}
}

// xtablesBinding returns the first rule of x_tables that names the interface, empty if there is none.
func xtablesBinding(ctx context.Context, proc string, dev firewalled) (string, error) {
	for _, p := range xtProtocols() {
		names, err := os.ReadFile(filepath.Join(proc, "net", p.list))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the kernel has no such tables
		}
		if err != nil {
			return "", fmt.Errorf("read table names of legacy %s: %w", p.name, err)
		}
		for _, table := range strings.Fields(string(names)) {
			if err := ctx.Err(); err != nil {
				return "", err
			}
			t, err := p.read(table)
			if err != nil {
				return "", fmt.Errorf("read legacy %s table %s: %w", p.name, table, err)
			}
			binding, err := t.binding(dev)
			if err != nil {
				return "", fmt.Errorf("legacy %s table %s: %w", p.name, table, err)
			}
			if binding != "" {
				return fmt.Sprintf("legacy %s: table %s %s", p.name, table, binding), nil
			}
		}
	}
	return "", nil
}

// xtTable is a table's entries as the kernel gave them.
type xtTable struct {
	xtProtocol
	begins  map[int]string // where the chains of hooks begin
	entries []byte
}

func (p xtProtocol) read(table string) (xtTable, error) {
	fd, err := unix.Socket(p.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return xtTable{}, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	for tries := 0; ; tries++ {
		t, err := p.readOnce(fd, table)
		// Between the two questions the table may have grown.
		if !errors.Is(err, unix.EAGAIN) || tries == 4 {
			return t, err
		}
	}
}

func (p xtProtocol) readOnce(fd int, table string) (xtTable, error) {
	// A name, a mask of valid hooks, where each hook's chain begins and where its policy is, the number of entries, their size.
	const valid = xtTableName
	begins := valid + 4
	size := begins + 8*len(p.hooks) + 4
	info := make([]byte, size+4)
	copy(info[:xtTableName-1], table)
	if err := getsockopt(fd, p.level, p.info, info); err != nil {
		return xtTable{}, fmt.Errorf("its size: %w", err)
	}
	t := xtTable{xtProtocol: p, begins: map[int]string{}}
	for i, hook := range p.hooks {
		if binary.NativeEndian.Uint32(info[valid:])&(1<<i) != 0 {
			t.begins[int(binary.NativeEndian.Uint32(info[begins+4*i:]))] = hook
		}
	}
	// A name, the size, four bytes so that entries begin at a multiple of eight.
	const head = xtTableName + 8
	length := binary.NativeEndian.Uint32(info[size:])
	answer := make([]byte, head+int(length))
	copy(answer[:xtTableName-1], table)
	binary.NativeEndian.PutUint32(answer[xtTableName:], length)
	if err := getsockopt(fd, p.level, p.info+1, answer); err != nil {
		return xtTable{}, fmt.Errorf("its entries: %w", err)
	}
	t.entries = answer[head:]
	return t, nil
}

// getsockopt hands over a buffer whose content is part of the question.
func getsockopt(fd, level, option int, buffer []byte) error {
	length := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	if int(length) != len(buffer) {
		return fmt.Errorf("%d bytes of %d", length, len(buffer))
	}
	return nil
}

// binding names chain and rule, counted as the tools do.
func (t xtTable) binding(dev firewalled) (string, error) {
	chain, rule := "?", 0
	half := func(b []byte) int { return int(binary.NativeEndian.Uint16(b)) }
	for at := 0; at < len(t.entries); {
		entry := t.entries[at:]
		if len(entry) < t.size {
			return "", fmt.Errorf("the entry at %d is cut off", at)
		}
		target, next := half(entry[t.target:]), half(entry[t.next:])
		if target < t.size || next < target+xtHeader || next > len(entry) {
			return "", fmt.Errorf("the entry at %d has a length of %d, its target is at %d", at, next, target)
		}
		entry = entry[:next]
		rule++
		if name, ok := t.begins[at]; ok {
			chain, rule = name, 1
		}
		if xtName(entry[target:]) == "ERROR" {
			// What begins a chain of the user's: the error it would be to come here bears its name.
			chain, _, _ = strings.Cut(string(entry[target+xtHeader:]), "\x00")
			rule = 0
		}
		where := fmt.Sprintf("chain %s rule %d has ", chain, rule)
		const name = unix.IFNAMSIZ
		in, out := entry[t.interfaces:], entry[t.interfaces+name:]
		if dev.named(in, in[2*name:]) {
			return where + "a matching input interface", nil
		}
		if dev.named(out, out[2*name:]) {
			return where + "a matching output interface", nil
		}
		for matches := entry[t.size:target]; len(matches) > 0; {
			if len(matches) < xtHeader || half(matches) < xtHeader || half(matches) > len(matches) {
				return "", fmt.Errorf("chain %s rule %d: a match is cut off", chain, rule)
			}
			binding, err := xtMatch(dev, xtName(matches), matches[xtHeader:half(matches)], t.family == unix.AF_INET6)
			if err != nil {
				return "", fmt.Errorf("chain %s rule %d: %w", chain, rule, err)
			}
			if binding != "" {
				return where + binding, nil
			}
			matches = matches[half(matches):]
		}
		at += next
	}
	return "", nil
}

func xtName(header []byte) string {
	name, _, _ := bytes.Cut(header[2:xtNameEnd], []byte{0})
	return string(name)
}
