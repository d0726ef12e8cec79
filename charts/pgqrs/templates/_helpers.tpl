{{/* The release's name: what every object's name starts with, and what the parts find each other by. */}}
{{- define "pgqrs.fullname" -}}
{{- .Release.Name -}}
{{- end -}}

{{/* Labels of every object; call with (dict "root" $ "component" "operator"). */}}
{{- define "pgqrs.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: pgqrs
{{ include "pgqrs.selector" . }}
{{- end -}}

{{/* Labels that pods are found by; they never change. */}}
{{- define "pgqrs.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* An image's full name; call with (dict "root" $ "image" .Values.image.operator). */}}
{{- define "pgqrs.image" -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}

{{/* "true" where the operator makes the webhook's certificate and tells the API server of it. */}}
{{- define "pgqrs.keptCertificate" -}}
{{- and .Values.injector.enabled (eq .Values.injector.certificate.manager "Operator") -}}
{{- end -}}

{{/* The environment of the operator's image, whichever command it runs: see docs/design/interfaces.md. */}}
{{- define "pgqrs.environment" -}}
- name: PGQRS_OPERATOR_NAMESPACE
  value: {{ .Release.Namespace | quote }}
- name: PGQRS_RELEASE
  value: {{ include "pgqrs.fullname" . | quote }}
- name: PGQRS_WATCH_NAMESPACE
  value: {{ .Values.watchNamespace | quote }}
- name: PGQRS_CLUSTER
  value: {{ .Values.clusterName | quote }}
- name: PGQRS_SIDECAR_IMAGE
  value: {{ include "pgqrs.image" (dict "root" . "image" .Values.image.sidecar) | quote }}
- name: PGQRS_SIDECAR_PULL_POLICY
  value: {{ .Values.image.pullPolicy | quote }}
- name: PGQRS_DRAIN_SECONDS
  value: {{ .Values.injector.drainSeconds | quote }}
- name: PGQRS_RAISE_GRACE_PERIOD
  value: {{ .Values.injector.raiseGracePeriod | quote }}
- name: PGQRS_UNKNOWN_QUEUE
  value: {{ .Values.injector.unknownQueue | quote }}
- name: PGQRS_SIDECAR_DEFAULTS
  value: {{ .Values.injector.sidecar | toJson | quote }}
- name: PGQRS_MANAGE_WEBHOOK
  value: {{ eq (include "pgqrs.keptCertificate" .) "true" | quote }}
- name: PGQRS_HEALTH_PORT
  value: "8080"
- name: PGQRS_METRICS_QUEUES
  value: {{ .Values.operator.metricsQueues | int64 | quote }}
- name: PGQRS_POD_DELETION_COST
  value: {{ .Values.operator.podDeletionCost | quote }}
- name: PGQRS_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
- name: PGQRS_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: PGQRS_POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end -}}

{{- define "pgqrs.podSecurity" -}}
runAsGroup: 65532
runAsNonRoot: true
runAsUser: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "pgqrs.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end -}}

{{- define "pgqrs.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Where a part's pods may run; call with the part's values. */}}
{{- define "pgqrs.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
Rules, as a Role in a namespace or, where that is empty, as a ClusterRole, with the binding to a ServiceAccount of the
release. Call with (dict "root" $ "name" N "component" C "account" A "namespace" NS "rules" YAML), and "annotations".
*/}}
{{- define "pgqrs.role" -}}
{{- $scope := ternary "Role" "ClusterRole" (ne .namespace "") -}}
{{- range $kind := list $scope (printf "%sBinding" $scope) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $.name }}
  {{- with $.namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "pgqrs.labels" (dict "root" $.root "component" $.component) | nindent 4 }}
  {{- with $.annotations }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
{{- if eq $kind $scope }}
rules:
  {{- $.rules | trim | nindent 2 }}
{{- else }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $scope }}
  name: {{ $.name }}
subjects:
  - kind: ServiceAccount
    name: {{ $.account }}
    namespace: {{ $.root.Release.Namespace }}
{{- end }}
{{- end }}
{{- end -}}
