// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Does a rule of nf_tables compare something with the interface? Its expressions load what they know of a packet into registers
// and compare those later, so the registers are followed as they would be for a packet of that interface: in, out, or whatever
// else the rule asks. Only what comes of an interface has a value here; everything else about the packet is open.

// nftEvaluation follows the registers through one rule.
type nftEvaluation struct {
	dev       firewalled
	registers [16]nftWord
	loads     int
	ipv6      bool // only IPv6 gets here
	// among says whether one of the fields of a key, which it asks for by the key's length, is in a set.
	among func(set string, fields func(keyLen int) []nftField) (bool, error)
}

// step takes the rule's next expression, and says what it has to do with the interface; empty: nothing. What it cannot read is an
// error.
func (v *nftEvaluation) step(expression nftAttrs) (binding string, err error) {
	name := expression.text(unix.NFTA_EXPR_NAME)
	a, err := expression.nested(unix.NFTA_EXPR_DATA)
	if err == nil {
		binding, err = v.evaluate(name, a)
	}
	if err != nil {
		return "", fmt.Errorf("expression %s cannot be read: %w", name, err)
	}
	return binding, nil
}

func (v *nftEvaluation) evaluate(name string, a nftAttrs) (string, error) {
	switch name {
	case "cmp":
		return v.cmp(a)
	case "range":
		return v.inRange(a)
	case "lookup":
		return v.lookup(a, unix.NFTA_LOOKUP_SREG, unix.NFTA_LOOKUP_SET, unix.NFTA_LOOKUP_DREG)
	case "objref":
		return v.lookup(a, unix.NFTA_OBJREF_SET_SREG, unix.NFTA_OBJREF_SET_NAME, 0)
	case "fib":
		return v.fib(a)
	case "match":
		return xtMatch(v.dev, a.text(unix.NFTA_MATCH_NAME), a.get(unix.NFTA_MATCH_INFO), v.ipv6)
	case "meta":
		return "", v.meta(a)
	case "bitwise":
		return "", v.bitwise(a)
	case "byteorder":
		return "", v.byteOrder(a)
	case "immediate":
		data, err := a.data(unix.NFTA_IMMEDIATE_DATA)
		if err != nil || data == nil {
			return "", err // a verdict
		}
		return "", v.load(a, unix.NFTA_IMMEDIATE_DREG, len(data))
	case "payload":
		length := int(a.number(unix.NFTA_PAYLOAD_LEN))
		return "", errors.Join(v.keeps(a, unix.NFTA_PAYLOAD_SREG), v.load(a, unix.NFTA_PAYLOAD_DREG, length))
	case "exthdr":
		length := int(a.number(unix.NFTA_EXTHDR_LEN))
		return "", errors.Join(v.keeps(a, unix.NFTA_EXTHDR_SREG), v.load(a, unix.NFTA_EXTHDR_DREG, length))
	case "ct":
		return "", errors.Join(v.keeps(a, unix.NFTA_CT_SREG), v.load(a, unix.NFTA_CT_DREG, anyLength))
	case "hash":
		return "", errors.Join(v.keepsAll(a, unix.NFTA_HASH_SREG, int(a.number(unix.NFTA_HASH_LEN))), v.load(a, unix.NFTA_HASH_DREG, 4))
	case "dynset":
		return "", errors.Join(v.dynset(a), v.keeps(a, unix.NFTA_DYNSET_SREG_DATA))
	case "numgen":
		return "", v.load(a, unix.NFTA_NG_DREG, 4)
	case "rt":
		return "", v.load(a, unix.NFTA_RT_DREG, anyLength)
	case "osf", "xfrm":
		return "", v.load(a, 1, anyLength) // NFTA_OSF_DREG, NFTA_XFRM_DREG
	case "socket", "tunnel":
		return "", v.load(a, 2, anyLength) // NFTA_SOCKET_DREG, NFTA_TUNNEL_DREG
	case "inner":
		// Headers inside of a tunnel, by an expression of its own: payload, or what meta tells of headers.
		inner, err := a.nested(5) // NFTA_INNER_EXPR
		if err != nil {
			return "", err
		}
		return v.step(inner)
	case "counter", "limit", "quota", "last", "connlimit", "log", "reject", "notrack", "target",
		"nat", "masq", "redir", "tproxy", "queue", "synproxy", "flow_offload", "dup", "fwd":
		return "", nil // they act on a packet, or count it
	}
	return "", errors.New("it is unknown")
}

// dynset writes a key into a set. How long the key is, only the set knows.
func (v *nftEvaluation) dynset(a nftAttrs) error {
	length := 0
	if _, err := v.among(a.text(unix.NFTA_DYNSET_SET_NAME), func(keyLen int) []nftField { length = keyLen; return nil }); err != nil {
		return err
	}
	return v.keepsAll(a, unix.NFTA_DYNSET_SREG_KEY, length)
}

func (v *nftEvaluation) cmp(a nftAttrs) (string, error) {
	first, err := nftRegister(a.number(unix.NFTA_CMP_SREG))
	if err != nil {
		return "", err
	}
	data, err := a.data(unix.NFTA_CMP_DATA)
	if err != nil {
		return "", err
	}
	op := a.number(unix.NFTA_CMP_OP)
	if v.registers[first].nfproto && op == unix.NFT_CMP_EQ && len(data) == 1 && data[0] == unix.NFPROTO_IPV6 {
		v.ipv6 = true
	}
	for _, f := range v.fields(first, len(data)) {
		order := bytes.Compare(f.value, data[f.offset:f.offset+len(f.value)])
		holds := false
		switch op {
		case unix.NFT_CMP_EQ, unix.NFT_CMP_NEQ: // "all but this one" is about this one, too
			holds = order == 0
		case unix.NFT_CMP_LT:
			holds = order < 0
		case unix.NFT_CMP_LTE:
			holds = order <= 0
		case unix.NFT_CMP_GT:
			holds = order > 0
		case unix.NFT_CMP_GTE:
			holds = order >= 0
		default:
			return "", fmt.Errorf("comparison %d is unknown", op)
		}
		if holds {
			return f.what, nil
		}
	}
	return "", nil
}

func (v *nftEvaluation) inRange(a nftAttrs) (string, error) {
	first, err := nftRegister(a.number(unix.NFTA_RANGE_SREG))
	if err != nil {
		return "", err
	}
	from, err := a.data(unix.NFTA_RANGE_FROM_DATA)
	if err != nil {
		return "", err
	}
	to, err := a.data(unix.NFTA_RANGE_TO_DATA)
	if err != nil {
		return "", err
	}
	for _, f := range v.fields(first, min(len(from), len(to))) {
		end := f.offset + len(f.value)
		if bytes.Compare(from[f.offset:end], f.value) <= 0 && bytes.Compare(f.value, to[f.offset:end]) <= 0 {
			return f.what, nil
		}
	}
	return "", nil
}

// lookup reads the register of a key and the name of its set. What a map gives is not followed: expressions compare with
// constants only, so what it gives can be compared with nothing that comes of the packet.
func (v *nftEvaluation) lookup(a nftAttrs, sreg, set, dreg uint16) (string, error) {
	if !a.has(sreg) {
		return "", nil
	}
	first, err := nftRegister(a.number(sreg))
	if err != nil {
		return "", err
	}
	if fields := v.fields(first, 4*len(v.registers)); len(fields) > 0 {
		name := a.text(set)
		found, err := v.among(name, func(keyLen int) []nftField { return v.fields(first, keyLen) })
		if err != nil {
			return "", err
		}
		if found {
			return fmt.Sprintf("%s in set %s", fields[0].what, name), nil
		}
	}
	if dreg == 0 || a.number(dreg) == unix.NFT_REG_VERDICT {
		return "", nil
	}
	return "", v.load(a, dreg, anyLength)
}

// fib asks the routes. Whether an IPv4 packet's source leads back to where it came from is what rp_filter asks too, and where
// headers are removed the answer is no.
func (v *nftEvaluation) fib(a nftAttrs) (string, error) {
	first, err := nftRegister(a.number(unix.NFTA_FIB_DREG))
	if err != nil {
		return "", err
	}
	flags := a.number(unix.NFTA_FIB_FLAGS)
	switch result := a.number(unix.NFTA_FIB_RESULT); result {
	case unix.NFT_FIB_RESULT_OIF:
		v.store(first, "fib oif", v.index())
	case unix.NFT_FIB_RESULT_OIFNAME:
		v.store(first, "fib oifname", padded(v.dev.name))
	case unix.NFT_FIB_RESULT_ADDRTYPE:
		v.clear(first, 4)
		return "", nil
	default:
		return "", fmt.Errorf("result %d is unknown", result)
	}
	if flags&unix.NFTA_FIB_F_SADDR != 0 && flags&unix.NFTA_FIB_F_IIF != 0 && !v.ipv6 {
		return "fib saddr . iif, which filters reverse paths", nil
	}
	return "", nil
}

func (v *nftEvaluation) index() []byte { return binary.NativeEndian.AppendUint32(nil, v.dev.index) }

func (v *nftEvaluation) meta(a nftAttrs) error {
	if a.has(unix.NFTA_META_SREG) {
		return v.keeps(a, unix.NFTA_META_SREG)
	}
	first, err := nftRegister(a.number(unix.NFTA_META_DREG))
	if err != nil {
		return err
	}
	// Newer than the constants at hand.
	const iifKind, oifKind, timeNS, slave, slaveName, bridgeMAC = 26, 27, 30, 33, 34, 37
	switch key := a.number(unix.NFTA_META_KEY); key {
	case unix.NFT_META_IIF:
		v.store(first, "iif", v.index())
	case unix.NFT_META_OIF:
		v.store(first, "oif", v.index())
	case slave:
		v.store(first, "sdif", v.index())
	case unix.NFT_META_IIFNAME:
		v.store(first, "iifname", padded(v.dev.name))
	case unix.NFT_META_OIFNAME:
		v.store(first, "oifname", padded(v.dev.name))
	case slaveName:
		v.store(first, "sdifname", padded(v.dev.name))
	case unix.NFT_META_BRI_IIFNAME:
		v.store(first, "ibrname", padded(v.dev.name))
	case unix.NFT_META_BRI_OIFNAME:
		v.store(first, "obrname", padded(v.dev.name))
	case unix.NFT_META_IIFGROUP:
		v.store(first, "iifgroup", binary.NativeEndian.AppendUint32(nil, v.dev.group))
	case unix.NFT_META_OIFGROUP:
		v.store(first, "oifgroup", binary.NativeEndian.AppendUint32(nil, v.dev.group))
	case iifKind:
		v.store(first, "iifkind", padded(v.dev.kind))
	case oifKind:
		v.store(first, "oifkind", padded(v.dev.kind))
	case unix.NFT_META_NFPROTO:
		v.clear(first, 1)
		v.registers[first].nfproto = true
	default:
		// No other key tells interfaces apart: iiftype does not either, since a NIC is of the overlay's type, Ethernet.
		if key > bridgeMAC {
			return fmt.Errorf("key %d is unknown", key)
		}
		if key == timeNS || key == bridgeMAC {
			v.clear(first, 8)
		}
		v.clear(first, 4)
	}
	return nil
}

func (v *nftEvaluation) bitwise(a nftAttrs) error {
	const op, second = 6, 8 // NFTA_BITWISE_OP, NFTA_BITWISE_SREG2
	from, err := nftRegister(a.number(unix.NFTA_BITWISE_SREG))
	if err != nil {
		return err
	}
	to, err := nftRegister(a.number(unix.NFTA_BITWISE_DREG))
	if err != nil {
		return err
	}
	length := int(a.number(unix.NFTA_BITWISE_LEN))
	if err := v.keepsAll(a, second, length); err != nil {
		return err
	}
	fields := v.fields(from, length)
	v.clear(to, length)
	if len(fields) == 0 {
		return nil
	}
	mask, err := a.data(unix.NFTA_BITWISE_MASK)
	if err != nil {
		return err
	}
	xor, err := a.data(unix.NFTA_BITWISE_XOR)
	if err != nil {
		return err
	}
	if a.number(op) != 0 || len(mask) != length || len(xor) != length {
		return fmt.Errorf("it calculates with %s", fields[0].what)
	}
	for _, f := range fields {
		for i := range f.value {
			f.value[i] = f.value[i]&mask[f.offset+i] ^ xor[f.offset+i]
		}
		v.store(to+f.offset/4, f.what, f.value)
	}
	return nil
}

func (v *nftEvaluation) byteOrder(a nftAttrs) error {
	from, err := nftRegister(a.number(unix.NFTA_BYTEORDER_SREG))
	if err != nil {
		return err
	}
	to, err := nftRegister(a.number(unix.NFTA_BYTEORDER_DREG))
	if err != nil {
		return err
	}
	length, size := int(a.number(unix.NFTA_BYTEORDER_LEN)), int(a.number(unix.NFTA_BYTEORDER_SIZE))
	fields := v.fields(from, length)
	v.clear(to, length)
	if len(fields) == 0 {
		return nil
	}
	if length != 4 || size != 4 {
		return fmt.Errorf("it turns around %s", fields[0].what)
	}
	// Little endian, as all that weir runs on: both directions are the same.
	slices.Reverse(fields[0].value)
	v.store(to, fields[0].what, fields[0].value)
	return nil
}
