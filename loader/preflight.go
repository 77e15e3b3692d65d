// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Preflight asks whether outer headers may be removed in XDP. Zero fields mean this host.
type Preflight struct {
	ProcDir string // default /proc
}

// StripSafe says whether inner packets may enter the stack through the given interfaces instead of the overlay's. If not,
// reason says why: reverse path filtering would drop them, or a firewall rule bound to the overlay would not see them. The
// kernel itself is asked for its rules, those of nf_tables and of x_tables, in the network namespace of the calling thread; what
// cannot be read is not safe. It only reads: no table or module comes to be by the question.
func (p Preflight) StripSafe(ctx context.Context, interfaces []string, overlay string) (safe bool, reason string) {
	proc := p.ProcDir
	if proc == "" {
		proc = "/proc"
	}
	for _, name := range interfaces {
		filter, err := reversePathFilter(proc, name)
		if err != nil {
			return false, err.Error()
		}
		if filter == 1 {
			return false, fmt.Sprintf("rp_filter of %s is 1 (strict)", name)
		}
	}
	dev, err := findFirewalled(overlay)
	if err != nil {
		return false, err.Error()
	}
	for _, read := range []func() (string, error){
		func() (string, error) { return nftablesBinding(ctx, dev) },
		func() (string, error) { return xtablesBinding(ctx, proc, dev) },
	} {
		binding, err := read()
		if err != nil {
			return false, fmt.Sprintf("cannot tell whether a firewall rule is bound to %s: %v", overlay, err)
		}
		if binding != "" {
			return false, fmt.Sprintf("a firewall rule is bound to %s: %s", overlay, binding)
		}
	}
	return true, ""
}

// reversePathFilter is the value the kernel uses: the larger of the interface's own and that of "all".
func reversePathFilter(proc, name string) (int, error) {
	highest := 0
	for _, conf := range []string{"all", name} {
		path := filepath.Join(proc, "sys/net/ipv4/conf", conf, "rp_filter")
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, fmt.Errorf("read rp_filter of %s: %w", conf, err)
		}
		var value int
		if _, err := fmt.Sscan(string(text), &value); err != nil {
			return 0, fmt.Errorf("read rp_filter of %s: %w", conf, err)
		}
		highest = max(highest, value)
	}
	return highest, nil
}

// firewalled is an interface, by all that a firewall rule can know it by.
type firewalled struct {
	name, kind   string
	index, group uint32
}

func findFirewalled(name string) (firewalled, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return firewalled{}, fmt.Errorf("find overlay interface %s: %w", name, err)
	}
	a := l.Attrs()
	return firewalled{a.Name, l.Type(), uint32(a.Index), a.Group}, nil
}

// padded is a name as rules compare it: in a field of fixed size, zeros after it.
func padded(name string) []byte {
	out := make([]byte, unix.IFNAMSIZ)
	copy(out, name)
	return out
}

// named says whether a name pattern with a mask, as x_tables has them, selects the interface; no mask selects every interface
// and so is about none.
func (d firewalled) named(pattern, mask []byte) bool {
	var asked byte
	for i, b := range padded(d.name) {
		if (b^pattern[i])&mask[i] != 0 {
			return false
		}
		asked |= mask[i]
	}
	return asked != 0
}

// attachedBy says whether the device attribute of a hook names the interface. A prefix has an attribute of its own; kernel 6.16
// had it in the one for names, told apart by the missing zero at its end.
func (d firewalled) attachedBy(spec []byte, prefix bool) bool {
	name, terminated := bytes.CutSuffix(spec, []byte{0})
	if prefix || !terminated {
		return bytes.HasPrefix([]byte(d.name), name)
	}
	return string(name) == d.name
}
