// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var (
	errBound = errors.New("bound")        // ends the reading: the binding that was asked for is found
	errLater = errors.New("sets unknown") // this rule has to be read again when the sets are known
)

// nftablesBinding returns the first thing in nf_tables, of any family, that is bound to the interface: a base chain or a
// flowtable attached to it, or a rule that compares a packet's interface with it; empty if there is none. The rules of
// iptables-nft are among them. Rules that change while they are read are read again.
func nftablesBinding(ctx context.Context, dev firewalled) (string, error) {
	for tries := 0; ; tries++ {
		before, exists, err := nftGeneration(ctx)
		if err != nil || !exists {
			return "", err
		}
		r := nftReader{ctx: ctx, dev: dev, elements: map[nftSetName][]nftElement{}}
		err = r.read()
		if errors.Is(err, errBound) {
			return r.binding, nil
		}
		after, _, failed := nftGeneration(ctx)
		switch {
		case failed != nil:
			return "", failed
		case before == after && !errors.Is(err, nl.ErrDumpInterrupted):
			return "", err
		case tries == 4:
			return "", fmt.Errorf("nf_tables rules change while they are read, %d times in a row", tries+1)
		}
	}
}

// nftReader holds what one reading of the rules has found.
type nftReader struct {
	ctx      context.Context
	dev      firewalled
	binding  string
	sets     map[nftSetName]nftSet // nil: not read
	elements map[nftSetName][]nftElement
	later    []func() error // rules to read again when the sets are
}

func (r *nftReader) dump(get, answer uint16, f func(family uint8, a nftAttrs) error) error {
	return nftQuestion{get: get, answer: answer, flags: unix.NLM_F_DUMP}.ask(r.ctx, f)
}

func (r *nftReader) read() error {
	if err := r.dump(unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_NEWCHAIN, r.chain); err != nil {
		return fmt.Errorf("read nf_tables chains: %w", err)
	}
	if err := r.dump(unix.NFT_MSG_GETFLOWTABLE, unix.NFT_MSG_NEWFLOWTABLE, r.flowtable); err != nil {
		return fmt.Errorf("read nf_tables flowtables: %w", err)
	}
	if err := r.dump(unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, r.rule); err != nil {
		return fmt.Errorf("read nf_tables rules: %w", err)
	}
	if len(r.later) == 0 {
		return nil
	}
	if err := r.readSets(); err != nil {
		return err
	}
	for _, rule := range r.later {
		if err := rule(); err != nil {
			return fmt.Errorf("read nf_tables rules: %w", err)
		}
	}
	return nil
}

func (r *nftReader) found(format string, args ...any) error {
	r.binding = "nf_tables: " + fmt.Sprintf(format, args...)
	return errBound
}

func (r *nftReader) chain(family uint8, a nftAttrs) error {
	name := fmt.Sprintf("chain %s %s %s", nftFamily(family), a.text(unix.NFTA_CHAIN_TABLE), a.text(unix.NFTA_CHAIN_NAME))
	hook, err := a.nested(unix.NFTA_CHAIN_HOOK)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	const list = 4 // NFTA_HOOK_DEVS
	attached := hook.has(unix.NFTA_HOOK_DEV) && r.dev.attachedBy(hook.get(unix.NFTA_HOOK_DEV), false)
	return r.attached(name, hook.get(list), attached)
}

func (r *nftReader) flowtable(family uint8, a nftAttrs) error {
	const table, own, hooks, list = 1, 2, 3, 3 // NFTA_FLOWTABLE_TABLE, _NAME, _HOOK; NFTA_FLOWTABLE_HOOK_DEVS
	name := fmt.Sprintf("flowtable %s %s %s", nftFamily(family), a.text(table), a.text(own))
	hook, err := a.nested(hooks)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return r.attached(name, hook.get(list), false)
}

// attached looks for the interface among the devices that something hangs on.
func (r *nftReader) attached(what string, list []byte, already bool) error {
	devices, err := parseNFTAttrs(list)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	const name, prefix = 1, 2 // NFTA_DEVICE_NAME, NFTA_DEVICE_PREFIX
	for _, d := range devices {
		if d.kind != name && d.kind != prefix {
			return fmt.Errorf("%s: device attribute %d is unknown", what, d.kind)
		}
		already = already || r.dev.attachedBy(d.value, d.kind == prefix)
	}
	if already {
		return r.found("%s is attached to it", what)
	}
	return nil
}

func (r *nftReader) rule(family uint8, a nftAttrs) error {
	err := r.evaluate(family, a)
	if errors.Is(err, errLater) {
		r.later = append(r.later, func() error { return r.evaluate(family, a) })
		return nil
	}
	return err
}

func (r *nftReader) evaluate(family uint8, a nftAttrs) error {
	table := a.text(unix.NFTA_RULE_TABLE)
	chain, handle := a.text(unix.NFTA_RULE_CHAIN), a.number(unix.NFTA_RULE_HANDLE)
	name := fmt.Sprintf("rule %s %s %s handle %d", nftFamily(family), table, chain, handle)
	expressions, err := a.nested(unix.NFTA_RULE_EXPRESSIONS)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	v := nftEvaluation{dev: r.dev, ipv6: family == unix.NFPROTO_IPV6}
	v.among = func(set string, fields func(int) []nftField) (bool, error) {
		return r.among(nftSetName{family, table, set}, fields)
	}
	for _, expression := range expressions {
		e, err := parseNFTAttrs(expression.value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		binding, err := v.step(e)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if binding != "" {
			return r.found("%s has %s", name, binding)
		}
	}
	return nil
}

func nftFamily(family uint8) string {
	switch family {
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_ARP:
		return "arp"
	case unix.NFPROTO_NETDEV:
		return "netdev"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	case unix.NFPROTO_IPV6:
		return "ip6"
	}
	return fmt.Sprintf("family %d", family)
}
