//! The dedup key of a submission.

use std::time::Duration;

use errand_common::{
    domain::{Dedup, DedupMode, Timestamp},
    wire::{group, instance, task},
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    extract::Int,
    limit,
    problem::{Faults, Problem},
    view::schema,
};

/// What it means if the same was submitted before: keys are told apart by tenant and kind, and each submission is judged by
/// its own mode, against the last job that was made under its key.
///
/// * `drop`: while that job has not ended, this submission falls to it.
/// * `throttle`: within `ttl_seconds` of that job's submission this one falls to it, whatever has become of it; then no longer,
///   even if it still goes on.
/// * `debounce`: the job starts `ttl_seconds` after the last submission. While it waits for that, this submission replaces
///   its payload, metadata and settings and moves its start; it keeps its id.
/// * `keep_last_if_active`: while that job goes on, one successor waits for its end; this submission is it, or replaces its
///   payload, metadata and settings.
///
/// A `task` and a `group` know `drop` and `throttle` only.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DedupRequest {
    /// The client's own: 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255)]
    key: String,
    /// What becomes of this submission if there was one before.
    #[schema(schema_with = schema::dedup_mode)]
    mode: DedupMode,
    /// Needed by `throttle` and `debounce`; must be absent otherwise. At most 30 days.
    #[schema(inline)]
    ttl_seconds: Option<Int<1, 2_592_000>>,
}

impl DedupRequest {
    /// The key of a job of this kind.
    pub(crate) fn judge(self, kind: &str, run_at: Option<Timestamp>) -> Result<Dedup, Problem> {
        let mut faults = Faults::default();
        let fits = (1..=limit::DEDUP_KEY_CHARS).contains(&self.key.chars().count());
        faults.check(fits, "/dedup/key", || format!("must be 1 to {} characters", limit::DEDUP_KEY_CHARS));
        let mode = self.mode;
        if mode.has_ttl() {
            let given = self.ttl_seconds.is_some();
            faults.check(given, "/dedup/ttl_seconds", || format!("must be given with mode {mode}: 1 to 2592000"));
        } else {
            let absent = self.ttl_seconds.is_none();
            faults.check(absent, "/dedup/ttl_seconds", || {
                format!("must be absent with mode {mode}; throttle and debounce have one")
            });
        }
        if mode.touches_others() {
            faults.check(run_at.is_none(), "/run_at", || {
                format!("must be absent with the dedup mode {mode}, which says itself when the job starts")
            });
        }
        let instead = match kind {
            task::KIND | instance::KIND => Some("a task's session has its own way to do that, the payload's onBusy"),
            group::KIND => Some("a group's jobs start at once"),
            _ => None,
        };
        if let Some(instead) = instead.filter(|_| mode.touches_others()) {
            faults.add("/dedup/mode", format!("must be drop or throttle for a {kind}: {instead}"));
        }
        faults.finish()?;
        let ttl = Duration::from_secs(self.ttl_seconds.map_or(0, Int::as_u64));
        Ok(Dedup { key: self.key, mode, ttl })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::decode;

    fn faults(text: &str, kind: &str, run_at: Option<Timestamp>) -> Vec<String> {
        let request: DedupRequest = decode(text.as_bytes()).expect("a dedup");
        let problem = request.judge(kind, run_at).expect_err("refused");
        problem.errors.into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn each_mode_says_what_it_needs() {
        let (throttle, debounce) =
            (r#"{"key":"k","mode":"throttle"}"#, r#"{"key":"k","mode":"debounce","ttl_seconds":1}"#);
        assert_eq!(faults(throttle, "http", None), ["/dedup/ttl_seconds"]);
        assert_eq!(
            faults(r#"{"key":"","mode":"drop","ttl_seconds":1}"#, "http", None),
            ["/dedup/key", "/dedup/ttl_seconds"]
        );
        assert_eq!(faults(debounce, "http", Some(Timestamp::from_micros(1))), ["/run_at"]);
        assert_eq!(faults(debounce, "task", None), ["/dedup/mode"]);
    }

    #[test]
    fn a_task_is_told_about_its_sessions_own_way() {
        let request: DedupRequest = decode(br#"{"key":"k","mode":"keep_last_if_active"}"#).expect("a dedup");
        assert!(request.judge("task", None).expect_err("refused").detail.contains("onBusy"));
        let request: DedupRequest = decode(br#"{"key":"k","mode":"throttle","ttl_seconds":60}"#).expect("a dedup");
        let dedup = request.judge("task", None).expect("a task can be throttled");
        assert_eq!((dedup.mode, dedup.ttl), (DedupMode::Throttle, Duration::from_secs(60)));
    }
}
