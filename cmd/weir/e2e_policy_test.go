// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/weirnet/weir/internal/lab"
)

func TestE2EAllowDenyAndReplies(t *testing.T) {
	for _, decap := range []string{"inspect", "strip"} {
		t.Run(decap, func(t *testing.T) {
			s := newScene(t, lab.Config{}, "--decap", decap)
			client, stranger := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP)
			server, neighbour := s.pod(2, "server", serverIP), s.pod(2, "neighbour", "10.42.1.20")
			for _, p := range []*lab.Pod{client, stranger, server, neighbour} {
				s.echo(p, 8080)
				s.echo(p, 8081)
			}
			s.start()
			s.want(stranger, serverIP+":8080", true)

			s.apply("server.yaml", ingress("server", "client", 8080))
			s.want(client, serverIP+":8080", true)
			s.want(client, serverIP+":8081", false)
			s.want(neighbour, serverIP+":8080", false)
			s.want(server, clientIP+":8080", true)    // replies come back to an isolated pod, through the tunnel
			s.want(server, "10.42.1.20:8080", true)   // and on its own node
			s.want(stranger, "10.42.1.20:8080", true) // nobody else is concerned
			if s.ping(client, serverIP) {
				t.Error("the isolated pod answers an echo request that no rule admits")
			}
			if !s.ping(server, clientIP) {
				t.Error("the isolated pod's own echo request is not answered")
			}

			before, overlay := s.count(), s.overlayReceived(2)
			s.want(stranger, serverIP+":8080", false)
			moved := s.moved(before)[1]
			drops := moved.sum("weir_packets_total", "hook=underlay_rx", "direction=ingress", "verdict=drop", "reason=denied_default")
			if all := moved.sum("weir_packets_total", "verdict=drop"); drops == 0 || all != drops {
				t.Errorf("underlay_rx dropped %d of %d packets, want all of at least one", drops, all)
			}
			if got := s.overlayReceived(2) - overlay; got != 0 {
				t.Errorf("flannel.1 received %d of the dropped packets", got)
			}

			s.apply("client.yaml", egress("client", "server", 8080))
			s.want(client, serverIP+":8080", true)
			before = s.count()
			s.want(client, "10.42.1.20:8080", false)
			if n := s.moved(before)[0].sum("weir_packets_total", "hook=pod_tx", "direction=egress", "verdict=drop", "reason=denied_default"); n == 0 {
				t.Error("no drop counted at pod_tx")
			}
			s.want(stranger, clientIP+":8080", true) // an egress-isolated pod answers
			s.withdraw("server.yaml")
			s.want(stranger, serverIP+":8080", true)
			s.want(client, serverIP+":8081", false) // its egress still is not admitted
		})
	}
}

func TestE2EServiceReplyReachesIsolatedClient(t *testing.T) {
	for _, decap := range []string{"inspect", "strip"} {
		t.Run(decap, func(t *testing.T) {
			s := newScene(t, lab.Config{}, "--decap", decap)
			client, stranger, server := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP), s.pod(2, "server", serverIP)
			s.echo(client, 8080)
			s.echo(server, 8080)
			if err := s.lab.AddService("web", 80, server, 8080); err != nil {
				t.Fatal(err)
			}
			s.start()
			s.apply("client.yaml", ingress("client", "", 0))
			s.want(client, lab.ServiceIP+":80", true)
			s.want(server, clientIP+":8080", false) // what the server starts itself is no reply

			s.apply("egress.yaml", egress("client", "server", 8080))
			s.want(client, lab.ServiceIP+":80", true) // the rule names the pods behind the Service
			s.apply("egress.yaml", egress("client", "server", 9999))
			before := s.count()
			s.want(client, lab.ServiceIP+":80", false)
			if n := s.moved(before)[0].sum("weir_packets_total", "hook=pod_tx", "verdict=drop", "reason=denied_service"); n == 0 {
				t.Error("no denied_service counted at pod_tx")
			}
			s.want(stranger, lab.ServiceIP+":80", true)
		})
	}
}
