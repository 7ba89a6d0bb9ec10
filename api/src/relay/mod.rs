//! Streams to watchers: one bus subscription a stream and process, fanned out by reference.
//!
//! * [`hub`]: a gap-free live feed of each watched stream.
//! * [`watch`]: one watcher's view: first the log, then live, joined by number.
//! * [`frame`]: an event, encoded once for all.
//! * [`start`]: where a watcher begins: at its position, or with a snapshot.
//! * [`sse`] and [`session`]: the two ways out; [`protocol`]: what a WebSocket says.

use errand_common::telemetry::metric;

pub(crate) mod frame;
pub(crate) mod hub;
pub(crate) mod log;
pub(crate) mod protocol;
pub(crate) mod session;
pub(crate) mod sse;
pub(crate) mod start;
pub(crate) mod watch;

/// Says every metric of the relay from the start: one that appears with its first event can't be alerted on.
pub(crate) fn announce_metrics() {
    metrics::gauge!(metric::WS_CONNECTIONS).set(0.0);
    metrics::counter!(metric::WS_SLOW_CLOSED_TOTAL).increment(0);
    for recovered in ["true", "false"] {
        metrics::counter!(metric::STREAM_RECOVERIES_TOTAL, "recovered" => recovered).increment(0);
    }
}
