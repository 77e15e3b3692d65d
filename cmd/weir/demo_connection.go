// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// connection is one attempt to talk to a server, and what the counters say about it.
type connection struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Port    int    `json:"port"`
	Allowed bool   `json:"allowed"`
	// WantHook is the hook that has to drop it; empty: it has to be allowed.
	WantHook string `json:"want_dropped_at,omitempty"`
	// Node and Hook say where it was decided: dropped, or let into the destination pod. Reason and Rule say why.
	Node   string `json:"node"`
	Hook   string `json:"hook"`
	Reason string `json:"reason"`
	Rule   string `json:"rule,omitempty"`
	// Answers is the reason why the packets of the other direction were let in.
	Answers string `json:"answers,omitempty"`
	// Dropped counts packets dropped by any hook, XDPDropped those dropped by underlay_rx of the destination's node, and
	// OverlayReceived those that the destination's flannel.1 received meanwhile.
	Dropped         uint64 `json:"dropped"`
	XDPDropped      uint64 `json:"xdp_dropped"`
	OverlayReceived uint64 `json:"overlay_received"`
	SameNode        bool   `json:"same_node"`
}

func (c connection) String() string { return fmt.Sprintf("%s → %s:%d", c.From, c.To, c.Port) }

// Time enough for a first SYN, too short for a second.
const demoPatience = 700 * time.Millisecond

// try makes the connection and reads all counters before and after.
func (d *demo) try(ctx context.Context, c *connection) error {
	from, to := d.pods[c.From], d.pods[c.To]
	c.SameNode = from.Node == to.Node
	before, overlay, err := d.counters(ctx, to.Node.Number-1)
	if err != nil {
		return err
	}
	response, err := from.HTTP(demoPatience).Get(fmt.Sprintf("http://%s:%d/", to.Addr, c.Port))
	if err == nil {
		var body []byte
		body, err = io.ReadAll(response.Body)
		response.Body.Close()
		if want := fmt.Sprintf("%s:%d", c.To, c.Port); err == nil && string(body) != want {
			err = fmt.Errorf("the answer is %q, want %q", body, want)
		}
	}
	if err != nil && !isTimeout(err) {
		return fmt.Errorf("connect %s: %w", c, err)
	}
	c.Allowed = err == nil
	time.Sleep(50 * time.Millisecond) // for the last FIN and its ACK
	after, overlayAfter, err := d.counters(ctx, to.Node.Number-1)
	if err != nil {
		return err
	}
	c.OverlayReceived = overlayAfter - overlay
	for i, a := range d.agents {
		c.explain(a.node.NodeID, after[i].since(before[i]), a.node == to.Node, a.node == from.Node)
	}
	return nil
}

// counters reads both agents' metrics and what the overlay device of one node has received.
func (d *demo) counters(ctx context.Context, node int) (all []samples, overlay uint64, err error) {
	for _, a := range d.agents {
		s, err := a.metrics(ctx)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, s)
	}
	device, err := d.lab.Nodes[node].Link("flannel.1")
	if err != nil {
		return nil, 0, err
	}
	return all, device.Statistics.RxPackets, nil
}

// explain takes from what one node counted meanwhile what it says about the connection.
func (c *connection) explain(node string, moved samples, destination, source bool) {
	for _, s := range moved {
		switch {
		case s.name == "weir_packets_total" && s.labels["verdict"] == "drop":
			c.Dropped += uint64(s.value)
			if destination && s.labels["hook"] == "underlay_rx" {
				c.XDPDropped += uint64(s.value)
			}
			if !c.Allowed {
				c.Node, c.Hook, c.Reason = node, s.labels["hook"], s.labels["reason"]
			}
		case s.name == "weir_packets_total" && s.labels["verdict"] == "pass" && s.labels["hook"] == "pod_rx" && c.Allowed:
			// On one node both directions are counted here; the reply is never the way in.
			reply := s.labels["reason"] == "reply"
			if destination && !reply {
				c.Node, c.Hook, c.Reason = node, "pod_rx", s.labels["reason"]
			}
			if source && (reply || c.Answers == "" && !destination) {
				c.Answers = s.labels["reason"]
			}
		case s.name == "weir_rule_packets_total" && s.labels["rule"] != "":
			c.Rule = s.labels["policy"] + " " + s.labels["rule"]
		}
	}
}

// check says what is not as it must be.
func (c *connection) check() error {
	switch {
	case c.WantHook == "" && !c.Allowed:
		return fmt.Errorf("dropped at %s %s (%s), must be allowed", c.Node, c.Hook, c.Reason)
	case c.WantHook == "" && c.Dropped > 0:
		return fmt.Errorf("allowed, but %d packets were dropped", c.Dropped)
	case c.WantHook == "" && !c.SameNode && c.OverlayReceived == 0:
		return errors.New("allowed, but flannel.1 received nothing")
	case c.WantHook == "":
		return nil
	case c.Allowed:
		return fmt.Errorf("allowed, must be dropped at %s", c.WantHook)
	case c.Hook != c.WantHook || c.Dropped == 0:
		return fmt.Errorf("dropped at %q (%d packets), must be dropped at %s", c.Hook, c.Dropped, c.WantHook)
	case c.Hook == "underlay_rx" && (c.XDPDropped != c.Dropped || c.OverlayReceived != 0):
		return fmt.Errorf("XDP dropped %d of %d packets and flannel.1 received %d: must be all and none",
			c.XDPDropped, c.Dropped, c.OverlayReceived)
	}
	return nil
}
