{{/* Where the truth and the queue are: what every process of the cluster gets. */}}
{{- define "errand.env.backends" -}}
- name: ERRAND_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.existingSecret }}, key: {{ .Values.database.urlKey }}}}
- name: ERRAND_DATABASE__MAX_CONNECTIONS
  value: {{ int .Values.database.connectionsPerProcess | quote }}
- name: ERRAND_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.existingSecret }}, key: {{ .Values.redis.urlKey }}}}
{{- with .Values.sealing.existingSecret }}
- name: ERRAND_SECRETS__KEYS
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.Values.sealing.keysKey }}}}
{{- end }}
{{- end -}}

{{/* Where spans go. */}}
{{- define "errand.env.telemetry" -}}
{{- with .Values.telemetry -}}
{{- if .endpoint -}}
- name: ERRAND_TELEMETRY__OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: ERRAND_TELEMETRY__SAMPLE_RATIO
  value: {{ .sampleRatio | quote }}
- name: ERRAND_TELEMETRY__FLUSH_SECONDS
  value: {{ int .flushSeconds | quote }}
{{- if .existingSecret }}
- name: ERRAND_TELEMETRY__OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .headersKey }}}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "errand.env.log" -}}
- name: ERRAND_LOG_FORMAT
  value: {{ .Values.log.format }}
{{- with .Values.log.filter }}
- name: ERRAND_LOG
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* What those who judge callers get. */}}
{{- define "errand.env.auth" -}}
{{- with .Values.auth }}
{{- if and .existingSecret .bootstrapKeyKey }}
- name: ERRAND_AUTH__BOOTSTRAP_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .bootstrapKeyKey }}, optional: true}}
{{- end }}
{{- if and .existingSecret .jwtSecretKey }}
- name: ERRAND_AUTH__JWT_SECRET
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .jwtSecretKey }}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of an api or relay: takes a dict with root and settings. */}}
{{- define "errand.env.api" -}}
- name: ERRAND_LISTEN
  value: "0.0.0.0:8080"
- name: ERRAND_SERVER__DRAIN_SECONDS
  value: {{ int .settings.drainSeconds | quote }}
{{ include "errand.env.auth" .root }}
{{- end -}}

{{- define "errand.env.relay" -}}
{{ include "errand.env.api" . }}
- name: ERRAND_RELAY__MAX_CONNECTIONS
  value: {{ int .settings.maxConnections | quote }}
{{- end -}}

{{/* Of a worker: takes its pool. */}}
{{- define "errand.env.worker" -}}
- name: ERRAND_WORKER__QUEUES
  value: {{ toJson .queues | quote }}
- name: ERRAND_WORKER__CONCURRENCY
  value: {{ int .concurrency | quote }}
- name: ERRAND_WORKER__LEASE_SECONDS
  value: {{ int .leaseSeconds | quote }}
- name: ERRAND_WORKER__DRAIN_SECONDS
  value: {{ int .drainSeconds | quote }}
{{- end -}}
