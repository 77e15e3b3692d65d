// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/weirnet/weir/k8s/oracle"
	"github.com/weirnet/weir/policy"
)

// recorded is a flow that somebody has seen, as often as count says.
type recorded struct {
	line     int
	src, dst endpointNames
	probe    probe // all but src and dst
	count    int
	err      error // why it cannot be judged
}

// endpointNames are what one end of a flow may be called in a set, the best first.
type endpointNames struct {
	pods []string // namespace/name; those past the first, of a workload that would have made it
	addr string   // or what a probe says
}

// in is the name that a set knows: of the pod if there is one, else the address. An address is not trusted where the pod
// that had it is unknown: sets without pods of their own have invented ones.
func (e endpointNames) in(c *cluster) (string, error) {
	for i, key := range e.pods {
		if pod := c.pods[key]; pod != nil && (i == 0 || len(pod.OwnerReferences) > 0) {
			return key, nil
		}
	}
	if len(e.pods) > 0 {
		return "", fmt.Errorf("no running pod %q", e.pods[0])
	}
	return e.addr, nil
}

// String names the end for people.
func (e endpointNames) String() string {
	if len(e.pods) > 0 {
		return e.pods[0]
	}
	return e.addr
}

// known is an end's name with whom an address turned out to be.
func known(e endpointNames, p oracle.Party) string {
	if who := partyName(p); len(e.pods) == 0 && who != e.addr {
		return e.addr + " (" + who + ")"
	}
	return e.String()
}

// flowReport is what diff says of recorded flows, and its JSON form.
type flowReport struct {
	Cut       []flowChange  `json:"cut"`
	Admitted  []flowChange  `json:"admitted"`
	Unknown   []unknownFlow `json:"unknown"`
	Unchanged flowCount     `json:"unchanged"`
	Outside   flowCount     `json:"outside"` // of all judged, those with an address that is no pod's or node's
	Replies   int           `json:"replies"` // lines skipped
	NoFlows   int           `json:"no_flows"`
}

// flowCount counts different flows, and how often they were seen.
type flowCount struct {
	Flows int `json:"flows"`
	Seen  int `json:"seen"`
}

func (c *flowCount) add(seen int) { c.Flows, c.Seen = c.Flows+1, c.Seen+seen }

// flowChange is a flow whose verdict turns.
type flowChange struct {
	Src      string      `json:"src"`
	Dst      string      `json:"dst"`
	Protocol string      `json:"protocol"`
	Port     uint16      `json:"port"`
	Count    int         `json:"count"`
	Before   flowVerdict `json:"before"`
	After    flowVerdict `json:"after"`
	text     string
}

type flowVerdict struct {
	Verdict string      `json:"verdict"`
	Egress  *sideAnswer `json:"egress,omitempty"`
	Ingress *sideAnswer `json:"ingress,omitempty"`
}

// unknownFlow is one that could not be judged in both sets.
type unknownFlow struct {
	Line  int    `json:"line"`
	Src   string `json:"src,omitempty"`
	Dst   string `json:"dst,omitempty"`
	Count int    `json:"count"`
	Error string `json:"error"`
}

func (r *diffRun) flows(ctx context.Context, from string, stdin io.Reader) (*flowReport, error) {
	if from != "-" {
		file, err := os.Open(from)
		if err != nil {
			return nil, fmt.Errorf("open flows: %w", err)
		}
		defer file.Close()
		stdin = file
	}
	report := &flowReport{Cut: []flowChange{}, Admitted: []flowChange{}, Unknown: []unknownFlow{}}
	flows, err := readFlows(stdin, report)
	if err != nil {
		return nil, fmt.Errorf("read flows: %w", err)
	}
	old, now := &imageJudge{brain: r.old.brain}, &imageJudge{brain: r.now.brain}
	for _, f := range flows {
		outside := false
		var answers [2]answer
		var last *question
		for i, judge := range []*imageJudge{old, now} {
			if f.err != nil {
				break
			}
			var q *question
			if q, f.err = f.question(judge.brain.cluster); f.err == nil {
				var got []answer
				if got, err = judge.judge(ctx, []*question{q}); err != nil {
					return nil, fmt.Errorf("judge flows: %w", err)
				}
				answers[i], last = got[0], q
				outside = outside || q.src.Pod == nil && q.src.Node == "" || q.dst.Pod == nil && q.dst.Node == ""
			} else {
				f.err = fmt.Errorf("in %s: %w", []string{"OLD", "NEW"}[i], f.err)
			}
		}
		report.weigh(f, answers, last, outside)
	}
	return report, nil
}

// weigh puts a flow where it belongs.
func (r *flowReport) weigh(f *recorded, answers [2]answer, q *question, outside bool) {
	if f.err != nil {
		r.Unknown = append(r.Unknown, unknownFlow{f.line, f.src.String(), f.dst.String(), f.count, f.err.Error()})
		return
	}
	if outside {
		r.Outside.add(f.count)
	}
	before, after := answers[0].verdict(), answers[1].verdict()
	if before == after {
		r.Unchanged.add(f.count)
		return
	}
	c := flowChange{Src: f.src.String(), Dst: f.dst.String(), Protocol: policy.ProtocolName(f.probe.protocol), Port: f.probe.port, Count: f.count,
		Before: flowVerdict{before, answers[0].egress, answers[0].ingress}, After: flowVerdict{after, answers[1].egress, answers[1].ingress}}
	c.text = fmt.Sprintf("%s -> %s %s, seen %d", known(f.src, q.src), known(f.dst, q.dst), f.probe.service(), f.count)
	for _, side := range []struct {
		name          string
		before, after *sideAnswer
	}{{"egress", answers[0].egress, answers[1].egress}, {"ingress", answers[0].ingress, answers[1].ingress}} {
		if side.before == nil && side.after == nil || side.before != nil && side.after != nil && side.before.Verdict == side.after.Verdict {
			continue
		}
		c.text += fmt.Sprintf("; %s before: %s, after: %s", side.name, side.before, side.after)
	}
	if after == "deny" {
		r.Cut = append(r.Cut, c)
	} else {
		r.Admitted = append(r.Admitted, c)
	}
}

func (r *flowReport) changes() bool { return len(r.Cut)+len(r.Admitted) > 0 }

func (r *flowReport) writeText(out *bytes.Buffer) {
	for i := range r.Cut {
		fmt.Fprintf(out, "- cut: %s\n", r.Cut[i].text)
	}
	for i := range r.Admitted {
		fmt.Fprintf(out, "+ admitted: %s\n", r.Admitted[i].text)
	}
	for _, u := range r.Unknown {
		who := ""
		if u.Src != "" || u.Dst != "" {
			who = fmt.Sprintf(" %s -> %s, seen %d:", u.Src, u.Dst, u.Count)
		}
		fmt.Fprintf(out, "? unknown: line %d:%s %s\n", u.Line, who, u.Error)
	}
	fmt.Fprintf(out, "%d flows cut, %d newly admitted, %d as before, %d unknown; %d have an address that is no pod's or node's; lines skipped: %d replies, %d no flows\n",
		len(r.Cut), len(r.Admitted), r.Unchanged.Flows, len(r.Unknown), r.Outside.Flows, r.Replies, r.NoFlows)
}

// question is the flow as a set sees it.
func (f *recorded) question(c *cluster) (*question, error) {
	p := f.probe
	var err error
	if p.src, err = f.src.in(c); err != nil {
		return nil, fmt.Errorf("resolve src: %w", err)
	}
	if p.dst, err = f.dst.in(c); err != nil {
		return nil, fmt.Errorf("resolve dst: %w", err)
	}
	return c.resolve(&p)
}

// readFlows reads one flow a line and puts those together that are alike.
func readFlows(from io.Reader, report *flowReport) ([]*recorded, error) {
	in := bufio.NewReaderSize(from, 1<<16)
	var flows []*recorded
	alike := map[string]*recorded{}
	for line := 1; ; line++ {
		text, err := in.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if line == 1 {
			text = bytes.TrimPrefix(text, []byte("\ufeff"))
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			f := readFlow(line, text, report)
			switch {
			case f == nil:
			case f.err != nil:
				flows = append(flows, f)
			default:
				key := fmt.Sprintf("%q %q %s %d %d %d", f.src, f.dst, f.probe.service(), f.probe.protocol, f.probe.port, f.probe.family)
				if first := alike[key]; first != nil {
					first.count += f.count
				} else {
					alike[key] = f
					flows = append(flows, f)
				}
			}
		}
		if err != nil {
			return flows, nil
		}
	}
}

// readFlow reads a line in either shape; nil if it is no flow that a policy is asked about.
func readFlow(line int, text []byte, report *flowReport) *recorded {
	var shape struct {
		Flow json.RawMessage `json:"flow"`
		IP   json.RawMessage `json:"IP"`
		Src  json.RawMessage `json:"src"`

		NodeStatus json.RawMessage `json:"node_status"`
		LostEvents json.RawMessage `json:"lost_events"`
		AgentEvent json.RawMessage `json:"agent_event"`
		DebugEvent json.RawMessage `json:"debug_event"`
	}
	if err := json.Unmarshal(text, &shape); err != nil {
		return &recorded{line: line, count: 1, err: fmt.Errorf("a flow is one JSON object a line: %w", err)}
	}
	switch {
	case shape.Flow != nil:
		return readHubble(line, shape.Flow, report)
	case shape.IP != nil && shape.Src == nil:
		return readHubble(line, text, report)
	case shape.NodeStatus != nil, shape.LostEvents != nil, shape.AgentEvent != nil, shape.DebugEvent != nil:
		report.NoFlows++
		return nil
	}
	p := parseProbe(line, text)
	f := &recorded{line: line, src: endpointNames{addr: p.src}, dst: endpointNames{addr: p.dst}, probe: *p, count: 1, err: p.err}
	f.probe.line = 0
	for _, m := range p.members {
		if m.key != "count" || string(m.raw) == "null" {
			continue
		}
		if err := json.Unmarshal(m.raw, &f.count); err != nil || f.count < 1 {
			f.count, f.err = 1, fmt.Errorf(`read "count": %s is not a positive integer`, m.raw)
		}
	}
	return f
}

// hubbleFlow is the part of Hubble's export that policy is about.
type hubbleFlow struct {
	IP struct {
		Source      string `json:"source"`
		Destination string `json:"destination"`
	} `json:"IP"`
	L4 struct {
		TCP    *hubblePorts `json:"TCP"`
		UDP    *hubblePorts `json:"UDP"`
		SCTP   *hubblePorts `json:"SCTP"`
		ICMPv4 *hubbleICMP  `json:"ICMPv4"`
		ICMPv6 *hubbleICMP  `json:"ICMPv6"`
	} `json:"l4"`
	Source      hubbleEndpoint `json:"source"`
	Destination hubbleEndpoint `json:"destination"`
	IsReply     *bool          `json:"is_reply"`
	Reply       bool           `json:"reply"` // before is_reply
}

type hubblePorts struct {
	Destination int `json:"destination_port"`
}

type hubbleICMP struct {
	Type int `json:"type"`
}

type hubbleEndpoint struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod_name"`
	Workloads []struct {
		Name string `json:"name"`
	} `json:"workloads"`
}

func readHubble(line int, text []byte, report *flowReport) *recorded {
	var h hubbleFlow
	if err := json.Unmarshal(text, &h); err != nil {
		return &recorded{line: line, count: 1, err: fmt.Errorf("read a flow of Hubble's: %w", err)}
	}
	if h.Reply || h.IsReply != nil && *h.IsReply {
		report.Replies++
		return nil
	}
	f := &recorded{line: line, count: 1, src: h.Source.names(h.IP.Source), dst: h.Destination.names(h.IP.Destination)}
	if h.IP.Source == "" || h.IP.Destination == "" {
		f.err = errors.New("IP.source or IP.destination is missing")
		return f
	}
	protocol, number := "", 0
	for _, l4 := range []struct {
		name  string
		ports *hubblePorts
	}{{"TCP", h.L4.TCP}, {"UDP", h.L4.UDP}, {"SCTP", h.L4.SCTP}} {
		if l4.ports != nil {
			protocol, number = l4.name, l4.ports.Destination
		}
	}
	if h.L4.ICMPv4 != nil {
		protocol, number = "ICMP", h.L4.ICMPv4.Type
	} else if h.L4.ICMPv6 != nil {
		protocol, number = "ICMPV6", h.L4.ICMPv6.Type
	}
	if protocol == "" {
		f.err = errors.New("l4 names no protocol that policy knows ports of")
		return f
	}
	f.probe.family = 4
	if strings.Contains(h.IP.Source, ":") {
		f.probe.family = 6
	}
	f.err = f.probe.readProtocol(protocol, &number, &number)
	if f.probe.protocol == policy.ICMP && number == 0 {
		report.Replies++ // an echo reply
		return nil
	}
	return f
}

// names are what the end may be called: the pod, what its workload gives the first of its pods, or the address.
func (e *hubbleEndpoint) names(addr string) endpointNames {
	names := endpointNames{addr: addr}
	if e.Namespace == "" || e.Pod == "" {
		return names
	}
	names.pods = append(names.pods, e.Namespace+"/"+e.Pod)
	for _, w := range e.Workloads {
		names.pods = append(names.pods, e.Namespace+"/"+w.Name)
	}
	// What controllers append: a ReplicaSet's hash and a random part, a random part, an ordinal.
	for _, made := range []string{`-[a-z0-9]{1,10}-[a-z0-9]{5}$`, `-[a-z0-9]{5}$`, `-\d+$`} {
		if suffix := regexp.MustCompile(made).FindString(e.Pod); suffix != "" && suffix != e.Pod {
			names.pods = append(names.pods, e.Namespace+"/"+strings.TrimSuffix(e.Pod, suffix))
		}
	}
	return names
}
