-- Webhooks: who is told of what, and what each was told.

-- Secrets are sealed by the keys of [secrets]; the key that sealed one is named in it.
CREATE TABLE webhook_endpoints (
    id            uuid PRIMARY KEY,
    tenant        text   NOT NULL,
    url           text   NOT NULL,
    description   text   NOT NULL,
    events        text   NOT NULL, -- JSON array of types, `job.*` for a family; empty: all
    format        text   NOT NULL CHECK (format IN ('standard', 'cloudevents')),
    secrets       text,            -- sealed: what signs, the newest first; null: nothing does
    for_jobs      bigint NOT NULL, -- 1: told of the jobs that name it, and of nothing else
    state         text   NOT NULL CHECK (state IN ('enabled', 'disabled')),
    disabled_why  text,
    failing_since bigint,          -- the first failure after the last success
    created_at    bigint NOT NULL,
    updated_at    bigint NOT NULL
);
CREATE INDEX webhook_endpoints_by_tenant ON webhook_endpoints (tenant, id) WHERE for_jobs = 0;

-- Jobs that brought an endpoint of their own, and those that repeat them.
CREATE TABLE job_webhooks (
    job_id      uuid PRIMARY KEY,
    endpoint_id uuid NOT NULL
);
CREATE INDEX job_webhooks_by_endpoint ON job_webhooks (endpoint_id);

-- How a delivery goes is told by its job.
CREATE TABLE webhook_deliveries (
    id          uuid PRIMARY KEY, -- of the job that makes it
    tenant      text   NOT NULL,
    endpoint_id uuid   NOT NULL,
    event_id    uuid   NOT NULL,
    event_type  text   NOT NULL,
    job_id      uuid,             -- the job it tells of
    created_at  bigint NOT NULL
);
CREATE INDEX webhook_deliveries_by_endpoint ON webhook_deliveries (endpoint_id, id);
