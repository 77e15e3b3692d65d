// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// The lab speaks nf_tables' netlink dialect itself, so that it needs no tool. Names and numbers: linux/netfilter/nf_tables.h.
const (
	subsystem  = 10
	batchBegin = 0x10
	batchEnd   = 0x11
	newTable   = subsystem << 8
	newChain   = subsystem<<8 | 3
	newRule    = subsystem<<8 | 6
	nested     = 0x8000
)

// translate sends TCP connections to one address and port on to another, whether they pass through this namespace or
// start in it.
func translate(from, to netip.AddrPort) error {
	var b batch
	b.message(batchBegin, 0, syscall.AF_UNSPEC, subsystem)
	b.message(newTable, syscall.NLM_F_CREATE, syscall.AF_INET, 0, text(1, "weir-lab"))
	for _, chain := range []struct {
		name string
		hook uint32
	}{{"prerouting", 0}, {"output", 3}} {
		const dstnat = -100
		b.message(newChain, syscall.NLM_F_CREATE, syscall.AF_INET, 0, text(1, "weir-lab"), text(3, chain.name),
			nest(4, number(1, chain.hook), number(2, uint32(0xffffffff+dstnat+1))), text(7, "nat"))
		b.message(newRule, syscall.NLM_F_CREATE|syscall.NLM_F_APPEND, syscall.AF_INET, 0,
			text(1, "weir-lab"), text(2, chain.name), nest(4,
				expression("payload", number(1, 1), number(2, 1), number(3, 16), number(4, 4)), // IP destination
				equals(from.Addr().AsSlice()),
				expression("meta", number(1, 1), number(2, 16)), // protocol
				equals([]byte{syscall.IPPROTO_TCP}),
				expression("payload", number(1, 1), number(2, 2), number(3, 2), number(4, 2)), // destination port
				equals(port(from)),
				expression("immediate", number(1, 1), nest(2, attribute(1, to.Addr().AsSlice()))),
				expression("immediate", number(1, 2), nest(2, attribute(1, port(to)))),
				expression("nat", number(1, 1), number(2, 2), number(3, 1), number(5, 2)),
			))
	}
	b.message(batchEnd, 0, syscall.AF_UNSPEC, subsystem)
	return b.send()
}

func port(a netip.AddrPort) []byte { return binary.BigEndian.AppendUint16(nil, a.Port()) }

func attribute(kind uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), data...)
	return append(b, make([]byte, -len(b)&3)...)
}

func text(kind uint16, s string) []byte { return attribute(kind, append([]byte(s), 0)) }

func number(kind uint16, v uint32) []byte {
	return attribute(kind, binary.BigEndian.AppendUint32(nil, v))
}

func nest(kind uint16, parts ...[]byte) []byte {
	return attribute(kind|nested, slices.Concat(parts...))
}

func expression(name string, parts ...[]byte) []byte {
	return nest(1, text(1, name), nest(2, parts...))
}

// equals goes on only if register 1 holds value.
func equals(value []byte) []byte {
	return expression("cmp", number(1, 1), number(2, 0), nest(3, attribute(1, value)))
}

// batch is a transaction.
type batch struct {
	bytes []byte
	count uint32
}

func (b *batch) message(kind, flags uint16, family uint8, resource uint16, parts ...[]byte) {
	body := binary.BigEndian.AppendUint16([]byte{family, 0}, resource)
	body = append(body, slices.Concat(parts...)...)
	if kind != batchBegin && kind != batchEnd {
		flags |= syscall.NLM_F_ACK
	}
	b.bytes = binary.NativeEndian.AppendUint32(b.bytes, uint32(16+len(body)))
	b.bytes = binary.NativeEndian.AppendUint16(b.bytes, kind)
	b.bytes = binary.NativeEndian.AppendUint16(b.bytes, flags|syscall.NLM_F_REQUEST)
	b.bytes = binary.NativeEndian.AppendUint32(b.bytes, b.count)
	b.bytes = append(binary.NativeEndian.AppendUint32(b.bytes, 0), body...)
	b.count++
}

// send commits the batch and waits for the answer to each of its messages.
func (b *batch) send() error {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	defer syscall.Close(fd)
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 10}); err != nil {
		return fmt.Errorf("limit wait for netfilter: %w", err)
	}
	if err := syscall.Sendto(fd, b.bytes, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return fmt.Errorf("send netfilter rules: %w", err)
	}
	buffer := make([]byte, 65536)
	for answers := uint32(0); answers < b.count-2; {
		n, _, err := syscall.Recvfrom(fd, buffer, 0)
		if err != nil {
			return fmt.Errorf("wait for netfilter: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return fmt.Errorf("read netfilter's answer: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type != syscall.NLMSG_ERROR || len(m.Data) < 4 {
				continue
			}
			if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
				return fmt.Errorf("set netfilter rule, message %d: %w", m.Header.Seq, syscall.Errno(-code))
			}
			answers++
		}
	}
	return nil
}
