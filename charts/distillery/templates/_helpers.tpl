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

{{- /* The image of a row: of the table of values, else the committed name at the registry. */}}
{{- define "distillery.image" -}}
{{- $given := .root.Values.images }}
{{- $committed := index (include "distillery.table" .root | fromYaml).images .row }}
{{- index $given.table .row | default (printf "%s/%s" (trimSuffix "/" $given.registry) (base $committed)) }}
{{- end }}

{{- define "distillery.owner" -}}
{{- $said := .Values.registration.owner | default (printf "%s.%s" .Release.Namespace .Release.Name) }}
{{- if gt (len $said) 63 }}{{ printf "%s-%s" (trunc 50 $said | trimSuffix "-" | trimSuffix ".") (sha256sum $said | trunc 12) }}{{ else }}{{ $said }}{{ end }}
{{- end }}

{{- define "distillery.hasTools" -}}
{{- with .Values }}{{ if or .registration.enabled .registration.reconcile.enabled .registration.disableOnUninstall .closing.enabled .tests.enabled }}yes{{ end }}{{ end }}
{{- end }}

{{- /* What every container of the registrar has. */}}
{{- define "distillery.tool" -}}
image: {{ include "distillery.image" (dict "root" . "row" "tools") }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
resources: {{- toYaml .Values.registrar.resources | nindent 2 }}
{{ include "distillery.containerSecurity" . }}
volumeMounts:
  - {name: scratch, mountPath: /scratch}
  - {name: registration, mountPath: /etc/registration, readOnly: true}
  - {name: settings, mountPath: {{ (include "distillery.table" . | fromYaml).mount }}, readOnly: true}
  {{- if .Values.kubeflow.multiUser }}
  - {name: token, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
  {{- end }}
{{- end }}

{{- define "distillery.toolEnvironment" -}}
- {name: HOME, value: /scratch}
- {name: TMPDIR, value: /scratch}
- {name: KF_PIPELINES_ENDPOINT, value: {{ .Values.kubeflow.endpoint | default (printf "http://ml-pipeline.%s.svc.cluster.local:8888" .Values.kubeflow.namespace) | quote }}}
{{- if .Values.kubeflow.multiUser }}
- {name: KF_PIPELINES_NAMESPACE, value: {{ .Release.Namespace }}}
{{- end }}
{{- end }}

{{- define "distillery.toolPod" -}}
{{ include "distillery.podSecurity" . }}
serviceAccountName: {{ .Values.registrar.serviceAccount.name }}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - {name: {{ . }}}
  {{- end }}
{{- end }}
restartPolicy: Never
volumes:
  - {name: scratch, emptyDir: {sizeLimit: 1Gi}}
  - {name: registration, configMap: {name: {{ .Release.Name }}-registration}}
  - {name: settings, configMap: {name: {{ include "distillery.settingsName" . }}}}
  {{- if .Values.kubeflow.multiUser }}
  - name: token
    projected:
      sources:
        - serviceAccountToken: {path: token, audience: pipelines.kubeflow.org, expirationSeconds: 7200}
  {{- end }}
{{- end }}

{{- /* A pod that compiles, uploads and schedules; `dry` only looks, `file` holds the schedules. */}}
{{- define "distillery.registrationPod" -}}
{{- with .root }}
{{- include "distillery.toolPod" . }}
initContainers:
  - name: compile
    command:
      - distillery
      - compile
      - --out=/scratch/packages
      {{- with .Values.images.registry }}
      - --registry={{ . }}
      {{- end }}
      {{- if .Values.images.table }}
      - --images=/etc/registration/images.yaml
      {{- end }}
      {{- range .Values.images.pullSecrets }}
      - --pull-secret={{ . }}
      {{- end }}
      - --settings={{ include "distillery.settingsName" . }}
      - --credentials={{ include "distillery.credentialsName" . }}
    env: {{- include "distillery.toolEnvironment" . | nindent 6 }}
    {{- include "distillery.tool" . | nindent 4 }}
  {{- if not $.dry }}
  - name: upload
    command: [distillery, upload, /scratch/packages, --release={{ .Chart.Version }}]
    env: {{- include "distillery.toolEnvironment" . | nindent 6 }}
    {{- include "distillery.tool" . | nindent 4 }}
  {{- end }}
containers:
  - name: schedule
    command: [distillery, schedule, /etc/registration/{{ $.file }}, --packages=/scratch/packages, --release={{ .Chart.Version }}{{ if $.dry }}, --dry-run{{ end }}]
    env: {{- include "distillery.toolEnvironment" . | nindent 6 }}
    {{- include "distillery.tool" . | nindent 4 }}
{{- end }}
{{- end }}
