// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// save writes index to a tar at path, aside first and then renamed. The tar is an OCI layout and a docker-archive in one, as
// docker itself writes them: who knows only the latter finds the image of this machine's architecture.
func save(index v1.ImageIndex, tag name.Tag, path string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(index, tag, f); err != nil {
		return fmt.Errorf("save image to %s: %w", path, err)
	}
	if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("save image to %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	return nil
}

// blobs are the members of a layout by digest.
type blobs map[v1.Hash][]byte

func (b blobs) path(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func write(index v1.ImageIndex, tag name.Tag, to io.Writer) error {
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	all, archives := blobs{}, []dockerArchive(nil)
	for i, d := range manifest.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			return fmt.Errorf("read image %s: %w", d.Digest, err)
		}
		archive, err := all.image(image)
		if err != nil {
			return fmt.Errorf("read image %s: %w", d.Digest, err)
		}
		archive.RepoTags = []string{tag.Name()}
		if i == 0 || d.Platform.Architecture == runtime.GOARCH {
			archives = []dockerArchive{archive}
		}
	}
	root, top, err := all.index(index)
	if err != nil {
		return err
	}
	layout, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifest.MediaType,
		"manifests": []v1.Descriptor{{MediaType: manifest.MediaType, Size: int64(len(top)), Digest: root, Annotations: map[string]string{
			"io.containerd.image.name":          tag.Name(),
			"org.opencontainers.image.ref.name": tag.TagStr(),
		}}},
	})
	if err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	docker, err := json.Marshal(archives)
	if err != nil {
		return fmt.Errorf("write manifest.json: %w", err)
	}
	w := tar.NewWriter(to)
	members := map[string][]byte{"index.json": layout, "manifest.json": docker, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	for hash, data := range all {
		members[all.path(hash)] = data
	}
	names := make([]string, 0, len(members))
	for n := range members {
		names = append(names, n)
	}
	slices.SortFunc(names, strings.Compare)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
			return fmt.Errorf("write %s: %w", dir, err)
		}
	}
	for _, n := range names {
		if err := w.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: int64(len(members[n])), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
			return fmt.Errorf("write %s: %w", n, err)
		}
		if _, err := w.Write(members[n]); err != nil {
			return fmt.Errorf("write %s: %w", n, err)
		}
	}
	return w.Close()
}

// dockerArchive is an entry of a docker-archive's manifest.json.
type dockerArchive struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (b blobs) image(image v1.Image) (dockerArchive, error) {
	manifest, err := image.RawManifest()
	if err != nil {
		return dockerArchive{}, err
	}
	digest, err := image.Digest()
	if err != nil {
		return dockerArchive{}, err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return dockerArchive{}, err
	}
	configName, err := image.ConfigName()
	if err != nil {
		return dockerArchive{}, err
	}
	layers, err := image.Layers()
	if err != nil {
		return dockerArchive{}, err
	}
	b[digest], b[configName] = manifest, config
	out := dockerArchive{Config: b.path(configName)}
	for _, layer := range layers {
		hash, err := layer.Digest()
		if err != nil {
			return dockerArchive{}, err
		}
		compressed, err := layer.Compressed()
		if err != nil {
			return dockerArchive{}, err
		}
		var data bytes.Buffer
		_, err = io.Copy(&data, compressed)
		if err := errors.Join(err, compressed.Close()); err != nil {
			return dockerArchive{}, err
		}
		b[hash] = data.Bytes()
		out.Layers = append(out.Layers, b.path(hash))
	}
	return out, nil
}

// index adds the index itself.
func (b blobs) index(index v1.ImageIndex) (v1.Hash, []byte, error) {
	raw, err := index.RawManifest()
	if err != nil {
		return v1.Hash{}, nil, fmt.Errorf("read index: %w", err)
	}
	hash, err := index.Digest()
	if err != nil {
		return v1.Hash{}, nil, fmt.Errorf("hash index: %w", err)
	}
	b[hash] = raw
	return hash, raw, nil
}
