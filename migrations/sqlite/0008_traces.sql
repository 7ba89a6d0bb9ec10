-- The span that made a job, as W3C Trace Context writes it: what the job does belongs to the same trace.

ALTER TABLE jobs ADD COLUMN traceparent text; -- absent: the trace has the job's own id
ALTER TABLE jobs ADD COLUMN tracestate text; -- what other tracers carry along
