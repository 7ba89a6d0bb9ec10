//! Traces: which context work belongs to, and the spans that a collector is told of.
//!
//! Contexts are handed on whether or not spans are exported: a client's trace reaches the bridge either way. Spans are only
//! recorded in a process that called [`start`].
//!
//! * [`span`]: one piece of work, from its beginning to its drop. `export`: the way to the collector.

mod export;
pub mod span;

use std::sync::{Arc, OnceLock};

use rand::RngExt;

pub use export::{Exporter, NotStarted};
pub use span::{Kind, Span};

use crate::{
    config,
    domain::{Job, JobId, TraceContext},
};

/// The header, variable or attribute that names trace and span.
pub const TRACEPARENT: &str = "traceparent";
/// The one that other tracers carry along in.
pub const TRACESTATE: &str = "tracestate";

/// The attribute of a run's span that says what came of it.
pub const OUTCOME: &str = "errand.job.outcome";

/// What records spans in this process; unset: nothing does.
static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// Takes spans on their way to the collector.
#[derive(Debug)]
struct Recorder {
    queue: Arc<export::Queue>,
    /// Of traces that begin here, those with a lot below it are recorded.
    below: u128,
}

impl Recorder {
    /// Whether a trace that begins here is recorded.
    fn draws(&self, context: &TraceContext) -> bool {
        u128::from(context.lot()) < self.below
    }

    /// Whether what a job does is recorded: what made a job without a context said nothing about that.
    fn takes(&self, job: &Job, context: &TraceContext) -> bool {
        if job.trace.is_some() { context.is_sampled() } else { self.draws(context) }
    }
}

/// Starts to record spans, if a collector is configured; once a process, within its runtime. `role` is what the process is:
/// `api`, `worker`, `dev`.
///
/// # Errors
/// What is wrong with the settings, or that there is a recorder already.
pub fn start(config: &config::Telemetry, role: &'static str) -> Result<Option<Exporter>, NotStarted> {
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
    let (exporter, queue) = Exporter::start(config, endpoint, role)?;
    let below = (config.sample_ratio.clamp(0.0, 1.0) * 2.0_f64.powi(64)) as u128;
    RECORDER.set(Recorder { queue, below }).map_err(|_| NotStarted::Twice)?;
    Ok(Some(exporter))
}

/// Whether this process records spans.
#[must_use]
pub fn is_recording() -> bool {
    RECORDER.get().is_some()
}

/// What the work at hand belongs to.
#[derive(Clone, Debug)]
struct Here {
    context: Option<TraceContext>,
    job: Option<JobId>,
}

tokio::task_local! {
    static HERE: Here;
}

/// The context of the work at hand, if it has one: what calls to the outside carry.
#[must_use]
pub fn current() -> Option<TraceContext> {
    HERE.try_with(|here| here.context.clone()).ok().flatten()
}

/// The job that the work at hand is a run of.
#[must_use]
pub fn current_job() -> Option<JobId> {
    HERE.try_with(|here| here.job).ok().flatten()
}

/// Does `work` within a context; `None` leaves it where it is. A task that `work` spawns is outside.
pub async fn within<T>(context: Option<TraceContext>, work: impl Future<Output = T>) -> T {
    match context {
        Some(_) => HERE.scope(Here { context, job: current_job() }, work).await,
        None => work.await,
    }
}

/// Does a run of a job within its context.
pub async fn within_run<T>(context: Option<TraceContext>, job: JobId, work: impl Future<Output = T>) -> T {
    HERE.scope(Here { context, job: Some(job) }, work).await
}

/// `traceparent` and `tracestate` of the work at hand, as headers have them.
pub fn carried() -> impl Iterator<Item = (&'static str, String)> {
    let context = current();
    let state = context.as_ref().and_then(TraceContext::tracestate).map(|state| (TRACESTATE, state.to_owned()));
    context.map(|context| (TRACEPARENT, context.traceparent())).into_iter().chain(state)
}

/// The same as the environment of a program that is started for it.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    carried().map(|(name, value)| (name.to_uppercase(), value))
}

/// A context that nobody knows yet.
fn fresh() -> TraceContext {
    let mut dice = rand::rng();
    TraceContext::new(dice.random(), dice.random(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_carries_its_context_to_programs_and_calls() {
        let job = JobId::new();
        let state = Some("vendor=1");
        let parent = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", state);
        let context = parent.expect("valid").run(job, 1);
        assert_eq!((carried().count(), current_job()), (0, None));
        let seen = within_run(Some(context.clone()), job, async {
            let below = within(Some(context.child(7)), async { (current(), current_job()) }).await;
            (below, within(None, async { current() }).await, environment().collect::<Vec<_>>())
        });
        let (below, unchanged, environment) = seen.await;
        assert_eq!(below, (Some(context.child(7)), Some(job)));
        assert_eq!(unchanged, Some(context.clone()));
        let expected =
            [("TRACEPARENT".to_owned(), context.traceparent()), ("TRACESTATE".to_owned(), "vendor=1".to_owned())];
        assert_eq!(environment, expected);
    }

    #[tokio::test]
    async fn without_a_collector_a_span_is_the_context_around_it_and_nothing_else() {
        let context = fresh();
        assert!(Span::child(Kind::Client, || unreachable!("no name is made")).context().is_none());
        within(Some(context.clone()), async {
            let mut span = Span::child(Kind::Client, || unreachable!("no name is made"));
            span.set("key", "value");
            assert_eq!(span.context(), Some(&context));
        })
        .await;
    }
}
