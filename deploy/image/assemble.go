// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// platform is what one architecture's image holds.
type platform struct {
	arch  string
	files []file
}

// assemble makes one OCI image for each platform, each of one layer, and an index of them.
func assemble(platforms []platform, l labels) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range platforms {
		image, err := p.image(l)
		if err != nil {
			return nil, fmt.Errorf("assemble image for %s: %w", p.arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: p.arch}}})
	}
	return mutate.Annotations(index, l.strings()).(v1.ImageIndex), nil
}

func (p platform) image(l labels) (v1.Image, error) {
	archive, err := p.layer()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("compress layer: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	created := v1.Time{Time: l.created.UTC()}
	image, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "deploy/image", Comment: "weir " + l.version}})
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", p.arch, created
	config.Config = v1.Config{
		Entrypoint: []string{"/weir"},
		Env:        []string{"PATH=/"},
		WorkingDir: "/",
		User:       "0:0", // programs of root's attach programs of the kernel's
		Labels:     l.strings(),
	}
	return mutate.ConfigFile(image, config)
}

// layer is the tar of the files, sorted, root's, of the epoch. /tmp is there for whoever mounts something on it.
func (p platform) layer() ([]byte, error) {
	files := slices.Clone(p.files)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{"/": true}
	header := func(h tar.Header) error {
		h.ModTime, h.Format = time.Unix(0, 0), tar.FormatUSTAR
		if err := w.WriteHeader(&h); err != nil {
			return fmt.Errorf("write layer: %s: %w", h.Name, err)
		}
		return nil
	}
	for _, f := range files {
		if dir := path.Dir(f.path); !made[dir] {
			made[dir] = true
			if err := header(tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		if err := header(tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.path, "/"), Mode: f.mode, Size: int64(len(f.data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("write layer: %s: %w", f.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	return out.Bytes(), nil
}

// push sends the index and all that it names to the registry of tag.
func push(ctx context.Context, index v1.ImageIndex, tag name.Tag) error {
	if err := remote.WriteIndex(tag, index, remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithContext(ctx), remote.WithUserAgent("weir")); err != nil {
		return fmt.Errorf("push %s: %w", tag, err)
	}
	return nil
}
