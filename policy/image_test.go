// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

func build(t testing.TB, m *Model) *Compiled {
	t.Helper()
	c, err := Build(m)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// guarded is smallModel with a policy on front.
func guarded() *Model {
	m := smallModel()
	m.Policies = []Policy{{
		Key: "CiliumNetworkPolicy default/guard", Subject: Selector{{Key: "app", Op: In, Values: []string{"front"}}}, Isolates: [2]bool{true, false},
		Rules: []Rule{{
			Path: "spec.ingress[0]", Peers: []Peer{{Kind: PeerSelector, Selector: Selector{{Key: "app", Op: In, Values: []string{"back"}}}}},
			Ports: []PortMatch{{Protocol: TCP, First: 8080, Last: 8080}},
		}},
	}}
	return m
}

// put writes a field and makes the checksum right again.
func put(b []byte, off int, v uint32) []byte {
	c := append([]byte(nil), b...)
	binary.LittleEndian.PutUint32(c[off:], v)
	if off < imageHeaderSize && off != offChecksum || off >= imageHeaderSize {
		binary.LittleEndian.PutUint32(c[offChecksum:], checksum(c))
	}
	return c
}

func TestDecodeRefusesDamage(t *testing.T) {
	img := build(t, guarded()).Image
	good := img.Bytes()
	at := func(off uint32) int { return int(img.u32(off)) }
	row := 0
	for i := range uint32(img.Identities()) {
		row = max(row, int(img.row(offSubjects, Ingress, i)))
	}
	block := int(img.u32(img.u32(uint32(row))))
	half := append([]byte(nil), good...)
	half[len(half)/2] ^= 1
	for _, test := range []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"empty", nil, "0 bytes are too few for the header"},
		{"cut in the header", good[:63], "63 bytes are too few"},
		{"cut in the middle", good[:len(good)/2], "size"},
		{"one bit", half, "checksum"},
		{"magic", put(good, offMagic, 1), "magic 0x1"},
		{"ABI", put(good, offABI, 1), "ABI 1, want 2"},
		{"size past the end", put(good, offSize, uint32(len(good)+1)), "size"},
		{"size inside the header", put(good, offSize, 60), "size 60"},
		{"identities outside", put(good, offIdentities, uint32(len(good)-4)), "identities"},
		{"identities unaligned", put(good, offIdentities, img.u32(offIdentities)+1), "identities: offset"},
		{"no identities", put(good, offIdentityCount, 0), "identity_count 0"},
		{"too many identities", put(good, offIdentityCount, 1<<29), "identities"},
		{"protocols outside", put(good, offProtocols, 0xfffffff0), "protocols"},
		{"classes outside", put(good, offClasses, uint32(len(good)-2)), "classes"},
		{"classes unaligned", put(good, offClasses, img.u32(offClasses)+1), "classes: offset"},
		{"another number of rows", put(good, offRowCount, 7), "row_count 7, there are 1"},
		{"keys outside", put(good, offKeysLen, uint32(len(good))), "keys"},
		{"keys cut", put(good, offKeysLen, img.u32(offKeysLen)/2), "keys"},
		{"subjects unaligned", put(good, offSubjects, img.u32(offSubjects)+4), "subjects: offset"},
		{"subjects outside", put(good, offSubjects, uint32(len(good)-4)), "subjects"},
		{"a protocol's base", put(good, at(offProtocols)+8*6, 0x7fffffff), "classes"},
		{"a protocol's mask", put(good, at(offProtocols)+8*6+4, 0x1ffff), "protocol 6 has mask 0x1ffff"},
		{"a row's blocks", put(good, row, uint32(len(good))), ": blocks"},
		{"a row's ports", put(good, row+4, uint32(len(good)-2)), ": ports"},
		{"a block list's block", put(good, int(img.u32(uint32(row))), uint32(len(good)-8)), ": block 0"},
		{"a block's local peer class", put(good, block, 0xffff), ": cells"},
		{"a row's cells", put(good, row+8, uint32(len(good))), ": cells"},
		{"a row's cells unaligned", put(good, row+8, img.u32(uint32(row+8))+1), "is not a multiple of 2"},
		{"a row's columns, too few", put(good, row+12, 1), "local port classes in 1 columns"},
		{"a row's columns, too many", put(good, row+12, 0x7fffffff), ": cells"},
		{"a mark without audit", put(good, row+12, img.u32(uint32(row+12))|rowAudit), "marked in the audited plane"},
		{"audited subjects outside", put(good, offAudited, uint32(len(good)-4)), "audited"},
		{"a row in one plane only", put(good, offAudited, img.u32(offSubjects)+imageSubjectSize), "only one of two planes"},
		{"an identity's peer class", put(good, at(offIdentities), 0xffff), "row of number"},
		{"a port class", put(good, at(offClasses), 0xffff), ": ports"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Decode(test.bytes)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want ErrDamaged with %q", err, test.want)
			}
		})
	}
	if _, err := Decode(good); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestUnknownNumbersAreNumberZero(t *testing.T) {
	m := guarded()
	c := build(t, m)
	front := c.Endpoint("default/front").Identity
	for _, peer := range []uint32{0, 100, uint32(c.Image.Identities()), 1<<24 - 1, 1<<32 - 1} {
		if got := c.Image.Lookup(Ingress, front, peer, TCP, 8080); got != cell(false, 0) {
			t.Errorf("unknown peer %d: %#x", peer, got)
		}
		if got := c.Image.Lookup(Ingress, peer, front, TCP, 8080); got != cell(true, 0) || c.Image.Policed(Ingress, peer) {
			t.Errorf("unknown subject %d: %#x", peer, got)
		}
	}
	m.Policies[0].Rules[0].Peers = []Peer{{Kind: PeerAny}}
	c = build(t, m)
	if got := c.Image.Lookup(Ingress, front, 1<<24-1, TCP, 8080); !got.Allow() {
		t.Errorf("whoever may, an unknown peer may not: %#x", got)
	}
}

func TestNamesOfNumbers(t *testing.T) {
	c := build(t, guarded())
	front, back := c.Endpoint("default/front").Identity, c.Address(mustAddr("10.42.2.10")).Identity
	policy, path, ok := c.Image.RuleName(c.Image.Lookup(Ingress, front, back, TCP, 8080).Rule())
	if policy != "CiliumNetworkPolicy default/guard" || path != "spec.ingress[0]" || !ok {
		t.Errorf("%q %q %v", policy, path, ok)
	}
	policy, path, ok = c.Image.RuleName(c.Image.Lookup(Ingress, front, IdentityHost, TCP, 1).Rule())
	if policy != "weir" || path != "host reaches its pods" || !ok {
		t.Errorf("%q %q %v", policy, path, ok)
	}
	if _, _, ok = c.Image.RuleName(9999); ok {
		t.Error("rule 9999 has a name")
	}
	for number, want := range map[uint32]string{
		front: "pod:app=front,io.kubernetes.pod.namespace=default", 1: "host", 2: "world", 7: "kube-apiserver+remote-node", 9: "world-ipv4", 10: "world-ipv6", 99: "unknown",
	} {
		if got := c.Image.IdentityName(number); got != want {
			t.Errorf("identity %d is %q, want %q", number, got, want)
		}
	}
}

// Equal models give equal bytes, whatever the order of their lists.
func TestCompileIsDeterministic(t *testing.T) {
	eachSeed(t, 20, func(t *testing.T, r *rand.Rand) {
		m := randomModel(r)
		c := build(t, m)
		var text strings.Builder
		if err := c.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			r.Shuffle(len(m.Pods), func(i, j int) { m.Pods[i], m.Pods[j] = m.Pods[j], m.Pods[i] })
			r.Shuffle(len(m.Nodes), func(i, j int) { m.Nodes[i], m.Nodes[j] = m.Nodes[j], m.Nodes[i] })
			r.Shuffle(len(m.Policies), func(i, j int) { m.Policies[i], m.Policies[j] = m.Policies[j], m.Policies[i] })
			var again strings.Builder
			other := build(t, m)
			if err := other.WriteText(&again); err != nil {
				t.Fatal(err)
			}
			if string(c.Image.Bytes()) != string(other.Image.Bytes()) || text.String() != again.String() {
				t.Fatal("the order of the model's lists shows in the tables")
			}
		}
	})
}

func TestDecodedImageAnswersAlike(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	c := build(t, randomModel(r))
	img, err := Decode(c.Image.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for range 10000 {
		dir, subject, peer := Direction(r.IntN(2)), uint32(r.IntN(img.Identities()+5)), uint32(r.IntN(img.Identities()+5))
		protocol, port := uint8(r.IntN(256)), uint16(r.IntN(120))
		if a, b := c.Image.Lookup(dir, subject, peer, protocol, port), img.Lookup(dir, subject, peer, protocol, port); a != b {
			t.Fatalf("%#x and %#x", a, b)
		}
	}
	if img.Generation() != c.Image.Generation() || img.Size() != len(img.Bytes()) || img.Node() != "node-1" {
		t.Errorf("generation %d, size %d, node %s", img.Generation(), img.Size(), img.Node())
	}
}

// Whatever Decode accepts, Lookup can read.
func FuzzDecode(f *testing.F) {
	for _, ports := range [][]PortMatch{{AnyPort}, {{Protocol: ICMP, First: 8, Last: 8}}} { // no port tables: small images
		m := guarded()
		m.Policies[0].Rules[0].Ports = ports
		b := build(f, m).Image.Bytes()
		f.Add(b, uint32(offIdentities), uint32(64))
		f.Add(b, binary.LittleEndian.Uint32(b[offSubjects:])+8, uint32(64))
		f.Add(b, binary.LittleEndian.Uint32(b[offClasses:])+2, uint32(7))
		f.Add(b, binary.LittleEndian.Uint32(b[offIdentities:])+8, uint32(0x10001))
	}
	f.Fuzz(func(t *testing.T, b []byte, off, value uint32) {
		b = append([]byte(nil), b...)
		if int64(off)+4 <= int64(len(b)) {
			binary.LittleEndian.PutUint32(b[off:], value)
		}
		if len(b) >= imageHeaderSize { // past the checksum, to what it protects
			if size := binary.LittleEndian.Uint32(b[offSize:]); size >= imageHeaderSize && int64(size) <= int64(len(b)) {
				binary.LittleEndian.PutUint32(b[offChecksum:], checksum(b[:size]))
			}
		}
		img, err := Decode(b)
		if err != nil {
			return
		}
		r := rand.New(rand.NewPCG(uint64(off), uint64(value)))
		for range 200 {
			subject, peer := uint32(r.IntN(img.Identities()+2)), uint32(r.IntN(img.Identities()+2))
			c := img.Lookup(Direction(r.IntN(2)), subject, peer, uint8(r.IntN(256)), uint16(r.IntN(65536)))
			img.RuleName(c.Rule())
			img.IdentityName(peer)
		}
		NewPlanner().Restore(img)
	})
}
