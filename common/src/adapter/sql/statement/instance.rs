//! Statements about instances, their callbacks, and tickets.

use crate::adapter::sql::dialect::Sql;

/// All columns of an instance.
macro_rules! instance_columns {
    () => {
        "id, tenant, name, user_id, server_host, host_port, status, callback_secret, poll_seconds, created_at, updated_at"
    };
}

statements! {
    INSERT_INSTANCE = "INSERT INTO instances (", instance_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)";
    /// $1 tenant, $2 id.
    INSTANCE = "SELECT ", instance_columns!(), " FROM instances WHERE tenant = $1 AND id = $2";
    LOCK_INSTANCE = "SELECT ", instance_columns!(), " FROM instances WHERE tenant = $1 AND id = $2 {for update}";
    /// $1 tenant, $2 before, $3 limit.
    INSTANCES = "SELECT ", instance_columns!(), " FROM instances WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
    /// As `INSTANCES`, those that user $4 may use.
    USER_INSTANCES = "SELECT ", instance_columns!(), " FROM instances WHERE tenant = $1 AND id < $2 \
        AND (user_id = $4 OR user_id IS NULL) ORDER BY id DESC LIMIT $3";
    SAVE_INSTANCE = "UPDATE instances SET name = $2, user_id = $3, server_host = $4, host_port = $5, status = $6, \
        callback_secret = $7, poll_seconds = $8, updated_at = $9 WHERE id = $1";
    DELETE_INSTANCE = "DELETE FROM instances WHERE id = $1";
    /// $1 id: its unfinished tasks.
    UNFINISHED_AT = "SELECT count(*) AS found FROM sessions s JOIN jobs j ON j.session_id = s.id \
        WHERE s.instance_id = $1 AND j.finished_at IS NULL";
    /// $1 tenant, $2 job.
    INSTANCE_OF = "SELECT ", instance_columns!(), " FROM instances WHERE tenant = $1 AND id = (SELECT s.instance_id \
        FROM jobs j JOIN sessions s ON s.id = j.session_id WHERE j.tenant = $1 AND j.id = $2)";

    // Callbacks.

    /// $1 now, $2 limit.
    EXPIRING_CALLBACKS = "SELECT id FROM jobs WHERE state = 'awaiting_callback' AND callback_until <= $1 \
        ORDER BY callback_until LIMIT $2";
    /// $1 now, $2 limit.
    POLLING_CALLBACKS = "SELECT id FROM jobs WHERE state = 'awaiting_callback' AND callback_poll_at IS NOT NULL \
        AND callback_poll_at <= $1 ORDER BY callback_poll_at LIMIT $2";

    // Tickets.

    INSERT_TICKET = "INSERT INTO stream_tickets (hash, caller, expires_at) VALUES ($1, $2, $3)";
    TAKE_TICKET = "DELETE FROM stream_tickets WHERE hash = $1 RETURNING caller, expires_at";
    /// $1 now, $2 limit.
    DROP_TICKETS = "DELETE FROM stream_tickets WHERE hash IN \
        (SELECT hash FROM stream_tickets WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
}
