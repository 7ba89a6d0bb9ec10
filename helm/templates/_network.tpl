{{/* Ports of a NetworkPolicy. Takes a list of numbers. */}}
{{- define "errand.ports" -}}
{{- $ports := list }}
{{- range . }}{{ $ports = append $ports (dict "port" (int .) "protocol" "TCP") }}{{ end }}
{{- toJson $ports }}
{{- end -}}

{{/* What everyone needs. Takes networkPolicy. */}}
{{- define "errand.egress.base" -}}
# names
- to: {{ toJson .dns }}
  ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
# PostgreSQL
- to: {{ toJson .database.to }}
  ports: {{ include "errand.ports" .database.ports }}
{{- end -}}

{{/* What api, relay and worker need. */}}
{{- define "errand.egress.fleet" -}}
{{ include "errand.egress.base" . }}
# Redis
- to: {{ toJson .redis.to }}
  ports: {{ include "errand.ports" .redis.ports }}
{{- if .collector.to }}
# the collector of spans
- to: {{ toJson .collector.to }}
  ports: {{ include "errand.ports" .collector.ports }}
{{- end }}
# what is public: neither the cluster, nor the cloud's metadata
{{- $v6 := list "fc00::/7" "fe80::/10" "::1/128" "::ffff:0:0/96" }}
- to:
    - ipBlock: {cidr: 0.0.0.0/0, except: {{ toJson .outbound.except }}}
    - ipBlock: {cidr: "::/0", except: {{ toJson $v6 }}}
  ports: {{ include "errand.ports" .outbound.ports }}
{{- end -}}
