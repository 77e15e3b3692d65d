// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
)

// eachChange changes one thing after the other in v, of which every list has an element, and calls check meanwhile.
func eachChange(t *testing.T, v reflect.Value, path string, check func(path string)) {
	t.Helper()
	for _, other := range []any{mustPrefix("192.0.2.0/30"), mustAddr("192.0.2.77"), netip.MustParseAddrPort("192.0.2.78:79")} {
		if v.Type() == reflect.TypeOf(other) {
			was := v.Interface()
			v.Set(reflect.ValueOf(other))
			check(path)
			v.Set(reflect.ValueOf(was))
			return
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			eachChange(t, v.Field(i), path+"."+v.Type().Field(i).Name, check)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			eachChange(t, v.Index(i), fmt.Sprintf("%s[%d]", path, i), check)
		}
		if v.Kind() == reflect.Slice && v.Len() > 0 {
			was := v.Interface()
			v.Set(v.Slice(0, v.Len()-1))
			check(path)
			v.Set(reflect.ValueOf(was))
		}
	case reflect.Map:
		v.SetMapIndex(reflect.ValueOf("another"), reflect.ValueOf("one"))
		check(path)
		v.SetMapIndex(reflect.ValueOf("another"), reflect.Value{})
	default:
		was := reflect.New(v.Type()).Elem()
		was.Set(v)
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "!")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Uint8, reflect.Uint16, reflect.Uint32:
			v.SetUint(v.Uint() + 1)
		case reflect.Int, reflect.Int32, reflect.Int64:
			v.SetInt(v.Int() + 1)
		default:
			t.Fatalf("%s: teach this test to change a %s", path, v.Kind())
		}
		check(path)
		v.Set(was)
	}
}

// What is equal says the same in every field that there is.
func TestEqualReadsEveryField(t *testing.T) {
	policy := func() *Policy {
		return &Policy{Key: "k", Subject: labels("a", In, "b"), Rules: []Rule{{Path: "r", Peers: []Peer{pods("x", In, "y"), cidr("10.0.0.0/8", "10.1.0.0/16")}, Ports: []PortMatch{tcp(1, 2)}}}}
	}
	addrs, prefixes := func() []netip.Addr { return []netip.Addr{mustAddr("192.0.2.1")} }, func() []netip.Prefix { return []netip.Prefix{mustPrefix("10.42.1.0/24")} }
	pod := func() *Pod {
		return &Pod{Labels: map[string]string{"a": "b"}, Addrs: addrs(), Ports: []NamedPort{{"http", TCP, 80}}}
	}
	node := func() *Node {
		return &Node{Labels: map[string]string{"a": "b"}, Underlay: addrs(), Overlay: addrs(), PodCIDRs: prefixes()}
	}
	service := func() *Service {
		return &Service{Addrs: addrs(), Ports: []ServicePort{{Backends: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:80")}}}}
	}
	checkEqual(t, policy, equalPolicy)
	checkEqual(t, pod, equalPod)
	checkEqual(t, node, equalNode)
	checkEqual(t, service, equalService)
}

func checkEqual[T any](t *testing.T, full func() *T, equal func(a, b *T) bool) {
	t.Helper()
	changed := full()
	if !equal(full(), changed) {
		t.Fatalf("equal ones differ: %+v", changed)
	}
	eachChange(t, reflect.ValueOf(changed).Elem(), fmt.Sprintf("%T", changed), func(path string) {
		if equal(full(), changed) {
			t.Errorf("%s differs, and nobody sees it", path)
		}
	})
}
