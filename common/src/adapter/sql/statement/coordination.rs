//! Statements about gateways, boards, agents, and what is left on boards.

use crate::adapter::sql::dialect::Sql;

/// All columns of a gateway.
macro_rules! gateway_columns {
    () => {
        "id, tenant, name, url, token, workspace_root, disable_device_pairing, allow_insecure_tls, device, version, \
         created_at, updated_at"
    };
}

/// All columns of a board.
macro_rules! board_columns {
    () => {
        "id, tenant, name, slug, gateway_id, paused, tail_seq, created_at, updated_at"
    };
}

/// All columns of an agent.
macro_rules! agent_columns {
    () => {
        "id, tenant, gateway_id, board_id, name, role, session_key, bound, status, soul, soul_hash, token_hash, \
         token_sealed, generation, made_by, provision_job, provision_error, provisioned_at, last_seen_at, created_at, \
         updated_at"
    };
}

/// All columns of an item of memory.
macro_rules! memory_columns {
    () => {
        "id, tenant, board_id, content, tags, source, is_chat, agent_id, question_id, created_at"
    };
}

/// All columns of a question.
macro_rules! question_columns {
    () => {
        "id, tenant, board_id, job_id, agent_id, content, correlation_id, reply_tags, reply_source, answer_schema, state, \
         answer, answered_by, memory_id, reminders, remind_at, expires_at, created_at, ended_at"
    };
}

/// All columns of a line of the audit.
macro_rules! activity_columns {
    () => {
        "id, tenant, event_type, message, agent_id, board_id, job_id, trace_id, created_at"
    };
}

statements! {
    // Gateways.

    INSERT_GATEWAY = "INSERT INTO gateways (id, tenant, name, url, token, workspace_root, disable_device_pairing, \
        allow_insecure_tls, version, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $9)";
    /// $1 tenant, $2 id.
    GATEWAY = "SELECT ", gateway_columns!(), " FROM gateways WHERE tenant = $1 AND id = $2";
    LOCK_GATEWAY = "SELECT ", gateway_columns!(), " FROM gateways WHERE tenant = $1 AND id = $2 {for update}";
    /// $1 id.
    LOCK_DEVICE = "SELECT device FROM gateways WHERE id = $1 {for update}";
    /// $1 tenant, $2 before, $3 limit.
    GATEWAYS = "SELECT ", gateway_columns!(), " FROM gateways WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
    /// $1 limit.
    ALL_GATEWAYS = "SELECT ", gateway_columns!(), " FROM gateways ORDER BY id DESC LIMIT $1";
    SAVE_GATEWAY = "UPDATE gateways SET name = $2, url = $3, token = $4, workspace_root = $5, disable_device_pairing = $6, \
        allow_insecure_tls = $7, device = $8, version = $9, updated_at = $10 WHERE id = $1";
    SAVE_DEVICE = "UPDATE gateways SET device = $2 WHERE id = $1";
    BOARDS_ON = "SELECT count(*) AS found FROM boards WHERE gateway_id = $1";
    DELETE_GATEWAY = "DELETE FROM gateways WHERE id = $1";
    DELETE_AGENTS_ON = "DELETE FROM agents WHERE gateway_id = $1";

    // Boards.

    INSERT_BOARD = "INSERT INTO boards (id, tenant, name, slug, gateway_id, paused, tail_seq, created_at, updated_at) \
        VALUES ($1, $2, $3, $4, $5, 0, 0, $6, $6) ON CONFLICT DO NOTHING";
    /// $1 tenant, $2 id.
    BOARD = "SELECT ", board_columns!(), " FROM boards WHERE tenant = $1 AND id = $2";
    LOCK_BOARD = "SELECT ", board_columns!(), " FROM boards WHERE tenant = $1 AND id = $2 {for update}";
    /// $1 tenant, $2 gateway or null, $3 before, $4 limit.
    BOARDS = "SELECT ", board_columns!(), " FROM boards WHERE tenant = $1 AND (gateway_id = $2 OR $2 IS NULL) AND id < $3 \
        ORDER BY id DESC LIMIT $4";
    /// $1 rows of ids, $2 tenant, $3 gateway.
    CHOSEN_BOARDS = "SELECT ", board_columns!(), " FROM boards WHERE tenant = $2 AND gateway_id = $3 \
        AND id IN (SELECT r.id FROM {rows: id uuid}) ORDER BY id DESC";
    /// $1 tenant, $2 gateway.
    COUNT_BOARDS = "SELECT count(*) AS found FROM boards WHERE tenant = $1 AND gateway_id = $2";
    /// Nothing is written if another board has the slug.
    SAVE_BOARD = "UPDATE boards SET name = $2, slug = $3, gateway_id = $4, updated_at = $5 WHERE id = $1 \
        AND NOT EXISTS (SELECT 1 FROM boards o WHERE o.tenant = boards.tenant AND o.slug = $3 AND o.id <> $1)";
    /// $1 board, $2 gateway or null: what runs in another. A board without a gateway reaches nobody, and misleads nobody.
    AGENTS_ELSEWHERE = "SELECT count(*) AS found FROM agents WHERE board_id = $1 AND gateway_id <> $2";
    /// What keeps a board.
    BELONGINGS = "SELECT (SELECT count(*) FROM agents WHERE board_id = $1) \
        + (SELECT count(*) FROM questions WHERE board_id = $1 AND state = 'open') AS found";
    DELETE_BOARD = "DELETE FROM boards WHERE id = $1";
    DELETE_MEMORIES_ON = "DELETE FROM memories WHERE board_id = $1";
    DELETE_QUESTIONS_ON = "DELETE FROM questions WHERE board_id = $1 AND state <> 'open'";
    DELETE_EVENTS_ON = "DELETE FROM board_events WHERE board_id = $1";

    // The streams of boards.

    /// $1 rows of ids.
    LOCK_BOARDS = "SELECT id, tail_seq FROM boards WHERE id IN (SELECT r.id FROM {rows: id uuid}) ORDER BY id {for update}";
    /// $1 rows; where `paused` is null it stays.
    SAVE_BOARD_TAILS = "UPDATE boards SET tail_seq = r.tail_seq, paused = coalesce(r.paused, boards.paused) \
        FROM {rows: id uuid, tail_seq int, paused int} WHERE boards.id = r.id";
    INSERT_BOARD_EVENTS = "INSERT INTO board_events (board_id, seq, ts, job_id, type, data) \
        SELECT board_id, seq, ts, job_id, type, data \
        FROM {rows: board_id uuid, seq int, ts int, job_id uuid, type text, data text}";
    BOARD_EVENTS = "SELECT board_id, seq, ts, job_id, type, data FROM board_events \
        WHERE board_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    /// $1 rows of ids.
    BOARD_TAILS = "SELECT b.id, b.tenant, coalesce((SELECT min(e.seq) FROM board_events e WHERE e.board_id = b.id), \
        b.tail_seq + 1) AS first_seq, b.tail_seq, NULL AS finished_at FROM boards b \
        WHERE b.id IN (SELECT r.id FROM {rows: id uuid})";
    /// $1 before, $2 limit.
    BOARDS_WITH_OLD_EVENTS = "SELECT board_id FROM board_events WHERE ts < $1 ORDER BY ts LIMIT $2";
    /// $1 board, $2 limit: the beginning of its stream.
    FIRST_BOARD_EVENTS = "SELECT seq, ts FROM board_events WHERE board_id = $1 ORDER BY seq LIMIT $2";
    /// $1 board, $2 the first that stays.
    DROP_BOARD_EVENTS = "DELETE FROM board_events WHERE board_id = $1 AND seq < $2";

    // Agents.

    INSERT_AGENT = "INSERT INTO agents (id, tenant, gateway_id, board_id, name, role, session_key, bound, status, token_hash, \
        token_sealed, generation, made_by, created_at, updated_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, $12, $13, $13) ON CONFLICT DO NOTHING";
    /// $1 tenant, $2 id.
    AGENT = "SELECT ", agent_columns!(), " FROM agents WHERE tenant = $1 AND id = $2";
    LOCK_AGENT = "SELECT ", agent_columns!(), " FROM agents WHERE tenant = $1 AND id = $2 {for update}";
    AGENT_BY_TOKEN = "SELECT ", agent_columns!(), " FROM agents WHERE token_hash = $1";
    MAIN_AGENT = "SELECT ", agent_columns!(), " FROM agents WHERE tenant = $1 AND gateway_id = $2 AND role = 'main'";
    /// $1 rows of gateways' ids, $2 tenant.
    MAIN_AGENTS = "SELECT a.gateway_id, a.id FROM {rows: id uuid} JOIN agents a ON a.gateway_id = r.id \
        WHERE a.tenant = $2 AND a.role = 'main'";
    /// $1 board.
    LEAD = "SELECT ", agent_columns!(), " FROM agents WHERE board_id = $1 AND role = 'lead'";
    /// $1 gateway, $2 session, $3 this one aside.
    SESSION_AGENT = "SELECT id FROM agents WHERE gateway_id = $1 AND session_key = $2 AND id <> $3";
    /// $1 tenant, $2 board or null, $3 gateway or null, $4 before, $5 limit.
    AGENTS = "SELECT ", agent_columns!(), " FROM agents WHERE tenant = $1 AND (board_id = $2 OR $2 IS NULL) \
        AND (gateway_id = $3 OR $3 IS NULL) AND id < $4 ORDER BY id DESC LIMIT $5";
    SAVE_AGENT = "UPDATE agents SET name = $2, session_key = $3, bound = $4, status = $5, soul = $6, soul_hash = $7, \
        token_hash = $8, token_sealed = $9, generation = $10, provision_job = $11, provision_error = $12, \
        provisioned_at = $13, updated_at = $14 WHERE id = $1";
    /// $1 tenant, $2 id, $3 job, $4 claim.
    TAKE_FILES = "UPDATE agents SET files_job = $3, files_claim = $4 WHERE tenant = $1 AND id = $2 \
        AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = agents.files_job AND j.id <> $3 AND j.claim = agents.files_claim \
        AND j.lease_token IS NOT NULL) \
        AND (provision_job IS NULL OR provision_job = $3 OR status NOT IN ('provisioning', 'updating'))";
    /// $1 rows of jobs that ended, with why, $2 now.
    GIVE_UP_PROVISIONS = "UPDATE agents SET status = 'failed', provision_error = r.error, updated_at = $2 \
        FROM {rows: id uuid, error text} WHERE agents.provision_job = r.id AND agents.status IN ('provisioning', 'updating')";
    DELETE_AGENT = "DELETE FROM agents WHERE id = $1";
    /// $1 id.
    LAST_SEEN = "SELECT tenant, board_id, name, last_seen_at FROM agents WHERE id = $1";
    /// $1 id, $2 now.
    AGENT_SEEN = "UPDATE agents SET last_seen_at = $2 WHERE id = $1 AND (last_seen_at < $2 OR last_seen_at IS NULL)";

    // Memory.

    INSERT_MEMORY = "INSERT INTO memories (", memory_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    /// $1 tenant, $2 id.
    MEMORY = "SELECT ", memory_columns!(), " FROM memories WHERE tenant = $1 AND id = $2";
    /// $1 tenant, $2 board, $3 1 for chat and 0 for the rest, $4 since, $5 limit, $6 offset.
    MEMORIES = "SELECT ", memory_columns!(), " FROM memories WHERE tenant = $1 AND board_id = $2 \
        AND (is_chat = $3 OR $3 IS NULL) AND (created_at >= $4 OR $4 IS NULL) ORDER BY id DESC LIMIT $5 OFFSET $6";
    /// $1 tenant, $2 board, $3 chat, $4 since.
    COUNT_MEMORIES = "SELECT count(*) AS found FROM memories WHERE tenant = $1 AND board_id = $2 \
        AND (is_chat = $3 OR $3 IS NULL) AND (created_at >= $4 OR $4 IS NULL)";

    // Questions. Whoever writes them holds their job.

    INSERT_QUESTIONS = "INSERT INTO questions (id, tenant, board_id, job_id, agent_id, content, correlation_id, reply_tags, \
        reply_source, answer_schema, state, reminders, remind_at, expires_at, created_at) SELECT id, tenant, board_id, job_id, \
        agent_id, content, correlation_id, reply_tags, reply_source, answer_schema, 'open', 0, remind_at, expires_at, at \
        FROM {rows: id uuid, tenant text, board_id uuid, job_id uuid, agent_id uuid, content text, correlation_id text, \
        reply_tags text, reply_source text, answer_schema text, remind_at int, expires_at int, at int}";
    /// $1 tenant, $2 id.
    QUESTION = "SELECT ", question_columns!(), " FROM questions WHERE tenant = $1 AND id = $2";
    /// $1 tenant, $2 board or null, $3 state or null, $4 before, $5 limit.
    QUESTIONS = "SELECT ", question_columns!(), " FROM questions WHERE tenant = $1 AND (board_id = $2 OR $2 IS NULL) \
        AND (state = $3 OR $3 IS NULL) AND id < $4 ORDER BY id DESC LIMIT $5";
    /// $1 board, $2 limit.
    /// Only what a reply is held against: neither texts nor schemas.
    OPEN_QUESTIONS = "SELECT id, tenant, board_id, job_id, agent_id, '' AS content, correlation_id, reply_tags, reply_source, \
        NULL AS answer_schema, state, NULL AS answer, NULL AS answered_by, NULL AS memory_id, reminders, remind_at, expires_at, \
        created_at, ended_at FROM questions WHERE board_id = $1 AND state = 'open' ORDER BY id DESC LIMIT $2";
    /// $1 rows of ids, $2 board.
    NAMED_QUESTIONS = "SELECT ", question_columns!(), " FROM questions WHERE board_id = $2 \
        AND id IN (SELECT r.id FROM {rows: id uuid}) ORDER BY id";
    /// $1 rows of job ids.
    QUESTIONS_OF_JOBS = "SELECT ", question_columns!(), " FROM questions WHERE job_id IN (SELECT r.id FROM {rows: id uuid})";
    /// $1 id, $2 answer, $3 by whom, $4 the item, $5 now.
    ANSWER_QUESTION = "UPDATE questions SET state = 'answered', answer = $2, answered_by = $3, memory_id = $4, ended_at = $5 \
        WHERE id = $1 AND state = 'open'";
    /// $1 rows of ids, $2 now.
    EXPIRE_QUESTIONS = "UPDATE questions SET state = 'expired', ended_at = $2 \
        WHERE state = 'open' AND id IN (SELECT r.id FROM {rows: id uuid})";
    /// $1 rows of ids of jobs that ended, $2 now.
    CANCEL_QUESTIONS = "UPDATE questions SET state = 'cancelled', ended_at = $2 \
        WHERE state = 'open' AND job_id IN (SELECT r.id FROM {rows: id uuid}) RETURNING id, tenant, board_id, job_id";
    /// $1 now, $2 limit.
    EXPIRING_QUESTIONS = "SELECT job_id FROM questions WHERE state = 'open' AND expires_at <= $1 ORDER BY expires_at LIMIT $2";
    /// $1 now, $2 limit.
    REMINDING_QUESTIONS = "SELECT job_id FROM questions WHERE state = 'open' AND remind_at IS NOT NULL AND remind_at <= $1 \
        ORDER BY remind_at LIMIT $2";
    /// $1 rows, with 1 where a reminder was sent, $2 when next.
    REMIND_QUESTIONS = "UPDATE questions SET reminders = reminders + r.step, remind_at = $2 \
        FROM {rows: id uuid, step int} WHERE questions.id = r.id AND questions.state = 'open'";
    /// $1 rows of job ids.
    DELETE_QUESTIONS = "DELETE FROM questions WHERE job_id IN (SELECT r.id FROM {rows: id uuid})";

    // The audit.

    INSERT_ACTIVITIES = "INSERT INTO activities (", activity_columns!(), ") SELECT id, tenant, event_type, message, agent_id, \
        board_id, job_id, trace_id, at FROM {rows: id uuid, tenant text, event_type text, message text, agent_id uuid, \
        board_id uuid, job_id uuid, trace_id text, at int}";
    /// $1 tenant, $2 board or null, $3 agent or null, $4 before, $5 limit.
    ACTIVITIES = "SELECT ", activity_columns!(), " FROM activities WHERE tenant = $1 AND (board_id = $2 OR $2 IS NULL) \
        AND (agent_id = $3 OR $3 IS NULL) AND id < $4 ORDER BY id DESC LIMIT $5";
    /// $1 tenant, $2 board or null, $3 agent or null, $4 after, $5 limit, $6 before.
    ACTIVITIES_AFTER = "SELECT ", activity_columns!(), " FROM activities WHERE tenant = $1 AND (board_id = $2 OR $2 IS NULL) \
        AND (agent_id = $3 OR $3 IS NULL) AND id > $4 AND id < $6 ORDER BY id LIMIT $5";
    /// $1 the first id of the time that stays.
    OLD_ACTIVITY = "SELECT id FROM activities WHERE id < $1 ORDER BY id LIMIT 1";
    /// $1 the first id of the time that stays, $2 limit.
    DROP_ACTIVITIES = "DELETE FROM activities WHERE id IN (SELECT id FROM activities WHERE id < $1 ORDER BY id LIMIT $2)";

    // Jobs of coordination.

    /// $1 rows of job ids, $2 now.
    FIRST_SENT = "UPDATE jobs SET first_sent_at = $2 WHERE id IN (SELECT r.id FROM {rows: id uuid}) AND first_sent_at IS NULL";
    /// $1 a broadcast: what became of its messages, in the order of their boards.
    BROADCAST_CHILDREN = "SELECT id, state, result, failure, {field: payload board_id} AS board_id FROM jobs \
        WHERE parent_id = $1 ORDER BY id";
}
