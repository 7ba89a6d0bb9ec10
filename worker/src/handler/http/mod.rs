//! `http`: one call, with its effect key as `Idempotency-Key`.

mod answer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::{
    config::Config,
    domain::{FailureClass, gate::Verdict},
    port::store::Claimed,
    wire::http::{self, HttpPayload, KIND, Method, VERSION},
};
use ipnet::IpNet;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use super::{Completion, Handler, HandlerFailure, RunContext, asked_limit};
use crate::{
    effect::{self, Call, Description, End, Sent},
    gate::Policies,
    outbound::{Clients, Unsent},
};

/// What an attempt may take beside its call: the gate, the intent, the end.
const BESIDE_THE_CALL: Duration = Duration::from_secs(30);

/// Makes calls.
pub(crate) struct HttpHandler {
    clients: Result<Clients, String>,
    allow: Arc<[IpNet]>,
    policies: Policies,
    call_limit: Duration,
    response_limit: usize,
}

impl HttpHandler {
    pub(crate) fn new(config: &Config) -> Self {
        let call_limit = Duration::from_secs(config.outbound.call_seconds.into());
        let lease = Duration::from_secs(config.worker.lease_seconds.into());
        let allow: Arc<[IpNet]> = config.outbound.allow.clone().into();
        Self {
            clients: Clients::new(&config.outbound),
            allow,
            // A permit outlives the intent, which is written while the lease holds, and the call.
            policies: Policies::new(&config.gates, call_limit + lease.max(BESIDE_THE_CALL)),
            call_limit,
            response_limit: config.outbound.response_limit_kib as usize * 1024,
        }
    }
}

#[async_trait]
impl Handler for HttpHandler {
    fn version(&self) -> u32 {
        VERSION
    }

    fn default_timeout(&self) -> Duration {
        self.call_limit + BESIDE_THE_CALL
    }

    /// The call has its own, shorter limit: an attempt that is cut off knows nothing of its call.
    fn time_limit(&self, _claimed: &Claimed) -> Duration {
        self.default_timeout()
    }

    async fn run(&self, claimed: &Claimed, context: &Arc<RunContext>) -> Result<Completion, HandlerFailure> {
        let payload = HttpPayload::deserialize(&claimed.job.payload)
            .map_err(|error| invalid("INVALID_PAYLOAD", format!("the payload is not that of an http job: {error}")))?;
        let call = self.call(payload, claimed)?;
        let result = effect::perform(context, &self.policies, 1, &call).await?;
        Ok(Completion::new(result))
    }
}

impl HttpHandler {
    /// The gates before destinations.
    pub(super) const fn policies(&self) -> &Policies {
        &self.policies
    }

    /// A call on its way, if it may be made.
    pub(super) fn call(&self, payload: HttpPayload, claimed: &Claimed) -> Result<HttpCall<'_>, HandlerFailure> {
        let url = payload.target().map_err(|detail| invalid("INVALID_PAYLOAD", format!("/url {detail}")))?;
        // Judged again: the operator may have changed what is allowed since it was submitted.
        if let Some(fault) = payload.faults(&self.allow).into_iter().next() {
            let code = if fault.pointer == "/url" { "ADDRESS_NOT_ALLOWED" } else { "INVALID_PAYLOAD" };
            return Err(invalid(code, format!("{} {}", fault.pointer, fault.detail)));
        }
        let clients = self.clients.as_ref().map_err(|reason| invalid("NO_CLIENT", reason.clone()))?;
        let limit = asked_limit(claimed).map_or(self.call_limit, |asked| asked.min(self.call_limit));
        let headers = headers(&payload)?;
        Ok(HttpCall { handler: self, clients, payload, url, headers, limit })
    }
}

fn invalid(code: &'static str, message: String) -> HandlerFailure {
    HandlerFailure::Failed { class: FailureClass::Invalid, code, message, retry_after: None }
}

/// The client's own headers.
fn headers(payload: &HttpPayload) -> Result<HeaderMap, HandlerFailure> {
    let mut headers = HeaderMap::new();
    if matches!(payload.body, Some(Value::Object(_) | Value::Array(_))) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, value) in &payload.headers {
        let fault = || invalid("INVALID_PAYLOAD", format!("/headers/{name} can't be sent"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| fault())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| fault())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// One call.
pub(super) struct HttpCall<'a> {
    handler: &'a HttpHandler,
    clients: &'a Clients,
    payload: HttpPayload,
    url: Url,
    headers: HeaderMap,
    limit: Duration,
}

#[async_trait]
impl Call for HttpCall<'_> {
    fn describe(&self) -> Description {
        Description { kind: KIND, destination: http::destination(&self.url), fingerprint: fingerprint(&self.payload) }
    }

    async fn send(&self, key: &str) -> Sent {
        match tokio::time::timeout(self.limit, self.exchange(key)).await {
            Ok(sent) => sent,
            Err(_) => doubt(format!(
                "{} did not answer within {} s",
                http::destination(&self.url),
                self.limit.as_secs_f32().round()
            )),
        }
    }

    fn deduplicates(&self) -> bool {
        self.payload.idempotent
    }
}

impl HttpCall<'_> {
    async fn exchange(&self, key: &str) -> Sent {
        let place = http::destination(&self.url);
        let mut headers = self.headers.clone();
        if let Ok(key) = HeaderValue::from_str(key) {
            headers.insert(HeaderName::from_static("idempotency-key"), key);
        }
        let body = match &self.payload.body {
            Some(Value::String(text)) => Some(text.clone().into()),
            Some(body @ (Value::Object(_) | Value::Array(_))) => Some(body.to_string().into()),
            _ => None,
        };
        let sent = self.clients.send(method(self.payload.method), self.url.clone(), headers, body).await;
        let response = match sent {
            Ok(response) => response,
            Err(Unsent::Refused(refused)) => {
                return unsent(FailureClass::Invalid, "ADDRESS_NOT_ALLOWED", refused, Verdict::Neutral);
            }
            Err(Unsent::NoConnection(reason)) => {
                let message = format!("{place} can't be reached: {reason}");
                return unsent(FailureClass::Transient, "NO_CONNECTION", message, Verdict::Failure);
            }
            Err(Unsent::Broken(reason)) => return doubt(format!("{place} broke the connection: {reason}")),
        };
        answer::judge(&self.payload, &place, response, self.handler.response_limit).await
    }
}

const fn method(method: Method) -> reqwest::Method {
    match method {
        Method::Get => reqwest::Method::GET,
        Method::Head => reqwest::Method::HEAD,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
        Method::Patch => reqwest::Method::PATCH,
        Method::Delete => reqwest::Method::DELETE,
    }
}

/// Nothing reached the destination.
fn unsent(class: FailureClass, code: &'static str, message: String, verdict: Verdict) -> Sent {
    let answer = json!({"code": code, "message": message});
    Sent { end: End::Failed { class, code, message, answer }, verdict, pause: None }
}

fn doubt(message: String) -> Sent {
    Sent { end: End::Doubt(message), verdict: Verdict::Failure, pause: None }
}

/// Of all that is sent but the key and the trace.
fn fingerprint(payload: &HttpPayload) -> String {
    // Its own text, so that a change of the payload's form in a later version does not look like another call.
    let parts = json!([payload.method.as_str(), payload.url, payload.headers, payload.body]);
    let digest = Sha256::digest(parts.to_string());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(value: Value) -> HttpPayload {
        serde_json::from_value(value).expect("a payload")
    }

    #[test]
    fn a_fingerprint_is_that_of_what_is_sent() {
        let first =
            json!({"method": "POST", "url": "https://x.example/", "headers": {"b": "1", "a": "2"}, "body": {"k": 1}});
        let fingerprint_of = |value: &Value| fingerprint(&payload(value.clone()));
        let with = |name: &str, value: Value| {
            let mut changed = first.clone();
            changed[name] = value;
            fingerprint_of(&changed)
        };
        assert_eq!(fingerprint_of(&first), with("idempotent", json!(false)), "not sent");
        let reordered =
            json!({"body": {"k": 1}, "headers": {"a": "2", "b": "1"}, "url": "https://x.example/", "method": "POST"});
        assert_eq!(fingerprint_of(&first), fingerprint_of(&reordered), "the order of fields is nothing");
        for (name, value) in [
            ("method", json!("PUT")),
            ("url", json!("https://x.example/2")),
            ("headers", json!({})),
            ("body", json!("{\"k\":1}")),
        ] {
            assert_ne!(fingerprint_of(&first), with(name, value), "{name}");
        }
    }

    #[test]
    fn secrets_are_marked() {
        let payload = payload(
            json!({"method": "POST", "url": "https://x.example/", "headers": {"Authorization": "Bearer s"}, "body": [1]}),
        );
        let headers = headers(&payload).expect("headers");
        assert_eq!(headers["content-type"], "application/json");
        assert!(headers["authorization"].is_sensitive());
    }
}
