//! Who outside is told of what, and what they are told.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Job, JobId, JobState, Timestamp, TraceContext, WebhookEventId, WebhookId, job::text_enum};

/// Every type of event there is; a filter names them, or a family such as `job.*`.
pub const EVENTS: &[&str] = &[
    "job.completed",
    "job.partial",
    "job.failed",
    "job.cancelled",
    "job.expired",
    "usage.recorded",
    "question.opened",
    "question.answered",
    "question.expired",
    "question.cancelled",
    DISABLED,
];
/// An endpoint was disabled for its failures; the others are told.
pub const DISABLED: &str = "webhook.disabled";
/// What an endpoint is sent to try it; no filter keeps it away.
pub const TEST: &str = "webhook.test";
/// A run's usage was recorded.
pub const USAGE: &str = "usage.recorded";

/// Larger results, and larger metadata, are left out of what is told, in bytes of JSON: receivers take little, and can ask.
const VALUE_BYTES: usize = 6 * 1024;

text_enum! {
    /// How an endpoint is told.
    #[derive(Default)]
    WebhookFormat {
        /// `{type, timestamp, data}`, as Standard Webhooks has it.
        #[default]
        Standard = "standard",
        /// A CloudEvent in structured mode.
        CloudEvents = "cloudevents",
    }
}

text_enum! {
    /// Whether an endpoint is told.
    WebhookState {
        /// It is.
        Enabled = "enabled",
        /// It is not: it said that it is gone, failed for too long, or somebody wants it so.
        Disabled = "disabled",
    }
}

/// Who is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebhookEndpoint {
    /// Its id.
    pub id: WebhookId,
    /// Whose events it hears.
    pub tenant: String,
    /// Where it is. May hold a secret.
    pub url: String,
    /// For people.
    pub description: String,
    /// The types it wants, `job.*` for a family; empty: all.
    pub events: Vec<String>,
    /// How it is told.
    pub format: WebhookFormat,
    /// What signs, sealed: [`crate::wire::webhook::Secrets`]. `None`: nothing does.
    pub secrets: Option<String>,
    /// It is told of the jobs that name it, and of nothing else.
    pub for_jobs: bool,
    /// Whether it is told.
    pub state: WebhookState,
    /// Why not.
    pub disabled_why: Option<String>,
    /// The first failure after its last success.
    pub failing_since: Option<Timestamp>,
    /// Made.
    pub created_at: Timestamp,
    /// Last changed by its owner, or disabled.
    pub updated_at: Timestamp,
}

/// Whether a filter names a type, or a family, that there is.
#[must_use]
pub fn is_filter(filter: &str) -> bool {
    EVENTS.iter().any(|event| filter == *event || is_family_of(filter, event))
}

/// Whether these filters let an event through; none let all through.
#[must_use]
pub fn wants(filters: &[String], event: &str) -> bool {
    filters.is_empty() || filters.iter().any(|filter| filter == event || is_family_of(filter, event))
}

fn is_family_of(filter: &str, event: &str) -> bool {
    let family = filter.strip_suffix(".*");
    family.is_some_and(|family| event.split_once('.').is_some_and(|(of, _)| of == family))
}

/// What is told: the same to all who hear of it, and in every attempt.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WebhookEvent {
    /// Receivers know repeats by it.
    pub id: WebhookEventId,
    /// One of [`EVENTS`], or [`TEST`].
    pub r#type: String,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The job it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// What happened.
    pub data: Value,
}

impl WebhookEvent {
    /// The body as sent; the same in every attempt of a delivery, which `trace` is the context of.
    #[must_use]
    pub fn body(&self, format: WebhookFormat, tenant: &str, trace: &TraceContext) -> String {
        let body = match format {
            WebhookFormat::Standard => json!({"type": self.r#type, "timestamp": self.timestamp, "data": self.data}),
            WebhookFormat::CloudEvents => {
                let mut event = json!({
                    "specversion": "1.0", "id": self.id, "source": format!("/tenants/{tenant}"),
                    "type": format!("errand.{}", self.r#type), "time": self.timestamp,
                    "datacontenttype": "application/json", "data": self.data,
                });
                if let Some(job) = self.job_id {
                    event["subject"] = format!("jobs/{job}").into();
                }
                // The extension for distributed tracing.
                event["traceparent"] = trace.traceparent().into();
                if let Some(state) = trace.tracestate() {
                    event["tracestate"] = state.into();
                }
                event
            }
        };
        body.to_string()
    }
}

impl WebhookFormat {
    /// The media type of a body.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Standard => "application/json",
            Self::CloudEvents => "application/cloudevents+json",
        }
    }
}

/// The event that a job's end is. `None`: it has not ended.
#[must_use]
pub const fn end_of(state: JobState) -> Option<&'static str> {
    match state {
        JobState::Completed => Some("job.completed"),
        JobState::Partial => Some("job.partial"),
        JobState::Failed => Some("job.failed"),
        JobState::Cancelled => Some("job.cancelled"),
        JobState::Expired => Some("job.expired"),
        _ => None,
    }
}

/// What is told of a job that ended. A result, or metadata, that is too large is named in `omitted`.
#[must_use]
pub fn job_data(job: &Job) -> Value {
    let mut data = Map::new();
    let facts = json!({
        "job_id": job.id, "kind": job.kind, "queue": job.queue, "state": job.state, "attempt": job.attempt,
        "session_id": job.session_id, "parent_id": job.parent_id, "retry_of": job.retry_of, "user_id": job.user_id,
        "created_at": job.created_at, "started_at": job.started_at, "finished_at": job.finished_at,
        "failure": job.failure,
    });
    data.extend(facts.as_object().cloned().unwrap_or_default());
    let mut omitted = Vec::new();
    for (name, value) in [("result", &job.result), ("metadata", &job.metadata)] {
        let fits = value.as_ref().is_none_or(|value| value.to_string().len() <= VALUE_BYTES);
        data.insert(name.to_owned(), value.clone().filter(|_| fits).unwrap_or_default());
        if !fits {
            omitted.push(name);
        }
    }
    if !omitted.is_empty() {
        data.insert("omitted".to_owned(), omitted.into());
    }
    Value::Object(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_types_and_families() {
        for good in ["job.completed", "job.*", "question.*", "usage.*", "webhook.disabled"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["", "*", "job", "job.", "job.done", "jobs.*", "webhook.test", ".*"] {
            assert!(!is_filter(bad), "{bad}");
        }
        let filters = ["job.*".to_owned(), "usage.recorded".to_owned()];
        for (event, wanted) in
            [("job.failed", true), ("usage.recorded", true), ("question.opened", false), (DISABLED, false)]
        {
            assert_eq!(wants(&filters, event), wanted, "{event}");
            assert!(wants(&[], event));
        }
    }

    #[test]
    fn every_end_has_its_event() {
        for state in JobState::ALL {
            assert_eq!(end_of(*state).is_some(), state.is_terminal(), "{state}");
            assert!(end_of(*state).is_none_or(|event| EVENTS.contains(&event)));
        }
    }

    #[test]
    fn a_body_has_its_form() {
        let job_id = JobId::new();
        let event = WebhookEvent {
            id: WebhookEventId::new(),
            r#type: "job.completed".to_owned(),
            timestamp: Timestamp::from_micros(1_700_000_000_000_000),
            job_id: Some(job_id),
            data: json!({"x": 1}),
        };
        let trace = TraceContext::of_job(job_id);
        let body = |format| serde_json::from_str::<Value>(&event.body(format, "acme", &trace)).expect("json");
        let plain = json!({"type": "job.completed", "timestamp": event.timestamp, "data": {"x": 1}});
        assert_eq!(body(WebhookFormat::Standard), plain);
        let cloud = json!({
            "specversion": "1.0", "id": event.id, "source": "/tenants/acme", "type": "errand.job.completed",
            "time": event.timestamp, "datacontenttype": "application/json", "data": {"x": 1},
            "subject": format!("jobs/{job_id}"), "traceparent": trace.traceparent(),
        });
        assert_eq!(body(WebhookFormat::CloudEvents), cloud);
    }
}
