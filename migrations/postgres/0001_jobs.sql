-- Facts about the database itself. `epoch` is one random value: a new one tells watchers that numbers start over.
CREATE TABLE meta (
    key   text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO meta (key, value) VALUES ('epoch', replace(gen_random_uuid()::text, '-', ''));

CREATE TABLE sessions (
    id            uuid PRIMARY KEY,
    tenant        text   NOT NULL,
    status        text   NOT NULL CHECK (status IN ('active', 'closed')),
    engine        text   NOT NULL,
    system_prompt text,
    metadata      text   NOT NULL,
    created_at    bigint NOT NULL,
    updated_at    bigint NOT NULL,
    tail_seq      bigint NOT NULL, -- number of the last event of the session's stream
    tail_message  bigint NOT NULL  -- ordinal of the last message
);
CREATE INDEX sessions_by_tenant ON sessions (tenant, id);

CREATE TABLE messages (
    session_id uuid   NOT NULL,
    ordinal    bigint NOT NULL,
    id         uuid   NOT NULL,
    job_id     uuid,
    role       text   NOT NULL CHECK (role IN ('user', 'assistant')),
    content    text   NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (session_id, ordinal)
);

CREATE TABLE jobs (
    id              uuid PRIMARY KEY,
    tenant          text   NOT NULL,
    kind            text   NOT NULL,
    queue           text   NOT NULL,
    state           text   NOT NULL CHECK (state IN (
        'scheduled', 'queued', 'blocked', 'awaiting_children', 'running', 'retrying', 'awaiting_approval',
        'awaiting_answer', 'awaiting_callback', 'completed', 'partial', 'failed', 'cancelled', 'expired')),
    priority        bigint NOT NULL CHECK (priority BETWEEN 0 AND 3),
    attempt         bigint NOT NULL,
    max_attempts    bigint NOT NULL,
    backoff_base_ms bigint NOT NULL,
    backoff_cap_ms  bigint NOT NULL,
    timeout_ms      bigint,
    payload         text   NOT NULL,
    result          text,
    failure         text,
    progress        text,
    metadata        text,
    session_id      uuid,
    on_busy         text,   -- what it does when it comes due and its session is busy
    position        bigint, -- place in its session's line while blocked
    pending_message text,   -- what its user says; moves to the messages once it is its session's active task
    parent_id       uuid,
    retry_of        uuid,
    dedup_key       text,
    claim           bigint NOT NULL, -- grows with each claim; with lease_token it is the fence
    lease_token     uuid,
    lease_until     bigint, -- set while a holder may write; on a finished job until its holder has released it
    worker_id       uuid,
    run_at          bigint NOT NULL,
    expires_at      bigint,
    deadline        bigint,
    created_at      bigint NOT NULL,
    claimed_at      bigint,
    started_at      bigint,
    finished_at     bigint,
    snoozed_since   bigint, -- set while its runs have done nothing but put it off
    cut_off_at      bigint, -- when a run of it last ended without a word: what it had done by then is not known
    text_from       bigint, -- number of the first text event that stands
    version         bigint NOT NULL,
    tail_seq        bigint NOT NULL -- number of the last event of the job's stream
);
CREATE INDEX jobs_by_tenant ON jobs (tenant, id);
CREATE INDEX jobs_live ON jobs (tenant, id) WHERE finished_at IS NULL;
CREATE INDEX jobs_unsuccessful ON jobs (tenant, id) WHERE state IN ('partial', 'failed', 'cancelled', 'expired');
CREATE INDEX jobs_queued ON jobs (id) WHERE state = 'queued';
CREATE INDEX jobs_due ON jobs (run_at) WHERE state IN ('scheduled', 'retrying');
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE expires_at IS NOT NULL AND started_at IS NULL AND finished_at IS NULL;
CREATE INDEX jobs_deadlined ON jobs (deadline) WHERE deadline IS NOT NULL AND finished_at IS NULL;
CREATE INDEX jobs_by_session ON jobs (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX jobs_blocked ON jobs (session_id, position) WHERE state = 'blocked';
CREATE INDEX jobs_unreleased ON jobs (session_id) WHERE finished_at IS NOT NULL AND lease_until IS NOT NULL;
-- One active job a session.
CREATE UNIQUE INDEX jobs_active_in_session ON jobs (session_id) WHERE session_id IS NOT NULL AND state IN (
    'queued', 'running', 'retrying', 'awaiting_approval', 'awaiting_answer', 'awaiting_callback', 'awaiting_children');

-- The record of every transition and of all output. One row, one number in each stream it belongs to.
CREATE TABLE events (
    job_id      uuid   NOT NULL,
    seq         bigint NOT NULL,
    session_id  uuid,
    session_seq bigint,
    ts          bigint NOT NULL,
    attempt     bigint NOT NULL,
    claim       bigint NOT NULL,
    type        text   NOT NULL,
    data        text   NOT NULL,
    PRIMARY KEY (job_id, seq)
);
CREATE UNIQUE INDEX events_by_session ON events (session_id, session_seq) WHERE session_id IS NOT NULL;

CREATE TABLE idempotency_keys (
    tenant      text   NOT NULL,
    owner       text   NOT NULL,
    key         text   NOT NULL,
    fingerprint text   NOT NULL,
    status      bigint NOT NULL,
    answer      text   NOT NULL,
    job_ids     text   NOT NULL, -- JSON array: the key lives at least as long as these
    created_at  bigint NOT NULL,
    expires_at  bigint NOT NULL,
    PRIMARY KEY (tenant, owner, key)
);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);

CREATE TABLE api_keys (
    id         uuid PRIMARY KEY,
    tenant     text   NOT NULL,
    name       text   NOT NULL,
    prefix     text   NOT NULL,
    hash       text   NOT NULL UNIQUE,
    scopes     text   NOT NULL,
    created_at bigint NOT NULL,
    revoked_at bigint
);
CREATE INDEX api_keys_by_prefix ON api_keys (prefix);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant, id);

CREATE TABLE workers (
    id          uuid PRIMARY KEY,
    host        text   NOT NULL,
    version     text   NOT NULL,
    queues      text   NOT NULL,
    kinds       text   NOT NULL,
    engines     text   NOT NULL,
    concurrency bigint NOT NULL,
    running     bigint NOT NULL,
    started_at  bigint NOT NULL,
    alive_until bigint NOT NULL,
    released_at bigint
);
CREATE INDEX workers_by_life ON workers (alive_until);
