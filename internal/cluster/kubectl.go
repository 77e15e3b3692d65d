// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kubectl runs kubectl as the cluster's administrator and returns what it printed. An error holds what it complained of.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlAs(ctx, c.Kubeconfig, nil, args...)
}

// KubectlAs is Kubectl with another kubeconfig and with an input.
func (c *Cluster) KubectlAs(ctx context.Context, kubeconfig string, stdin io.Reader, args ...string) (string, error) {
	cmd := c.KubectlCommand(ctx, kubeconfig, args...)
	cmd.Stdin = stdin
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := c.Space.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), &CommandError{Args: append([]string{"kubectl"}, args...), Complaint: strings.TrimSpace(complaint.String()), Err: err}
	}
	return out.String(), nil
}

// KubectlCommand is a kubectl that is not started yet; c.Space.Start starts it.
func (c *Cluster) KubectlCommand(ctx context.Context, kubeconfig string, args ...string) *exec.Cmd {
	return command(ctx, filepath.Join(c.Tools.Kubernetes, "kubectl"), append([]string{"--kubeconfig=" + kubeconfig}, args...)...)
}

// CommandError is a command that failed: kubectl, or one in a node or a pod.
type CommandError struct {
	Args      []string
	Complaint string // what it printed to stderr
	Err       error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("run %s: %v: %s", strings.Join(e.Args, " "), e.Err, e.Complaint)
}

func (e *CommandError) Unwrap() error { return e.Err }

// ExitCode is the command's exit code, or -1 if err is not that of a command that ended by itself.
func ExitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// Apply applies a manifest on the server's side, as the CRDs' size demands.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	_, err := c.KubectlAs(ctx, c.Kubeconfig, strings.NewReader(manifest), "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}

// Delete deletes the objects of a manifest, waits until they are gone, and is content if they are already.
func (c *Cluster) Delete(ctx context.Context, manifest string) error {
	_, err := c.KubectlAs(ctx, c.Kubeconfig, strings.NewReader(manifest), "delete", "--ignore-not-found", "-f", "-")
	return err
}

// PodExec runs a command in a pod's first container and returns what it printed to stdout.
func (c *Cluster) PodExec(ctx context.Context, namespace, pod string, command ...string) (string, error) {
	return c.Kubectl(ctx, append([]string{"--namespace=" + namespace, "exec", pod, "--"}, command...)...)
}

// Logs is what a pod's containers have printed so far; selector is "pod/NAME" or "-l KEY=VALUE".
func (c *Cluster) Logs(ctx context.Context, namespace string, selector ...string) (string, error) {
	return c.Kubectl(ctx, append([]string{"--namespace=" + namespace, "logs", "--tail=-1", "--all-containers"}, selector...)...)
}

// Field is one value of one object, by kubectl's JSONPath without its braces: ".status.podIP".
func (c *Cluster) Field(ctx context.Context, namespace, object, path string) (string, error) {
	return c.Kubectl(ctx, "--namespace="+namespace, "get", object, "-o", "jsonpath={"+path+"}")
}
