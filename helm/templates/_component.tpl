{{/* What stands beside a Deployment. */}}

{{/* The Service for callers. Takes a dict: root, component, settings. */}}
{{- define "errand.service" -}}
{{- $names := list .root .component "" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "errand.fullname" .root }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "errand.labels" $names | nindent 4 }}
  {{- with .settings.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .settings.service.type }}
  selector:
    {{- include "errand.selector" $names | nindent 4 }}
  ports:
    - {name: http, port: {{ int .settings.service.port }}, targetPort: http}
{{- end -}}

{{/*
The headless Service for metrics, apart from that for callers: no type of it leads out of the cluster. Takes (root, component).
*/}}
{{- define "errand.metricsService" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $names := list $root $component "" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "errand.fullname" $root }}-{{ $component }}-metrics
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "errand.labels" $names | nindent 4 }}
spec:
  clusterIP: None
  # What is not ready has metrics too, and they say why.
  publishNotReadyAddresses: true
  selector:
    {{- include "errand.selector" $names | nindent 4 }}
  ports:
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
