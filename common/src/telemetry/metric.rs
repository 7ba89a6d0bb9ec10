//! Names of the metrics.

/// Jobs by queue and state; sampled.
pub const QUEUE_DEPTH: &str = "errand_queue_depth";
/// How long the oldest due job of a queue has waited; sampled.
pub const QUEUE_OLDEST_AGE_SECONDS: &str = "errand_queue_oldest_age_seconds";
/// Watchers that came with a position, by whether they could go on from it.
pub const STREAM_RECOVERIES_TOTAL: &str = "errand_stream_recoveries_total";
/// Open WebSockets.
pub const WS_CONNECTIONS: &str = "errand_ws_connections";
/// WebSockets cut off because they read too slowly.
pub const WS_SLOW_CLOSED_TOTAL: &str = "errand_ws_slow_closed_total";
