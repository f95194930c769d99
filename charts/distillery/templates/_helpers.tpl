{{- define "distillery.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "distillery.table" -}}
{{- .Files.Get "files/table.yaml" }}
{{- end }}

{{- define "distillery.settingsName" -}}
{{- .Values.settings.existingConfigMap | default .Values.settings.name }}
{{- end }}

{{- define "distillery.credentialsName" -}}
{{- .Values.credentials.existingSecret | default .Values.credentials.name }}
{{- end }}

{{- /* A value by its path, such as runner.readableSecrets. */}}
{{- define "distillery.at" -}}
{{- $found := .root.Values }}
{{- range splitList "." .path }}{{ $found = index $found . }}{{ end }}
{{- toJson $found }}
{{- end }}

{{- /* A Role of the rows of files/rights.yaml that hold. */}}
{{- define "distillery.rules" -}}
{{- $root := .root }}
{{- range .rows }}
{{- if or (not .when) (eq "true" (include "distillery.at" (dict "root" $root "path" .when))) }}
- apiGroups: [{{ .group | quote }}]
  resources: [{{ .resource }}]
{{- with .names }}
  resourceNames: {{ if kindIs "string" . }}{{ include "distillery.at" (dict "root" $root "path" .) }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}
  verbs: {{ keys .verbs | sortAlpha | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{- define "distillery.podSecurity" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 0
  fsGroup: 0
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.priorityClass }}
{{- if .enabled }}
priorityClassName: {{ .name }}
{{- end }}
{{- end }}
{{- end }}

{{- define "distillery.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- /* Variables by the keys of the ConfigMap and the Secret, as the compiled pipelines give them to every task. */}}
{{- define "distillery.environment" -}}
{{- $table := include "distillery.table" . | fromYaml }}
{{- range $key, $row := $table.settings }}
- name: {{ $row.name }}
  valueFrom: {configMapKeyRef: {name: {{ include "distillery.settingsName" $ }}, key: {{ $key }}, optional: {{ not $row.required }}}}
{{- end }}
{{- range $key, $row := $table.credentials }}
- name: {{ $row.name }}
  valueFrom: {secretKeyRef: {name: {{ include "distillery.credentialsName" $ }}, key: {{ $key }}, optional: {{ not $row.required }}}}
{{- end }}
{{- end }}

{{- /* What MLflow's server reads of them: the keys and the place of S3, by boto3's names and its own. */}}
{{- define "distillery.storeEnvironment" -}}
{{- $table := include "distillery.table" . | fromYaml }}
{{- $names := dict "MLFLOW_S3_ENDPOINT_URL" "s3_endpoint_url" "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE" "s3_addressing" }}
{{- range $key, $row := $table.settings }}{{ if hasPrefix "AWS_" $row.name }}{{ $_ := set $names $row.name $key }}{{ end }}{{ end }}
{{- range $name, $key := $names }}
- name: {{ $name }}
  valueFrom: {configMapKeyRef: {name: {{ include "distillery.settingsName" $ }}, key: {{ $key }}, optional: true}}
{{- end }}
{{- range $key, $row := $table.credentials }}
{{- if hasPrefix "AWS_" $row.name }}
- name: {{ $row.name }}
  valueFrom: {secretKeyRef: {name: {{ include "distillery.credentialsName" $ }}, key: {{ $key }}, optional: true}}
{{- end }}
{{- end }}
{{- end }}
