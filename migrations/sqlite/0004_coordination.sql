-- Gateways and coordination: who is where, what was asked, answered, remembered, and done to whom.

-- Secrets are sealed by the keys of [secrets]; the key that sealed one is named in it.
CREATE TABLE gateways (
    id                     blob NOT NULL PRIMARY KEY,
    tenant                 text   NOT NULL,
    name                   text   NOT NULL,
    url                    text   NOT NULL,
    token                  text, -- sealed
    workspace_root         text   NOT NULL,
    disable_device_pairing integer NOT NULL,
    allow_insecure_tls     integer NOT NULL,
    device                 text, -- sealed: the identity this installation shows to it, and what it was given for that
    version                integer NOT NULL, -- grows with each change of how it is reached
    created_at             integer NOT NULL,
    updated_at             integer NOT NULL
);
CREATE INDEX gateways_by_tenant ON gateways (tenant, id);

CREATE TABLE boards (
    id          blob NOT NULL PRIMARY KEY,
    tenant      text   NOT NULL,
    name        text   NOT NULL,
    slug        text   NOT NULL,
    gateway_id  blob,
    paused      integer NOT NULL, -- 1: the last command in its chat was /pause
    tail_seq    integer NOT NULL, -- of its stream: memory and what becomes of questions
    created_at  integer NOT NULL,
    updated_at  integer NOT NULL,
    UNIQUE (tenant, slug)
);
CREATE INDEX boards_by_gateway ON boards (gateway_id, id) WHERE gateway_id IS NOT NULL;
CREATE INDEX boards_by_tenant ON boards (tenant, id);

CREATE TABLE agents (
    id               blob NOT NULL PRIMARY KEY,
    tenant           text   NOT NULL,
    gateway_id       blob   NOT NULL,
    board_id         blob,
    name             text   NOT NULL,
    role             text   NOT NULL CHECK (role IN ('main', 'lead', 'worker')),
    session_key      text   NOT NULL, -- in the gateway
    bound            integer NOT NULL, -- 1: the session was there before, and is never provisioned
    status           text   NOT NULL CHECK (status IN ('new', 'provisioning', 'updating', 'online', 'failed', 'deleting')),
    soul             text, -- what SOUL.md is meant to hold
    soul_hash        text, -- SHA-256 of what the gateway is known to hold, in hex
    token_hash       text, -- SHA-256 of the agent's token, in hex
    token_sealed     text, -- sealed; kept while it is on its way into the gateway
    generation       integer NOT NULL, -- of provisioning; grows with each that begins
    made_by          blob, -- the job it was made for
    provision_job    blob, -- the job that provisions it
    provision_error  text,
    provisioned_at   integer,
    last_seen_at     integer,
    created_at       integer NOT NULL,
    updated_at       integer NOT NULL
);
CREATE UNIQUE INDEX agents_one_main ON agents (gateway_id) WHERE role = 'main';
CREATE UNIQUE INDEX agents_one_lead ON agents (board_id) WHERE role = 'lead';
CREATE UNIQUE INDEX agents_by_token ON agents (token_hash) WHERE token_hash IS NOT NULL;
CREATE UNIQUE INDEX agents_by_session ON agents (gateway_id, session_key);
CREATE INDEX agents_by_board ON agents (board_id, id) WHERE board_id IS NOT NULL;
CREATE INDEX agents_by_provision ON agents (provision_job) WHERE provision_job IS NOT NULL;
CREATE INDEX agents_by_tenant ON agents (tenant, id);

-- What agents and people put on a board.
CREATE TABLE memories (
    id          blob NOT NULL PRIMARY KEY,
    tenant      text   NOT NULL,
    board_id    blob   NOT NULL,
    content     text   NOT NULL,
    tags        text   NOT NULL, -- JSON array
    source      text,
    is_chat     integer NOT NULL,
    agent_id    blob, -- who wrote it; null: a person or a key
    question_id blob, -- the question it answered
    created_at  integer NOT NULL
);
CREATE INDEX memories_by_board ON memories (board_id, id);

-- The numbered stream of a board.
CREATE TABLE board_events (
    board_id   blob   NOT NULL,
    seq        integer NOT NULL,
    ts         integer NOT NULL,
    job_id     blob, -- the job it is about
    type       text   NOT NULL,
    data       text   NOT NULL,
    PRIMARY KEY (board_id, seq)
);
CREATE INDEX board_events_by_age ON board_events (ts);

-- The audit of who did what to whom.
CREATE TABLE activities (
    id         blob NOT NULL PRIMARY KEY,
    tenant     text   NOT NULL,
    event_type text   NOT NULL,
    message    text   NOT NULL,
    agent_id   blob, -- the actor
    board_id   blob,
    job_id     blob,
    trace_id   text,
    created_at integer NOT NULL
);
CREATE INDEX activities_by_tenant ON activities (tenant, id);
CREATE INDEX activities_by_board ON activities (board_id, id) WHERE board_id IS NOT NULL;
CREATE INDEX activities_by_agent ON activities (agent_id, id) WHERE agent_id IS NOT NULL;

-- What a person is asked.
CREATE TABLE questions (
    id             blob NOT NULL PRIMARY KEY,
    tenant         text   NOT NULL,
    board_id       blob   NOT NULL,
    job_id         blob   NOT NULL UNIQUE,
    agent_id       blob, -- who asks
    content        text   NOT NULL,
    correlation_id text,
    reply_tags     text   NOT NULL, -- JSON array, sorted
    reply_source   text   NOT NULL,
    answer_schema  text, -- JSON Schema
    state          text   NOT NULL CHECK (state IN ('open', 'answered', 'expired', 'cancelled')),
    answer         text, -- JSON
    answered_by    text,
    memory_id      blob, -- the item that answered it
    reminders      integer NOT NULL,
    remind_at      integer,
    expires_at     integer NOT NULL,
    created_at     integer NOT NULL,
    ended_at       integer
);
CREATE INDEX questions_open ON questions (board_id, id) WHERE state = 'open';
CREATE INDEX questions_expiring ON questions (expires_at) WHERE state = 'open';
CREATE INDEX questions_reminding ON questions (remind_at) WHERE state = 'open' AND remind_at IS NOT NULL;
CREATE INDEX questions_by_tenant ON questions (tenant, id);

-- A job of coordination: what is told of it when it ends, and until when it may be delivered.
ALTER TABLE jobs ADD COLUMN told text; -- JSON: the activity that its end is
ALTER TABLE jobs ADD COLUMN told_at integer; -- when that was written
ALTER TABLE jobs ADD COLUMN window_ms integer; -- how long it may be tried, from the first send or from its making
ALTER TABLE jobs ADD COLUMN window_from_send integer; -- 1: from the first send
ALTER TABLE jobs ADD COLUMN window_put_off_ms integer; -- how long it was put off since its window began: that does not count
ALTER TABLE jobs ADD COLUMN first_sent_at integer;
