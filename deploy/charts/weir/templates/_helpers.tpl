{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* Objects are called weir whatever the release is called: there is one weir in a cluster, and its agents know their DaemonSet by name. */}}
{{- define "weir.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "weir.selector" -}}
app.kubernetes.io/name: {{ include "weir.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of an object: the chart's own win over those of the values. */}}
{{- define "weir.labels" -}}
{{- $own := include "weir.selector" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- $_ := set $own "app.kubernetes.io/part-of" "weir" }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") }}
{{- toYaml (merge $own (.more | default dict) .root.Values.commonLabels) }}
{{- end }}

{{- define "weir.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Where the Kubernetes API is, for those that cannot rely on the Service kubernetes. */}}
{{- define "weir.apiEnv" -}}
{{- if .Values.k8sServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .Values.k8sServiceHost | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .Values.k8sServicePort | default 6443 | quote }}
{{- end }}
{{- end }}

{{/* What no schema can say. */}}
{{- define "weir.validate" -}}
{{- if and .Values.k8sServicePort (not .Values.k8sServiceHost) }}
{{- fail "k8sServicePort is set and k8sServiceHost is not: give both, or neither" }}
{{- end }}
{{- if and .Values.prometheus.podMonitor.enabled (not .Values.prometheus.enabled) }}
{{- fail "prometheus.podMonitor.enabled needs prometheus.enabled: metrics are served on loopback without it" }}
{{- end }}
{{- if eq .Values.cni.confPath .Values.cni.binPath }}
{{- fail (printf "cni.confPath and cni.binPath are both %s: configurations and plugins lie in different directories" .Values.cni.confPath) }}
{{- end }}
{{- if and .Values.operator.enabled .Values.operator.hostNetwork (eq (int .Values.operator.port) (int .Values.prometheus.port)) }}
{{- fail (printf "operator.port and prometheus.port are both %d: with operator.hostNetwork they share the node's ports" (int .Values.operator.port)) }}
{{- end }}
{{- if not (hasKey .Values.nodeSelector "kubernetes.io/os") }}
{{- fail "nodeSelector lacks kubernetes.io/os: linux: weir runs on Linux only" }}
{{- end }}
{{- range list "BPF" "PERFMON" "NET_ADMIN" }}
{{- if not (or (has . $.Values.securityContext.capabilities) (has "SYS_ADMIN" $.Values.securityContext.capabilities)) }}
{{- fail (printf "securityContext.capabilities lacks %s, without which the agent cannot work" .) }}
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
{{- if regexMatch "^--?(node|manifests|kubeconfig|daemonset|pin-path|socket|metrics-addr|cni-conf-dir|cni-bin-dir)(=|$)" . }}
{{- fail (printf "extraArgs: %s: the chart sets this flag itself" .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* An httpGet of a probe. In the host's network kubelet asks the node's address unless told otherwise. */}}
{{- define "weir.probe" -}}
{ {{ with .host }}host: {{ . }}, {{ end }}path: {{ .path }}, port: metrics }
{{- end }}

{{/* The nodes that run agents, as a label selector: KEY=VALUE,... */}}
{{- define "weir.nodes" -}}
{{- $terms := list }}
{{- range $key, $value := .Values.nodeSelector }}
{{- $terms = append $terms (printf "%s=%s" $key $value) }}
{{- end }}
{{- join "," $terms }}
{{- end }}
