//! Every statement of the store, written once for both databases (see `dialect` for the words in braces); those about
//! gateways, boards and agents, and about webhooks, in files of their own.
//!
//! In `(column = $2 OR $2 IS NULL)` the comparison comes first: PostgreSQL takes the parameter's type from it.

use super::dialect::Sql;

/// Statements by name, and the list of all for the test that prepares each on both databases.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $($text:expr),+;)+) => {
        $($(#[$doc])* pub(in crate::adapter::sql) static $name: Sql = Sql::new(concat!($($text),+));)+
        pub(in crate::adapter::sql) static ALL: &[(&str, &Sql)] = &[$((stringify!($name), &$name)),+];
    };
}

/// All columns of a job but its payload, which only claims and single reads need.
macro_rules! job_columns {
    () => {
        "id, tenant, kind, queue, state, priority, attempt, max_attempts, backoff_base_ms, backoff_cap_ms, timeout_ms, \
         result, failure, progress, metadata, session_id, on_busy, position, pending_message, parent_id, retry_of, \
         dedup_key, claim, lease_token, lease_until, worker_id, run_at, expires_at, deadline, created_at, claimed_at, \
         started_at, finished_at, snoozed_since, cut_off_at, text_from, payload_version, \
         crashes, waits_for, user_id, engine, metered, interruption, pending_attachments, parked_seq, \
         waited_until, told, told_at, window_ms, window_from_send, window_put_off_ms, first_sent_at, callback_until, \
         callback_poll_at, callback_poll_ms, callback_pieces, callback_fingerprint, callback_late_at, traceparent, \
         tracestate, version, tail_seq"
    };
}

/// All columns of an effect.
macro_rules! effect_columns {
    () => {
        "job_id, ordinal, key, kind, destination, fingerprint, request, claim, attempt, intent_at, receipt, receipt_at"
    };
}

/// All columns of an approval.
macro_rules! approval_columns {
    () => {
        "id, tenant, job_id, session_id, claim, ordinal, call_id, tool, input, fingerprint, state, scope, message, \
         decided_by, created_at, expires_at, decided_at, taken_by"
    };
}

/// The states that occupy a session: the predicate of `jobs_active_in_session`, word for word, so that it is used.
macro_rules! active {
    () => {
        "state IN ('queued', 'running', 'retrying', 'awaiting_approval', 'awaiting_answer', 'awaiting_callback', \
         'awaiting_children')"
    };
}

/// The predicate of `jobs_unsuccessful`, word for word, so that it is used.
macro_rules! unsuccessful {
    () => {
        "state IN ('partial', 'failed', 'cancelled', 'expired')"
    };
}

/// Nobody has paused the queue of this row, neither for its tenant nor for everyone.
macro_rules! unpaused {
    ($row:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM paused_queues p WHERE p.queue = ",
            $row,
            ".queue AND p.tenant IN ('', ",
            $row,
            ".tenant))"
        )
    };
}

/// What was spent by those records.
macro_rules! spent {
    ($whose:literal, $which:literal) => {
        concat!(
            "SELECT '",
            $whose,
            "' AS whose, CAST(coalesce(sum(input_tokens + output_tokens), 0) AS bigint) AS tokens, \
             CAST(coalesce(sum(cost_nano_usd), 0) AS bigint) AS cost FROM usage_records WHERE ",
            $which
        )
    };
}

/// The value of the group that a parameter names: days as their number since 1970.
macro_rules! usage_key {
    ($group:literal) => {
        concat!(
            "CASE ",
            $group,
            " WHEN 'day' THEN CAST(created_at / 86400000000 AS text) WHEN 'engine' THEN engine \
             WHEN 'model' THEN coalesce(model, '') WHEN 'session' THEN coalesce({hex: session_id}, '') \
             WHEN 'user' THEN coalesce(user_id, '') ELSE '' END"
        )
    };
}

/// Sums of the records of an index range.
macro_rules! usage_sums {
    ($range:literal) => {
        concat!(
            "SELECT g1, g2, g3, g4, g5, count(*) AS records, CAST(sum(unknown) AS bigint) AS unknown, \
             CAST(sum(input_tokens) AS bigint) AS input_tokens, CAST(sum(output_tokens) AS bigint) AS output_tokens, \
             CAST(sum(cache_read_tokens) AS bigint) AS cache_read_tokens, \
             CAST(sum(cache_write_tokens) AS bigint) AS cache_write_tokens, \
             CAST(coalesce(sum(cost_nano_usd), 0) AS bigint) AS cost_nano_usd, \
             CAST(sum(CASE WHEN cost_nano_usd IS NULL AND input_tokens + output_tokens > 0 THEN 1 ELSE 0 END) AS bigint) \
             AS unpriced FROM (SELECT u.*, ",
            usage_key!("$5"),
            " AS g1, ",
            usage_key!("$6"),
            " AS g2, ",
            usage_key!("$7"),
            " AS g3, ",
            usage_key!("$8"),
            " AS g4, ",
            usage_key!("$9"),
            " AS g5 FROM usage_records u WHERE ",
            $range,
            " AND created_at >= $2 AND created_at < $3 AND (user_id = $4 OR $4 IS NULL)) AS g \
             GROUP BY g1, g2, g3, g4, g5 ORDER BY g1, g2, g3, g4, g5 LIMIT $10"
        )
    };
}

pub(super) mod coordination;
pub(super) mod instance;
pub(super) mod webhook;

statements! {
    EPOCH = "SELECT value FROM meta WHERE key = 'epoch'";
    RENEW_EPOCH = "UPDATE meta SET value = $1 WHERE key = 'epoch'";
    NOW = "SELECT {now} AS now";
    SEALING_KEY = "SELECT value FROM meta WHERE key = 'sealing_key'";
    KEEP_SEALING_KEY = "INSERT INTO meta (key, value) VALUES ('sealing_key', $1) ON CONFLICT (key) DO NOTHING";

    // Jobs: lock, insert, save.

    /// $1 rows of ids.
    LOCK_JOBS = "SELECT ", job_columns!(), ", NULL AS payload, {now} AS db_now FROM jobs \
        WHERE id IN (SELECT r.id FROM {rows: id uuid}) ORDER BY id {for update}";
    /// $1 rows of ids. Those another transaction holds are left to it.
    LOCK_FREE_JOBS = "SELECT ", job_columns!(), ", NULL AS payload, {now} AS db_now FROM jobs \
        WHERE id IN (SELECT r.id FROM {rows: id uuid}) ORDER BY id {skip locked}";
    /// As `LOCK_FREE_JOBS`, with what a handler needs, but for those whose queue is paused: so that a pause holds from the
    /// next claim on.
    LOCK_FREE_JOBS_WHOLE = "SELECT ", job_columns!(), ", payload, {now} AS db_now FROM jobs \
        WHERE id IN (SELECT r.id FROM {rows: id uuid}) AND ", unpaused!("jobs"), " ORDER BY id {skip locked}";
    /// $1 rows of ids, as they are, without a lock.
    SEE_JOBS = "SELECT ", job_columns!(), ", NULL AS payload, {now} AS db_now FROM jobs \
        WHERE id IN (SELECT r.id FROM {rows: id uuid})";
    /// $1 rows of ids.
    PAYLOADS = "SELECT id, payload FROM jobs WHERE id IN (SELECT r.id FROM {rows: id uuid})";
    INSERT_JOBS = "INSERT INTO jobs (id, tenant, kind, queue, state, priority, attempt, max_attempts, backoff_base_ms, \
        backoff_cap_ms, timeout_ms, payload, metadata, session_id, on_busy, position, pending_message, parent_id, \
        retry_of, dedup_key, payload_version, waits_for, user_id, engine, metered, interruption, pending_attachments, told, window_ms, window_from_send, claim, run_at, \
        expires_at, deadline, created_at, started_at, traceparent, tracestate, version, tail_seq) \
        SELECT id, tenant, kind, queue, state, priority, attempt, max_attempts, backoff_base_ms, backoff_cap_ms, \
        timeout_ms, payload, metadata, session_id, on_busy, position, pending_message, parent_id, retry_of, dedup_key, \
        payload_version, waits_for, user_id, engine, metered, interruption, pending_attachments, told, window_ms, window_from_send, 0, run_at, \
        expires_at, deadline, created_at, started_at, traceparent, tracestate, 1, tail_seq \
        FROM {rows: id uuid, tenant text, kind text, queue text, state text, priority int, attempt int, max_attempts int, \
        backoff_base_ms int, backoff_cap_ms int, timeout_ms int, payload text, metadata text, session_id uuid, \
        on_busy text, position int, pending_message text, parent_id uuid, retry_of uuid, dedup_key text, payload_version int, waits_for uuid, \
        user_id text, engine text, metered int, interruption text, pending_attachments text, told text, window_ms int, \
        window_from_send int, run_at int, expires_at int, deadline int, created_at int, started_at int, traceparent text, \
        tracestate text, tail_seq int}";
    /// Writes back what was loaded under a lock; `version` is the belt to those braces.
    SAVE_JOBS = "UPDATE jobs SET state = r.state, attempt = r.attempt, result = r.result, failure = r.failure, \
        progress = r.progress, position = r.position, pending_message = r.pending_message, claim = r.claim, \
        lease_token = r.lease_token, lease_until = r.lease_until, worker_id = r.worker_id, run_at = r.run_at, \
        claimed_at = r.claimed_at, started_at = r.started_at, finished_at = r.finished_at, \
        snoozed_since = r.snoozed_since, cut_off_at = r.cut_off_at, text_from = r.text_from, crashes = r.crashes, \
        waits_for = r.waits_for, pending_attachments = r.pending_attachments, parked_seq = r.parked_seq, waited_until = r.waited_until, \
        told_at = r.told_at, window_put_off_ms = r.window_put_off_ms, first_sent_at = r.first_sent_at, \
        callback_until = r.callback_until, callback_poll_at = r.callback_poll_at, callback_poll_ms = r.callback_poll_ms, \
        callback_pieces = r.callback_pieces, callback_fingerprint = r.callback_fingerprint, callback_late_at = r.callback_late_at, \
        version = r.old_version + 1, tail_seq = r.tail_seq FROM {rows: id uuid, state text, attempt int, result text, failure text, progress text, position int, \
        pending_message text, claim int, lease_token uuid, lease_until int, worker_id uuid, run_at int, claimed_at int, \
        started_at int, finished_at int, snoozed_since int, cut_off_at int, text_from int, crashes int, waits_for uuid, \
        pending_attachments text, parked_seq int, waited_until int, told_at int, window_put_off_ms int, first_sent_at int, \
        callback_until int, callback_poll_at int, callback_poll_ms int, callback_pieces int, callback_fingerprint text, \
        callback_late_at int, old_version int, tail_seq int} \
        WHERE jobs.id = r.id AND jobs.version = r.old_version";
    /// The part of `SAVE_JOBS` that appending changes.
    SAVE_TAILS = "UPDATE jobs SET progress = r.progress, text_from = r.text_from, version = r.old_version + 1, \
        tail_seq = r.tail_seq FROM {rows: id uuid, progress text, text_from int, old_version int, tail_seq int} \
        WHERE jobs.id = r.id AND jobs.version = r.old_version";
    /// The part that a later submission under the same dedup key replaces.
    REPLACE_JOBS = "UPDATE jobs SET queue = r.queue, priority = r.priority, max_attempts = r.max_attempts, \
        backoff_base_ms = r.backoff_base_ms, backoff_cap_ms = r.backoff_cap_ms, timeout_ms = r.timeout_ms, \
        payload = r.payload, payload_version = r.payload_version, metadata = r.metadata, run_at = r.run_at, \
        expires_at = r.expires_at, deadline = r.deadline, version = r.old_version + 1, tail_seq = r.tail_seq \
        FROM {rows: id uuid, queue text, priority int, max_attempts int, backoff_base_ms int, backoff_cap_ms int, \
        timeout_ms int, payload text, payload_version int, metadata text, run_at int, expires_at int, deadline int, \
        old_version int, tail_seq int} WHERE jobs.id = r.id AND jobs.version = r.old_version";
    /// $1 rows of fences, $2 the lease in microseconds. `RETURNING` can't see `r` on SQLite.
    RENEW = "UPDATE jobs SET lease_until = {now} + $2 FROM {rows: id uuid, claim int, token uuid} \
        WHERE jobs.id = r.id AND jobs.claim = r.claim AND jobs.lease_token = r.token AND jobs.finished_at IS NULL \
        AND jobs.lease_until IS NOT NULL RETURNING jobs.id, jobs.claim, jobs.lease_until";

    // Sessions and their lines.

    /// $1 rows of ids.
    LOCK_SESSIONS = "SELECT id, tenant, user_id, instance_id, status, tail_seq, tail_message FROM sessions \
        WHERE id IN (SELECT r.id FROM {rows: id uuid}) ORDER BY id {for update}";
    /// $1 rows of job ids.
    LOCK_SESSIONS_OF = "SELECT id, tenant, user_id, instance_id, status, tail_seq, tail_message FROM sessions WHERE id IN \
        (SELECT session_id FROM jobs WHERE session_id IS NOT NULL AND id IN (SELECT r.id FROM {rows: id uuid})) \
        ORDER BY id {for update}";
    INSERT_SESSIONS = "INSERT INTO sessions (id, tenant, user_id, instance_id, status, engine, system_prompt, metadata, created_at, updated_at, \
        tail_seq, tail_message) SELECT id, tenant, user_id, instance_id, 'active', engine, system_prompt, metadata, at, at, tail_seq, tail_message \
        FROM {rows: id uuid, tenant text, user_id text, instance_id uuid, engine text, system_prompt text, metadata text, at int, tail_seq int, \
        tail_message int}";
    SAVE_SESSIONS = "UPDATE sessions SET tail_seq = r.tail_seq, tail_message = r.tail_message, updated_at = r.at \
        FROM {rows: id uuid, tail_seq int, tail_message int, at int} WHERE sessions.id = r.id";
    CLOSE_SESSION = "UPDATE sessions SET status = 'closed', updated_at = $3 WHERE tenant = $1 AND id = $2";
    /// $1 rows of session ids: what is in the way of each line, and its two ends. Each lookup has an index of its own.
    LINES = "SELECT (SELECT a.id FROM jobs a WHERE a.session_id = r.id AND a.", active!(), ") AS active, \
        (SELECT count(*) FROM jobs h WHERE h.session_id = r.id AND h.finished_at IS NOT NULL \
        AND h.lease_until IS NOT NULL) AS unreleased, \
        (SELECT b.id FROM jobs b WHERE b.session_id = r.id AND b.state = 'blocked' ORDER BY b.position LIMIT 1) AS next, \
        (SELECT min(b.position) FROM jobs b WHERE b.session_id = r.id AND b.state = 'blocked') AS first, \
        (SELECT max(b.position) FROM jobs b WHERE b.session_id = r.id AND b.state = 'blocked') AS last \
        FROM {rows: id uuid}";
    /// $1 rows of session ids: those where anybody waits. Most have nobody, and this is the cheapest way to find out.
    WAITING_SESSIONS = "SELECT r.id AS session_id FROM {rows: id uuid} \
        WHERE EXISTS (SELECT 1 FROM jobs b WHERE b.session_id = r.id AND b.state = 'blocked')";
    /// $1 after this session, $2 limit: sessions where somebody waits, and whether it is for nobody.
    BLOCKED_SESSIONS = "WITH RECURSIVE waiting(session_id, place) AS (\
        SELECT (SELECT b.session_id FROM jobs b WHERE b.state = 'blocked' AND b.session_id > $1 \
        ORDER BY b.session_id LIMIT 1), CAST(1 AS bigint) UNION ALL \
        SELECT (SELECT b.session_id FROM jobs b WHERE b.state = 'blocked' AND b.session_id > w.session_id \
        ORDER BY b.session_id LIMIT 1), w.place + 1 FROM waiting w WHERE w.session_id IS NOT NULL AND w.place < $2) \
        SELECT w.session_id, CAST(CASE WHEN EXISTS (SELECT 1 FROM jobs a WHERE a.session_id = w.session_id AND a.", active!(), ") \
        OR EXISTS (SELECT 1 FROM jobs h WHERE h.session_id = w.session_id AND h.finished_at IS NOT NULL \
        AND h.lease_until IS NOT NULL) THEN 0 ELSE 1 END AS bigint) AS free \
        FROM waiting w WHERE w.session_id IS NOT NULL ORDER BY w.session_id";

    // Parents, children, successors.

    /// $1 rows of parents' ids: those that no child is left of that goes on.
    CHILDREN_ENDED = "SELECT r.id FROM {rows: id uuid} \
        WHERE NOT EXISTS (SELECT 1 FROM jobs c WHERE c.parent_id = r.id AND c.finished_at IS NULL)";
    /// $1 rows of parents' ids: their children, counted by state.
    CHILDREN = "SELECT parent_id, state, count(*) AS jobs FROM jobs WHERE parent_id IN (SELECT r.id FROM {rows: id uuid}) \
        GROUP BY parent_id, state ORDER BY parent_id, state";
    LIVE_CHILDREN = "SELECT id FROM jobs WHERE parent_id = $1 AND finished_at IS NULL";
    /// $1 rows of job ids: those that wait for their ends.
    SUCCESSORS = "SELECT id FROM jobs WHERE state = 'blocked' AND waits_for IS NOT NULL \
        AND waits_for IN (SELECT r.id FROM {rows: id uuid})";
    /// $1 limit. Of those that wait for the oldest jobs, those that wait for nobody: one that was forgotten gets there in time.
    STUCK_SUCCESSORS = "SELECT s.id FROM (SELECT id, waits_for FROM jobs WHERE state = 'blocked' \
        AND waits_for IS NOT NULL ORDER BY waits_for LIMIT $1) AS s \
        WHERE NOT EXISTS (SELECT 1 FROM jobs p WHERE p.id = s.waits_for AND p.finished_at IS NULL)";

    // Dedup keys.

    /// $1 rows of keys: makes those that are new, and locks all of them in order.
    HOLD_DEDUP = "INSERT INTO dedup_keys (tenant, kind, key, job_id, keep_until, look_at) \
        SELECT tenant, kind, key, job_id, keep_until, look_at \
        FROM {rows: tenant text, kind text, key text, job_id uuid, keep_until int, look_at int} WHERE true \
        ORDER BY tenant, kind, key ON CONFLICT (tenant, kind, key) DO UPDATE SET key = excluded.key \
        RETURNING tenant, kind, key, job_id, keep_until";
    SAVE_DEDUP = "UPDATE dedup_keys SET job_id = r.job_id, keep_until = r.keep_until, look_at = r.look_at \
        FROM {rows: tenant text, kind text, key text, job_id uuid, keep_until int, look_at int} \
        WHERE dedup_keys.tenant = r.tenant AND dedup_keys.kind = r.kind AND dedup_keys.key = r.key";
    FORGET_DEDUP = "DELETE FROM dedup_keys WHERE (tenant, kind, key) IN \
        (SELECT r.tenant, r.kind, r.key FROM {rows: tenant text, kind text, key text})";
    /// $1 now: a row if there is anything to look at.
    ANY_STALE_DEDUP = "SELECT 1 AS found WHERE EXISTS (SELECT 1 FROM dedup_keys WHERE look_at <= $1)";
    /// $1 now, $2 limit.
    STALE_DEDUP = "SELECT tenant, kind, key, job_id FROM dedup_keys WHERE look_at <= $1 ORDER BY look_at LIMIT $2 {skip locked}";
    /// $1 rows of keys, $2 when to look at them again.
    POSTPONE_DEDUP = "UPDATE dedup_keys SET look_at = $2 WHERE (tenant, kind, key) IN \
        (SELECT r.tenant, r.kind, r.key FROM {rows: tenant text, kind text, key text})";

    // Messages.

    INSERT_MESSAGES = "INSERT INTO messages (session_id, ordinal, id, job_id, role, content, attachments, created_at) \
        SELECT session_id, ordinal, id, job_id, role, content, attachments, at FROM {rows: session_id uuid, ordinal int, id uuid, \
        job_id uuid, role text, content text, attachments text, at int}";
    MESSAGES = "SELECT session_id, ordinal, id, job_id, role, content, attachments, created_at FROM messages \
        WHERE session_id = $1 AND ordinal > $2 ORDER BY ordinal LIMIT $3";
    /// $1 session, $2 a pattern that its attachments' text fits.
    SESSION_ATTACHMENT = "SELECT attachments FROM messages \
        WHERE session_id = $1 AND attachments LIKE $2 ORDER BY ordinal DESC LIMIT 1";
    /// $1 session, $2 the job whose own messages are left out, $3 limit.
    HISTORY = "SELECT session_id, ordinal, id, job_id, role, content, attachments, created_at FROM messages \
        WHERE session_id = $1 AND (job_id IS NULL OR job_id <> $2) ORDER BY ordinal DESC LIMIT $3";

    // Events.

    INSERT_EVENTS = "INSERT INTO events (job_id, seq, session_id, session_seq, ts, attempt, claim, type, data) \
        SELECT job_id, seq, session_id, session_seq, ts, attempt, claim, type, data \
        FROM {rows: job_id uuid, seq int, session_id uuid, session_seq int, ts int, attempt int, claim int, type text, data text}";
    JOB_EVENTS = "SELECT job_id, seq, session_id, session_seq, ts, attempt, type, data FROM events \
        WHERE job_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    SESSION_EVENTS = "SELECT job_id, seq, session_id, session_seq, ts, attempt, type, data FROM events \
        WHERE session_id = $1 AND session_seq > $2 ORDER BY session_seq LIMIT $3";
    TIMELINE = "SELECT job_id, seq, session_id, session_seq, ts, attempt, type, data FROM events \
        WHERE job_id = $1 AND type NOT IN ('text', 'thinking', 'tool_use', 'tool_result', 'progress', 'oauth_prompt') \
        ORDER BY seq LIMIT $2";
    /// $1 job, $2 limit: what was said of its failed attempts, the last first.
    RETRYING = "SELECT ts, data FROM events WHERE job_id = $1 AND type = 'retrying' ORDER BY seq DESC LIMIT $2";
    /// $1 job, $2 first number: text, and what was retracted of it.
    TEXT = "SELECT seq, type, data FROM events WHERE job_id = $1 AND seq >= $2 AND type IN ('text', 'text_retracted') ORDER BY seq";
    /// $1 job, $2 number: a row if text was shown after it.
    TEXT_AFTER = "SELECT 1 AS found WHERE EXISTS (SELECT 1 FROM events WHERE job_id = $1 AND seq > $2 AND type = 'text')";
    JOB_TAILS = "SELECT id, tenant, first_seq, tail_seq, finished_at FROM jobs \
        WHERE id IN (SELECT r.id FROM {rows: id uuid})";
    SESSION_TAILS = "SELECT id, tenant, first_seq, tail_seq, NULL AS finished_at FROM sessions \
        WHERE id IN (SELECT r.id FROM {rows: id uuid})";

    // Effects.

    /// $1 rows. One that is there is intended anew: its receipt said that it had failed.
    SAVE_INTENTS = "INSERT INTO effects (", effect_columns!(), ") SELECT ", effect_columns!(), " \
        FROM {rows: job_id uuid, ordinal int, key text, kind text, destination text, fingerprint text, request text, claim int, \
        attempt int, intent_at int, receipt text, receipt_at int} WHERE true ON CONFLICT (job_id, ordinal) DO UPDATE SET \
        claim = excluded.claim, attempt = excluded.attempt, intent_at = excluded.intent_at, receipt = excluded.receipt, \
        receipt_at = excluded.receipt_at";
    /// $1 rows of receipts.
    SAVE_RECEIPTS = "UPDATE effects SET receipt = r.receipt, receipt_at = r.at \
        FROM {rows: job_id uuid, ordinal int, receipt text, at int} \
        WHERE effects.job_id = r.job_id AND effects.ordinal = r.ordinal";
    /// $1 rows of job ids and ordinals.
    EFFECTS_BY_ID = "SELECT ", effect_columns!(), " FROM effects WHERE (job_id, ordinal) IN \
        (SELECT r.job_id, r.ordinal FROM {rows: job_id uuid, ordinal int})";
    /// $1 rows of job ids.
    EFFECTS_OF_JOBS = "SELECT ", effect_columns!(), " FROM effects WHERE job_id IN (SELECT r.id FROM {rows: id uuid})";
    /// $1 job, $2 limit.
    EFFECTS = "SELECT ", effect_columns!(), " FROM effects WHERE job_id = $1 ORDER BY ordinal LIMIT $2";
    /// $1 job.
    EFFECT_IN_DOUBT = "SELECT ordinal FROM effects WHERE job_id = $1 AND receipt IS NULL LIMIT 1";

    // Approvals. Whoever writes them holds their job.

    INSERT_APPROVALS = "INSERT INTO approvals (id, tenant, job_id, session_id, claim, ordinal, call_id, tool, input, fingerprint, \
        state, scope, created_at, expires_at) SELECT id, tenant, job_id, session_id, claim, ordinal, call_id, tool, input, \
        fingerprint, 'pending', 'once', at, expires_at FROM {rows: id uuid, tenant text, job_id uuid, session_id uuid, claim int, \
        ordinal int, call_id text, tool text, input text, fingerprint text, at int, expires_at int}";
    /// $1 rows of decisions, $2 now.
    DECIDE_APPROVALS = "UPDATE approvals SET state = r.state, scope = r.scope, message = r.message, decided_by = r.decided_by, \
        decided_at = $2 FROM {rows: id uuid, state text, scope text, message text, decided_by text} \
        WHERE approvals.id = r.id AND approvals.state = 'pending'";
    /// $1 rows: the claims and questions that decisions are taken over by.
    TAKE_APPROVALS = "UPDATE approvals SET claim = r.claim, taken_by = r.taken_by \
        FROM {rows: id uuid, claim int, taken_by uuid} WHERE approvals.id = r.id";
    /// $1 rows of job ids.
    PENDING_APPROVALS = "SELECT ", approval_columns!(), " FROM approvals WHERE state = 'pending' \
        AND job_id IN (SELECT r.id FROM {rows: id uuid}) ORDER BY job_id, ordinal";
    /// $1 rows of questions' ids, $2 job: those it asked under these ids, or answered by what was decided before.
    ASKED_APPROVALS = "SELECT ", approval_columns!(), " FROM approvals WHERE job_id = $2 \
        AND (id IN (SELECT r.id FROM {rows: id uuid}) OR taken_by IN (SELECT r.id FROM {rows: id uuid})) ORDER BY ordinal";
    /// $1 rows of fingerprints, $2 job, $3 claim: what was decided for claims before it, and not taken over by it.
    RECORDED_APPROVALS = "SELECT ", approval_columns!(), " FROM approvals WHERE job_id = $2 AND claim < $3 \
        AND state IN ('approved', 'denied', 'expired') AND fingerprint IN (SELECT r.fingerprint FROM {rows: fingerprint text}) \
        ORDER BY ordinal";
    /// $1 job.
    LAST_APPROVAL = "SELECT coalesce(max(ordinal), 0) AS ordinal FROM approvals WHERE job_id = $1";
    /// $1 rows of tools, $2 session: those that were approved for all of it.
    GRANTED_TOOLS = "SELECT r.tool FROM {rows: tool text} WHERE EXISTS (SELECT 1 FROM approvals a \
        WHERE a.session_id = $2 AND a.tool = r.tool AND a.state = 'approved' AND a.scope = 'session')";
    /// $1 now, $2 limit.
    EXPIRING_APPROVALS = "SELECT id, job_id FROM approvals WHERE state = 'pending' AND expires_at <= $1 \
        ORDER BY expires_at LIMIT $2";
    /// $1 tenant, $2 job, $3 limit.
    APPROVALS = "SELECT ", approval_columns!(), " FROM approvals WHERE tenant = $1 AND job_id = $2 ORDER BY ordinal LIMIT $3";
    /// $1 rows of job ids.
    DELETE_APPROVALS = "DELETE FROM approvals WHERE job_id IN (SELECT r.id FROM {rows: id uuid})";

    // What engines must find again.

    ENGINE_STATE = "SELECT engine, engine_session, content FROM engine_states WHERE session_id = $1 AND engine = $2";
    SAVE_ENGINE_STATE = "INSERT INTO engine_states (session_id, engine, engine_session, content, updated_at) \
        VALUES ($1, $2, $3, $4, {now}) ON CONFLICT (session_id, engine) DO UPDATE SET \
        engine_session = excluded.engine_session, content = excluded.content, updated_at = excluded.updated_at";

    // Attachments.

    /// $1 tenant, $2 hash, $3 now.
    TOUCH_ATTACHMENT = "UPDATE attachments SET created_at = $3 WHERE tenant = $1 AND hash = $2";
    INSERT_ATTACHMENT = "INSERT INTO attachments (tenant, hash, size, base64, created_at, named) VALUES ($1, $2, $3, $4, $5, 0) \
        ON CONFLICT (tenant, hash) DO UPDATE SET created_at = excluded.created_at";
    /// $1 rows of hashes, $2 tenant.
    ATTACHMENTS = "SELECT hash, size, base64 FROM attachments WHERE tenant = $2 \
        AND hash IN (SELECT r.hash FROM {rows: hash text})";
    /// $1 rows of tenants and hashes, in order.
    LOCK_ATTACHMENTS = "SELECT hash FROM attachments WHERE (tenant, hash) IN \
        (SELECT r.tenant, r.hash FROM {rows: tenant text, hash text}) ORDER BY tenant, hash {for update}";
    NAME_ATTACHMENTS = "UPDATE attachments SET named = 1 WHERE named = 0 AND (tenant, hash) IN \
        (SELECT r.tenant, r.hash FROM {rows: tenant text, hash text})";
    /// $1 before, $2 limit. Those that are being sent again, or named, are left alone.
    UNNAMED_ATTACHMENTS = "SELECT tenant, hash FROM attachments WHERE named = 0 AND created_at < $1 \
        ORDER BY created_at LIMIT $2 {skip locked}";
    DELETE_ATTACHMENTS = "DELETE FROM attachments WHERE (tenant, hash) IN \
        (SELECT r.tenant, r.hash FROM {rows: tenant text, hash text})";

    // What tenants chose.

    PREFERENCE = "SELECT value FROM preferences WHERE tenant = $1 AND name = $2";
    SAVE_PREFERENCE = "INSERT INTO preferences (tenant, name, value, updated_at) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (tenant, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at";

    // Usage.

    /// Returns the records that are new.
    INSERT_USAGE = "INSERT INTO usage_records (id, tenant, job_id, claim, session_id, user_id, engine, model, attempt, \
        input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_nano_usd, cost_basis, unknown, created_at) \
        SELECT id, tenant, job_id, claim, session_id, user_id, engine, model, attempt, input_tokens, output_tokens, \
        cache_read_tokens, cache_write_tokens, cost_nano_usd, cost_basis, unknown, at \
        FROM {rows: id uuid, tenant text, job_id uuid, claim int, session_id uuid, user_id text, engine text, model text, \
        attempt int, input_tokens int, output_tokens int, cache_read_tokens int, cache_write_tokens int, cost_nano_usd int, \
        cost_basis text, unknown int, at int} WHERE true ON CONFLICT DO NOTHING RETURNING id";
    /// $1 tenant, $2 job, $3 limit.
    USAGE_OF_JOB = "SELECT id, tenant, job_id, claim, session_id, user_id, engine, model, attempt, input_tokens, output_tokens, \
        cache_read_tokens, cache_write_tokens, cost_nano_usd, cost_basis, unknown, created_at FROM usage_records \
        WHERE tenant = $1 AND job_id = $2 ORDER BY claim LIMIT $3";
    /// $1 job, $2 session, $3 tenant, $4 since.
    SPENT = spent!("job", "job_id = $1"), " UNION ALL ", spent!("session", "session_id = $2"), " UNION ALL ",
        spent!("tenant", "tenant = $3 AND created_at >= $4");
    /// $1 tenant, $2 from, $3 to, $4 user, $5 to $9 the groups, $10 limit.
    USAGE_SUMS = usage_sums!("tenant = $1");
    /// As `USAGE_SUMS`, of one session, $11: served by its index.
    SESSION_USAGE_SUMS = usage_sums!("session_id = $11 AND tenant = $1");

    // Sweeps.

    /// $1 queue, $2 tenant, $3 priority, $4 id: after these; $5 limit.
    QUEUED = "SELECT id, tenant, queue, priority, state, run_at, \
        CAST(CASE WHEN ", unpaused!("jobs"), " THEN 0 ELSE 1 END AS bigint) AS paused FROM jobs WHERE state = 'queued' \
        AND (queue, tenant, priority, id) > ($1, $2, $3, $4) ORDER BY queue, tenant, priority, id LIMIT $5";
    /// $1 limit. Steps from one queue to the next in the index, whatever lies between.
    QUEUE_NAMES = "WITH RECURSIVE names(queue, place) AS (\
        SELECT (SELECT min(j.queue) FROM jobs j WHERE j.state = 'queued'), CAST(1 AS bigint) UNION ALL \
        SELECT (SELECT min(j.queue) FROM jobs j WHERE j.state = 'queued' AND j.queue > n.queue), n.place + 1 \
        FROM names n WHERE n.queue IS NOT NULL AND n.place < $1) \
        SELECT queue FROM names WHERE queue IS NOT NULL";
    /// $1 rows of queues, $2 after this tenant, $3 most tenants of a queue, $4 jobs wanted in all. Steps from tenant to
    /// tenant and then, for each, from job to job in the index, so that it reads what it returns and nothing else.
    /// A row without id stands for a tenant that was reached and has nothing to give.
    DUE = "WITH RECURSIVE tenants(queue, tenant, place) AS (\
        SELECT r.queue, (SELECT min(j.tenant) FROM jobs j WHERE j.state = 'queued' AND j.queue = r.queue AND j.tenant > $2), \
        CAST(1 AS bigint) FROM {rows: queue text} UNION ALL \
        SELECT t.queue, (SELECT min(j.tenant) FROM jobs j WHERE j.state = 'queued' AND j.queue = t.queue \
        AND j.tenant > t.tenant), t.place + 1 FROM tenants t WHERE t.tenant IS NOT NULL AND t.place < $3), \
        heads(queue, tenant, id, depth) AS (\
        SELECT t.queue, t.tenant, CASE WHEN ", unpaused!("t"), " THEN (SELECT j.id FROM jobs j WHERE j.state = 'queued' \
        AND j.queue = t.queue AND j.tenant = t.tenant ORDER BY j.priority, j.id LIMIT 1) END, \
        CAST(1 AS bigint) FROM tenants t WHERE t.tenant IS NOT NULL UNION ALL \
        SELECT h.queue, h.tenant, (SELECT j.id FROM jobs j WHERE j.state = 'queued' AND j.queue = h.queue \
        AND j.tenant = h.tenant AND (j.priority, j.id) > ((SELECT c.priority FROM jobs c WHERE c.id = h.id), h.id) \
        ORDER BY j.priority, j.id LIMIT 1), h.depth + 1 \
        FROM heads h WHERE h.id IS NOT NULL AND h.depth * (SELECT count(t.tenant) FROM tenants t) < $4) \
        SELECT h.queue, h.tenant, h.id, h.depth, j.priority FROM heads h LEFT JOIN jobs j ON j.id = h.id \
        WHERE h.id IS NOT NULL OR h.depth = 1";
    /// $1 until, $2 limit.
    UPCOMING = "SELECT id, tenant, queue, priority, state, run_at FROM jobs \
        WHERE state IN ('scheduled', 'retrying') AND run_at <= $1 ORDER BY run_at LIMIT $2";
    /// $1 limit.
    LAPSED = "SELECT id FROM jobs WHERE lease_until IS NOT NULL AND lease_until < {now} ORDER BY lease_until LIMIT $1";
    /// $1 limit.
    LEASED = "SELECT id FROM jobs WHERE lease_until IS NOT NULL ORDER BY lease_until LIMIT $1";
    /// $1 now, $2 limit.
    EXPIRING = "SELECT id FROM jobs WHERE expires_at IS NOT NULL AND started_at IS NULL AND finished_at IS NULL \
        AND expires_at <= $1 ORDER BY expires_at LIMIT $2";
    /// $1 now, $2 limit.
    OVERDUE = "SELECT id FROM jobs WHERE deadline IS NOT NULL AND finished_at IS NULL AND deadline <= $1 \
        AND state <> 'awaiting_children' ORDER BY deadline LIMIT $2";
    /// $1 now, $2 limit.
    OVERDUE_PARENTS = "SELECT id FROM jobs WHERE deadline IS NOT NULL AND finished_at IS NULL AND deadline <= $1 \
        AND state = 'awaiting_children' ORDER BY deadline LIMIT $2";

    // Retention.

    /// $1 before, $2 and $3 after (time and job), $4 limit.
    OLD_JOBS_WITH_EVENTS = "SELECT id, session_id, finished_at, first_seq, tail_seq FROM jobs \
        WHERE finished_at IS NOT NULL AND first_seq <= tail_seq AND finished_at < $1 AND (finished_at, id) > ($2, $3) \
        ORDER BY finished_at, id LIMIT $4";
    OLD_JOBS_WITHOUT_EVENTS = "SELECT id, finished_at FROM jobs \
        WHERE finished_at IS NOT NULL AND first_seq > tail_seq AND finished_at < $1 AND (finished_at, id) > ($2, $3) \
        ORDER BY finished_at, id LIMIT $4";
    /// $1 rows of session ids, $2 before: each stream's first number, and the first of a job that is not old enough.
    DROPPABLE = "SELECT s.id, s.first_seq, coalesce((SELECT min(e.session_seq) FROM jobs j \
        JOIN events e ON e.job_id = j.id AND e.seq = j.first_seq \
        WHERE j.session_id = s.id AND (j.finished_at IS NULL OR j.finished_at >= $2)), s.tail_seq + 1) AS until \
        FROM {rows: id uuid} JOIN sessions s ON s.id = r.id ORDER BY s.id";
    /// $1 rows of spans: where the streams of their jobs begin afterwards. A job's events have one order in both streams.
    STARTS_AFTER_SPANS = "SELECT e.job_id, max(e.seq) + 1 AS first_seq \
        FROM {rows: id uuid, first_seq int, until int} JOIN events e ON e.session_id = r.id \
        AND e.session_seq >= r.first_seq AND e.session_seq < r.until GROUP BY e.job_id";
    /// $1 rows of starts.
    MOVE_SESSION_STARTS = "UPDATE sessions SET first_seq = r.first_seq FROM {rows: id uuid, first_seq int} \
        WHERE sessions.id = r.id AND sessions.first_seq < r.first_seq";
    MOVE_JOB_STARTS = "UPDATE jobs SET first_seq = r.first_seq FROM {rows: id uuid, first_seq int} \
        WHERE jobs.id = r.id AND jobs.first_seq < r.first_seq";
    DROP_EVENTS = "DELETE FROM events WHERE (job_id, seq) IN (SELECT e.job_id, e.seq \
        FROM {rows: id uuid, first_seq int} JOIN events e ON e.job_id = r.id AND e.seq < r.first_seq)";
    /// $1 rows of ids, $2 before, $3 now.
    DELETE_JOBS = "DELETE FROM jobs WHERE id IN (SELECT r.id FROM {rows: id uuid}) \
        AND finished_at < $2 AND first_seq > tail_seq AND lease_until IS NULL \
        AND NOT EXISTS (SELECT 1 FROM jobs n WHERE n.retry_of = jobs.id) \
        AND NOT EXISTS (SELECT 1 FROM jobs c WHERE c.parent_id = jobs.id) \
        AND NOT EXISTS (SELECT 1 FROM jobs p WHERE p.id = jobs.parent_id AND (p.finished_at IS NULL OR p.finished_at >= $2)) \
        AND NOT EXISTS (SELECT 1 FROM dedup_keys d WHERE d.tenant = jobs.tenant \
        AND d.kind = jobs.kind || coalesce(' ' || jobs.user_id, '') AND d.key = jobs.dedup_key AND d.job_id = jobs.id AND d.keep_until > $3) \
        RETURNING id";
    /// $1 rows of job ids.
    DELETE_EFFECTS = "DELETE FROM effects WHERE job_id IN (SELECT r.id FROM {rows: id uuid})";

    // Lists.

    /// $1 tenant, $2 id.
    JOB = "SELECT ", job_columns!(), ", payload FROM jobs WHERE tenant = $1 AND id = $2";
    /// $1 tenant, $2 kind, $3 queue, $4 session, $5 since, $6 before, $7 limit, $8 states as `,a,b,`, $9 user; null means any.
    JOBS = "SELECT ", job_columns!(), ", payload FROM jobs WHERE tenant = $1 \
        AND (kind = $2 OR $2 IS NULL) AND (queue = $3 OR $3 IS NULL) AND (session_id = $4 OR $4 IS NULL) \
        AND (created_at >= $5 OR $5 IS NULL) AND id < $6 \
        AND ($8 LIKE '%,' || state || ',%' OR $8 IS NULL) AND (user_id = $9 OR $9 IS NULL) ORDER BY id DESC LIMIT $7";
    /// As `JOBS`, of those that have not ended: served by their own, small index.
    LIVE_JOBS = "SELECT ", job_columns!(), ", payload FROM jobs WHERE tenant = $1 AND finished_at IS NULL \
        AND (kind = $2 OR $2 IS NULL) AND (queue = $3 OR $3 IS NULL) AND (session_id = $4 OR $4 IS NULL) \
        AND (created_at >= $5 OR $5 IS NULL) AND id < $6 \
        AND ($8 LIKE '%,' || state || ',%' OR $8 IS NULL) AND (user_id = $9 OR $9 IS NULL) ORDER BY id DESC LIMIT $7";
    /// As `JOBS`, of those that ended badly: likewise.
    UNSUCCESSFUL_JOBS = "SELECT ", job_columns!(), ", payload FROM jobs WHERE tenant = $1 AND ", unsuccessful!(), " \
        AND (kind = $2 OR $2 IS NULL) AND (queue = $3 OR $3 IS NULL) AND (session_id = $4 OR $4 IS NULL) \
        AND (created_at >= $5 OR $5 IS NULL) AND id < $6 \
        AND ($8 LIKE '%,' || state || ',%' OR $8 IS NULL) AND (user_id = $9 OR $9 IS NULL) ORDER BY id DESC LIMIT $7";
    /// $1 tenant, $2 kind, $3 queue, $4 since, $5 before, $6 limit, $7 states as `,a,b,`, $8 user.
    UNSUCCESSFUL = "SELECT id, failure, CAST(length(payload) AS bigint) AS payload_chars, \
        (SELECT count(*) FROM jobs n WHERE n.retry_of = jobs.id) AS retries \
        FROM jobs WHERE tenant = $1 AND ", unsuccessful!(), " AND parent_id IS NULL \
        AND (kind = $2 OR $2 IS NULL) AND (queue = $3 OR $3 IS NULL) AND (created_at >= $4 OR $4 IS NULL) AND id < $5 \
        AND ($7 LIKE '%,' || state || ',%' OR $7 IS NULL) AND (user_id = $8 OR $8 IS NULL) ORDER BY id DESC LIMIT $6";
    /// $1 rows of ids, $2 tenant.
    JOBS_BY_ID = "SELECT ", job_columns!(), ", payload FROM jobs \
        WHERE tenant = $2 AND id IN (SELECT r.id FROM {rows: id uuid})";
    /// $1 rows of ids: those that another job repeats.
    RETRIED = "SELECT r.id FROM {rows: id uuid} WHERE EXISTS (SELECT 1 FROM jobs n WHERE n.retry_of = r.id)";
    /// $1 what for: until the transaction ends, others wait here for their turn.
    TAKE_TURN = "SELECT 1 AS taken {take turn}";
    /// As `JOBS`, of one session: served by its index.
    SESSION_JOBS = "SELECT ", job_columns!(), ", payload FROM jobs WHERE tenant = $1 \
        AND (kind = $2 OR $2 IS NULL) AND (queue = $3 OR $3 IS NULL) AND session_id = $4 \
        AND (created_at >= $5 OR $5 IS NULL) AND id < $6 \
        AND ($8 LIKE '%,' || state || ',%' OR $8 IS NULL) AND (user_id = $9 OR $9 IS NULL) ORDER BY id DESC LIMIT $7";
    /// As `JOBS`, of one parent, $10: served by its index.
    CHILD_JOBS = "SELECT ", job_columns!(), ", payload FROM jobs WHERE tenant = $1 \
        AND (kind = $2 OR $2 IS NULL) AND (queue = $3 OR $3 IS NULL) AND (session_id = $4 OR $4 IS NULL) \
        AND (created_at >= $5 OR $5 IS NULL) AND id < $6 \
        AND ($8 LIKE '%,' || state || ',%' OR $8 IS NULL) AND (user_id = $9 OR $9 IS NULL) AND parent_id = $10 ORDER BY id DESC LIMIT $7";
    /// As `JOBS`, of one user: served by its index.
    USER_JOBS = "SELECT ", job_columns!(), ", payload FROM jobs WHERE tenant = $1 \
        AND (kind = $2 OR $2 IS NULL) AND (queue = $3 OR $3 IS NULL) AND (session_id = $4 OR $4 IS NULL) \
        AND (created_at >= $5 OR $5 IS NULL) AND id < $6 \
        AND ($8 LIKE '%,' || state || ',%' OR $8 IS NULL) AND user_id = $9 ORDER BY id DESC LIMIT $7";
    SESSION = "SELECT id, tenant, user_id, instance_id, status, engine, system_prompt, metadata, created_at, updated_at, tail_seq FROM sessions \
        WHERE tenant = $1 AND id = $2";
    /// $1 tenant, $2 before, $3 limit.
    SESSIONS = "SELECT id, tenant, user_id, instance_id, status, engine, system_prompt, metadata, created_at, updated_at, tail_seq FROM sessions \
        WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
    /// As `SESSIONS`, of one user, $4.
    USER_SESSIONS = "SELECT id, tenant, user_id, instance_id, status, engine, system_prompt, metadata, created_at, updated_at, tail_seq \
        FROM sessions WHERE tenant = $1 AND id < $2 AND user_id = $4 ORDER BY id DESC LIMIT $3";
    /// As `SESSIONS`, of one instance, $5; $4 null means any user.
    INSTANCE_SESSIONS = "SELECT id, tenant, user_id, instance_id, status, engine, system_prompt, metadata, created_at, updated_at, tail_seq \
        FROM sessions WHERE tenant = $1 AND id < $2 AND (user_id = $4 OR $4 IS NULL) AND instance_id = $5 ORDER BY id DESC LIMIT $3";
    /// $1 tenant; null means all.
    QUEUE_STATS = "SELECT queue, state, count(*) AS jobs, min(run_at) AS oldest FROM jobs \
        WHERE finished_at IS NULL AND (tenant = $1 OR $1 IS NULL) GROUP BY queue, state ORDER BY queue, state";

    // Idempotency keys.

    INSERT_IDEMPOTENCY = "INSERT INTO idempotency_keys (tenant, owner, key, fingerprint, status, answer, job_ids, created_at, \
        expires_at) SELECT tenant, owner, key, fingerprint, status, answer, job_ids, at, expires_at \
        FROM {rows: tenant text, owner text, key text, fingerprint text, status int, answer text, job_ids text, at int, \
        expires_at int} WHERE true ON CONFLICT DO NOTHING RETURNING tenant, owner, key";
    /// $1 to $3 the key, $4 and $5 what became of its jobs.
    SAVE_DEDUPLICATED = "UPDATE idempotency_keys SET job_ids = $4, deduplicated = $5 \
        WHERE tenant = $1 AND owner = $2 AND key = $3";
    /// $1 to $3 the key, $4 the answer.
    KEEP_ANSWER = "UPDATE idempotency_keys SET answer = $4 WHERE tenant = $1 AND owner = $2 AND key = $3";
    RECALL = "SELECT fingerprint, status, answer, deduplicated FROM idempotency_keys WHERE tenant = $1 AND owner = $2 AND key = $3";
    FORGET = "DELETE FROM idempotency_keys WHERE tenant = $1 AND owner = $2 AND key = $3";
    /// $1 now, $2 limit.
    STALE_IDEMPOTENCY = "SELECT tenant, owner, key, job_ids FROM idempotency_keys WHERE expires_at <= $1 \
        ORDER BY expires_at LIMIT $2";
    /// $1 rows of job ids.
    ENDS = "SELECT id, finished_at FROM jobs WHERE id IN (SELECT r.id FROM {rows: id uuid})";
    /// $1 rows of keys, $2 now. One that was forgotten and used again since is left alone.
    FORGET_ALL = "DELETE FROM idempotency_keys WHERE expires_at <= $2 AND (tenant, owner, key) IN \
        (SELECT r.tenant, r.owner, r.key FROM {rows: tenant text, owner text, key text})";
    /// $1 rows of keys with when to look at them again, $2 now.
    POSTPONE_ALL = "UPDATE idempotency_keys SET expires_at = r.again_at \
        FROM {rows: tenant text, owner text, key text, again_at int} WHERE idempotency_keys.expires_at <= $2 \
        AND idempotency_keys.tenant = r.tenant AND idempotency_keys.owner = r.owner AND idempotency_keys.key = r.key";

    // API keys.

    INSERT_KEY = "INSERT INTO api_keys (id, tenant, name, prefix, hash, scopes, created_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (hash) DO NOTHING";
    KEYS_BY_PREFIX = "SELECT id, tenant, name, prefix, hash, scopes, created_at, revoked_at FROM api_keys \
        WHERE prefix = $1 AND revoked_at IS NULL";
    KEYS = "SELECT id, tenant, name, prefix, hash, scopes, created_at, revoked_at FROM api_keys \
        WHERE tenant = $1 ORDER BY id DESC";
    REVOKE_KEY = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $3) WHERE tenant = $1 AND id = $2";

    // Paused queues.

    /// $1 queue, $2 tenant or empty, $3 now.
    PAUSE = "INSERT INTO paused_queues (queue, tenant, paused_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    RESUME = "DELETE FROM paused_queues WHERE queue = $1 AND tenant = $2";
    /// $1 tenant.
    PAUSED = "SELECT queue, tenant, paused_at FROM paused_queues WHERE tenant IN ('', $1) ORDER BY queue, tenant";

    // Workers.

    /// $9 the lease in microseconds, $10 1 if it drains. That it was asked to drain stays.
    REGISTER_WORKER = "INSERT INTO workers (id, host, version, queues, kinds, engines, concurrency, running, started_at, \
        alive_until, drain_asked_at, drainable) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, {now}, {now} + $9, \
        CASE WHEN $10 = 1 THEN {now} END, $11) \
        ON CONFLICT (id) DO UPDATE SET queues = excluded.queues, kinds = excluded.kinds, engines = excluded.engines, \
        concurrency = excluded.concurrency, running = excluded.running, alive_until = excluded.alive_until, \
        drain_asked_at = coalesce(workers.drain_asked_at, excluded.drain_asked_at) RETURNING drain_asked_at";
    RELEASE_WORKER = "UPDATE workers SET released_at = {now}, alive_until = {now} WHERE id = $1";
    LIVE_WORKERS = "SELECT id, host, version, queues, kinds, engines, concurrency, running, started_at, alive_until, \
        drain_asked_at, drainable FROM workers WHERE alive_until > {now} AND released_at IS NULL ORDER BY started_at, id";
    /// $1 worker. Says whether it may be asked at all.
    ASK_DRAIN = "UPDATE workers SET drain_asked_at = CASE WHEN drainable = 1 THEN coalesce(drain_asked_at, {now}) END \
        WHERE id = $1 AND alive_until > {now} AND released_at IS NULL RETURNING drainable";
    /// $1 rows of worker ids: where they are, and whether they live or said good-bye.
    HOLDERS = "SELECT id, host, CAST(CASE WHEN alive_until > {now} OR released_at IS NOT NULL THEN 1 ELSE 0 END AS bigint) \
        AS accounted FROM workers WHERE id IN (SELECT r.id FROM {rows: id uuid})";
    /// $1 duty, $2 worker, $3 term in microseconds.
    TAKE_DUTY = "INSERT INTO duties (name, holder, held_until) VALUES ($1, $2, {now} + $3) \
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
        WHERE duties.holder = excluded.holder OR duties.held_until < {now}";
    DROP_DUTIES = "DELETE FROM duties WHERE holder = $1";
    /// Long gone.
    FORGET_WORKERS = "DELETE FROM workers WHERE alive_until < {now} - 86400000000";
}
