// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// AppImage is the image of internal/cluster/app, which is on every node. It is the nodes' sandbox image too.
const AppImage = "weir.test/app:1"

// WriteImage writes a docker-archive with one layer: files is path in the image → executable on this machine.
func WriteImage(w io.Writer, name string, files map[string]string, entrypoint ...string) error {
	layer, err := layer(files)
	if err != nil {
		return fmt.Errorf("make image %s: %w", name, err)
	}
	sum := sha256.Sum256(layer)
	type object = map[string]any
	const when = "1970-01-01T00:00:00Z"
	config, err := json.Marshal(object{"architecture": runtime.GOARCH, "os": "linux", "created": when,
		"config":  object{"Entrypoint": entrypoint, "Env": []string{"PATH=/"}, "WorkingDir": "/"},
		"rootfs":  object{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
		"history": []object{{"created": when}}})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]object{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	for _, file := range []struct {
		name    string
		content []byte
	}{{"manifest.json", manifest}, {"config.json", config}, {"layer.tar", layer}} {
		if err := add(out, file.name, 0o644, file.content); err != nil {
			return fmt.Errorf("write image %s: %w", name, err)
		}
	}
	return out.Close()
}

func layer(files map[string]string) ([]byte, error) {
	var buffer bytes.Buffer
	out := tar.NewWriter(&buffer)
	var paths []string
	for path := range files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, directory := range []string{"etc/", "tmp/"} {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: directory, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	for _, path := range paths {
		content, err := os.ReadFile(files[path])
		if err != nil {
			return nil, err
		}
		if err := add(out, strings.TrimPrefix(path, "/"), 0o755, content); err != nil {
			return nil, err
		}
	}
	return buffer.Bytes(), out.Close()
}

func add(out *tar.Writer, name string, mode int64, content []byte) error {
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := out.Write(content)
	return err
}

// ImportImage puts the images of an archive, docker's or OCI's, on every node.
func (c *Cluster) ImportImage(ctx context.Context, archive string) error {
	for _, n := range c.Nodes {
		if err := n.importImage(ctx, archive); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) importImage(ctx context.Context, archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("import image: %w", err)
	}
	defer file.Close()
	if _, err := n.run(ctx, file, "ctr", "--namespace=k8s.io", "images", "import", "-"); err != nil {
		return fmt.Errorf("import image %s on %s: %w", filepath.Base(archive), n.Name, err)
	}
	return nil
}

// writeAppImage makes the image of the test app.
func (c *Cluster) writeAppImage() (path string, err error) {
	path = filepath.Join(c.Dir, "app.tar")
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return path, WriteImage(file, AppImage, map[string]string{"/app": c.Tools.App}, "/app")
}
