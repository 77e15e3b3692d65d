// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// Watch sends on the returned channel after links, addresses or routes of this network namespace change. Bursts become one
// message. Lost messages become one too: the receiver must look at everything anyway. The channel is closed when ctx ends.
// Neighbours change all the time and matter only while a pod is missing; whoever misses one looks again after a moment.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	changed := make(chan struct{}, 1)
	again := make(chan struct{}, 1) // a subscription ended

	subscribe := func(ctx context.Context) error {
		lost := func(error) {
			if ctx.Err() == nil { // closing it on purpose ends in an error too
				notify(again)
			}
		}
		links := make(chan netlink.LinkUpdate, 64)
		addrs := make(chan netlink.AddrUpdate, 64)
		routes := make(chan netlink.RouteUpdate, 64)
		if err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: lost}); err != nil {
			return fmt.Errorf("subscribe to links: %w", err)
		}
		if err := netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: lost}); err != nil {
			return fmt.Errorf("subscribe to addresses: %w", err)
		}
		if err := netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{ErrorCallback: lost}); err != nil {
			return fmt.Errorf("subscribe to routes: %w", err)
		}
		go forward(links, changed)
		go forward(addrs, changed)
		go forward(routes, changed)
		return nil
	}

	inner, cancel := context.WithCancel(ctx)
	if err := subscribe(inner); err != nil {
		cancel()
		return nil, err
	}
	out := make(chan struct{})
	go func() {
		defer close(out)
		defer func() { cancel() }()
		for {
			select {
			case <-ctx.Done():
				return
			case <-again:
				cancel()
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return
				}
				inner, cancel = context.WithCancel(ctx)
				if subscribe(inner) != nil {
					notify(again)
				}
				notify(changed)
			case <-changed:
				select {
				case out <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, nil
}

func forward[T any](from <-chan T, to chan<- struct{}) {
	for range from {
		notify(to)
	}
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
