//! Statements about webhooks.

use crate::adapter::sql::dialect::Sql;

/// All columns of an endpoint.
macro_rules! endpoint_columns {
    () => {
        "id, tenant, url, description, events, format, secrets, for_jobs, state, disabled_why, failing_since, created_at, \
         updated_at"
    };
}

statements! {
    /// $1 tenant.
    COUNT_ENDPOINTS = "SELECT count(*) AS found FROM webhook_endpoints WHERE tenant = $1 AND for_jobs = 0";
    INSERT_ENDPOINTS = "INSERT INTO webhook_endpoints (", endpoint_columns!(), ") \
        SELECT id, tenant, url, description, events, format, secrets, for_jobs, 'enabled', NULL, NULL, at, at \
        FROM {rows: id uuid, tenant text, url text, description text, events text, format text, secrets text, for_jobs int, \
        at int}";
    /// $1 tenant, $2 id.
    ENDPOINT = "SELECT ", endpoint_columns!(), " FROM webhook_endpoints WHERE tenant = $1 AND id = $2";
    LOCK_ENDPOINT = "SELECT ", endpoint_columns!(), " FROM webhook_endpoints WHERE tenant = $1 AND id = $2 {for update}";
    /// $1 tenant, $2 before, $3 limit.
    ENDPOINTS = "SELECT ", endpoint_columns!(), " FROM webhook_endpoints WHERE tenant = $1 AND for_jobs = 0 AND id < $2 \
        ORDER BY id DESC LIMIT $3";
    SAVE_ENDPOINT = "UPDATE webhook_endpoints SET url = $2, description = $3, events = $4, format = $5, state = $6, \
        disabled_why = $7, failing_since = $8, updated_at = $9 WHERE id = $1";
    /// $1 id, $2 secrets, $3 now.
    SAVE_SECRETS = "UPDATE webhook_endpoints SET secrets = $2, updated_at = $3 WHERE id = $1";
    DELETE_ENDPOINT = "DELETE FROM webhook_endpoints WHERE tenant = $1 AND id = $2";

    // Who is told.

    /// $1 rows of tenants and of jobs that ended.
    LISTENERS = "SELECT e.id, e.tenant, e.events, CAST(NULL AS uuid) AS job_id FROM webhook_endpoints e \
        WHERE e.tenant IN (SELECT r.tenant FROM {rows: tenant text}) AND e.for_jobs = 0 AND e.state = 'enabled' \
        UNION ALL SELECT e.id, e.tenant, e.events, t.job_id FROM {rows: job_id uuid} \
        JOIN job_webhooks t ON t.job_id = r.job_id JOIN webhook_endpoints e ON e.id = t.endpoint_id \
        WHERE e.state = 'enabled'";
    INSERT_TARGETS = "INSERT INTO job_webhooks (job_id, endpoint_id) \
        SELECT r.job_id, r.endpoint_id FROM {rows: job_id uuid, endpoint_id uuid}";
    /// $1 rows of jobs and those they repeat.
    INHERIT_TARGETS = "INSERT INTO job_webhooks (job_id, endpoint_id) SELECT r.id, t.endpoint_id \
        FROM {rows: id uuid, original uuid} JOIN job_webhooks t ON t.job_id = r.original";
    /// $1 rows of ids: what is told of them.
    TOLD_JOBS = "SELECT ", job_columns!(), ", NULL AS payload FROM jobs WHERE id IN (SELECT r.id FROM {rows: id uuid})";

    // Deliveries.

    INSERT_DELIVERIES = "INSERT INTO webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, job_id, created_at) \
        SELECT id, tenant, endpoint_id, event_id, event_type, job_id, at \
        FROM {rows: id uuid, tenant text, endpoint_id uuid, event_id uuid, event_type text, job_id uuid, at int}";
    /// $1 rows of jobs and those they repeat, $2 now.
    INHERIT_DELIVERIES = "INSERT INTO webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, job_id, created_at) \
        SELECT r.id, d.tenant, d.endpoint_id, d.event_id, d.event_type, d.job_id, $2 \
        FROM {rows: id uuid, original uuid} JOIN webhook_deliveries d ON d.id = r.original";
    /// $1 tenant, $2 endpoint, $3 before, $4 limit, $5 states as `,a,b,` or null.
    DELIVERIES = "SELECT d.id, d.event_id, d.event_type, d.job_id, j.state, j.attempt, j.result, j.failure, j.run_at, \
        d.created_at, j.finished_at FROM webhook_deliveries d JOIN jobs j ON j.id = d.id \
        WHERE d.tenant = $1 AND d.endpoint_id = $2 AND d.id < $3 AND ($5 LIKE '%,' || j.state || ',%' OR $5 IS NULL) \
        ORDER BY d.id DESC LIMIT $4";
    /// $1 tenant, $2 endpoint, $3 delivery.
    DELIVERED = "SELECT j.payload FROM webhook_deliveries d JOIN jobs j ON j.id = d.id \
        WHERE d.tenant = $1 AND d.endpoint_id = $2 AND d.id = $3";

    // How endpoints do.

    /// $1 rows of deliveries.
    ENDPOINTS_OF = "SELECT d.id AS delivery, e.id, e.state, e.failing_since FROM {rows: id uuid} \
        JOIN webhook_deliveries d ON d.id = r.id JOIN webhook_endpoints e ON e.id = d.endpoint_id";
    /// $1 rows of ids.
    LOCK_ENDPOINTS = "SELECT ", endpoint_columns!(), " FROM webhook_endpoints \
        WHERE id IN (SELECT r.id FROM {rows: id uuid}) ORDER BY id {for update}";
    SAVE_HEALTH = "UPDATE webhook_endpoints SET state = r.state, disabled_why = r.disabled_why, \
        failing_since = r.failing_since, updated_at = r.updated_at \
        FROM {rows: id uuid, state text, disabled_why text, failing_since int, updated_at int} \
        WHERE webhook_endpoints.id = r.id";

    // Retention: $1 rows of jobs that were deleted.

    DELETE_DELIVERIES = "DELETE FROM webhook_deliveries WHERE id IN (SELECT r.id FROM {rows: id uuid})";
    DELETE_TARGETS = "DELETE FROM job_webhooks WHERE job_id IN (SELECT r.id FROM {rows: id uuid}) RETURNING endpoint_id";
    /// $1 rows of ids: those that no job names any more.
    DELETE_UNNAMED_ENDPOINTS = "DELETE FROM webhook_endpoints WHERE for_jobs = 1 \
        AND id IN (SELECT r.id FROM {rows: id uuid}) \
        AND NOT EXISTS (SELECT 1 FROM job_webhooks t WHERE t.endpoint_id = webhook_endpoints.id)";
}
