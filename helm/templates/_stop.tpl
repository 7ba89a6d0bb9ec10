{{/*
How long a stop can take, in seconds: the one inequality of this chart is that the grace period covers it.

An api waits drainSeconds for requests, as long again for sockets, and as long for its own tasks. A worker waits
drainSeconds for its runs; what is left is stopped and handed back within one lease and some seconds. Both then send
the spans that wait, if there is a collector. Each takes (settings, root).
*/}}
{{- define "errand.stopSeconds.api" -}}
{{- $settings := index . 0 -}}
{{- add (int $settings.preStopSeconds) (mul 3 (int $settings.drainSeconds)) 5 (include "errand.flushSeconds" (index . 1)) -}}
{{- end -}}

{{- define "errand.stopSeconds.worker" -}}
{{- $settings := index . 0 -}}
{{- add (int $settings.preStopSeconds) (int $settings.drainSeconds) (int $settings.leaseSeconds) 10 (include "errand.flushSeconds" (index . 1)) -}}
{{- end -}}

{{- define "errand.flushSeconds" -}}
{{- ternary (int .Values.telemetry.flushSeconds) 0 (ne .Values.telemetry.endpoint "") -}}
{{- end -}}

{{/* The grace period: what was set, or what the stop can take. Takes (settings, seconds). */}}
{{- define "errand.grace" -}}
{{- default (int (index . 1)) (int (index . 0).terminationGracePeriodSeconds) -}}
{{- end -}}
