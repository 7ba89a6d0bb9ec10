//! One piece of work, as a collector hears of it. Where nothing is recorded a span is its context alone: no name is made, no
//! attribute, nothing is allocated.

use std::{
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Link, SpanContext, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{RECORDER, Recorder, current, fresh, within};
use crate::domain::{Job, Timestamp, TraceContext};

/// Which end of a call it is.
pub use opentelemetry::trace::SpanKind as Kind;

/// The value of an attribute.
#[derive(Clone, PartialEq, Debug)]
pub struct Value(opentelemetry::Value);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        i64::from(number).into()
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        i64::from(number).into()
    }
}

/// One piece of work. It is over when this is dropped.
#[derive(Debug)]
#[must_use = "it is over when it is dropped"]
pub struct Span {
    context: Option<TraceContext>,
    recorded: Option<Box<Recorded>>,
}

#[derive(Debug)]
struct Recorded {
    span: SpanData,
    recorder: &'static Recorder,
}

/// Where a span is hung up.
struct Place {
    /// The span above it.
    parent: Option<TraceContext>,
    /// That is another process's.
    is_remote: bool,
    context: TraceContext,
    sampled: bool,
}

impl Span {
    /// Of a request that came, below the client's span if it told of one.
    pub fn server(client: Option<TraceContext>, name: impl FnOnce() -> String) -> Self {
        Self::below(client, true, Kind::Server, name)
    }

    /// Within the work at hand.
    pub fn child(kind: Kind, name: impl FnOnce() -> String) -> Self {
        Self::below(current(), false, kind, name)
    }

    /// Something that happens to a job by other hands than a run's, in its trace.
    pub fn of_job(job: &Job, kind: Kind, name: impl FnOnce() -> String) -> Self {
        let parent = job.trace_context();
        let Some(recorder) = RECORDER.get() else { return Self { context: Some(parent), recorded: None } };
        let (context, sampled) = (parent.child(fresh().span_id()), recorder.takes(job, &parent));
        Self::begin(recorder, Place { parent: Some(parent), is_remote: true, context, sampled }, kind, name)
    }

    fn below(parent: Option<TraceContext>, is_remote: bool, kind: Kind, name: impl FnOnce() -> String) -> Self {
        let Some(recorder) = RECORDER.get() else { return Self { context: parent, recorded: None } };
        let fresh = fresh();
        let (context, sampled) = match &parent {
            Some(parent) => (parent.child(fresh.span_id()), parent.is_sampled()),
            None => {
                let sampled = recorder.draws(&fresh);
                (fresh, sampled)
            }
        };
        Self::begin(recorder, Place { parent, is_remote, context, sampled }, kind, name)
    }

    /// Of one run of a job: below what made the job, and linked to the run before it.
    pub fn run(job: &Job, claim: i64) -> Self {
        let parent = job.trace_context();
        let context = parent.run(job.id, claim);
        let Some(recorder) = RECORDER.get() else { return Self { context: Some(context), recorded: None } };
        let sampled = recorder.takes(job, &parent);
        let before = (claim > 1).then(|| parent.run(job.id, claim - 1));
        let place = Place { parent: job.trace.is_some().then_some(parent), is_remote: true, context, sampled };
        let mut span = Self::begin(recorder, place, Kind::Consumer, || format!("run {}", job.kind));
        if let Some(before) = before {
            span.link(&before);
        }
        for (key, text) in [
            ("messaging.system", "errand"),
            ("messaging.operation.type", "process"),
            ("messaging.operation.name", "run"),
            ("messaging.destination.name", &job.queue),
            ("errand.job.kind", &job.kind),
            ("errand.job.queue", &job.queue),
        ] {
            span.set(key, text);
        }
        span.set_with("messaging.message.id", || job.id.to_string());
        span.set_with("errand.job.id", || job.id.to_string());
        span.set("errand.job.attempt", job.attempt);
        span.set("errand.job.claim", claim);
        span.set_with("errand.worker.id", || job.worker_id.map(|id| id.to_string()).unwrap_or_default());
        span
    }

    fn begin(recorder: &'static Recorder, place: Place, kind: Kind, name: impl FnOnce() -> String) -> Self {
        let Place { parent, is_remote, context, sampled } = place;
        let context = context.with_sampled(sampled);
        if !sampled {
            return Self { context: Some(context), recorded: None };
        }
        let started = SystemTime::now();
        let span = SpanData {
            span_context: exported(&context, false),
            parent_span_id: parent.as_ref().map_or(SpanId::INVALID, |parent| SpanId::from(parent.span_id())),
            parent_span_is_remote: parent.is_some() && is_remote,
            span_kind: kind,
            name: name().into(),
            start_time: started,
            end_time: started,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("errand")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        };
        Self { context: Some(context), recorded: Some(Box::new(Recorded { span, recorder })) }
    }

    /// What is below it belongs to this.
    #[must_use]
    pub const fn context(&self) -> Option<&TraceContext> {
        self.context.as_ref()
    }

    /// Whether a collector will hear of it.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// Does `work` within it.
    pub async fn around<T>(&self, work: impl Future<Output = T>) -> T {
        within(self.context.clone(), work).await
    }

    /// Says something of it. Never what a prompt, a secret, a token or a query holds.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.span.attributes.push(KeyValue::new(key, value.into().0));
        }
    }

    /// The same of what has to be made first.
    pub fn set_with<V: Into<Value>>(&mut self, key: &'static str, value: impl FnOnce() -> V) {
        if self.is_recorded() {
            self.set(key, value());
        }
    }

    /// It failed: one word for programs.
    pub fn fail(&mut self, error_type: &str) {
        self.set("error.type", error_type);
        if let Some(recorded) = &mut self.recorded {
            recorded.span.status = Status::error("");
        }
    }

    /// It has to do with another span that is not above it.
    pub fn link(&mut self, to: &TraceContext) {
        if let Some(recorded) = &mut self.recorded {
            recorded.span.links.links.push(Link::with_context(exported(to, true)));
        }
    }

    /// It began earlier than this was called.
    pub fn begun_at(&mut self, at: Timestamp) {
        if let Some(recorded) = &mut self.recorded {
            let since = Duration::from_micros(u64::try_from(at.micros()).unwrap_or_default());
            recorded.span.start_time = UNIX_EPOCH + since;
        }
    }

    /// Nobody hears of it: its end is told by others.
    pub fn forget(&mut self) {
        self.recorded = None;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(recorded) = self.recorded.take() {
            let Recorded { mut span, recorder } = *recorded;
            span.end_time = SystemTime::now().max(span.start_time);
            recorder.queue.take(span);
        }
    }
}

fn exported(context: &TraceContext, is_remote: bool) -> SpanContext {
    let flags = if context.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state = context.tracestate().and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    SpanContext::new(TraceId::from(context.trace_id()), SpanId::from(context.span_id()), flags, is_remote, state)
}
