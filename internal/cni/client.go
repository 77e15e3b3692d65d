// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	dialAgain = 50 * time.Millisecond  // until an agent that is starting again is asked again
	margin    = 500 * time.Millisecond // the agent gives up so long before its asker, and can say why
)

// Client asks the agent that listens on Socket. Methods that take a context ask again while nobody answers, until it ends;
// their errors wrap ErrAway or are a *Refusal.
type Client struct{ Socket string }

// Add returns when policy for the pod is enforced on its interface.
func (c Client) Add(ctx context.Context, p Pod) error { return c.aboutPod(ctx, verbAdd, p) }

// Check says whether policy for the pod is enforced.
func (c Client) Check(ctx context.Context, p Pod) error { return c.aboutPod(ctx, verbCheck, p) }

// Status says whether there is an agent.
func (c Client) Status(ctx context.Context) error { return c.ask(ctx, question{Verb: verbStatus}, nil) }

// Release tells the agent that a pod's sandbox is gone. It asks once.
func (c Client) Release(ctx context.Context, containerID string) error {
	return c.once(ctx, question{Verb: verbRelease, Containers: []string{containerID}}, nil)
}

// Keep tells the agent that all sandboxes but these are gone. It asks once.
func (c Client) Keep(ctx context.Context, containerIDs []string) error {
	return c.once(ctx, question{Verb: verbKeep, Containers: containerIDs}, nil)
}

func (c Client) aboutPod(ctx context.Context, v verb, p Pod) error {
	netns, err := os.Open(p.NetNS)
	if err != nil {
		return fmt.Errorf("open network namespace of pod %s: %w", &p, err)
	}
	defer netns.Close()
	return c.ask(ctx, question{Verb: v, Pod: &p}, netns)
}

func (c Client) ask(ctx context.Context, q question, netns *os.File) error {
	for {
		err := c.once(ctx, q, netns)
		if !errors.Is(err, ErrAway) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(dialAgain):
		}
	}
}

func (c Client) once(ctx context.Context, q question, netns *os.File) error {
	q.Protocol = protocol
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return fmt.Errorf("%w at %s: %w", ErrAway, c.Socket, err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		q.Patience = max(time.Until(deadline)-margin, time.Millisecond)
		if err := conn.SetDeadline(deadline); err != nil {
			return fmt.Errorf("ask %s: %w", c.Socket, err)
		}
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	line, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.Socket, err)
	}
	var rights []byte
	if netns != nil {
		rights = syscall.UnixRights(int(netns.Fd()))
	}
	if _, _, err := conn.(*net.UnixConn).WriteMsgUnix(append(line, '\n'), rights, nil); err != nil {
		return fmt.Errorf("%w at %s: %w", ErrAway, c.Socket, err)
	}
	var a answer
	back, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%w at %s: %w", ErrAway, c.Socket, err)
	}
	if err := json.Unmarshal(back, &a); err != nil {
		return fmt.Errorf("read answer of %s: %w", c.Socket, err)
	}
	if !a.OK {
		return &Refusal{a.Reason}
	}
	return nil
}
