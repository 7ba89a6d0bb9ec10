//! Names of the metrics. No label ever holds an id.

/// Jobs that reached a terminal state, by `kind` and `outcome`.
pub const JOBS_TOTAL: &str = "errand_jobs_total";
/// Non-terminal jobs, by `queue` and `state`.
pub const QUEUE_DEPTH: &str = "errand_queue_depth";
/// Age of the oldest due job, by `queue`.
pub const QUEUE_OLDEST_AGE_SECONDS: &str = "errand_queue_oldest_age_seconds";
/// From a job's due time to its claim.
pub const START_LATENCY_SECONDS: &str = "errand_start_latency_seconds";
/// Attempts that ended, by `kind` and `class` (`ok`, or the failure's class).
pub const ATTEMPTS_TOTAL: &str = "errand_attempts_total";
/// How long attempts took.
pub const ATTEMPT_SECONDS: &str = "errand_attempt_seconds";
/// Runs stopped because their lease could not be renewed in time.
pub const LEASES_LOST_TOTAL: &str = "errand_leases_lost_total";
/// Writes refused because their claim was no longer valid.
pub const STALE_WRITES_REJECTED_TOTAL: &str = "errand_stale_writes_rejected_total";
/// Tokens that engines reported, by `engine` and `direction`.
pub const ENGINE_TOKENS_TOTAL: &str = "errand_engine_tokens_total";
/// Live workers, by `state`.
pub const WORKERS: &str = "errand_workers";
