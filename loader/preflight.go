// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Preflight asks whether outer headers may be removed in XDP. Zero fields mean this host.
type Preflight struct {
	ProcDir string // default /proc
	// Rulesets returns the text of every firewall ruleset; default: what iptables-save and nft print, where they exist.
	Rulesets func(context.Context) ([]string, error)
}

// StripSafe says whether inner packets may enter the stack through the given interfaces instead of the overlay's. If not,
// reason says why: reverse path filtering would drop them, or a firewall rule bound to the overlay would not see them.
func (p Preflight) StripSafe(ctx context.Context, interfaces []string, overlay string) (safe bool, reason string) {
	proc := p.ProcDir
	if proc == "" {
		proc = "/proc"
	}
	for _, name := range interfaces {
		filter, err := reversePathFilter(proc, name)
		if err != nil {
			return false, err.Error()
		}
		if filter == 1 {
			return false, fmt.Sprintf("rp_filter of %s is 1 (strict)", name)
		}
	}
	read := p.Rulesets
	if read == nil {
		read = hostRulesets
	}
	texts, err := read(ctx)
	if err != nil {
		return false, err.Error()
	}
	for _, text := range texts {
		if line := mentions(text, overlay); line != "" {
			return false, fmt.Sprintf("a firewall rule is bound to %s: %s", overlay, line)
		}
	}
	return true, ""
}

// reversePathFilter is the value the kernel uses: the larger of the interface's own and that of "all".
func reversePathFilter(proc, name string) (int, error) {
	highest := 0
	for _, conf := range []string{"all", name} {
		path := filepath.Join(proc, "sys/net/ipv4/conf", conf, "rp_filter")
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, fmt.Errorf("read rp_filter of %s: %w", conf, err)
		}
		var value int
		if _, err := fmt.Sscan(string(text), &value); err != nil {
			return 0, fmt.Errorf("read rp_filter of %s: %w", conf, err)
		}
		highest = max(highest, value)
	}
	return highest, nil
}

func hostRulesets(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var texts []string
	for _, command := range [][]string{{"iptables-save"}, {"iptables-legacy-save"}, {"nft", "list", "ruleset"}} {
		out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output()
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read firewall rules with %s: %w", command[0], err)
		}
		texts = append(texts, string(out))
	}
	if texts == nil {
		return nil, errors.New("no iptables-save and no nft to read firewall rules with: install one, or choose --decap strip")
	}
	return texts, nil
}

// mentions returns the first line of a ruleset that names an interface, wildcards ("flannel+", "flannel*") included.
func mentions(ruleset, name string) string {
	for line := range strings.Lines(ruleset) {
		for word := range strings.FieldsFuncSeq(line, func(r rune) bool { return strings.ContainsRune(" \t\n\"{},;", r) }) {
			prefix, wild := strings.CutSuffix(word, "+")
			if !wild {
				prefix, wild = strings.CutSuffix(word, "*")
			}
			if word == name || wild && prefix != "" && strings.HasPrefix(name, prefix) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}
