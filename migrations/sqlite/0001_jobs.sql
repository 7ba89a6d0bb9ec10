-- Facts about the database itself. `epoch` is one random value: a new one tells watchers that numbers start over.
CREATE TABLE meta (
    key   text NOT NULL PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO meta (key, value) VALUES ('epoch', lower(hex(randomblob(16))));

CREATE TABLE sessions (
    id            blob NOT NULL PRIMARY KEY,
    tenant        text   NOT NULL,
    status        text   NOT NULL CHECK (status IN ('active', 'closed')),
    engine        text   NOT NULL,
    system_prompt text,
    metadata      text   NOT NULL,
    created_at    integer NOT NULL,
    updated_at    integer NOT NULL,
    tail_seq      integer NOT NULL, -- number of the last event of the session's stream
    tail_message  integer NOT NULL  -- ordinal of the last message
);
CREATE INDEX sessions_by_tenant ON sessions (tenant, id);

CREATE TABLE messages (
    session_id blob   NOT NULL,
    ordinal    integer NOT NULL,
    id         blob   NOT NULL,
    job_id     blob,
    role       text   NOT NULL CHECK (role IN ('user', 'assistant')),
    content    text   NOT NULL,
    created_at integer NOT NULL,
    PRIMARY KEY (session_id, ordinal)
) WITHOUT ROWID;

CREATE TABLE jobs (
    id              blob NOT NULL PRIMARY KEY,
    tenant          text   NOT NULL,
    kind            text   NOT NULL,
    queue           text   NOT NULL,
    state           text   NOT NULL CHECK (state IN (
        'scheduled', 'queued', 'blocked', 'awaiting_children', 'running', 'retrying', 'awaiting_approval',
        'awaiting_answer', 'awaiting_callback', 'completed', 'partial', 'failed', 'cancelled', 'expired')),
    priority        integer NOT NULL CHECK (priority BETWEEN 0 AND 3),
    attempt         integer NOT NULL,
    max_attempts    integer NOT NULL,
    backoff_base_ms integer NOT NULL,
    backoff_cap_ms  integer NOT NULL,
    timeout_ms      integer,
    payload         text   NOT NULL,
    result          text,
    failure         text,
    progress        text,
    metadata        text,
    session_id      blob,
    on_busy         text,   -- what it does when it comes due and its session is busy
    position        integer, -- place in its session's line while blocked
    pending_message text,   -- what its user says; moves to the messages once it is its session's active task
    parent_id       blob,
    retry_of        blob,
    dedup_key       text,
    claim           integer NOT NULL, -- grows with each claim; with lease_token it is the fence
    lease_token     blob,
    lease_until     integer, -- set while a holder may write; on a finished job until its holder has released it
    worker_id       blob,
    run_at          integer NOT NULL,
    expires_at      integer,
    deadline        integer,
    created_at      integer NOT NULL,
    claimed_at      integer,
    started_at      integer,
    finished_at     integer,
    snoozed_since   integer, -- set while its runs have done nothing but put it off
    cut_off_at      integer, -- when a run of it last ended without a word: what it had done by then is not known
    text_from       integer, -- number of the first text event that stands
    version         integer NOT NULL,
    tail_seq        integer NOT NULL -- number of the last event of the job's stream
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
    job_id      blob   NOT NULL,
    seq         integer NOT NULL,
    session_id  blob,
    session_seq integer,
    ts          integer NOT NULL,
    attempt     integer NOT NULL,
    claim       integer NOT NULL,
    type        text   NOT NULL,
    data        text   NOT NULL,
    PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_session ON events (session_id, session_seq) WHERE session_id IS NOT NULL;

CREATE TABLE idempotency_keys (
    tenant      text   NOT NULL,
    owner       text   NOT NULL,
    key         text   NOT NULL,
    fingerprint text   NOT NULL,
    status      integer NOT NULL,
    answer      text   NOT NULL,
    job_ids     text   NOT NULL, -- JSON array: the key lives at least as long as these
    created_at  integer NOT NULL,
    expires_at  integer NOT NULL,
    PRIMARY KEY (tenant, owner, key)
);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);

CREATE TABLE api_keys (
    id         blob NOT NULL PRIMARY KEY,
    tenant     text   NOT NULL,
    name       text   NOT NULL,
    prefix     text   NOT NULL,
    hash       text   NOT NULL UNIQUE,
    scopes     text   NOT NULL,
    created_at integer NOT NULL,
    revoked_at integer
);
CREATE INDEX api_keys_by_prefix ON api_keys (prefix);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant, id);

CREATE TABLE workers (
    id          blob NOT NULL PRIMARY KEY,
    host        text   NOT NULL,
    version     text   NOT NULL,
    queues      text   NOT NULL,
    kinds       text   NOT NULL,
    engines     text   NOT NULL,
    concurrency integer NOT NULL,
    running     integer NOT NULL,
    started_at  integer NOT NULL,
    alive_until integer NOT NULL,
    released_at integer
);
CREATE INDEX workers_by_life ON workers (alive_until);
