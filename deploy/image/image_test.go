// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func testTag(t *testing.T, ref string) name.Tag {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

func testIndex(t *testing.T) v1.ImageIndex {
	t.Helper()
	var platforms []platform
	for _, arch := range []string{"amd64", "arm64"} {
		platforms = append(platforms, platform{arch: arch, files: []file{
			{"/weir", 0o755, []byte("weir for " + arch)}, {"/licenses/LICENSE", 0o644, []byte("text")}, {"/weir-cni", 0o755, []byte("plugin for " + arch)}}})
	}
	index, err := assemble(platforms, labels{version: "1.2.3", revision: "abc", created: time.Unix(1_700_000_000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func savedTestImage(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := save(testIndex(t), testTag(t, "registry.example/weir:1.2.3"), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Two builds of the same files are the same bytes.
func TestImageIsReproducible(t *testing.T) {
	first, err := os.ReadFile(savedTestImage(t))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(savedTestImage(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two runs wrote different tars")
	}
}

// The tar is a valid OCI layout that holds every architecture under the image's name.
func TestTarIsAnOCILayout(t *testing.T) {
	dir := t.TempDir()
	unpack(t, savedTestImage(t), dir)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	top, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := top.Manifests[0].Annotations["io.containerd.image.name"]; len(top.Manifests) != 1 || got != "registry.example/weir:1.2.3" {
		t.Errorf("the layout has %d images, the first is called %q", len(top.Manifests), got)
	}
	inner, err := index.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := inner.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var arches []string
	for _, d := range manifest.Manifests {
		arches = append(arches, d.Platform.OS+"/"+d.Platform.Architecture)
		image, err := inner.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, d.Platform.Architecture)
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(arches, want) {
		t.Errorf("platforms %v, want %v", arches, want)
	}
}

// Who reads docker-archives only finds the image of the machine that built it.
func TestTarIsADockerArchive(t *testing.T) {
	tag := testTag(t, "registry.example/weir:1.2.3")
	image, err := tarball.ImageFromPath(savedTestImage(t), &tag)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, runtime.GOARCH)
}

func checkImage(t *testing.T, image v1.Image, arch string) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Architecture != arch || config.Created.Unix() != 1_700_000_000 {
		t.Errorf("image of %s says it is of %s/%s, created at %v", arch, config.OS, config.Architecture, config.Created)
	}
	if got := config.Config.Entrypoint; !slices.Equal(got, []string{"/weir"}) {
		t.Errorf("entrypoint %q", got)
	}
	for key, want := range map[string]string{"version": "1.2.3", "revision": "abc", "created": "2023-11-14T22:13:20Z", "title": "weir"} {
		if got := config.Config.Labels["org.opencontainers.image."+key]; got != want {
			t.Errorf("label %s is %q, want %q", key, got, want)
		}
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers (%v), want 1: there is no base image", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	got := map[string]string{}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s belongs to %d:%d and is of %v, want root's and the epoch", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = os.FileMode(h.Mode).String() + " " + string(data)
	}
	want := map[string]string{"licenses/": "-rwxr-xr-x ", "licenses/LICENSE": "-rw-r--r-- text", "weir": "-rwxr-xr-x weir for " + arch,
		"weir-cni": "-rwxr-xr-x plugin for " + arch}
	if !maps.Equal(got, want) {
		t.Errorf("layer of %s holds %v, want %v", arch, got, want)
	}
}

func TestPushIsWhatARegistryServes(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	tag := testTag(t, strings.TrimPrefix(server.URL, "http://")+"/weirnet/weir:1.2.3")
	index := testIndex(t)
	if err := push(t.Context(), index, tag); err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(pulled); err != nil {
		t.Error(err)
	}
	want, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pulled.Digest(); err != nil || got != want {
		t.Errorf("the registry serves %v (%v), pushed was %v", got, err, want)
	}
}

func TestFlagsThatMakeNoImageAreRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--out x":                              "--name",
		"--name weir:1 --out x":                "--name",
		"--name r.example/weir:1":              "nothing to do",
		"--name r.example/weir:1 --out x y":    "unexpected argument",
		"--name r.example/w:1 --push --arch s": "little endian",
	} {
		var stderr bytes.Buffer
		if err := run(t.Context(), strings.Fields(args), io.Discard, &stderr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("image %s: %v, want an error about %s", args, err, want)
		}
	}
}

// The members of the tar that a reader finds first are what their formats say.
func TestTarSaysItsFormat(t *testing.T) {
	dir := t.TempDir()
	unpack(t, savedTestImage(t), dir)
	var archives []dockerArchive
	for name, into := range map[string]any{"oci-layout": &map[string]string{}, "manifest.json": &archives} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, into); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(archives) != 1 || !slices.Equal(archives[0].RepoTags, []string{"registry.example/weir:1.2.3"}) {
		t.Errorf("manifest.json: %+v", archives)
	}
}

func unpack(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, data, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
