// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weirnet/weir/internal/cni"
)

// suffix of the files that we derive: 10-flannel.conflist gives 10-flannel-weir.conflist, which sorts before it.
const suffix = "-weir.conflist"

// bereavement is how long what was derived outlives its original.
const bereavement = 10 * time.Second

// extensions of the files that libcni reads.
var extensions = []string{".conf", ".conflist", ".json"}

// Sentinels of network configurations that nothing can be chained to.
var (
	ErrNone    = errors.New("there is no network configuration yet")
	ErrVersion = errors.New("its version does not know chained plugins")
	ErrInvalid = errors.New("it is no network configuration")
)

// list is a network configuration list. What is not named here is kept as it is.
type list map[string]json.RawMessage

// chain derives our configuration from the first one that is not ours, and removes those that were derived from others.
func (i *Installer) chain() (path string, err error) {
	original, err := first(i.cfg.ConfDir)
	if err != nil {
		return "", i.unchain(fmt.Errorf("chain CNI plugin: %w", err))
	}
	data, err := os.ReadFile(original)
	if err != nil {
		return "", fmt.Errorf("chain CNI plugin: %w", err)
	}
	l, err := parse(original, data)
	if err != nil {
		// Half written, perhaps: what was derived before stays until it can be read.
		return "", fmt.Errorf("chain CNI plugin to %s: %w", original, err)
	}
	if l.names(cni.PluginType) {
		return original, i.removeOthers("") // somebody has chained it by hand
	}
	made, err := l.with(i.cfg.Entry)
	if err != nil {
		return "", fmt.Errorf("chain CNI plugin to %s: %w", original, err)
	}
	path = strings.TrimSuffix(original, filepath.Ext(original)) + suffix
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(original); err == nil {
		mode = info.Mode().Perm() // who may not read the original may not read what is in it
	}
	if !same(path, made, mode) {
		if err := replace(path, made, mode); err != nil {
			return "", fmt.Errorf("chain CNI plugin: %w", err)
		}
	}
	return path, i.removeOthers(path)
}

// unchain: without an original ours would keep alive what somebody has removed.
func (i *Installer) unchain(why error) error {
	if !errors.Is(why, ErrNone) {
		return why
	}
	return errors.Join(why, i.removeOthers(""))
}

// removeOthers removes what was derived before. Where the original is missing it may be in the middle of being replaced,
// so its copy stays for a while: the runtime must not fall back on something that nothing is chained to.
func (i *Installer) removeOthers(keep string) error {
	ours, err := derived(i.cfg.ConfDir)
	errs, missing := []error{err}, map[string]time.Time{}
	for _, path := range ours {
		if path == keep {
			continue
		}
		if !hasOriginal(path) {
			since, ok := i.missing[path]
			if !ok {
				since = i.now()
			}
			if i.now().Sub(since) < bereavement {
				missing[path] = since
				continue
			}
		}
		errs = append(errs, remove(path))
	}
	i.missing = missing
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove stale CNI configuration: %w", err)
	}
	return nil
}

// hasOriginal says whether what a file was derived from is there.
func hasOriginal(path string) bool {
	for _, extension := range extensions {
		if _, err := os.Stat(strings.TrimSuffix(path, suffix) + extension); err == nil {
			return true
		}
	}
	return false
}

// first is the configuration that the runtime would obey without us: the first one by name, as libcni counts.
func first(dir string) (string, error) {
	names, err := configurations(dir)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if !strings.HasSuffix(name, suffix) {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("%w in %s", ErrNone, dir)
}

// derived are the files that we made.
func derived(dir string) (paths []string, err error) {
	names, err := configurations(dir)
	if errors.Is(err, ErrNone) {
		return nil, nil
	}
	for _, name := range names {
		if strings.HasSuffix(name, suffix) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths, err
}

func configurations(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	if err != nil {
		return nil, fmt.Errorf("list network configurations: %w", err)
	}
	for _, e := range entries {
		if slices.Contains(extensions, filepath.Ext(e.Name())) && !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// parse reads a configuration; one of a single plugin becomes a list of one, as libcni makes it.
func parse(path string, data []byte) (list, error) {
	l := list{}
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if filepath.Ext(path) != ".conflist" {
		if l.text("type") == "" {
			return nil, fmt.Errorf("%w: it has no type", ErrInvalid)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, data); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		single := list{"plugins": json.RawMessage("[" + compact.String() + "]")}
		for _, key := range []string{"cniVersion", "name"} {
			if value, ok := l[key]; ok {
				single[key] = value
			}
		}
		l = single
	}
	plugins, err := l.plugins()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	case len(plugins) == 0 || l.text("name") == "":
		return nil, fmt.Errorf("%w: it has no name or no plugins", ErrInvalid)
	}
	if version := l.text("cniVersion"); !chainable(version) {
		return nil, fmt.Errorf("%w: %q, want 0.3.1 to 1.1.0", ErrVersion, version)
	}
	return l, nil
}

func chainable(version string) bool {
	return slices.Contains([]string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}, version)
}

func (l list) text(key string) (text string) {
	if json.Unmarshal(l[key], &text) != nil {
		return ""
	}
	return text
}

func (l list) plugins() (plugins []json.RawMessage, err error) {
	err = json.Unmarshal(l["plugins"], &plugins)
	return plugins, err
}

// names says whether a plugin is in the chain.
func (l list) names(pluginType string) bool {
	plugins, err := l.plugins()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(plugins, func(raw json.RawMessage) bool {
		p := list{}
		return json.Unmarshal(raw, &p) == nil && p.text("type") == pluginType
	})
}

// with is the list with one more plugin at its end, as a file.
func (l list) with(e Entry) ([]byte, error) {
	plugins, err := l.plugins()
	if err != nil {
		return nil, err
	}
	ours, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	out := make(list, len(l))
	for key, value := range l {
		out[key] = value
	}
	if out["plugins"], err = json.Marshal(append(plugins, ours)); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(out, "", "  ")
	return append(data, '\n'), err
}
