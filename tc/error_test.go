// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"net/netip"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	lt "github.com/weirnet/weir/loader/loadertest"
)

// An ICMP error is judged by the packet that it quotes, and that must be one of the receiver's.
func TestErrorsAreJudgedByWhatTheyQuote(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), ruled("locked", admitAll))
	related := pass(bpf.ReasonRelated)
	router := lt.World
	about := func(to netip.Addr, quoted packet.Spec) packet.Spec {
		return packet.ICMPError(router, to, 3, 4, quoted, 8)
	}
	to := func(quoted packet.Spec) packet.Spec { return about(lt.Server, quoted) }
	served := tcp(lt.Server, 8080, lt.Client, 40000, packet.ACK) // the mirror of what a rule admits
	resolved := udp(lt.Server, 53, lt.Resolver, 40000)
	quoting := func(change func(*packet.Spec)) packet.Spec { return to(with(served, change)) }
	typed := func(typ uint8) packet.Spec { return with(to(served), func(s *packet.Spec) { s.Type = typ }) }
	none := netip.Addr{}

	t.Run("towards a server that may send", func(t *testing.T) {
		walk(t, c, []step{
			{"about its answer, at the NIC", nic, none, to(served), handedUp},
			{"about its answer, at the pod", rx, lt.Server, to(served), related},
			{"about its answer in a datagram", rx, lt.Server, to(resolved), related},
			{"about what it may send", rx, lt.Server, to(udp(lt.Server, 9, lt.World, 9)), related},
			{"about its echo request", rx, lt.Server, to(packet.Echo(lt.Server, lt.World, 1, 1)), related},
			{"time exceeded", rx, lt.Server, typed(11), related},
			{"parameter problem", rx, lt.Server, typed(12), related},
			{"quoted behind options", rx, lt.Server, quoting(func(s *packet.Spec) { s.Options = make([]byte, 40) }), related},
			{"in two VLANs behind options", rx, lt.Server, tagged(with(to(with(served, func(s *packet.Spec) { s.Options = make([]byte, 40) })),
				func(s *packet.Spec) { s.Options = make([]byte, 40) }), packet.Tag{EtherType: packet.EtherQinQ, ID: 1}, packet.Tag{ID: 2}), related},
			{"about somebody else's packet", rx, lt.Server, to(tcp(lt.Open, 8080, lt.Client, 40000, packet.ACK)), denied},
			{"about somebody else's packet, at the NIC", nic, none, to(tcp(lt.Open, 8080, lt.Client, 40000, packet.ACK)), denied},
			{"about a packet towards it", rx, lt.Server, to(tcp(lt.Client, 40000, lt.Server, 8080, packet.ACK)), denied},
			{"a redirect is no error", rx, lt.Server, typed(5), denied},
			{"an echo request that looks like one", rx, lt.Server, typed(8), denied},
			{"half a quoted header", rx, lt.Server, cut(to(served), 14+20+8+12), denied},
			{"a quote without ports", rx, lt.Server, packet.ICMPError(router, lt.Server, 3, 4, served, 2), denied},
			{"a quoted later fragment", rx, lt.Server, quoting(func(s *packet.Spec) { s.Offset, s.Body = 64, make([]byte, 20) }), denied},
			{"a quoted error", rx, lt.Server, to(packet.ICMPError(lt.Server, lt.Client, 3, 4, served, 8)), denied},
			{"a quoted version 6", rx, lt.Server, with(to(served), func(s *packet.Spec) {
				s.Break = func(b []byte, l packet.Layout) []byte { b[l.Payload] = 0x65; return b }
			}), denied},
			{"the first fragment of an error", rx, lt.Server, with(to(served), func(s *packet.Spec) { s.MF = true }), denied},
		})
	})
	t.Run("towards a pod that may not send", func(t *testing.T) {
		c := lt.New(t, bpf.DefaultKnobs(), nil)
		sent := func(q packet.Spec) packet.Spec { return about(lt.Locked, q) }
		walk(t, c, []step{
			{"about what a rule admits", rx, lt.Locked, sent(tcp(lt.Locked, 40000, lt.DB, 5432, packet.ACK)), related},
			{"about what a rule admits, at the NIC", nic, none, sent(tcp(lt.Locked, 40000, lt.DB, 5432, packet.ACK)), handedUp},
			{"about what no rule admits", rx, lt.Locked, sent(tcp(lt.Locked, 40000, lt.DB, 80, packet.ACK)), denied},
			{"about what no rule admits, at the NIC", nic, none, sent(udp(lt.Locked, 40000, lt.World, 80)), denied},
			{"about an admitted Service", rx, lt.Locked, sent(tcp(lt.Locked, 40000, lt.ServiceDB, 80, packet.ACK)), related},
			{"about another Service", rx, lt.Locked, sent(tcp(lt.Locked, 40000, lt.ServiceClient, 80, packet.ACK)), denied},
		})
	})
	t.Run("from a pod that may not send", func(t *testing.T) {
		refusal := func(to netip.Addr, quoted packet.Spec) packet.Spec {
			return packet.ICMPError(lt.Locked, to, 3, 3, quoted, 8)
		}
		walk(t, c, []step{
			{"about what reached it", tx, lt.Locked, refusal(lt.Client, udp(lt.Client, 40000, lt.Locked, 9)), egress(related)},
			{"to somebody else", tx, lt.Locked, refusal(lt.DB, udp(lt.Client, 40000, lt.Locked, 9)), egress(denied)},
			{"about what reached somebody else", tx, lt.Locked, refusal(lt.Client, udp(lt.Client, 40000, lt.Server, 9)), egress(denied)},
			{"without a quote", tx, lt.Locked, packet.ICMP(lt.Locked, lt.Client, 3, 3, 0, nil), egress(denied)},
		})
		c := lt.New(t, bpf.DefaultKnobs(), nil) // where nothing may have reached it
		expect(t, c, step{hook: tx, pod: lt.Locked, frame: refusal(lt.Client, udp(lt.Client, 40000, lt.Locked, 9)), want: egress(denied)})
	})
	t.Run("from a pod to a local one", func(t *testing.T) {
		quoted := udp(lt.Server, 40000, lt.Open, 9)
		walk(t, c, []step{
			{"about what that sent it", tx, lt.Open, packet.ICMPError(lt.Open, lt.Server, 3, 3, quoted, 8), anywhere},
			{"and arrives", rx, lt.Server, packet.ICMPError(lt.Open, lt.Server, 3, 3, quoted, 8), related},
			{"about what somebody else sent", tx, lt.Open, packet.ICMPError(lt.Open, lt.Server, 3, 3, udp(lt.Locked, 1, lt.Open, 9), 8), denied},
		})
	})
}

// What only a flow excuses, an error about it is excused by, too: here policy has changed since, and the flow with it.
func TestErrorsAboutRememberedFlows(t *testing.T) {
	w := newWorld(t, lt.Model())
	request := syn(lt.Locked, lt.ServiceMixed, 80)
	translated := syn(lt.Locked, lt.DB, 5432)
	expect(t, w.Cluster, step{hook: tx, pod: lt.Locked, frame: request, want: egress(pass(bpf.ReasonServiceMixed))})
	expect(t, w.Cluster, step{hook: overlay, frame: translated, want: egress(pass(bpf.ReasonUntouched))})
	report := packet.ICMPError(lt.World, lt.Locked, 3, 4, translated, 8)
	expect(t, w.Cluster, step{hook: nic, frame: report, want: handedUp})
	w.become(t, without1("locked", 0))
	expect(t, w.Cluster, step{hook: nic, frame: report, want: denied})
	expect(t, w.Cluster, step{hook: rx, pod: lt.Locked, frame: packet.ICMPError(lt.World, lt.Locked, 3, 4, request, 8), want: denied})
}
