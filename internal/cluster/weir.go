// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// WeirImage builds weir's image from what is checked out, as `make image` does, and puts it on every node under the name
// repository:version.
func (c *Cluster) WeirImage(ctx context.Context, repository, version string) error {
	root, err := sourceRoot(ctx)
	if err != nil {
		return err
	}
	archive := filepath.Join(c.Dir, "weir-"+version+".tar")
	if _, err := run(ctx, filepath.Join(root, "deploy/image"), []string{"GOWORK=off"}, "go", "run", ".", "--root", root,
		"--name", repository+":"+version, "--version", version, "--out", archive); err != nil {
		return fmt.Errorf("build weir's image: %w", err)
	}
	defer os.Remove(archive)
	return c.ImportImage(ctx, archive)
}

// Chart is the folder of weir's chart.
func Chart(ctx context.Context) (string, error) {
	root, err := sourceRoot(ctx)
	return filepath.Join(root, "deploy/charts/weir"), err
}

// Helm runs helm as the cluster's administrator and returns what it printed to stdout. The first time, it is built.
func (c *Cluster) Helm(ctx context.Context, args ...string) (string, error) {
	if c.Tools.Helm == "" {
		if err := c.cache.helm(ctx, &c.Tools); err != nil {
			return "", err
		}
	}
	home := filepath.Join(c.Dir, "helm")
	cmd := command(ctx, c.Tools.Helm, append([]string{"--kubeconfig=" + c.Kubeconfig}, args...)...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := c.Space.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), &CommandError{Args: append([]string{"helm"}, args...), Complaint: strings.TrimSpace(complaint.String()), Err: err}
	}
	return out.String(), nil
}
