{{/* What the restricted Pod Security Standard asks of a pod. */}}
{{- define "errand.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ int .Values.podSecurity.runAsUser }}
runAsGroup: {{ int .Values.podSecurity.runAsGroup }}
fsGroup: {{ int .Values.podSecurity.runAsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What it asks of a container, and a root that can't be written. */}}
{{- define "errand.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/*
A Deployment. Takes a dict: root, component, pool ("" but for workers), settings, image, args (list), env (text),
grace (seconds), http (whether it serves callers), replicas (0: an autoscaler's affair), surge, unavailable.
*/}}
{{- define "errand.deployment" -}}
{{- $root := .root -}}
{{- $settings := .settings -}}
{{- $names := list $root .component .pool -}}
{{- $name := printf "%s-%s" (include "errand.fullname" $root) .component -}}
{{- if .pool }}{{ $name = printf "%s-%s" $name .pool }}{{ end -}}
{{- $account := include "errand.serviceAccountName" (list $root .component) -}}
{{- $workspace := eq .component "worker" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "errand.labels" $names | nindent 4 }}
spec:
  {{- with .replicas }}
  replicas: {{ int . }}
  {{- end }}
  revisionHistoryLimit: 5
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: {{ .surge }}
      maxUnavailable: {{ .unavailable }}
  selector:
    matchLabels:
      {{- include "errand.selector" $names | nindent 6 }}
  template:
    metadata:
      # No version of the chart: another chart with the same pods replaces none of them.
      labels:
        {{- include "errand.selector" $names | nindent 8 }}
        app.kubernetes.io/part-of: errand
        {{- with $root.Values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/config: {{ $root.Values.config | sha256sum }}
        {{- with $settings.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ $account }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .grace }}
      {{- if and $workspace $settings.shareProcessNamespace }}
      shareProcessNamespace: true
      {{- end }}
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      securityContext:
        {{- include "errand.podSecurityContext" $root | nindent 8 }}
      containers:
        - name: errand
          image: {{ .image }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: {{ toJson .args }}
          env:
            {{- include "errand.env.backends" $root | nindent 12 }}
            {{- include "errand.env.log" $root | nindent 12 }}
            {{- with include "errand.env.telemetry" $root }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- if $root.Values.config }}
            - name: ERRAND_CONFIG
              value: /etc/errand/errand.toml
            {{- end }}
            {{- with $root.Values.publicUrl }}
            - name: ERRAND_PUBLIC_URL
              value: {{ . | quote }}
            {{- end }}
            - name: ERRAND_METRICS__LISTEN
              value: "0.0.0.0:9090"
            {{- with trim .env }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with $settings.env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            {{- if .http }}
            - {name: http, containerPort: 8080}
            {{- end }}
            - {name: metrics, containerPort: 9090}
          # The process listens at once, and waits for its database by itself: only readiness asks whether that answers.
          # An outage of PostgreSQL or Redis restarts nothing.
          startupProbe:
            httpGet: {path: /livez, port: metrics}
            periodSeconds: 1
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /livez, port: metrics}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: {path: /readyz, port: metrics}
            periodSeconds: 5
            timeoutSeconds: 3
            failureThreshold: 2
          {{- if gt (int $settings.preStopSeconds) 0 }}
          lifecycle:
            preStop:
              sleep: {seconds: {{ int $settings.preStopSeconds }}}
          {{- end }}
          securityContext:
            {{- include "errand.containerSecurityContext" $root | nindent 12 }}
          resources:
            {{- toYaml $settings.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- if $workspace }}
            - {name: workspace, mountPath: /var/lib/errand}
            {{- end }}
            {{- if $root.Values.config }}
            - {name: config, mountPath: /etc/errand, readOnly: true}
            {{- end }}
            {{- with $settings.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 1Gi}
        {{- if $workspace }}
        - name: workspace
          {{- if $settings.workspace.existingClaim }}
          persistentVolumeClaim: {claimName: {{ $settings.workspace.existingClaim }}}
          {{- else }}
          emptyDir: {sizeLimit: {{ $settings.workspace.sizeLimit }}}
          {{- end }}
        {{- end }}
        {{- if $root.Values.config }}
        - name: config
          configMap: {name: {{ include "errand.fullname" $root }}-config}
        {{- end }}
        {{- with $settings.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      topologySpreadConstraints:
        {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
        - topologyKey: {{ . }}
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          matchLabelKeys: [pod-template-hash]
          labelSelector:
            matchLabels:
              {{- include "errand.selector" $names | nindent 14 }}
        {{- end }}
      {{- with $settings.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $settings.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $settings.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $settings.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
{{- end -}}
