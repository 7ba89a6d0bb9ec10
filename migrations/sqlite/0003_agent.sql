-- Agent tasks, whole: who asked, what may be done, what it cost, and what engines must find again.

ALTER TABLE sessions ADD COLUMN user_id text; -- the user whose token opened it; null: a key did
CREATE INDEX sessions_by_user ON sessions (tenant, user_id, id) WHERE user_id IS NOT NULL;
ALTER TABLE messages ADD COLUMN attachments text; -- JSON array: hash, media type, name and size of each

ALTER TABLE jobs ADD COLUMN user_id text; -- the user who submitted it; null: a key did
ALTER TABLE jobs ADD COLUMN pending_attachments text; -- what comes with pending_message, as in messages
ALTER TABLE jobs ADD COLUMN metered integer NOT NULL DEFAULT 0; -- 1: its runs spend tokens, and one that dies leaves a record
ALTER TABLE jobs ADD COLUMN engine text; -- of a task: what its usage is booked on
ALTER TABLE jobs ADD COLUMN parked_seq integer; -- number of the last event before a run let go of its process to be resumed: what was said until then stands
ALTER TABLE jobs ADD COLUMN waited_until integer; -- until when the lease held as the last decision reached a holder that waited for it
ALTER TABLE jobs ADD COLUMN interruption text; -- what the task that gives way to it is told
CREATE INDEX jobs_by_user ON jobs (tenant, user_id, id) WHERE user_id IS NOT NULL;

-- Tool calls that waited, or wait, for a person.
CREATE TABLE approvals (
    id          blob NOT NULL PRIMARY KEY,
    tenant      text   NOT NULL,
    job_id      blob   NOT NULL,
    session_id  blob,
    claim       integer NOT NULL, -- the run that asked, or took the decision over
    ordinal     integer NOT NULL, -- its place among the job's
    call_id     text   NOT NULL, -- the engine's own id of the call
    tool        text   NOT NULL,
    input       text   NOT NULL,
    fingerprint text   NOT NULL, -- of tool and input: equal questions have equal answers
    state       text   NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'expired', 'withdrawn')),
    scope       text   NOT NULL CHECK (scope IN ('once', 'session')),
    message     text,
    decided_by  text,
    created_at  integer NOT NULL,
    expires_at  integer NOT NULL,
    decided_at  integer,
    taken_by    blob, -- the equal question of a later run that took the decision over
    UNIQUE (job_id, ordinal)
);
CREATE INDEX approvals_expiring ON approvals (expires_at) WHERE state = 'pending';
CREATE INDEX approvals_granted ON approvals (session_id, tool) WHERE state = 'approved' AND scope = 'session';

-- What an engine keeps of a conversation beyond its messages.
CREATE TABLE engine_states (
    session_id     blob   NOT NULL,
    engine         text   NOT NULL,
    engine_session text   NOT NULL, -- the engine's own id of the conversation
    content        text   NOT NULL,
    updated_at     integer NOT NULL,
    PRIMARY KEY (session_id, engine)
);

-- Contents of attachments, each once a tenant.
CREATE TABLE attachments (
    tenant     text   NOT NULL,
    hash       text   NOT NULL, -- SHA-256 of the content, in hex
    size       integer NOT NULL,
    base64     text   NOT NULL,
    created_at integer NOT NULL, -- or last sent again
    named      integer NOT NULL, -- 1: a task came with it
    PRIMARY KEY (tenant, hash)
);
CREATE INDEX attachments_unnamed ON attachments (created_at) WHERE named = 0;

-- What runs spent: at most one record a claim.
CREATE TABLE usage_records (
    id                 blob NOT NULL PRIMARY KEY,
    tenant             text   NOT NULL,
    job_id             blob   NOT NULL,
    claim              integer NOT NULL,
    session_id         blob,
    user_id            text,
    engine             text   NOT NULL,
    model              text,
    attempt            integer NOT NULL,
    input_tokens       integer NOT NULL,
    output_tokens      integer NOT NULL,
    cache_read_tokens  integer NOT NULL,
    cache_write_tokens integer NOT NULL,
    cost_nano_usd      integer, -- null: nobody knows
    cost_basis         text,
    unknown            integer NOT NULL, -- 1: the run died, or was cut off, before all of it was known
    created_at         integer NOT NULL,
    UNIQUE (job_id, claim)
);
CREATE INDEX usage_records_by_time ON usage_records (tenant, created_at);
CREATE INDEX usage_records_by_session ON usage_records (session_id) WHERE session_id IS NOT NULL;

-- What tenants chose.
CREATE TABLE preferences (
    tenant     text   NOT NULL,
    name       text   NOT NULL,
    value      text   NOT NULL,
    updated_at integer NOT NULL,
    PRIMARY KEY (tenant, name)
);
