{{/* Labels of every object of a component: (dict "root" $ "component" "operator"). */}}
{{- define "epic.labels" -}}
{{ include "epic.selector" . }}
app.kubernetes.io/part-of: epic
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of its pods: no version in them, so that an upgrade rolls out only what it changes. */}}
{{- define "epic.podLabels" -}}
{{ include "epic.selector" . }}
app.kubernetes.io/part-of: epic
{{- with .root.Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of what a Prometheus operator or Grafana selects. */}}
{{- define "epic.monitoring.labels" -}}
{{ include "epic.labels" . }}
{{- with .root.Values.monitoring.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What selects the pods of a component. It cannot change in an upgrade, so nothing of the release is in it. */}}
{{- define "epic.selector" -}}
app.kubernetes.io/name: epic-{{ .component }}
{{- end }}

{{/* Reference of an image: (dict "root" $ "image" .Values.operator.image). */}}
{{- define "epic.image" -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end }}{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Values.image.tag }}{{ end }}
{{- end }}

{{/* What proxies run with where nothing else says it, as JSON: the agent's nodes are theirs. */}}
{{- define "epic.proxies" -}}
{{- $proxies := deepCopy .Values.proxies -}}
{{- if not (hasKey $proxies "node-selector") -}}
{{- $_ := set $proxies "node-selector" .Values.agent.nodeSelector -}}
{{- end -}}
{{- if not (hasKey $proxies "tolerations") -}}
{{- $tolerations := list -}}
{{- range .Values.agent.tolerations -}}
{{- if .key -}}
{{- $tolerations = append $tolerations . -}}
{{- end -}}
{{- end -}}
{{- $_ := set $proxies "tolerations" $tolerations -}}
{{- end -}}
{{- if not (hasKey $proxies "image-pull-secrets") -}}
{{- $_ := set $proxies "image-pull-secrets" .Values.image.pullSecrets -}}
{{- end -}}
{{- toJson $proxies -}}
{{- end }}

{{/* PodSecurity "restricted". */}}
{{- define "epic.restricted.pod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "epic.restricted.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
  - ALL
{{- end }}
