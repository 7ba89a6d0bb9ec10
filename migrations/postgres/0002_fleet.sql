-- The fleet: workers that share queues, jobs that depend on jobs, and calls to the outside that leave receipts.

ALTER TABLE jobs ADD COLUMN payload_version bigint NOT NULL DEFAULT 1; -- of its kind's schema
ALTER TABLE jobs ADD COLUMN crashes bigint NOT NULL DEFAULT 0; -- workers lost while they ran it
ALTER TABLE jobs ADD COLUMN waits_for uuid; -- while blocked: the job with the same dedup key that must end first

-- Due jobs as workers read them without the queue: by tenant in turn, the urgent first, the oldest of those first.
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs (queue, tenant, priority, id) WHERE state = 'queued';
CREATE INDEX jobs_by_parent ON jobs (parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX jobs_live_children ON jobs (parent_id) WHERE parent_id IS NOT NULL AND finished_at IS NULL;
CREATE INDEX jobs_waiting ON jobs (waits_for) WHERE waits_for IS NOT NULL AND state = 'blocked';

-- What a dedup key stands for: the last job submitted under it. Whoever submits under the key holds the row.
CREATE TABLE dedup_keys (
    tenant     text   NOT NULL,
    kind       text   NOT NULL,
    key        text   NOT NULL,
    job_id     uuid   NOT NULL,
    keep_until bigint NOT NULL, -- further submissions fall to it at least until then
    look_at    bigint NOT NULL, -- when to see whether it can be forgotten
    PRIMARY KEY (tenant, kind, key)
);
CREATE INDEX dedup_keys_by_age ON dedup_keys (look_at);
ALTER TABLE idempotency_keys ADD COLUMN deduplicated text; -- JSON: the jobs it did not make, and what stood for each

-- Queues that hand nothing out: for one tenant, or, with an empty tenant, for everyone.
CREATE TABLE paused_queues (
    queue     text   NOT NULL,
    tenant    text   NOT NULL,
    paused_at bigint NOT NULL,
    PRIMARY KEY (queue, tenant)
);

-- Work that one process at a time does for all: who does it, and until when it may be taken for alive.
CREATE TABLE duties (
    name       text PRIMARY KEY,
    holder     uuid   NOT NULL,
    held_until bigint NOT NULL
);

-- Calls to the outside. The row is the intent, written before the call; a receipt says what came of it.
CREATE TABLE effects (
    job_id      uuid   NOT NULL,
    ordinal     bigint NOT NULL,
    key         text   NOT NULL, -- what the destination knows the call by; never changes
    kind        text   NOT NULL,
    destination text   NOT NULL,
    fingerprint text   NOT NULL, -- of what is sent: the key never stands for two different calls
    claim       bigint NOT NULL, -- the claim that intended it
    attempt     bigint NOT NULL,
    intent_at   bigint NOT NULL,
    receipt     text,            -- JSON: what the destination answered
    receipt_at  bigint,
    PRIMARY KEY (job_id, ordinal)
);

ALTER TABLE workers ADD COLUMN drain_asked_at bigint; -- somebody wants it to stop: an operator, or its supervisor
ALTER TABLE workers ADD COLUMN drainable bigint NOT NULL DEFAULT 1; -- 0: its process is more than a worker

-- Retention. Events are dropped from the beginning of a stream; a job goes when its stream is empty.
ALTER TABLE jobs ADD COLUMN first_seq bigint NOT NULL DEFAULT 1; -- number of the oldest event kept; above tail_seq if none is
ALTER TABLE sessions ADD COLUMN first_seq bigint NOT NULL DEFAULT 1;
CREATE INDEX jobs_with_events ON jobs (finished_at, id) WHERE finished_at IS NOT NULL AND first_seq <= tail_seq;
CREATE INDEX jobs_without_events ON jobs (finished_at, id) WHERE finished_at IS NOT NULL AND first_seq > tail_seq;
CREATE INDEX jobs_by_original ON jobs (retry_of) WHERE retry_of IS NOT NULL;
