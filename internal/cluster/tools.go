// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Version of Kubernetes that the lab runs.
const Version = "v1.36.3"

// Tools are the programs a cluster is made of. None is installed on this machine.
type Tools struct {
	Kubernetes string // folder with etcd, kube-apiserver, kubectl and so on: links to one executable
	Flanneld   string // executable
	NodeInit   string // executable: internal/cluster/node
	Debian     string // folder that holds unpacked Debian packages: usr/bin/containerd and so on
	App        string // executable: internal/cluster/app
	Helm       string // executable; empty until it is used
}

// applets of the executable that internal/cluster/tools/kubernetes builds.
var applets = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}

// building settings are the same for everything, since each of them has a build cache of its own.
var goEnv = []string{"CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false", "GOWORK=off"}

// controlPlaneTools builds what etcd and apiserver need, or finds it in the cache.
func (c *cache) controlPlaneTools(ctx context.Context, tools *Tools) error {
	root, err := sourceRoot(ctx)
	if err != nil {
		return err
	}
	minor := strings.Split(strings.TrimPrefix(Version, "v"), ".")
	const at = "k8s.io/component-base/version"
	flags := fmt.Sprintf("-s -w -X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s", at, Version, at, minor[0], at, minor[1])
	tools.Kubernetes, err = c.goBuild(ctx, "kubernetes-"+Version, filepath.Join(root, "internal/cluster/tools/kubernetes"), ".", "k8sall", flags, applets...)
	return err
}

// helm builds Helm from the module that renders the chart, or finds it in the cache.
func (c *cache) helm(ctx context.Context, tools *Tools) error {
	root, err := sourceRoot(ctx)
	if err != nil {
		return err
	}
	dir, err := c.goBuild(ctx, "helm", filepath.Join(root, "deploy/charts"), "helm.sh/helm/v4/cmd/helm", "helm", "-s -w")
	tools.Helm = filepath.Join(dir, "helm")
	return err
}

// nodeTools builds or downloads what nodes need besides, or finds it in the cache.
func (c *cache) nodeTools(ctx context.Context, tools *Tools) error {
	root, err := sourceRoot(ctx)
	if err != nil {
		return err
	}
	flannel, err := c.goBuild(ctx, "flannel", filepath.Join(root, "internal/cluster/tools/flannel"), ".", "flanneld", "-s -w")
	if err != nil {
		return err
	}
	tools.Flanneld = filepath.Join(flannel, "flanneld")
	tools.Debian, err = c.debianPackages(ctx)
	return err
}

// ownTools builds the lab's own programs, which take a second and change with the tree, into a folder of the cluster's.
func ownTools(ctx context.Context, tools *Tools, dir string) error {
	root, err := sourceRoot(ctx)
	if err != nil {
		return err
	}
	tools.NodeInit, tools.App = filepath.Join(dir, "nodeinit"), filepath.Join(dir, "app")
	for path, source := range map[string]string{tools.NodeInit: "./internal/cluster/node", tools.App: "./internal/cluster/app"} {
		if _, err := run(ctx, root, goEnv, "go", "build", "-ldflags=-s -w", "-o", path, source); err != nil {
			return fmt.Errorf("build %s: %w", source, err)
		}
	}
	return nil
}

// goBuild builds a main package that a module of its own has or requires; links beside the executable point to it.
func (c *cache) goBuild(ctx context.Context, name, module, main, executable, ldflags string, links ...string) (string, error) {
	files := []string{filepath.Join(module, "go.mod"), filepath.Join(module, "go.sum")}
	if main == "." {
		own, err := filepath.Glob(filepath.Join(module, "*.go"))
		if err != nil {
			return "", err
		}
		files = append(files, own...)
	}
	sources := [][]byte{[]byte(ldflags)}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read source of %s: %w", name, err)
		}
		sources = append(sources, content)
	}
	return c.folder(name, sources, func(dir string) error {
		if _, err := run(ctx, module, goEnv, "go", "build", "-ldflags="+ldflags, "-o", filepath.Join(dir, executable), main); err != nil {
			return err
		}
		for _, link := range links {
			if err := os.Symlink(executable, filepath.Join(dir, link)); err != nil {
				return fmt.Errorf("link %s: %w", link, err)
			}
		}
		return nil
	})
}

// sourceRoot is the folder of the module this runs in: the tools are built from what is checked out.
func sourceRoot(ctx context.Context) (string, error) {
	out, err := run(ctx, "", nil, "go", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	file := strings.TrimSpace(out)
	if filepath.Base(file) != "go.mod" {
		return "", fmt.Errorf("find the module to build from: not inside one")
	}
	return filepath.Dir(file), nil
}
