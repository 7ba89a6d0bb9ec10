//! Tokens of runs, counted once a record of usage: by whoever has written it.

use errand_common::{
    domain::{Job, UsageReport},
    telemetry::metric,
    wire,
};

/// Counts what a run spent, once its record is written.
pub(crate) fn count(job: &Job, report: Option<&UsageReport>) {
    let Some(report) = report else { return };
    // Only tasks spend; their payload names the engine they run on.
    if job.kind != wire::task::KIND {
        return;
    }
    let engine = job.payload["engineType"].as_str().unwrap_or_default();
    for (direction, tokens) in [("input", report.usage.input_tokens), ("output", report.usage.output_tokens)] {
        let labels = [("engine", engine.to_owned()), ("direction", direction.to_owned())];
        metrics::counter!(metric::ENGINE_TOKENS_TOTAL, &labels).increment(tokens);
    }
}
