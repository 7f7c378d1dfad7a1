{{- define "name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Labels of one process: (list $ "api") */}}
{{- define "selector" -}}
app.kubernetes.io/name: cache-pipeline
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: cache-pipeline-{{ (index . 0).Chart.Version }}
{{- end }}

{{- define "podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "volumes" -}}
- name: temporary
  emptyDir: {}
- name: instance
  configMap: {name: {{ include "name" . }}-instance}
- name: data
  {{- if .Values.dataClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.dataClaim }}}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- if .Values.reports }}
- name: reports
  configMap: {name: {{ include "name" . }}-reports}
{{- end }}
{{- end }}

{{- define "volumeMounts" -}}
- {name: temporary, mountPath: /tmp}
- {name: instance, mountPath: /srv/cache_pipeline/dagster.yaml, subPath: dagster.yaml}
- {name: data, mountPath: /srv/cache_pipeline/data}
{{- if .Values.reports }}
- {name: reports, mountPath: /srv/cache_pipeline/reports}
{{- end }}
{{- end }}

{{/* A pod restarts when settings, reports or Dagster's instance change. */}}
{{- define "checksums" -}}
checksum/config: {{ include (print .Template.BasePath "/config.yaml") . | sha256sum }}
{{- end }}

{{/* A Deployment of one process: (dict "root" $ "component" "api" "replicas" 2 "resources" {} "container" "YAML") */}}
{{- define "deployment" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "name" $root }}-{{ .component }}
  labels: {{- include "labels" (list $root .component) | nindent 4 }}
spec:
  {{- with .replicas }}
  replicas: {{ . }}
  {{- end }}
  {{- if eq .component "dagster-daemon" }}
  # Two daemons would launch every schedule twice.
  strategy: {type: Recreate}
  {{- end }}
  selector:
    matchLabels: {{- include "selector" (list $root .component) | nindent 6 }}
  template:
    metadata:
      labels: {{- include "labels" (list $root .component) | nindent 8 }}
      annotations: {{- include "checksums" $root | nindent 8 }}
    spec:
      serviceAccountName: {{ include "name" $root }}
      automountServiceAccountToken: {{ hasPrefix "dagster" .component }}
      terminationGracePeriodSeconds: {{ .grace | default 30 }}
      securityContext: {{- include "podSecurity" $root | nindent 8 }}
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets: {{- range . }}
        - name: {{ . }}
      {{- end }}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "image" $root | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          {{- .container | nindent 10 }}
          envFrom:
            - configMapRef: {name: {{ include "name" $root }}-settings}
            - secretRef: {name: {{ $root.Values.existingSecret }}}
          resources: {{- toYaml .resources | nindent 12 }}
          securityContext: {{- include "containerSecurity" $root | nindent 12 }}
          volumeMounts: {{- include "volumeMounts" $root | nindent 12 }}
      volumes: {{- include "volumes" $root | nindent 8 }}
{{- end }}
