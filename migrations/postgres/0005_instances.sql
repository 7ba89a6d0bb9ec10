-- Instances: bridges that run a prompt elsewhere and call back with what came of it. And tickets for streams.

CREATE TABLE instances (
    id              uuid PRIMARY KEY,
    tenant          text   NOT NULL,
    name            text   NOT NULL,
    user_id         text, -- whose alone it is; null: every user of the tenant may use it
    server_host     text, -- a name or an address, without a port
    host_port       bigint NOT NULL CHECK (host_port BETWEEN 1 AND 65535),
    status          text   NOT NULL CHECK (status IN ('starting', 'running', 'stopped', 'error')),
    callback_secret text, -- sealed: signs the bodies of its callbacks
    poll_seconds    bigint, -- how often it is asked for what it has not called back about; null: never
    created_at      bigint NOT NULL,
    updated_at      bigint NOT NULL
);
CREATE INDEX instances_by_tenant ON instances (tenant, id);
CREATE INDEX instances_by_user ON instances (tenant, user_id, id) WHERE user_id IS NOT NULL;

-- A conversation with an instance: its tasks go there, and no others join it.
ALTER TABLE sessions ADD COLUMN instance_id uuid;
CREATE INDEX sessions_by_instance ON sessions (instance_id, id) WHERE instance_id IS NOT NULL;

-- A job that waits for a callback.
ALTER TABLE jobs ADD COLUMN callback_until bigint; -- until when
ALTER TABLE jobs ADD COLUMN callback_poll_at bigint; -- when its bridge is asked next
ALTER TABLE jobs ADD COLUMN callback_poll_ms bigint; -- how long after that it is asked again
ALTER TABLE jobs ADD COLUMN callback_pieces bigint; -- how many numbered pieces of text came before the outcome
ALTER TABLE jobs ADD COLUMN callback_fingerprint text; -- SHA-256 of the callback that ended it, in hex
ALTER TABLE jobs ADD COLUMN callback_late_at bigint; -- when the first one came that was too late
CREATE INDEX jobs_calling_back ON jobs (callback_until) WHERE state = 'awaiting_callback';
CREATE INDEX jobs_polling ON jobs (callback_poll_at) WHERE state = 'awaiting_callback' AND callback_poll_at IS NOT NULL;

-- What must be the same each time an effect is sent, where its job alone does not say it.
ALTER TABLE effects ADD COLUMN request text;

-- Stand for a credential where a browser can't send it; each opens one stream.
CREATE TABLE stream_tickets (
    hash       text PRIMARY KEY, -- SHA-256 of the ticket, in hex
    caller     text   NOT NULL, -- JSON: whom it stands for
    expires_at bigint NOT NULL
);
CREATE INDEX stream_tickets_by_expiry ON stream_tickets (expires_at);
