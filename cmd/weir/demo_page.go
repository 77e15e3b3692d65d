// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// page writes the story for people.
type page struct {
	out    io.Writer
	colour bool
}

// newPage uses colours only on a terminal, and not if NO_COLOR is set (no-color.org).
func newPage(out io.Writer) *page {
	p := &page{out: out}
	if file, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
		p.colour = err == nil
	}
	return p
}

// Terminal codes.
const (
	bold  = "1"
	faint = "2"
	red   = "1;31"
	green = "32"
)

func (p *page) paint(code, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p *page) title(s string) { fmt.Fprintf(p.out, "\n%s\n\n", p.paint(bold, s)) }

func (p *page) chapter(title string, lines ...string) {
	fmt.Fprintf(p.out, "\n%s\n", p.paint(bold, title))
	p.say(lines...)
	fmt.Fprintln(p.out)
}

func (p *page) say(lines ...string) {
	for _, line := range lines {
		if line != "" {
			line = "   " + line
		}
		fmt.Fprintln(p.out, line)
	}
}

func (p *page) drawing(d *demo) {
	const width = 38
	row := func(left, middle, right string) {
		fmt.Fprintf(p.out, "  │ %s│%s│ %s│\n", pad(left, width), middle, pad(right, width))
	}
	gap := strings.Repeat(" ", 9)
	pod := func(name, ports string) string { return fmt.Sprintf("%-9s%-11s %s", name, d.pods[name].Addr, ports) }
	nic := func(node int) string {
		return fmt.Sprintf("eth0     %-11s %s", d.lab.Nodes[node].IP, "◀ XDP underlay_rx")
	}
	line := strings.Repeat("─", width+1)
	fmt.Fprintf(p.out, "    %s%s%s\n", pad("node1", width+2), gap, "  node2")
	fmt.Fprintf(p.out, "  ┌%s┐%s┌%s┐\n", line, gap, line)
	row(pod("frontend", ":80 :8080"), gap, pod("backend", ":80 :8080"))
	row(pod("visitor", ""), gap, "")
	row("   │ veth   ◀ tc pod_tx, pod_rx", gap, "   │ veth   ◀ tc pod_tx, pod_rx")
	row("cni0", gap, "cni0")
	row("   │", gap, "   │")
	row("flannel.1  VNI 1 ◀ tc overlay_tx", gap, "flannel.1  VNI 1 ◀ tc overlay_tx")
	row("   │", gap, "   │")
	row(nic(0), "─VXLAN───", nic(1))
	fmt.Fprintf(p.out, "  └%s┘%s└%s┘\n", line, gap, line)
}

// table prints the connections of a phase.
func (p *page) table(connections []connection) {
	rows := [][]string{{"connection", "result", "where", "why", "packets"}}
	for _, c := range connections {
		result, evidence := "allowed", ""
		where := c.Node + " " + c.Hook
		if !c.Allowed {
			result = "DROPPED"
		}
		switch {
		case c.Hook == "underlay_rx":
			where += " (XDP)"
			evidence = fmt.Sprintf("XDP dropped %d, flannel.1 received %d", c.XDPDropped, c.OverlayReceived)
		case !c.Allowed:
			evidence = fmt.Sprintf("tc dropped %d, on the node itself", c.Dropped)
		case c.SameNode:
			evidence = "dropped 0, never left the node"
		default:
			evidence = fmt.Sprintf("dropped 0, flannel.1 received %d", c.OverlayReceived)
		}
		why := c.Reason
		if why == "denied_default" {
			why += " (isolated, and no rule admits it)"
		}
		if c.Rule != "" {
			why += ": " + c.Rule
		}
		if c.Answers == "reply" {
			why += "; answers: reply"
		}
		rows = append(rows, []string{c.String(), result, where, why, evidence})
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range rows {
		for i, cell := range row {
			text := pad(cell, widths[i])
			switch {
			case n == 0:
				text = p.paint(faint, text)
			case i == 1 && cell == "DROPPED":
				text = p.paint(red, text)
			case i == 1:
				text = p.paint(green, text)
			}
			row[i] = text
		}
		fmt.Fprintf(p.out, "   %s\n", strings.TrimRight(strings.Join(row, "  "), " "))
	}
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}
