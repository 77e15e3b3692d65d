// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/strvals"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
)

const chartDir = "weir"

// install is what the chart makes of values given as to helm --set.
func install(t *testing.T, set string) rendered {
	t.Helper()
	out, err := tryInstall(set)
	if err != nil {
		t.Fatalf("--set %s: %v", set, err)
	}
	return out
}

func tryInstall(set string) (rendered, error) {
	values, err := strvals.Parse(set)
	if err != nil {
		return rendered{}, err
	}
	return render(chartDir, values)
}

// text is all of it, for comparing.
func (r rendered) text() string {
	var out strings.Builder
	for _, m := range r.manifests {
		out.WriteString("---\n" + m.Content + "\n")
	}
	for _, h := range r.hooks {
		out.WriteString("---\n" + h.Manifest + "\n")
	}
	return out.String() + r.notes
}

// variants are values that reach the branches of the templates.
var variants = map[string]string{
	"default":      "",
	"prometheus":   "prometheus.enabled=true,prometheus.podMonitor.enabled=true,prometheus.podMonitor.labels.release=x",
	"no operator":  "operator.enabled=false,uninstall.enabled=false,cni.install=false,crds.install=false,rbac.aggregateToView=false",
	"everything":   "operator.hostNetwork=true,operator.replicas=2,k8sServiceHost=192.0.2.1,bpf.autoMount.enabled=true,vxlan.port=4789,vxlan.vni=0,devices={eth0,eth1},imagePullSecrets[0].name=x,affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
	"conditions":   "operator.conditions=never",
	"by digest":    "image.digest=sha256:" + strings.Repeat("0", 64),
	"environment":  "extraEnv[0].name=A,extraEnv[0].value=b,extraArgs={--log-level=debug},operator.extraArgs={--log-level=debug},goMemLimit=",
	"annotations":  "podAnnotations.a=b,podLabels.a=b,operator.podAnnotations.a=b,operator.podLabels.a=b,commonLabels.a=b,serviceAccount.annotations.a=b",
	"host network": "operator.hostNetwork=true,prometheus.enabled=true",
}

// What is committed is what the chart makes.
func TestCommittedPagesAreRendered(t *testing.T) {
	for path, render := range pages() {
		want, err := render(chartDir)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("../..", path))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is not what the chart makes: run make chart", path)
		}
	}
}

// objects decodes all that a render holds as the API server would with strict validation: no unknown or doubled field.
func objects(t *testing.T, r rendered) []runtime.Object {
	t.Helper()
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(known); err != nil {
			t.Fatal(err)
		}
	}
	strict := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	var out []runtime.Object
	decode := func(text string) {
		if strings.Contains(text, "kind: PodMonitor") { // its types are in no module of ours
			return
		}
		object, _, err := strict.Decode([]byte(text), nil, nil)
		if err != nil {
			t.Errorf("%v in\n%s", err, text)
			return
		}
		out = append(out, object)
	}
	for _, m := range r.manifests {
		decode(m.Content)
	}
	for _, h := range r.hooks {
		decode(h.Manifest)
	}
	return out
}

func TestObjectsAreValid(t *testing.T) {
	for name, set := range variants {
		if set != "" {
			set += ",crds.install=false"
		}
		t.Run(name, func(t *testing.T) {
			seen := map[string]bool{}
			for _, o := range objects(t, install(t, set)) {
				meta, ok := o.(metav1.Object)
				if !ok {
					t.Fatalf("%T has no metadata", o)
				}
				key := fmt.Sprintf("%T %s/%s", o, meta.GetNamespace(), meta.GetName())
				if seen[key] {
					t.Errorf("%s is there twice", key)
				}
				seen[key] = true
				if meta.GetLabels()["app.kubernetes.io/name"] != "weir" {
					t.Errorf("%s has not the label app.kubernetes.io/name: weir", key)
				}
				if namespaced := meta.GetNamespace(); namespaced != "" && namespaced != namespace {
					t.Errorf("%s is outside of the release's namespace", key)
				}
			}
		})
	}
}

// A value that the chart does not know is refused wherever it stands, and so are values of a wrong form.
func TestNonsenseIsRefused(t *testing.T) {
	for set, want := range map[string]string{
		"imagee.tag=x":                            "'imagee' not allowed",
		"image.tagg=x":                            "'tagg' not allowed",
		"cni.confpath=/x":                         "'confpath' not allowed",
		"vxlan.Port=1":                            "'Port' not allowed",
		"operator.replica=2":                      "'replica' not allowed",
		"crds.instal=false":                       "'instal' not allowed",
		"prometheus.podMonitor.intervall=1s":      "'intervall' not allowed",
		"securityContext.privileged=true":         "'privileged' not allowed",
		"resources.limit.memory=1Gi":              "'limit' not allowed",
		"updateStrategy.rollingUpdate.maxSurge=1": "'maxSurge' not allowed",
		"vxlan.port=0":                            "/vxlan/port",
		"vxlan.vni=16777216":                      "/vxlan/vni",
		"cni.confPath=etc":                        "/cni/confPath",
		"cni.agentMissing=ignore":                 "/cni/agentMissing",
		"image.digest=abc":                        "/image/digest",
		"image.pullPolicy=Sometimes":              "/image/pullPolicy",
		"xdpMode=offload":                         "/xdpMode",
		"decap=none":                              "/decap",
		"spoofCheck=off":                          "/spoofCheck",
		"log.level=trace":                         "/log/level",
		"operator.replicas=-1":                    "/operator/replicas",
		"devices={eth0:1/x}":                      "/devices/0",
		"goMemLimit=1G":                           "/goMemLimit",
		"uninstall.timeout=5":                     "/uninstall/timeout",
		"securityContext.capabilities={CAP_BPF}":  "/securityContext/capabilities/0",
		"extraArgs={-x}":                          "/extraArgs/0",
		"resources.limits.memory=lots":            "/resources/limits/memory",
		// What the templates refuse.
		"k8sServicePort=6443":                          "k8sServiceHost is not",
		"prometheus.podMonitor.enabled=true":           "needs prometheus.enabled",
		"cni.binPath=/etc/cni/net.d":                   "different directories",
		"operator.hostNetwork=true,operator.port=9469": "share the node's ports",
		"nodeSelector.kubernetes\\.io/os=null":         "runs on Linux only",
		"securityContext.capabilities={BPF,NET_ADMIN}": "lacks PERFMON",
		"extraArgs={--node=x}":                         "the chart sets this flag itself",
		"extraArgs={--manifests=/x}":                   "the chart sets this flag itself",
	} {
		if _, err := tryInstall(set + ",crds.install=false"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--set %s: %v, want an error with %q", set, err, want)
		}
	}
}

// Each value changes what is installed: none is read by nobody.
func TestEveryValueHasAnEffect(t *testing.T) {
	page, err := valuesPage(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	changed := map[string]string{
		"nameOverride": "x", "imagePullSecrets": "[0].name=x", "commonLabels": ".a=b", "image.repository": "r.example/x", "image.tag": "x",
		"image.digest": "sha256:" + strings.Repeat("0", 64), "image.pullPolicy": "Never", "k8sServiceHost": "192.0.2.1", "cni.install": "false",
		"k8sServicePort": "6444,k8sServiceHost=192.0.2.1", "cni.confPath": "/x", "cni.binPath": "/x", "cni.agentMissing": "allow", "cni.cachePath": "/y", "vxlan.port": "4789",
		"vxlan.vni": "0", "devices": "={eth0}", "xdpMode": "generic", "decap": "strip", "spoofCheck": "observe", "unknownEndpoint": "drop",
		"policy.allowLocalhost": "policy", "policy.cidrMatchMode": "nodes", "policy.ipBlockMatch": "world", "policy.nodeSelectorLabels": "true",
		"policy.ciliumCompat": "false", "log.format": "json", "log.level": "debug", "bpf.root": "/x", "bpf.autoMount.enabled": "true",
		"prometheus.enabled": "true", "prometheus.port": "1", "prometheus.podMonitor.enabled": "true,prometheus.enabled=true",
		"prometheus.podMonitor.interval": "1s,prometheus.enabled=true,prometheus.podMonitor.enabled=true",
		"prometheus.podMonitor.labels":   ".a=b,prometheus.enabled=true,prometheus.podMonitor.enabled=true",
		"nodeSelector":                   ".a=b", "tolerations": "[0].key=x", "affinity": ".nodeAffinity.a=b", "priorityClassName": "x", "podAnnotations": ".a=b",
		"podLabels": ".a=b", "updateStrategy": ".type=OnDelete", "resources": ".limits.memory=1Gi", "goMemLimit": "1GiB", "extraArgs": "={--x}",
		"extraEnv": "[0].name=x", "securityContext.capabilities": "={BPF,PERFMON,NET_ADMIN,SYS_ADMIN}", "securityContext.seccompProfile": ".type=Unconfined",
		"securityContext.appArmorProfile": ".type=RuntimeDefault", "securityContext.seLinuxOptions": ".type=x", "serviceAccount.annotations": ".a=b",
		"rbac.aggregateToView": "false", "operator.enabled": "false", "operator.replicas": "2", "operator.conditions": "never", "operator.hostNetwork": "true",
		"operator.port": "1", "operator.nodeSelector": ".a=b", "operator.tolerations": "[0].key=x", "operator.affinity": ".nodeAffinity.a=b",
		"operator.podAnnotations": ".a=b", "operator.podLabels": ".a=b", "operator.resources": ".limits.memory=1Gi", "operator.extraArgs": "={--x}",
		"operator.extraEnv": "[0].name=x", "crds.install": "false", "crds.keep": "false", "uninstall.enabled": "false", "uninstall.timeout": "1s",
	}
	before := map[string]string{"": install(t, "").text()}
	for _, row := range strings.Split(page, "\n") {
		path, isRow := strings.CutPrefix(row, "| `")
		if !isRow {
			continue
		}
		path, _, _ = strings.Cut(path, "`")
		to, known := changed[path]
		if !known {
			t.Errorf("this test does not know another value of %s", path)
			continue
		}
		delete(changed, path)
		change, needs, _ := strings.Cut(to, ",")
		if strings.HasPrefix(path, "devices") || strings.HasPrefix(to, "={") { // a list holds commas
			change, needs = to, ""
		}
		if !strings.HasPrefix(path, "crds.") { // the definitions are large
			needs = strings.TrimPrefix(needs+",crds.install=false", ",")
		}
		if !strings.ContainsAny(change[:1], ".[=") || strings.HasPrefix(change, "/") {
			change = "=" + change
		}
		if _, ok := before[needs]; !ok {
			before[needs] = install(t, needs).text()
		}
		set := strings.TrimSuffix(path+change+","+needs, ",")
		if install(t, set).text() == before[needs] {
			t.Errorf("--set %s changes nothing", set)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(changed)) {
		t.Errorf("%s is no value of the chart", path)
	}
}

// The cilium.io kinds and their policies survive the release unless asked otherwise; ours go with it.
func TestCRDsOfOthersAreKept(t *testing.T) {
	for set, want := range map[string]string{"": "keep", "crds.keep=false": ""} {
		for _, o := range objects(t, install(t, set)) {
			crd, ok := o.(*apiextensionsv1.CustomResourceDefinition)
			if !ok {
				continue
			}
			want := want
			if crd.Spec.Group != "cilium.io" {
				want = ""
			}
			if got := crd.Annotations["helm.sh/resource-policy"]; got != want {
				t.Errorf("--set %s: %s has the resource policy %q, want %q", set, crd.Name, got, want)
			}
		}
	}
}
