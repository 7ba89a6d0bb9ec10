{{/*
How long a stop can take, in seconds: the one inequality of this chart is that the grace period covers it.

An api waits drainSeconds for requests, as long again for sockets, and as long for its own tasks. A worker waits
drainSeconds for its runs; what is left is stopped and handed back within one lease and some seconds.
*/}}
{{- define "errand.stopSeconds.api" -}}
{{- add (int .preStopSeconds) (mul 3 (int .drainSeconds)) 5 -}}
{{- end -}}

{{- define "errand.stopSeconds.worker" -}}
{{- add (int .preStopSeconds) (int .drainSeconds) (int .leaseSeconds) 10 -}}
{{- end -}}

{{/* The grace period: what was set, or what the stop can take. Takes (settings, seconds). */}}
{{- define "errand.grace" -}}
{{- default (int (index . 1)) (int (index . 0).terminationGracePeriodSeconds) -}}
{{- end -}}
