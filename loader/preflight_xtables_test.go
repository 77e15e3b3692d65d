// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's structures as its headers have them, apart from the offsets that the reader goes by.
type (
	interfacesABI struct{ In, Out, InMask, OutMask [16]byte }
	ipABI         struct {
		Addresses    [16]byte
		Interfaces   interfacesABI
		Protocol     uint16
		Flags, Other uint8
		Cache        uint32
	}
	ip6ABI struct {
		Addresses         [64]byte
		Interfaces        interfacesABI
		Protocol          uint16
		TOS, Flags, Other uint8
		_                 [3]byte
		Cache             uint32
	}
	arpABI struct {
		Addresses     [16]byte
		Length, Mask  uint8
		MACs          [64]byte
		Op, Type, Pro [2]uint16
		Interfaces    interfacesABI
		Flags         uint8
		_             uint8
		Other         uint16
		_             uint16
	}
)

// legacyRule is what a test puts into a table.
type legacyRule struct {
	chain   string // FORWARD; user: a chain of that name that no other leads to
	in, out string // "+" at the end: whatever follows
	negated bool
	match   string
	info    []byte
	binding string // what is found of it; nothing: safe
}

// entry lays one out with its target.
func (p xtProtocol) entry(t *testing.T, r legacyRule, target []byte) []byte {
	t.Helper()
	var names interfacesABI
	for name, to := range map[string][2]*[16]byte{r.in: {&names.In, &names.InMask}, r.out: {&names.Out, &names.OutMask}} {
		prefix, wild := strings.CutSuffix(name, "+")
		copy(to[0][:], prefix)
		asked := len(prefix)
		if name != "" && !wild {
			asked++ // the zero behind it
		}
		copy(to[1][:], bytes.Repeat([]byte{0xff}, asked))
	}
	other := uint8(0)
	if r.negated {
		other = 1
	}
	var head any
	switch p.name {
	case "iptables":
		head = ipABI{Interfaces: names, Other: other}
	case "ip6tables":
		head = ip6ABI{Interfaces: names, Other: other}
	default:
		head = arpABI{Interfaces: names, Other: uint16(other)}
	}
	var match []byte
	if r.match != "" {
		info := append(bytes.Clone(r.info), make([]byte, -len(r.info)&7)...)
		match = append(xtHead(r.match, 32+len(info)), info...)
	}
	var out bytes.Buffer
	ok(t, binary.Write(&out, binary.NativeEndian, head))
	// Target, next, came from; counters are eight bytes aligned.
	size := (out.Len()+8+7)&^7 + 16
	ok(t, binary.Write(&out, binary.NativeEndian, [2]uint16{uint16(size + len(match)), uint16(size + len(match) + len(target))}))
	out.Write(make([]byte, size-out.Len()))
	out.Write(match)
	out.Write(target)
	return out.Bytes()
}

func xtHead(name string, size int) []byte {
	out := make([]byte, 32)
	binary.NativeEndian.PutUint16(out, uint16(size))
	copy(out[2:31], name)
	return out
}

func verdictTarget(verdict int32) []byte {
	return append(binary.NativeEndian.AppendUint32(xtHead("", 40), uint32(verdict)), 0, 0, 0, 0)
}

func errorTarget(name string) []byte {
	return append(xtHead("ERROR", 64), append([]byte(name), make([]byte, 32-len(name))...)...)
}

// replace puts a table "filter" in the kernel that holds the rule.
func (p xtProtocol) replace(t *testing.T, r legacyRule) error {
	t.Helper()
	const accept, back = -2, -5
	var entries []byte
	var begins, policies []uint32
	valid, number := uint32(0), uint32(0)
	add := func(entry []byte) {
		entries = append(entries, entry...)
		number++
	}
	for i, hook := range p.hooks {
		begin := uint32(len(entries))
		if hook == "PREROUTING" || hook == "POSTROUTING" {
			begins, policies = append(begins, 0), append(policies, 0)
			continue
		}
		valid |= 1 << i
		if hook == r.chain {
			add(p.entry(t, legacyRule{in: "other+"}, verdictTarget(accept)))
			add(p.entry(t, r, verdictTarget(accept)))
		}
		begins, policies = append(begins, begin), append(policies, uint32(len(entries)))
		add(p.entry(t, legacyRule{}, verdictTarget(accept)))
	}
	if r.chain == "user" {
		add(p.entry(t, legacyRule{}, errorTarget("user")))
		add(p.entry(t, r, verdictTarget(accept)))
		add(p.entry(t, legacyRule{}, verdictTarget(back)))
	}
	add(p.entry(t, legacyRule{}, errorTarget("ERROR")))

	fd, err := unix.Socket(p.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	ok(t, err)
	defer unix.Close(fd)
	info := make([]byte, 32+4+8*len(p.hooks)+8)
	copy(info, "filter")
	ok(t, getsockopt(fd, p.level, p.info, info))
	counters := make([]byte, 16*binary.NativeEndian.Uint32(info[len(info)-8:]))

	var out bytes.Buffer
	out.Write(append([]byte("filter"), make([]byte, 26)...))
	for _, v := range []any{valid, number, uint32(len(entries)), begins, policies, uint32(len(counters) / 16)} {
		ok(t, binary.Write(&out, binary.NativeEndian, v))
	}
	out.Write(make([]byte, -out.Len()&7))
	ok(t, binary.Write(&out, binary.NativeEndian, uint64(uintptr(unsafe.Pointer(&counters[0])))))
	out.Write(entries)
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(p.level), uintptr(p.info), uintptr(unsafe.Pointer(&out.Bytes()[0])), uintptr(out.Len()), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// physdev matches what came in by a bridge port.
func physdev(in string) []byte {
	mask := bytes.Repeat([]byte{0xff}, len(in)+1)
	out := append(padded(in), append(mask, make([]byte, 16-len(mask))...)...)
	return append(out, append(make([]byte, 32), 0, 1)...) // and no output; not inverted, by input
}

func TestStripIsUnsafeWithLegacyTablesBoundToTheOverlay(t *testing.T) {
	if !isolate(t) {
		return
	}
	addOverlay(t)
	tests := map[string]legacyRule{
		"no rule":          {},
		"others":           {chain: "FORWARD", in: "flannel.10", out: "cni0"},
		"others' wildcard": {chain: "FORWARD", in: "flannel.10+", out: "eth+"},
		"any":              {chain: "FORWARD", in: "+", out: "+"},
		"input":            {chain: "FORWARD", in: "flannel.1", binding: "table filter chain FORWARD rule 2 has a matching input"},
		"output":           {chain: "FORWARD", in: "cni0", out: "flannel.1", binding: "table filter chain FORWARD rule 2 has a matching output"},
		"all but it":       {chain: "FORWARD", in: "flannel.1", negated: true, binding: "chain FORWARD rule 2"},
		"wildcard":         {chain: "FORWARD", in: "flannel+", binding: "chain FORWARD rule 2"},
		"in another hook":  {chain: "INPUT", in: "flannel.1", binding: "chain INPUT rule 2"},
		"user's chain":     {chain: "user", in: "flannel.1", binding: "chain user rule 1"},
		"physdev":          {chain: "FORWARD", match: "physdev", info: physdev("flannel.1"), binding: "chain FORWARD rule 2 has match physdev"},
		"others' physdev":  {chain: "FORWARD", match: "physdev", info: physdev("eth0")},
		"unknown match":    {chain: "FORWARD", match: "bpf", info: *bpfMatch(), binding: "chain FORWARD rule 2: match bpf is unknown"},
	}
	for _, p := range xtProtocols() {
		for name, r := range tests {
			t.Run(p.name+", "+name, func(t *testing.T) {
				if p.name == "arptables" && r.match != "" {
					return // ARP's rules have no matches
				}
				ok(t, p.replace(t, legacyRule{}))
				ok(t, p.replace(t, r))
				defer func() { ok(t, p.replace(t, legacyRule{})) }()
				if list, err := os.ReadFile("/proc/net/" + p.list); err != nil || string(list) != "filter\n" {
					t.Fatalf("tables %q, %v", list, err)
				}
				safe, reason := Preflight{}.StripSafe(context.Background(), []string{"lo"}, "flannel.1")
				if safe != (r.binding == "") || !safe && !strings.Contains(reason, "legacy "+p.name) || !strings.Contains(reason, r.binding) {
					t.Errorf("got %v, %q; want reason %q", safe, reason, r.binding)
				}
			})
		}
	}
}

// A table that is not laid out as expected is never taken for one without rules.
func TestDamagedLegacyTablesCannotBeRead(t *testing.T) {
	p := xtProtocols()[0]
	rule := p.entry(t, legacyRule{match: "mark", info: make([]byte, 12)}, verdictTarget(-2))
	dev := firewalled{name: "flannel.1"}
	if binding, err := (xtTable{xtProtocol: p, entries: rule}).binding(dev); binding != "" || err != nil {
		t.Fatalf("undamaged: %q, %v", binding, err)
	}
	for name, damage := range map[string]func(b []byte) []byte{
		"cut off":         func(b []byte) []byte { return b[:len(b)-1] },
		"a part at end":   func(b []byte) []byte { return append(b, 0) },
		"no length":       func(b []byte) []byte { b[90], b[91] = 0, 0; return b },
		"target too near": func(b []byte) []byte { b[88] = 8; return b },
		"target too far":  func(b []byte) []byte { b[89] = 0xff; return b },
		"match too short": func(b []byte) []byte { b[112] = 31; return b },
		"match too long":  func(b []byte) []byte { b[113] = 1; return b },
	} {
		if _, err := (xtTable{xtProtocol: p, entries: damage(bytes.Clone(rule))}).binding(dev); err == nil {
			t.Errorf("%s: read without an error", name)
		}
	}
}

func TestMatchesAreReadForWhatTheyAskOfInterfaces(t *testing.T) {
	dev := firewalled{name: "flannel.1", kind: "vxlan", index: 9, group: 7}
	group := func(words ...uint32) (out []byte) {
		for _, w := range words {
			out = binary.NativeEndian.AppendUint32(out, w)
		}
		return out
	}
	for name, c := range map[string]struct {
		match       string
		info        []byte
		ipv6        bool
		bound, fail bool
	}{
		"strict reverse path":      {match: "rpfilter", info: []byte{0}, bound: true},
		"inverted":                 {match: "rpfilter", info: []byte{8}, bound: true},
		"loose":                    {match: "rpfilter", info: []byte{9}},
		"of IPv6":                  {match: "rpfilter", info: []byte{0}, ipv6: true},
		"source group":             {match: "devgroup", info: group(1, 7, ^uint32(0), 0, 0), bound: true},
		"all but the source group": {match: "devgroup", info: group(3, 7, ^uint32(0), 0, 0), bound: true},
		"another group":            {match: "devgroup", info: group(5, 8, ^uint32(0), 8, ^uint32(0))},
		"destination group":        {match: "devgroup", info: group(4, 0, 0, 6, 6), bound: true},
		"port":                     {match: "physdev", info: physdev("flannel.1"), bound: true},
		"any port":                 {match: "physdev", info: make([]byte, 66)},
		"port, cut off":            {match: "physdev", info: make([]byte, 63), fail: true},
		"group, cut off":           {match: "devgroup", info: make([]byte, 19), fail: true},
		"reverse path, cut off":    {match: "rpfilter", fail: true},
		"no interface":             {match: "comment", info: []byte("flannel.1")},
		"nobody knows":             {match: "tomorrow", fail: true},
	} {
		if binding, err := xtMatch(dev, c.match, c.info, c.ipv6); (binding != "") != c.bound || (err != nil) != c.fail {
			t.Errorf("%s: %q, %v", name, binding, err)
		}
	}
}
