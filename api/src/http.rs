//! From a request to an `http` job.

use std::collections::BTreeMap;

use errand_common::{
    domain::{JobId, RetryPolicy},
    port::store::NewJob,
    wire::http::{HttpPayload, KIND, VERSION},
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    auth::Caller,
    extract::{Int, decode},
    job::{self, JobRequest},
    problem::{Faults, Problem},
    state::App,
    view::schema,
};

/// Where `http` jobs go that name no queue.
const QUEUE: &str = "default";

/// One call. It is sent with an `Idempotency-Key`, the same in every attempt, and a W3C `traceparent` of the job's
/// trace, unless `headers` names one. Redirects are not followed.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpRequest {
    /// How.
    #[schema(schema_with = schema::http_method)]
    method: String,
    /// Where: an https URL at a public address, or a URL within the networks that the operator allows.
    #[schema(example = "https://api.example.com/v1/things", max_length = 8192)]
    url: String,
    /// At most 64, of visible ASCII characters; not those of the connection, `Host`, `Content-Length` or `Idempotency-Key`.
    #[schema(value_type = Option<Object>)]
    headers: Option<BTreeMap<String, String>>,
    /// An object or array is sent as JSON, a string as it is.
    #[schema(value_type = Option<Value>)]
    body: Option<Value>,
    /// The statuses that mean success; every 2xx if absent or empty.
    #[schema(inline, max_items = 64)]
    expect: Option<Vec<Int<200, 599>>>,
    /// Whether the destination does what comes twice under one `Idempotency-Key` once; true if absent. If it does not, a
    /// call whose answer was lost is not repeated: the job fails, class `ambiguous`.
    idempotent: Option<bool>,
}

/// The job, with every fault of the request found.
pub(crate) fn new_job(app: &App, caller: &Caller, request: JobRequest) -> Result<NewJob, Problem> {
    let payload = serde_json::to_vec(&request.payload).map_err(|_| Problem::internal())?;
    let call: HttpRequest = decode(&payload).map_err(|mut problem| {
        for error in &mut problem.errors {
            error.pointer.insert_str(0, "/payload");
        }
        Problem::invalid(problem.errors).coded(problem.code)
    })?;
    let mut faults = Faults::default();
    let method = call.method.parse();
    faults.check(method.is_ok(), "/payload/method", || {
        let known: Vec<_> = errand_common::wire::http::Method::ALL.iter().map(|method| method.as_str()).collect();
        format!("must be one of {}", known.join(", "))
    });
    let payload = HttpPayload {
        method: method.unwrap_or(errand_common::wire::http::Method::Get),
        url: call.url,
        headers: call.headers.unwrap_or_default(),
        body: call.body.filter(|body| !body.is_null()),
        expect: call
            .expect
            .unwrap_or_default()
            .into_iter()
            .filter_map(|status| u16::try_from(status.get()).ok())
            .collect(),
        idempotent: call.idempotent.unwrap_or(true),
    };
    let outbound = &app.config.outbound;
    for fault in payload.faults(&outbound.allow) {
        faults.add(format!("/payload{}", fault.pointer), fault.detail);
    }
    job::check_queue(request.queue.as_deref(), &mut faults);
    let ends = [("/expires_at", request.expires_at), ("/deadline", request.deadline)];
    job::check_times(("/run_at", request.run_at), ends, app.now(), &mut faults);
    job::check_metadata(request.metadata.as_ref(), "/metadata", &mut faults);
    let timeout = request.timeout_seconds.map_or_else(|| i64::from(outbound.call_seconds), Int::get);
    faults.check(timeout <= i64::from(outbound.call_seconds), "/timeout_seconds", || {
        format!("one call may take {} s at most", outbound.call_seconds)
    });
    faults.finish()?;
    Ok(NewJob {
        id: JobId::new(),
        tenant: caller.tenant.clone(),
        kind: KIND.to_owned(),
        queue: request.queue.unwrap_or_else(|| QUEUE.to_owned()),
        priority: request.priority.and_then(|p| u8::try_from(p.get()).ok()?.try_into().ok()).unwrap_or_default(),
        payload: serde_json::to_value(&payload).map_err(|_| Problem::internal())?,
        payload_version: VERSION,
        retry: request.retry.map_or(RetryPolicy::HTTP, |retry| retry.over(RetryPolicy::HTTP)),
        timeout_ms: Some(timeout * 1_000),
        run_at: request.run_at,
        expires_at: request.expires_at,
        deadline: request.deadline,
        metadata: request.metadata.map(Value::Object),
        retry_of: None,
        user_id: caller.as_user().map(|user| user.id.clone()),
        dedup: None,
        children: Vec::new(),
        task: None,
        coordination: None,
        webhook: None,
        trace: None,
    })
}
