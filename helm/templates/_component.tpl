{{/* What stands beside a Deployment. */}}

{{/* A Service. Takes a dict: root, component, settings, http. Without http it is headless: metrics alone. */}}
{{- define "errand.service" -}}
{{- $names := list .root .component "" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "errand.fullname" .root }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "errand.labels" $names | nindent 4 }}
  {{- if .http }}
  {{- with .settings.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
spec:
  {{- if .http }}
  type: {{ .settings.service.type }}
  {{- else }}
  clusterIP: None
  # A worker that is not ready has metrics too.
  publishNotReadyAddresses: true
  {{- end }}
  selector:
    {{- include "errand.selector" $names | nindent 4 }}
  ports:
    {{- if .http }}
    - {name: http, port: {{ int .settings.service.port }}, targetPort: http}
    {{- end }}
    - {name: metrics, port: 9090, targetPort: metrics}
{{- end -}}

{{/* A PodDisruptionBudget, where more than one pod runs. Takes a dict: root, component, pool, settings. */}}
{{- define "errand.disruption" -}}
{{- $settings := .settings -}}
{{- $fewest := ternary $settings.autoscaling.minReplicas $settings.replicas $settings.autoscaling.enabled -}}
{{- if and $settings.disruption.enabled (gt (int $fewest) 1) -}}
{{- $names := list .root .component .pool -}}
{{- $name := printf "%s-%s" (include "errand.fullname" .root) .component -}}
{{- if .pool }}{{ $name = printf "%s-%s" $name .pool }}{{ end -}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "errand.labels" $names | nindent 4 }}
spec:
  maxUnavailable: {{ $settings.disruption.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "errand.selector" $names | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* A HorizontalPodAutoscaler. Takes a dict: root, component, settings. */}}
{{- define "errand.hpa" -}}
{{- $auto := .settings.autoscaling -}}
{{- if $auto.enabled -}}
{{- $name := printf "%s-%s" (include "errand.fullname" .root) .component -}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "errand.labels" (list .root .component "") | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ $name }}}
  minReplicas: {{ int $auto.minReplicas }}
  maxReplicas: {{ int $auto.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ int $auto.targetCPUPercent }}}
    {{- if gt (int (default 0 $auto.targetConnections)) 0 }}
    - type: Pods
      pods:
        metric: {name: errand_ws_connections}
        target: {type: AverageValue, averageValue: {{ int $auto.targetConnections | quote }}}
    {{- end }}
  behavior:
    scaleUp:
      stabilizationWindowSeconds: 0
      policies: [{type: Percent, value: 100, periodSeconds: 30}]
    # Slowly: each pod that goes sends its callers, or its watchers, to the others.
    scaleDown:
      stabilizationWindowSeconds: 300
      policies: [{type: Pods, value: 1, periodSeconds: 120}]
{{- end -}}
{{- end -}}

{{/* A ServiceAccount without rights. Takes (root, component). */}}
{{- define "errand.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.serviceAccount.create -}}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "errand.serviceAccountName" . }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "errand.labels" (list $root (index . 1) "") | nindent 4 }}
  {{- with $root.Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end -}}
{{- end -}}
