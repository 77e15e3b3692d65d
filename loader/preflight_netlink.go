// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// How nf_tables is asked over netlink, and its answers taken apart. Unlike in rtnetlink, integers are in network byte order.

// nftAttrs are the netlink attributes of one level, in their order.
type nftAttrs []nftAttr

type nftAttr struct {
	kind  uint16
	value []byte
}

func parseNFTAttrs(b []byte) (out nftAttrs, err error) {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlAttr {
			return nil, errors.New("a netlink attribute is cut off")
		}
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return nil, fmt.Errorf("a netlink attribute of %d bytes in %d", size, len(b))
		}
		const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
		out = append(out, nftAttr{binary.NativeEndian.Uint16(b[2:]) &^ flags, b[unix.SizeofNlAttr:size]})
		b = b[min(len(b), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return out, nil
}

// get returns the value of an attribute, nil if there is none.
func (a nftAttrs) get(kind uint16) []byte {
	for _, attr := range a {
		if attr.kind == kind {
			return attr.value
		}
	}
	return nil
}

func (a nftAttrs) has(kind uint16) bool { return a.get(kind) != nil }

func (a nftAttrs) text(kind uint16) string { return string(bytes.TrimRight(a.get(kind), "\x00")) }

// number reads an unsigned integer of any size; zero if there is none.
func (a nftAttrs) number(kind uint16) (out uint64) {
	for _, b := range a.get(kind) {
		out = out<<8 | uint64(b)
	}
	return out
}

func (a nftAttrs) nested(kind uint16) (nftAttrs, error) { return parseNFTAttrs(a.get(kind)) }

// data returns the bytes that an attribute of nf_tables' data type holds; a verdict has none.
func (a nftAttrs) data(kind uint16) ([]byte, error) {
	inner, err := a.nested(kind)
	return inner.get(unix.NFTA_DATA_VALUE), err
}

// nftQuestion is one request to nf_tables.
type nftQuestion struct {
	get, answer uint16 // message types
	flags       int
	family      uint8 // 0: all
	where       []*nl.RtAttr
}

// ask hands on each answer: the family it is of, and its attributes, which stay as they are. The first error ends it. Nothing may
// be asked from within.
func (q nftQuestion) ask(ctx context.Context, f func(family uint8, a nftAttrs) error) error {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES << 8
	request := nl.NewNetlinkRequest(int(subsystem|q.get), q.flags)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: q.family, Version: nl.NFNETLINK_V0})
	for _, attr := range q.where {
		request.AddData(attr)
	}
	var failed error
	err := request.ExecuteIter(unix.NETLINK_NETFILTER, subsystem|q.answer, func(message []byte) bool {
		if failed = ctx.Err(); failed != nil {
			return false
		}
		if len(message) < nl.SizeofNfgenmsg {
			failed = errors.New("a message of nf_tables is cut off")
			return false
		}
		attrs, err := parseNFTAttrs(message[nl.SizeofNfgenmsg:])
		if err == nil {
			err = f(message[0], attrs)
		}
		failed = err
		return failed == nil
	})
	return errors.Join(failed, err)
}

// nftGeneration is a number that every change of the rules moves. Without nf_tables in the kernel there is none.
func nftGeneration(ctx context.Context) (generation uint64, exists bool, err error) {
	err = nftQuestion{get: unix.NFT_MSG_GETGEN, answer: unix.NFT_MSG_NEWGEN}.ask(ctx, func(_ uint8, a nftAttrs) error {
		generation, exists = a.number(unix.NFTA_GEN_ID), true
		return nil
	})
	// EINVAL: nfnetlink has no such subsystem; EPROTONOSUPPORT: there is no nfnetlink. The request itself cannot be wrong.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return 0, false, nil
	}
	if err == nil && !exists {
		err = errors.New("no answer")
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the generation of nf_tables: %w", err)
	}
	return generation, true, nil
}
