// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// policyForAudit isolates db for all but web under audit, and denies it the port 81 of web by rule.
const policyForAudit = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, annotations: {weirnet.github.io/audit: "true"}}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default, annotations: {weirnet.github.io/audit: "true"}}
spec: {endpointSelector: {matchLabels: {app: web}}, egressDeny: [{toEndpoints: [{matchLabels: {app: db}}], toPorts: [{ports: [{port: "81"}]}]}], enableDefaultDeny: {egress: false}}
`

// The verdict is what is enforced; a member beside it says what the policies under audit would have denied, and by what.
func TestAnswersNameWhatAnAuditWouldDeny(t *testing.T) {
	dir := manifests(t, map[string]string{"cluster.yaml": read(t, clusterFile), "policy.yaml": policyForAudit})
	const (
		pass     = `{"verdict":"allow","reason":"not_isolated","rule":"","hook":"pod_`
		byRule   = `,"audit":{"verdict":"deny","reason":"denied_rule","rule":"CiliumNetworkPolicy default/web spec.egressDeny[0]"}}`
		byNobody = `,"audit":{"verdict":"deny","reason":"denied_default","rule":"NetworkPolicy default/db ingress isolation"}}`
	)
	for probe, want := range map[string]string{
		`{"src":"default/web","dst":"default/db","protocol":"TCP","port":5432}`: `"verdict":"allow","egress":` + pass + `tx"},"ingress":` + pass + `rx"}}`,
		`{"src":"default/web","dst":"default/db","protocol":"TCP","port":80}`:   `"verdict":"allow","egress":` + pass + `tx"},"ingress":` + pass + `rx"` + byNobody + `}`,
		`{"src":"default/web","dst":"default/db","protocol":"TCP","port":81}`:   `"verdict":"allow","egress":` + pass + `tx"` + byRule + `,"ingress":` + pass + `rx"` + byNobody + `}`,
		`{"src":"203.0.113.1","dst":"default/db","protocol":"ICMP"}`:            `"verdict":"allow","ingress":` + pass + `rx"` + byNobody + `}`,
	} {
		code, out, errs := check(t, probe, "--manifests", dir, "--probes", "-", "--judge", "all")
		if code != checkFine || strings.TrimSpace(out) != strings.TrimSuffix(probe, "}")+","+want {
			t.Errorf("exit code %d\n got %s\nwant %s\n%s", code, out, strings.TrimSuffix(probe, "}")+","+want, errs)
		}
		if !strings.Contains(errs, "weir check: note: NetworkPolicy default/db: metadata.annotations[weirnet.github.io/audit]: under audit") {
			t.Errorf("nobody says what is under audit: %s", errs)
		}
	}
	code, out, _ := check(t, "", "--manifests", dir, "--judge", "image")
	if code != checkFine || !strings.Contains(out, "allow not_isolated, under audit: deny denied_default by NetworkPolicy default/db ingress isolation") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// Judges that see an audit otherwise disagree, though the verdict is the same.
func TestJudgesMustAgreeOnAnAudit(t *testing.T) {
	side := func(a *auditAnswer) []answer {
		return []answer{{ingress: &sideAnswer{Verdict: "allow", Reason: "allowed", Audit: a}}}
	}
	deny := func(reason, rule string) *auditAnswer { return &auditAnswer{"deny", reason, rule} }
	for _, c := range []struct {
		name string
		a, b *auditAnswer
		same bool
	}{
		{"none", nil, nil, true},
		{"the same", deny("denied_rule", "a"), deny("denied_rule", "a"), true},
		{"one has none", deny("denied_rule", "a"), nil, false},
		{"another reason", deny("denied_rule", "a"), deny("denied_default", "a"), false},
		{"another rule", deny("denied_rule", "a"), deny("denied_rule", "b"), false},
	} {
		if got := agree([]answer{side(c.a)[0], side(c.b)[0]}); got != c.same {
			t.Errorf("%s: agree %v", c.name, got)
		}
	}
}
