// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ruleset writes rules as a firewall tool would, with an encoder that shares no code with what reads them.
type ruleset struct {
	*nftables.Conn
	t     *testing.T
	table *nftables.Table
	chain *nftables.Chain
}

// in makes a table with a chain that packets pass.
func (s *ruleset) in(family nftables.TableFamily) *ruleset {
	s.table = s.AddTable(&nftables.Table{Family: family, Name: "weir"})
	hook, device := nftables.ChainHookForward, ""
	switch family {
	case nftables.TableFamilyARP:
		hook = nftables.ChainHookRef(0) // NF_ARP_IN
	case nftables.TableFamilyNetdev:
		hook, device = nftables.ChainHookIngress, "eth0"
	}
	s.chain = s.attach("passing", hook, device)
	return s
}

func (s *ruleset) attach(name string, hook *nftables.ChainHook, device string) *nftables.Chain {
	return s.AddChain(&nftables.Chain{Table: s.table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook,
		Priority: nftables.ChainPriorityFilter, Device: device})
}

func (s *ruleset) rule(e ...expr.Any) {
	s.AddRule(&nftables.Rule{Table: s.table, Chain: s.chain, Exprs: append(e, &expr.Counter{})})
}

func (s *ruleset) set(set nftables.Set, elements ...nftables.SetElement) *nftables.Set {
	set.Table = s.table
	if set.Name == "" {
		set.Anonymous, set.Constant = true, true
	}
	ok(s.t, s.AddSet(&set, elements))
	return &set
}

func (s *ruleset) concatenation(types ...nftables.SetDatatype) nftables.SetDatatype {
	key, err := nftables.ConcatSetType(types...)
	ok(s.t, err)
	return key
}

func load(key expr.MetaKey, register uint32) expr.Any {
	return &expr.Meta{Key: key, Register: register}
}

func compare(op expr.CmpOp, data []byte) expr.Any { return &expr.Cmp{Op: op, Register: 1, Data: data} }

func find(set *nftables.Set) *expr.Lookup {
	return &expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID}
}

func number(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

func bigEndian(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// filled is a name with a byte behind it up to the end of its field.
func filled(prefix string, with byte) []byte {
	return append([]byte(prefix), bytes.Repeat([]byte{with}, 16-len(prefix))...)
}

func members(keys ...[]byte) (out []nftables.SetElement) {
	for _, k := range keys {
		out = append(out, nftables.SetElement{Key: k})
	}
	return out
}

func accepting(keys ...[]byte) []nftables.SetElement {
	out := members(keys...)
	for i := range out {
		out[i].VerdictData = &expr.Verdict{Kind: expr.VerdictAccept}
	}
	return out
}

const registerAfterName = unix.NFT_REG32_04 // the first one behind a name in register 1

func TestStripIsUnsafeWithNFTablesBoundToTheOverlay(t *testing.T) {
	if !isolate(t) {
		return
	}
	index := addOverlay(t)
	other := addVeth(t, "eth0").Ifindex
	addVeth(t, "flannel.10")

	overlay, inet := padded("flannel.1"), nftables.TableFamilyINet
	inetIngress := nftables.ChainHookRef(5)
	iifname, oifname := load(expr.MetaKeyIIFNAME, 1), load(expr.MetaKeyOIFNAME, 1)
	source := &expr.Payload{DestRegister: registerAfterName, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
	names := nftables.Set{KeyType: nftables.TypeIFName}
	interval := nftables.Set{KeyType: nftables.TypeIFName, Interval: true}
	verdicts := nftables.Set{KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict, IsMap: true}
	reversePath := expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true, FlagIIF: true}

	type test struct {
		build  func(s *ruleset)
		reason string // empty: safe
	}
	tests := map[string]test{
		"nothing": {build: func(s *ruleset) {}},
		"others": {build: func(s *ruleset) {
			for _, name := range []string{"eth0", "cni0", "flannel.10", "flannel."} {
				s.rule(iifname, compare(expr.CmpOpEq, padded(name)))
				s.rule(oifname, compare(expr.CmpOpNeq, padded(name)))
			}
		}},
		"all but it":       {func(s *ruleset) { s.rule(iifname, compare(expr.CmpOpNeq, overlay)) }, "handle 2 has iifname"},
		"wildcard":         {func(s *ruleset) { s.rule(iifname, compare(expr.CmpOpEq, []byte("flannel."))) }, "iifname"},
		"others' wildcard": {build: func(s *ruleset) { s.rule(iifname, compare(expr.CmpOpEq, []byte("flannel.10"))) }},
		"index":            {func(s *ruleset) { s.rule(load(expr.MetaKeyIIF, 1), compare(expr.CmpOpEq, number(index))) }, "has iif"},
		"output index":     {func(s *ruleset) { s.rule(load(expr.MetaKeyOIF, 1), compare(expr.CmpOpEq, number(index))) }, "has oif"},
		"another's index":  {build: func(s *ruleset) { s.rule(load(expr.MetaKeyIIF, 1), compare(expr.CmpOpEq, number(other))) }},
		"range of indices": {func(s *ruleset) {
			s.rule(load(expr.MetaKeyIIF, 1), &expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
				&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: bigEndian(index - 1), ToData: bigEndian(index)})
		}, "iif"},
		"range of others' indices": {build: func(s *ruleset) {
			s.rule(load(expr.MetaKeyIIF, 1), &expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
				&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: bigEndian(index + 1), ToData: bigEndian(index + 300)})
		}},
		"group":          {func(s *ruleset) { s.rule(load(expr.MetaKeyIIFGROUP, 1), compare(expr.CmpOpEq, number(7))) }, "iifgroup"},
		"another group":  {build: func(s *ruleset) { s.rule(load(expr.MetaKeyIIFGROUP, 1), compare(expr.CmpOpEq, number(8))) }},
		"kind":           {func(s *ruleset) { s.rule(load(26, 1), compare(expr.CmpOpEq, padded("vxlan"))) }, "iifkind"},
		"another kind":   {build: func(s *ruleset) { s.rule(load(26, 1), compare(expr.CmpOpEq, padded("bridge"))) }},
		"slave":          {func(s *ruleset) { s.rule(load(34, 1), compare(expr.CmpOpEq, overlay)) }, "sdifname"},
		"set":            {func(s *ruleset) { s.rule(iifname, find(s.set(names, members(padded("eth0"), overlay)...))) }, "iifname in set __set0"},
		"set of others":  {build: func(s *ruleset) { s.rule(iifname, find(s.set(names, members(padded("eth0"), padded("cni0"))...))) }},
		"all but a set":  {func(s *ruleset) { l := find(s.set(names, members(overlay)...)); l.Invert = true; s.rule(oifname, l) }, "oifname in set"},
		"named set":      {func(s *ruleset) { n := names; n.Name = "ours"; s.rule(iifname, find(s.set(n, members(overlay)...))) }, "in set ours"},
		"set, no lookup": {build: func(s *ruleset) { n := names; n.Name = "ours"; s.set(n, members(overlay)...) }},
		"set of indices": {func(s *ruleset) {
			s.rule(load(expr.MetaKeyOIF, 1), find(s.set(nftables.Set{KeyType: nftables.TypeIFIndex}, members(number(other), number(index))...)))
		}, "oif in set"},
		"verdict map": {func(s *ruleset) {
			l := find(s.set(verdicts, accepting(padded("eth0"), overlay)...))
			l.IsDestRegSet = true
			s.rule(iifname, l)
		}, "iifname in set __map0"},
		"others' verdict map": {build: func(s *ruleset) {
			l := find(s.set(verdicts, accepting(padded("eth0"), padded("flannel.10"))...))
			l.IsDestRegSet = true
			s.rule(iifname, l)
		}},
		"map": {func(s *ruleset) {
			marks := nftables.Set{KeyType: nftables.TypeIFName, DataType: nftables.TypeMark, IsMap: true}
			l := find(s.set(marks, nftables.SetElement{Key: overlay, Val: number(1)}))
			l.DestRegister, l.IsDestRegSet = 1, true
			s.rule(iifname, l, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
		}, "iifname in set"},
		"interval set, wildcard": {func(s *ruleset) {
			s.rule(iifname, find(s.set(interval, nftables.SetElement{Key: padded("eth")}, nftables.SetElement{Key: padded("eti"), IntervalEnd: true},
				nftables.SetElement{Key: padded("flannel.")}, nftables.SetElement{Key: padded("flannel/"), IntervalEnd: true})))
		}, "iifname in set"},
		"interval where another ends": {func(s *ruleset) {
			s.rule(iifname, find(s.set(interval, nftables.SetElement{Key: padded("eth")}, nftables.SetElement{Key: overlay, IntervalEnd: true},
				nftables.SetElement{Key: overlay}, nftables.SetElement{Key: padded("flannel.2"), IntervalEnd: true})))
		}, "iifname in set"},
		"end of an interval": {build: func(s *ruleset) {
			s.rule(iifname, find(s.set(interval, nftables.SetElement{Key: padded("eth")}, nftables.SetElement{Key: overlay, IntervalEnd: true})))
		}},
		"interval set, others' wildcard": {build: func(s *ruleset) {
			s.rule(iifname, find(s.set(interval, nftables.SetElement{Key: padded("eth")}, nftables.SetElement{Key: padded("eti"), IntervalEnd: true},
				nftables.SetElement{Key: padded("flannel.10")}, nftables.SetElement{Key: padded("flannel.11"), IntervalEnd: true})))
		}},
		"concatenation": {func(s *ruleset) {
			key := nftables.Set{KeyType: s.concatenation(nftables.TypeIFName, nftables.TypeIPAddr), Concatenation: true}
			s.rule(iifname, source, find(s.set(key, members(append(slices.Clone(overlay), 192, 0, 2, 1))...)))
		}, "iifname in set"},
		"others' concatenation": {build: func(s *ruleset) {
			key := nftables.Set{KeyType: s.concatenation(nftables.TypeIFName, nftables.TypeIPAddr), Concatenation: true}
			s.rule(iifname, source, find(s.set(key, members(append(padded("eth0"), 192, 0, 2, 1))...)))
		}},
		"second in a concatenation": {func(s *ruleset) {
			key := nftables.Set{KeyType: s.concatenation(nftables.TypeIFName, nftables.TypeIFName), Concatenation: true}
			s.rule(iifname, load(expr.MetaKeyOIFNAME, registerAfterName), find(s.set(key, members(append(padded("eth0"), overlay...))...)))
		}, "in set"},
		"concatenation, wildcard": {func(s *ruleset) {
			key := nftables.Set{KeyType: s.concatenation(nftables.TypeIFName, nftables.TypeIPAddr), Concatenation: true, Interval: true}
			s.rule(iifname, source, find(s.set(key, nftables.SetElement{
				Key: append(padded("flannel"), 192, 0, 2, 0), KeyEnd: append(filled("flannel", 0xff), 192, 0, 2, 255)})))
		}, "iifname in set"},
		"concatenation, others' wildcard": {build: func(s *ruleset) {
			key := nftables.Set{KeyType: s.concatenation(nftables.TypeIFName, nftables.TypeIPAddr), Concatenation: true, Interval: true}
			s.rule(iifname, source, find(s.set(key, nftables.SetElement{
				Key: append(padded("flannel.10"), 192, 0, 2, 0), KeyEnd: append(filled("flannel.10", 0xff), 192, 0, 2, 255)})))
		}},
		"masked": {func(s *ruleset) {
			s.rule(iifname, &expr.Bitwise{SourceRegister: 1, DestRegister: 2, Len: 16, Mask: filled("", 0xff), Xor: make([]byte, 16)},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 2, Data: overlay})
		}, "iifname"},
		"register used again": {build: func(s *ruleset) {
			s.rule(iifname, compare(expr.CmpOpEq, padded("eth0")),
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}, compare(expr.CmpOpEq, []byte("flan")))
		}},
		"register used again by a mark": {build: func(s *ruleset) {
			s.rule(iifname, compare(expr.CmpOpEq, padded("eth0")), load(expr.MetaKeyMARK, 1), compare(expr.CmpOpEq, []byte("flan")))
		}},
		"register elsewhere": {func(s *ruleset) {
			s.rule(load(expr.MetaKeyIIFNAME, unix.NFT_REG32_12), &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_4, Data: overlay})
		}, "iifname"},
		"interface kept in a mark": {func(s *ruleset) {
			s.rule(load(expr.MetaKeyIIF, 1), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
		}, "expression meta cannot be read: it passes on iif"},
		"interface kept in a set": {func(s *ruleset) {
			d := s.set(nftables.Set{Name: "seen", KeyType: nftables.TypeIFName, Dynamic: true, Size: 16})
			s.rule(iifname, &expr.Dynset{SrcRegKey: 1, SetName: d.Name, SetID: d.ID, Operation: unix.NFT_DYNSET_OP_ADD})
		}, "expression dynset cannot be read: it passes on iifname"},
		"address kept in a set": {build: func(s *ruleset) {
			d := s.set(nftables.Set{Name: "seen", KeyType: nftables.TypeIPAddr, Dynamic: true, Size: 16})
			s.rule(iifname, compare(expr.CmpOpEq, padded("eth0")), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
				&expr.Dynset{SrcRegKey: 1, SetName: d.Name, SetID: d.ID, Operation: unix.NFT_DYNSET_OP_ADD})
		}},
		"interface hashed": {func(s *ruleset) {
			s.rule(iifname, &expr.Hash{SourceRegister: 1, DestRegister: 2, Length: 16, Modulus: 2}, &expr.Cmp{Op: expr.CmpOpEq, Register: 2, Data: number(1)})
		}, "expression hash cannot be read: it passes on iifname"},
		"reverse path": {func(s *ruleset) { f := reversePath; s.rule(&f, compare(expr.CmpOpEq, number(0))) }, "filters reverse paths"},
		"reverse path of IPv6 only": {build: func(s *ruleset) {
			f := reversePath
			s.rule(load(expr.MetaKeyNFPROTO, 1), compare(expr.CmpOpEq, []byte{unix.NFPROTO_IPV6}), &f, compare(expr.CmpOpEq, number(0)))
		}},
		"reverse path in family ip6": {build: func(s *ruleset) {
			f := reversePath
			s.in(nftables.TableFamilyIPv6).rule(&f, compare(expr.CmpOpEq, number(0)))
		}},
		"local destination": {build: func(s *ruleset) {
			s.rule(&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true, FlagIIF: true}, compare(expr.CmpOpEq, number(2)))
		}},
		"route through it": {func(s *ruleset) {
			s.rule(&expr.Fib{Register: 1, ResultOIFNAME: true, FlagSADDR: true}, compare(expr.CmpOpEq, overlay))
		}, "fib oifname"},
		"known match": {build: func(s *ruleset) {
			s.rule(&expr.Match{Name: "mark", Rev: 1, Info: &xt.Unknown{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}})
		}},
		"unknown match": {func(s *ruleset) {
			s.rule(&expr.Match{Name: "bpf", Rev: 0, Info: bpfMatch()})
		}, "expression match cannot be read: match bpf is unknown"},
		"netdev ingress": {func(s *ruleset) {
			s.in(nftables.TableFamilyNetdev).attach("own", nftables.ChainHookIngress, "flannel.1")
		}, "chain netdev weir own is attached"},
		"netdev egress": {func(s *ruleset) {
			s.in(nftables.TableFamilyNetdev).attach("own", nftables.ChainHookEgress, "flannel.1")
		}, "chain netdev weir own is attached"},
		"inet ingress":          {func(s *ruleset) { s.attach("own", inetIngress, "flannel.1") }, "chain inet weir own is attached"},
		"inet ingress, another": {build: func(s *ruleset) { s.attach("own", inetIngress, "flannel.10") }},
		"chain that nothing leads to": {func(s *ruleset) {
			s.chain = s.AddChain(&nftables.Chain{Table: s.table, Name: "aside"})
			s.rule(iifname, compare(expr.CmpOpEq, overlay))
		}, "rule inet weir aside handle"},
		"behind many rules": {func(s *ruleset) {
			for i := range 2000 {
				s.rule(iifname, compare(expr.CmpOpEq, padded("eth0")))
				if i%100 == 0 {
					ok(s.t, s.Flush())
				}
			}
			s.rule(iifname, compare(expr.CmpOpEq, overlay))
		}, "handle 2002 has iifname"},
	}
	for name, family := range map[string]nftables.TableFamily{"ip": nftables.TableFamilyIPv4, "ip6": nftables.TableFamilyIPv6,
		"inet": inet, "bridge": nftables.TableFamilyBridge, "netdev": nftables.TableFamilyNetdev, "arp": nftables.TableFamilyARP} {
		tests["family "+name] = test{func(s *ruleset) { s.in(family).rule(iifname, compare(expr.CmpOpEq, overlay)) }, "rule " + name + " weir passing handle"}
		tests["family "+name+", others"] = test{build: func(s *ruleset) { s.in(family).rule(iifname, compare(expr.CmpOpEq, padded("eth0"))) }}
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			conn, err := nftables.New()
			ok(t, err)
			conn.FlushRuleset()
			ok(t, conn.Flush())
			s := &ruleset{Conn: conn, t: t}
			c.build(s.in(inet))
			ok(t, conn.Flush())
			safe, reason := Preflight{}.StripSafe(context.Background(), []string{"lo"}, "flannel.1")
			if safe != (c.reason == "") || !strings.Contains(reason, c.reason) {
				t.Errorf("got %v, %q; want reason %q", safe, reason, c.reason)
			}
		})
	}
}

// bpfMatch is a classic BPF program of one instruction that accepts.
func bpfMatch() *xt.Unknown {
	info := make(xt.Unknown, 528)
	binary.NativeEndian.PutUint16(info, 1)
	binary.NativeEndian.PutUint16(info[4:], unix.BPF_RET|unix.BPF_K)
	return &info
}

// Not every kernel can make them.
func TestFlowtablesAndPrefixesOfDevicesAreRead(t *testing.T) {
	attr := func(kind int, value []byte) *nl.RtAttr { return nl.NewRtAttr(kind, value) }
	for name, c := range map[string]struct {
		kind    int
		device  string
		binding string
		fails   bool
	}{
		"it":               {kind: 1, device: "flannel.1\x00", binding: "flowtable inet t f is attached to it"},
		"another":          {kind: 1, device: "flannel.10\x00"},
		"a part of it":     {kind: 1, device: "flannel\x00"},
		"prefix":           {kind: 2, device: "flannel\x00", binding: "flowtable inet t f is attached to it"},
		"another's prefix": {kind: 2, device: "eth\x00"},
		"prefix of 6.16":   {kind: 1, device: "flannel", binding: "flowtable inet t f is attached to it"},
		"something new":    {kind: 3, device: "eth0\x00", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			hook := attr(unix.NLA_F_NESTED|3, nil)
			hook.AddChild(attr(unix.NLA_F_NESTED|3, attr(c.kind, []byte(c.device)).Serialize()))
			message := slices.Concat(attr(1, []byte("t\x00")).Serialize(), attr(2, []byte("f\x00")).Serialize(), hook.Serialize())
			attrs, err := parseNFTAttrs(message)
			ok(t, err)
			r := nftReader{dev: firewalled{name: "flannel.1"}}
			if err := r.flowtable(unix.NFPROTO_INET, attrs); (err != nil && err != errBound) != c.fails || !strings.HasSuffix(r.binding, c.binding) || (r.binding == "") != (c.binding == "") {
				t.Errorf("got %q, %v", r.binding, err)
			}
		})
	}
}

// Expressions of kernels to come may ask for anything.
func TestUnknownExpressionsCannotBeRead(t *testing.T) {
	v := nftEvaluation{dev: firewalled{name: "flannel.1"}}
	if _, err := v.evaluate("tomorrow", nil); err == nil {
		t.Error("an expression that nobody knows was read")
	}
	for _, name := range []string{"meta", "cmp", "range", "fib", "bitwise", "byteorder"} {
		if _, err := v.evaluate(name, nil); err == nil {
			t.Errorf("%s was read without a register", name)
		}
	}
	register := nftAttr{unix.NFTA_META_DREG, bigEndian(1)}
	if err := v.meta(nftAttrs{register, {unix.NFTA_META_KEY, bigEndian(99)}}); err == nil {
		t.Error("a key of meta that nobody knows was read")
	}
}

// A rule that moves from one table to the other, in one step, is always in one of them.
func TestRulesThatChangeWhileTheyAreReadAreNotMissed(t *testing.T) {
	if !isolate(t) {
		return
	}
	addOverlay(t)
	move := func(name string) error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.FlushRuleset()
		for _, table := range []string{"first", "last"} {
			in := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: table})
			chain := conn.AddChain(&nftables.Chain{Table: in, Name: "passing"})
			for range 20 {
				conn.AddRule(&nftables.Rule{Table: in, Chain: chain, Exprs: []expr.Any{load(expr.MetaKeyIIFNAME, 1), compare(expr.CmpOpEq, padded("eth0"))}})
			}
			if table == name {
				conn.AddRule(&nftables.Rule{Table: in, Chain: chain, Exprs: []expr.Any{load(expr.MetaKeyIIFNAME, 1), compare(expr.CmpOpEq, padded("flannel.1"))}})
			}
		}
		return conn.Flush()
	}
	ok(t, move("first"))
	done := make(chan int)
	stop := make(chan struct{})
	go func() {
		moves := 0
		for {
			select {
			case <-stop:
				done <- moves
				return
			default:
				moves++
				if err := move([]string{"first", "last"}[moves%2]); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	found, changing := 0, 0
	for range 300 {
		switch safe, reason := (Preflight{}).StripSafe(context.Background(), []string{"lo"}, "flannel.1"); {
		case safe:
			t.Error("the rule was missed")
		case strings.Contains(reason, "has iifname"):
			found++
		case strings.Contains(reason, "change while they are read"):
			changing++
		default:
			t.Error(reason)
		}
	}
	close(stop)
	t.Logf("%d moves; found %d times, gave up %d times", <-done, found, changing)
}
