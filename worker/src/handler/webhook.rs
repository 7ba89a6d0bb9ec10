//! `webhook`: one delivery of one event to one endpoint, signed by Standard Webhooks.
//!
//! Receivers know repeats by `webhook-id`, which every attempt of a delivery, and every delivery of an event, has in common: so
//! what is in doubt is sent again, and the receiver does it once.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::Utc;
use errand_common::{
    config::Config,
    domain::{
        FailureClass, Timestamp,
        gate::Verdict,
        webhook::{WebhookEndpoint, WebhookState},
    },
    port::store::Claimed,
    wire::{
        http::destination,
        webhook::{
            ENDPOINT_DISABLED, ENDPOINT_REMOVED, FAILING_TOO_LONG, GONE, KIND, Secrets, VERSION, WebhookPayload,
            seconds,
        },
    },
};
use reqwest::{
    Method, Response,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::{Completion, Handler, HandlerFailure, RunContext, asking::ask};
use crate::{
    effect::{self, Call, Description, End, Sent},
    gate::Policies,
    outbound::{Clients, Unsent},
    retry_after::retry_after,
};

/// What an attempt may take beside its call: the gate, the intent, the end.
const BESIDE_THE_CALL: Duration = Duration::from_secs(30);
/// A wait is longer by up to this part of itself, so that deliveries that failed together don't come again together.
const JITTER: f64 = 0.1;

/// Makes deliveries.
pub(crate) struct WebhookHandler {
    clients: Result<Clients, String>,
    policies: Policies,
    call_limit: Duration,
    waits: [Duration; 7],
    disable_after: Duration,
}

impl WebhookHandler {
    pub(crate) fn new(config: &Config) -> Self {
        let own = &config.webhooks;
        let call_limit = Duration::from_secs(own.call_seconds.into());
        let lease = Duration::from_secs(config.worker.lease_seconds.into());
        Self {
            clients: Clients::new(&config.outbound),
            // A permit outlives the intent, which is written while the lease holds, and the call.
            policies: Policies::new(&config.gates, call_limit + lease.max(BESIDE_THE_CALL)),
            call_limit,
            waits: own.retry_seconds.map(|wait| Duration::from_secs(wait.into())),
            disable_after: Duration::from_secs(own.disable_after_seconds.into()),
        }
    }

    async fn deliver(&self, claimed: &Claimed, context: &Arc<RunContext>) -> Result<Completion, HandlerFailure> {
        let payload = WebhookPayload::deserialize(&claimed.job.payload).map_err(|error| {
            invalid("INVALID_PAYLOAD", format!("the payload is not that of a webhook job: {error}"))
        })?;
        let endpoint = endpoint_of(claimed, &payload, context).await?;
        let clients = self.clients.as_ref().map_err(|reason| invalid("NO_CLIENT", reason.clone()))?;
        let url = Url::parse(&endpoint.url)
            .map_err(|error| invalid("INVALID_PAYLOAD", format!("the endpoint's URL can't be called: {error}")))?;
        let secrets =
            endpoint.secrets.as_deref().map(|sealed| Secrets::open(sealed, &context.backend.vault, endpoint.id));
        let secrets = secrets.transpose().map_err(|error| invalid("NO_SECRET", error.to_string()))?;
        let body = payload.event.body(endpoint.format, &claimed.job.tenant, &claimed.job.trace_context());
        let call =
            Delivery { handler: self, clients, context, payload: &payload, endpoint: &endpoint, url, secrets, body };
        let done = effect::perform(context, &self.policies, 1, &call).await;
        done.map(Completion::new)
            .map_err(|failure| self.judge(claimed, &endpoint, failure, context.backend.clock.now()))
    }

    /// What a failed attempt means for the endpoint, and when the next one follows.
    fn judge(
        &self,
        claimed: &Claimed,
        endpoint: &WebhookEndpoint,
        failure: HandlerFailure,
        now: Timestamp,
    ) -> HandlerFailure {
        let is_last = claimed.job.attempt >= claimed.job.retry.max_attempts;
        let (class, code, message, asked) = match failure {
            HandlerFailure::Failed { class, code, message, retry_after } => (class, code, message, retry_after),
            // Receivers do what comes twice once: doubt is one more reason to send it again, as long as that may be.
            HandlerFailure::InDoubt { message } if !is_last => (FailureClass::Transient, "NO_ANSWER", message, None),
            other => return other,
        };
        if code == GONE {
            return HandlerFailure::Failed { class, code, message, retry_after: None };
        }
        let fails_for = endpoint.failing_since.map(|since| now.since(since)).unwrap_or_default();
        if class.may_pass() && code != "NOT_SENT" && fails_for >= self.disable_after {
            let message = format!("{message}; it has failed since {}", endpoint.failing_since.unwrap_or(now));
            return invalid(FAILING_TOO_LONG, message);
        }
        let place = usize::try_from(claimed.job.attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        let wait = self.waits.get(place).copied().unwrap_or_default();
        let wait = wait.mul_f64(1.0 + JITTER * rand::random::<f64>()).max(asked.unwrap_or_default());
        HandlerFailure::Failed { class, code, message, retry_after: Some(wait) }
    }
}

#[async_trait]
impl Handler for WebhookHandler {
    fn version(&self) -> u32 {
        VERSION
    }

    fn default_timeout(&self) -> Duration {
        self.call_limit + BESIDE_THE_CALL
    }

    async fn run(&self, claimed: &Claimed, context: &Arc<RunContext>) -> Result<Completion, HandlerFailure> {
        self.deliver(claimed, context).await
    }
}

/// Looked up for each attempt: it may have moved, or been disabled meanwhile.
async fn endpoint_of(
    claimed: &Claimed,
    payload: &WebhookPayload,
    context: &Arc<RunContext>,
) -> Result<WebhookEndpoint, HandlerFailure> {
    let store = &context.backend.store;
    let found =
        ask(context, "the webhook's endpoint", || store.webhook(&claimed.job.tenant, payload.endpoint_id)).await?;
    let Some(endpoint) = found else {
        return Err(invalid(ENDPOINT_REMOVED, "the endpoint was removed; nothing was sent".to_owned()));
    };
    if endpoint.state == WebhookState::Disabled {
        let why = endpoint.disabled_why.unwrap_or_default();
        return Err(invalid(ENDPOINT_DISABLED, format!("the endpoint is disabled: {why}; nothing was sent")));
    }
    Ok(endpoint)
}

fn invalid(code: &'static str, message: String) -> HandlerFailure {
    HandlerFailure::Failed { class: FailureClass::Invalid, code, message, retry_after: None }
}

/// One delivery.
struct Delivery<'a> {
    handler: &'a WebhookHandler,
    clients: &'a Clients,
    context: &'a RunContext,
    payload: &'a WebhookPayload,
    endpoint: &'a WebhookEndpoint,
    url: Url,
    secrets: Option<Secrets>,
    body: String,
}

#[async_trait]
impl Call for Delivery<'_> {
    fn describe(&self) -> Description {
        // Where it goes and what signs it may change between two attempts; what it says does not.
        let fingerprint = self.payload.event.id.to_string();
        Description { kind: KIND, destination: destination(&self.url), fingerprint }
    }

    async fn send(&self, _key: &str) -> Sent {
        let place = destination(&self.url);
        let headers = self.headers(self.context.backend.clock.now());
        let body = Some(self.body.clone().into());
        let answer = self.clients.send(Method::POST, self.url.clone(), headers, body);
        match tokio::time::timeout(self.handler.call_limit, answer).await {
            Err(_) => doubt(format!("{place} did not answer within {} s", self.handler.call_limit.as_secs())),
            Ok(Ok(response)) => judge(&place, &response),
            Ok(Err(Unsent::Refused(refused))) => {
                failed(FailureClass::Invalid, "ADDRESS_NOT_ALLOWED", refused, Verdict::Neutral)
            }
            Ok(Err(Unsent::NoConnection(reason))) => {
                let message = format!("{place} can't be reached: {reason}");
                failed(FailureClass::Transient, "NO_CONNECTION", message, Verdict::Failure)
            }
            Ok(Err(Unsent::Broken(reason))) => doubt(format!("{place} broke the connection: {reason}")),
        }
    }

    /// By `webhook-id`.
    fn deduplicates(&self) -> bool {
        true
    }
}

impl Delivery<'_> {
    fn headers(&self, now: Timestamp) -> HeaderMap {
        let event = &self.payload.event;
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        put("webhook-id", event.id.to_string());
        put("webhook-timestamp", seconds(now).to_string());
        if let Some(secrets) = &self.secrets {
            put("webhook-signature", secrets.signature(event.id, now, &self.body));
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.endpoint.format.media_type()));
        headers
    }
}

/// Its body is not read: it says nothing to us.
fn judge(place: &str, response: &Response) -> Sent {
    let status = response.status().as_u16();
    let pause = retry_after(response.headers(), Utc::now());
    if (200..300).contains(&status) {
        return Sent { end: End::Done(json!({"status": status})), verdict: Verdict::Success, pause: None };
    }
    let hint = if (300..400).contains(&status) { ": redirects are not followed" } else { "" };
    let message = format!("{place} answered {status}{hint}");
    let answer = json!({"status": status});
    let (class, code) = match status {
        410 => (FailureClass::Invalid, GONE),
        429 => (FailureClass::RateLimited, "RATE_LIMITED"),
        _ => (FailureClass::Transient, "FAILED"),
    };
    let verdict = if status >= 500 { Verdict::Failure } else { Verdict::Neutral };
    let pause = pause.filter(|_| class != FailureClass::Invalid);
    Sent { end: End::Failed { class, code, message, answer }, verdict, pause }
}

/// Nothing reached the receiver.
fn failed(class: FailureClass, code: &'static str, message: String, verdict: Verdict) -> Sent {
    let answer = json!({"code": code, "message": message});
    Sent { end: End::Failed { class, code, message, answer }, verdict, pause: None }
}

fn doubt(message: String) -> Sent {
    Sent { end: End::Doubt(message), verdict: Verdict::Failure, pause: None }
}

#[cfg(test)]
mod tests {
    use errand_common::domain::{RetryPolicy, WebhookId, webhook::WebhookFormat};

    use super::*;
    use crate::execute::tests::claimed;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000)
    }

    fn endpoint(failing_for: Option<Duration>) -> WebhookEndpoint {
        WebhookEndpoint {
            id: WebhookId::new(),
            tenant: "t".to_owned(),
            url: "https://hooks.example.com/".to_owned(),
            description: String::new(),
            events: Vec::new(),
            format: WebhookFormat::Standard,
            secrets: None,
            for_jobs: false,
            state: WebhookState::Enabled,
            disabled_why: None,
            failing_since: failing_for.map(|time| now().minus(time)),
            created_at: now(),
            updated_at: now(),
        }
    }

    fn judged(attempt: u32, failing_for: Option<Duration>, failure: HandlerFailure) -> HandlerFailure {
        // Tests of one process share its TLS provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut claimed = claimed();
        claimed.job.attempt = attempt;
        claimed.job.retry = RetryPolicy::WEBHOOK;
        WebhookHandler::new(&Config::default()).judge(&claimed, &endpoint(failing_for), failure, now())
    }

    fn refused(code: &'static str, class: FailureClass, retry_after: Option<Duration>) -> HandlerFailure {
        HandlerFailure::Failed { class, code, message: "no".to_owned(), retry_after }
    }

    fn wait_of(failure: HandlerFailure) -> Option<Duration> {
        match failure {
            HandlerFailure::Failed { retry_after, .. } => retry_after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn attempts_follow_the_schedule() {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        let waits = [5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR].map(Duration::from_secs);
        assert_eq!(waits.len() + 1, RetryPolicy::WEBHOOK.max_attempts as usize);
        for (attempt, nominal) in (1..).zip(waits) {
            let failure = refused("FAILED", FailureClass::Transient, None);
            let wait = wait_of(judged(attempt, Some(DAY), failure)).expect("it is tried again");
            assert!((nominal..=nominal.mul_f64(1.1)).contains(&wait), "{attempt}: {wait:?}");
        }
        let asked = Duration::from_secs(600);
        let patient = refused("RATE_LIMITED", FailureClass::RateLimited, Some(asked));
        assert_eq!(wait_of(judged(1, None, patient.clone())), Some(asked), "a longer Retry-After wins");
        assert!(wait_of(judged(3, None, patient)) > Some(asked), "a shorter one does not");
    }

    #[test]
    fn doubt_is_one_more_reason_to_try_again_as_long_as_that_may_be() {
        let doubt = || HandlerFailure::InDoubt { message: "no answer".to_owned() };
        let tried = judged(7, None, doubt());
        assert!(
            matches!(tried, HandlerFailure::Failed { class: FailureClass::Transient, code: "NO_ANSWER", .. }),
            "{tried:?}"
        );
        assert_eq!(judged(8, None, doubt()), doubt(), "nobody will know");
    }

    #[test]
    fn an_endpoint_that_has_failed_for_five_days_fails_for_good() {
        let failure = || refused("FAILED", FailureClass::Transient, None);
        let code = |failure| match failure {
            HandlerFailure::Failed { class, code, .. } => (class, code),
            other => panic!("{other:?}"),
        };
        assert_eq!(code(judged(2, Some(5 * DAY), failure())), (FailureClass::Invalid, FAILING_TOO_LONG));
        assert_eq!(code(judged(2, Some(4 * DAY), failure())), (FailureClass::Transient, "FAILED"));
        let gone = refused(GONE, FailureClass::Invalid, None);
        assert_eq!(judged(1, Some(9 * DAY), gone.clone()), gone);
    }
}
