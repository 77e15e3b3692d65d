// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	chartutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
)

// namespace is that of the plain manifest; the README installs the chart there too.
const namespace = "kube-system"

// rendered is what Helm would install.
type rendered struct {
	manifests []releaseutil.Manifest // in the order of installation
	hooks     []*release.Hook
	notes     string
}

// render renders the chart in dir as `helm template weir` does, the values checked by its schema.
func render(dir string, values map[string]any) (rendered, error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return rendered{}, fmt.Errorf("load chart: %w", err)
	}
	options := common.ReleaseOptions{Name: "weir", Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, values, options, common.DefaultCapabilities)
	if err != nil {
		return rendered{}, fmt.Errorf("read values: %w", err)
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return rendered{}, fmt.Errorf("render templates: %w", err)
	}
	var out rendered
	for path, text := range files {
		if strings.HasSuffix(path, "NOTES.txt") {
			out.notes = text
			delete(files, path)
		}
	}
	if out.hooks, out.manifests, err = releaseutil.SortManifests(files, nil, releaseutil.InstallOrder); err != nil {
		return rendered{}, fmt.Errorf("sort manifests: %w", err)
	}
	return out, nil
}

const plainHead = `# SPDX-License-Identifier: Apache-2.0
# weir without Helm, rendered from deploy/charts/weir with its default values by make chart. Not edited by hand.
#   kubectl apply --server-side -f deploy/weir.yaml
# To remove it: weir uninstall, which cleans every node, then kubectl delete -f. The latter deletes the cilium.io kinds with
# everybody's policies, unless they are taken out of the file first.
`

// plain is the chart with its default values as one manifest, without hooks: nothing would run them.
func plain(dir string) (string, error) {
	out, err := render(dir, nil)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	text.WriteString(plainHead)
	for _, m := range out.manifests {
		content := strings.ReplaceAll(m.Content, "app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl")
		fmt.Fprintf(&text, "---\n%s\n", strings.TrimSpace(content))
	}
	return text.String(), nil
}
