// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Sent counts what this pod tried.
type Sent struct{ udp, udpFailed, tcp, tcpOpened atomic.Int64 }

func (s *Sent) values() map[string]int64 {
	return map[string]int64{"udp": s.udp.Load(), "udpFailed": s.udpFailed.Load(), "tcp": s.tcp.Load(), "tcpOpened": s.tcpOpened.Load()}
}

// datagrams sends one to :8080 each millisecond.
func (s *Sent) datagrams(to string, lasting time.Duration) {
	socket, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return
	}
	defer socket.Close()
	address := netip.AddrPortFrom(netip.MustParseAddr(to), 8080)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(lasting); time.Now().Before(end); <-ticker.C {
		if _, err := socket.WriteToUDPAddrPort([]byte("hello"), address); err != nil {
			s.udpFailed.Add(1)
			continue
		}
		s.udp.Add(1)
	}
}

// connections opens one to :8081 each ten milliseconds, whatever becomes of those before.
func (s *Sent) connections(to string, lasting time.Duration) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(lasting); time.Now().Before(end); <-ticker.C {
		s.tcp.Add(1)
		go func() {
			connection, err := net.DialTimeout("tcp4", netip.AddrPortFrom(netip.MustParseAddr(to), 8081).String(), 2*time.Second)
			if err == nil {
				s.tcpOpened.Add(1)
				connection.Close()
			}
		}()
	}
}
