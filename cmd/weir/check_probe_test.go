// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestProbeLines: a file from any editor or program is read, and each line has its answer, in order.
func TestProbeLines(t *testing.T) {
	dir := manifests(t, map[string]string{"cluster.yaml": read(t, clusterFile)})
	probe := func(id int) string {
		return fmt.Sprintf(`{"id":%d,"src":"default/web","dst":"default/db","protocol":"TCP","port":80}`, id)
	}
	answer := func(id int) string {
		return strings.TrimSuffix(probe(id), "}") + `,"verdict":"allow","egress":{"verdict":"allow","reason":"not_isolated","rule":"","hook":""},"ingress":{"verdict":"allow","reason":"not_isolated","rule":"","hook":""}}` + "\n"
	}
	for name, text := range map[string]string{
		"carriage returns":      probe(1) + "\r\n" + probe(2) + "\r\n",
		"no newline at the end": probe(1) + "\n" + probe(2),
		"blank lines":           "\n \t\n" + probe(1) + "\n\n\r\n" + probe(2) + "\n\n",
		"a byte order mark":     "\ufeff" + probe(1) + "\n" + probe(2) + "\n",
	} {
		if code, out, errs := check(t, text, "--manifests", dir, "--probes", "-", "--judge", "image"); code != checkFine || out != answer(1)+answer(2) {
			t.Errorf("%s: exit code %d\n%s%s", name, code, out, errs)
		}
	}
	if code, out, errs := check(t, "", "--manifests", dir, "--probes", "-", "--judge", "image"); code != checkFine || out != "" {
		t.Errorf("no probes: exit code %d\n%s%s", code, out, errs)
	}
	_, out, _ := check(t, `{"src":"default/web","dst":"default/db","protocol":"TCP","port":"x"}`, "--manifests", dir, "--probes", "-", "--output", "text", "--judge", "image")
	if lines := strings.Split(out, "\n"); len(lines) != 3 || strings.Join(strings.Fields(lines[1]), " ") != `default/web default/db - error read "port": "x" is not an integer` {
		t.Errorf("a probe that cannot be read, as text:\n%s", out)
	}
}

// TestEveryProblemIsNamed: mistakes in objects and between them, in all files, in one go.
func TestEveryProblemIsNamed(t *testing.T) {
	dir := manifests(t, map[string]string{
		"a.yaml": "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: first}\nspec: {podSelector: {}, ingress: [{ports: [{port: 0}], from: [{}]}]}\n",
		"b.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: second}\nspec: {containers: [{name: c}]}\nstatus: {podIP: 10.1.1.1}\n---\n" +
			"apiVersion: v1\nkind: Pod\nmetadata: {name: third}\nspec: {containers: [{name: c}]}\nstatus: {podIP: 10.1.1.1}\n---\nkind: [\n",
		"c.json": `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"fourth"},"spec":{"endpointSelector":{},"ingress":[{"fromEntities":["wrld"]}]}}`,
	})
	code, out, errs := check(t, "", "--manifests", dir)
	if code != checkUnanswer || out != "" {
		t.Errorf("exit code %d, answers %q", code, out)
	}
	for _, text := range []string{"NetworkPolicy default/first: spec.ingress[0].ports[0].port", "NetworkPolicy default/first: spec.ingress[0].from[0]",
		"Pod default/third: status.podIP", "b.yaml document 3: not valid YAML", "CiliumNetworkPolicy default/fourth: spec.ingress[0].fromEntities[0]"} {
		if !strings.Contains(errs, text) {
			t.Errorf("%q is not in\n%s", text, errs)
		}
	}
}

// FuzzProbe: whatever a line holds, its answer is one line of JSON that keeps every member it does not own.
func FuzzProbe(f *testing.F) {
	for _, text := range []string{`{"src":"a/b","dst":"10.0.0.1","protocol":"TCP","port":80,"want":"allow","id":1e400}`,
		`{"src":"node:n","dst":"::1","protocol":"icmpv6","icmp_type":128,"family":6,"x":{"a":[null,"<\u2028>"]}}`,
		`{"verdict":"allow","error":1,"egress":{},"port":1.0}`, `[]`, `{"a":1,"a":2}`, "\xff{}", `{"\ud800":"\ud800"}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.ContainsAny(text, "\n") {
			return
		}
		p := parseProbe(1, bytes.TrimSpace(text))
		var buffer bytes.Buffer
		w := &jsonWriter{out: bufio.NewWriter(&buffer)}
		if err := w.write(checked{probe: p, err: p.err, answer: answer{egress: &sideAnswer{Verdict: "allow", Rule: "a<b>\x01"}}}); err != nil {
			t.Fatal(err)
		}
		w.flush()
		line := buffer.Bytes()
		if !json.Valid(line) || bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' {
			t.Fatalf("the answer to %q is %q", text, line)
		}
		if p.err == nil && (p.src == "" || p.dst == "" || p.protocol == 0) {
			t.Fatalf("%q passes for a probe", text)
		}
		members, err := parseMembers(bytes.TrimSpace(text))
		if err != nil {
			return
		}
		answered, err := parseMembers(bytes.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range members {
			owned := false
			for _, key := range answerMembers {
				owned = owned || m.key == key
			}
			if !owned && !contains(answered, m) {
				t.Fatalf("member %d of %q is not in %q", i, text, line)
			}
		}
	})
}

func contains(members []member, m member) bool {
	for _, other := range members {
		if reflect.DeepEqual(m, other) {
			return true
		}
	}
	return false
}

// TestTenThousandProbes: more than are in flight at once, and more than there are source ports for; all judges agree on all.
func TestTenThousandProbes(t *testing.T) {
	dir := manifests(t, map[string]string{"cluster.yaml": read(t, clusterFile), "policy.yaml": policyForAnswers})
	pods := []string{"default/web", "default/db", "default/api", "prod/web", "dev/web", "203.0.113.1", "node:n2"}
	var probes strings.Builder
	for i := range 10000 {
		fmt.Fprintf(&probes, "{\"src\":%q,\"dst\":%q,\"protocol\":%q,\"port\":%d}\n", pods[i%7], pods[i/7%5], []string{"TCP", "UDP", "SCTP"}[i%3], 1+i*6)
	}
	start := time.Now()
	code, out, errs := check(t, probes.String(), "--manifests", dir, "--probes", "-", "--judge", "all")
	if code != checkFine || strings.Count(out, "\n") != 10000 || strings.Contains(out, `"error"`) {
		t.Errorf("exit code %d, %d answers\n%s", code, strings.Count(out, "\n"), errs)
	}
	t.Logf("took %v", time.Since(start))
}
