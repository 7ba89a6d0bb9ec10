//! `POST /jobs/retry`

use std::collections::BTreeSet;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use errand_common::{
    domain::{FailureClass, JobId, JobState, Stream, Timestamp},
    port::store::{NewJob, Retried, StoredAnswer, Unsuccessful, UnsuccessfulFilter},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    auth::{Caller, Permit, Write},
    extract::{Int, JsonBody, Wanted, decode_cursor, encode_cursor},
    idempotency::{self, Bound, IdempotencyKey},
    job, limit,
    problem::{Faults, Problem},
    state::{App, AppState},
    traced,
    view::schema,
};

/// New jobs of one call, if the client says nothing.
const LIMIT: u32 = 100;

/// Which jobs to repeat. At least one filter, or `all`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkRetry {
    /// Of this kind.
    kind: Option<String>,
    /// In one of these states, comma-separated: `failed`, `partial`, `cancelled`, `expired`; any of them if absent.
    #[schema(example = "failed,expired")]
    state: Option<String>,
    /// In this queue.
    queue: Option<String>,
    /// Whose failure is of this class. `ambiguous` ones are repeated only if it is named here.
    #[schema(schema_with = schema::failure_class)]
    class: Option<FailureClass>,
    /// Whose failure has this code.
    #[schema(example = "WORKER_LOST")]
    code: Option<String>,
    /// Submitted at or after.
    #[schema(schema_with = schema::time)]
    since: Option<Timestamp>,
    /// Without any filter.
    #[serde(default)]
    all: bool,
    /// Most new jobs of this call; 100 if absent.
    #[schema(inline)]
    limit: Option<Int<1, 1_000>>,
    /// `next_cursor` of the call before.
    cursor: Option<String>,
}

impl Wanted for BulkRetry {}

/// What was repeated, and what was not.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct BulkRetried {
    /// The new jobs, in the order of their originals.
    items: Vec<RetriedItem>,
    /// Jobs that the filter named, and that were left alone.
    skipped: Skipped,
    /// Where the next call goes on; null: there is no more. It never meets the new jobs.
    next_cursor: Option<String>,
}

/// A job that repeats another.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct RetriedItem {
    /// The new job.
    #[schema(schema_with = schema::uuid)]
    id: JobId,
    /// The one it repeats.
    #[schema(schema_with = schema::uuid)]
    retry_of: JobId,
}

/// Jobs left alone, by reason.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Skipped {
    /// A job repeats them already; if that one ended badly too, it stands for them.
    already_retried: usize,
    /// What they did is not known: name the class `ambiguous` to repeat them all the same.
    ambiguous: usize,
    /// They can't be repeated: their payload can't be read.
    unreadable: usize,
}

/// Repeats jobs that failed, ended in part, were cancelled or expired, newest first: new jobs, each with `retry_of`. One
/// transaction and at most `limit` new jobs a call; go on with `next_cursor`. A job that a retry repeats already is left
/// alone, so a second call doubles nothing. Jobs of a group are repeated with their group.
#[utoipa::path(
    post, path = "/api/v1/jobs/retry", tag = "jobs", request_body = BulkRetry,
    responses((status = 202, description = "The new jobs are durable", body = BulkRetried))
)]
pub(crate) async fn retry_jobs(
    State(app): AppState,
    caller: Permit<Write>,
    key: IdempotencyKey,
    body: JsonBody<BulkRetry>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    if let Some(key) = &key
        && let Some(stored) = key.recall(&app).await?
    {
        return again(&app, stored).await;
    }
    let found = find(&app, &caller, &body.value).await?;
    submit(&app, &caller, key.as_ref(), found).await
}

/// Jobs to be made, and the answer if all of them are.
struct Found {
    jobs: Vec<NewJob>,
    answer: BulkRetried,
}

async fn find(app: &App, caller: &Caller, wanted: &BulkRetry) -> Result<Found, Problem> {
    let filter = UnsuccessfulFilter { user_id: caller.confined_to().map(str::to_owned), ..judge(wanted)? };
    let most = wanted.limit.map_or(LIMIT, Int::as_u32) as usize;
    let looked_at = app.backend.store.unsuccessful(&caller.tenant, &filter).await?;
    let chosen = choose(&looked_at, wanted, most);
    let mut skipped = chosen.skipped;
    let mut originals = app.backend.store.jobs_by_id(&caller.tenant, &chosen.ids).await?;
    originals.sort_by_key(|job| std::cmp::Reverse(job.id));
    let mut jobs: Vec<NewJob> = Vec::with_capacity(originals.len());
    // A group brings its jobs along: those of one transaction are bounded together.
    let (mut total, mut last_that_fits) = (0, None);
    for original in &originals {
        match job::repeat(app, original).await {
            Ok(job) => {
                total += 1 + job.children.len();
                if total > limit::BATCH_JOBS && !jobs.is_empty() {
                    last_that_fits = jobs.last().and_then(|job| job.retry_of);
                    break;
                }
                jobs.push(job);
            }
            Err(_) => skipped.unreadable += 1,
        }
    }
    // Made in the order of their originals.
    jobs.reverse();
    let is_end = last_that_fits.is_none() && chosen.last.is_none() && looked_at.len() < filter.limit as usize;
    let last = last_that_fits.or(chosen.last).or(looked_at.last().map(|job| job.id)).filter(|_| !is_end);
    let items = jobs.iter().filter_map(|job| Some(RetriedItem { id: job.id, retry_of: job.retry_of? })).collect();
    let next_cursor = last.map(|id| encode_cursor(&id.to_string()));
    Ok(Found { jobs, answer: BulkRetried { items, skipped, next_cursor } })
}

fn judge(wanted: &BulkRetry) -> Result<UnsuccessfulFilter, Problem> {
    let mut faults = Faults::default();
    let has_filter = wanted.kind.is_some()
        || wanted.state.is_some()
        || wanted.queue.is_some()
        || wanted.class.is_some()
        || wanted.code.is_some()
        || wanted.since.is_some();
    faults.check(has_filter || wanted.all, "", || {
        r#"name a filter (kind, state, queue, class, code, since), or say "all": true"#.to_owned()
    });
    let mut states = Vec::new();
    for name in wanted.state.iter().flat_map(|list| list.split(',')).map(str::trim) {
        match name.parse() {
            Ok(state @ (JobState::Failed | JobState::Partial | JobState::Cancelled | JobState::Expired)) => {
                states.push(state);
            }
            _ => faults.add("/state", format!("{name:?} can't be retried; failed, partial, cancelled and expired can")),
        }
    }
    let before = wanted.cursor.as_deref().map(decode_cursor);
    faults.check(before != Some(None), "/cursor", || "must be the next_cursor of a bulk retry".to_owned());
    faults.finish()?;
    Ok(UnsuccessfulFilter {
        kind: wanted.kind.clone(),
        states,
        queue: wanted.queue.clone(),
        user_id: None,
        since: wanted.since,
        before: before.flatten(),
        limit: limit::RETRIES_LOOKED_AT,
    })
}

/// What of a page is to be repeated.
#[derive(Debug, Default)]
struct Chosen {
    ids: Vec<JobId>,
    skipped: Skipped,
    /// The last that was judged, if the page holds more.
    last: Option<JobId>,
}

fn choose(page: &[Unsuccessful], wanted: &BulkRetry, most: usize) -> Chosen {
    let mut chosen = Chosen::default();
    let mut chars = 0;
    for (place, job) in page.iter().enumerate() {
        let fits_class = wanted.class.is_none_or(|class| job.class == Some(class));
        let fits_code = wanted.code.as_ref().is_none_or(|code| job.code.as_ref() == Some(code));
        if !fits_class || !fits_code {
            continue;
        }
        if job.retried {
            chosen.skipped.already_retried += 1;
        } else if job.class == Some(FailureClass::Ambiguous) && wanted.class.is_none() {
            chosen.skipped.ambiguous += 1;
        } else {
            let full = chosen.ids.len() == most || chars + job.payload_chars > limit::RETRIED_PAYLOAD_CHARS;
            if full && !chosen.ids.is_empty() {
                chosen.last = place.checked_sub(1).and_then(|before| page.get(before)).map(|job| job.id);
                break;
            }
            chars += job.payload_chars;
            chosen.ids.push(job.id);
        }
    }
    chosen
}

async fn submit(app: &App, caller: &Caller, key: Option<&Bound>, mut found: Found) -> Result<Response, Problem> {
    let _span = traced::submission(&mut found.jobs);
    let stored = serde_json::to_value(&found.answer).map_err(|_| Problem::internal())?;
    let record = key.map(|key| key.record(app, StatusCode::ACCEPTED, stored));
    let retries = app.backend.store.submit_retries(&caller.tenant, found.jobs, record, app.now());
    let (retried, consequences) = retries.await?;
    app.backend.dispatch(consequences).await;
    match retried {
        Retried::Done(made) => Ok(accepted(found.answer, &made)),
        Retried::Replayed(stored) => again(app, stored).await,
        Retried::Mismatch => Err(idempotency::mismatch()),
    }
}

/// Those that were not made had been retried in the meantime.
fn accepted(mut answer: BulkRetried, made: &BTreeSet<JobId>) -> Response {
    let found = answer.items.len();
    answer.items.retain(|item| made.contains(&item.id));
    answer.skipped.already_retried += found - answer.items.len();
    (StatusCode::ACCEPTED, Json(answer)).into_response()
}

/// The answer given before: what it names and is not there was not made.
async fn again(app: &App, stored: StoredAnswer) -> Result<Response, Problem> {
    let answer: BulkRetried = serde_json::from_value(stored.answer).map_err(|_| Problem::internal())?;
    let streams: Vec<_> = answer.items.iter().map(|item| Stream::Job(item.id)).collect();
    let there = app.backend.store.tails(&streams).await?.into_iter();
    let made = there.filter_map(|(stream, _)| if let Stream::Job(id) = stream { Some(id) } else { None }).collect();
    Ok(idempotency::replayed(accepted(answer, &made)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::decode;

    fn wanted(text: &str) -> BulkRetry {
        decode(text.as_bytes()).expect("a bulk retry")
    }

    fn failed(class: FailureClass, payload_chars: i64) -> Unsuccessful {
        let code = Some("CODE".to_owned());
        Unsuccessful { id: JobId::new(), class: Some(class), code, retried: false, payload_chars }
    }

    #[test]
    fn a_bulk_retry_names_what_it_is_about() {
        let pointers = |text| -> Vec<String> {
            judge(&wanted(text)).expect_err("refused").errors.into_iter().map(|error| error.pointer).collect()
        };
        assert_eq!(pointers("{}"), [""]);
        assert_eq!(pointers(r#"{"limit":5}"#), [""]);
        assert_eq!(pointers(r#"{"state":"failed,completed","cursor":"!"}"#), ["/state", "/cursor"]);
        assert!(judge(&wanted(r#"{"all":true}"#)).is_ok());
        assert_eq!(judge(&wanted(r#"{"state":"failed, expired"}"#)).expect("fine").states.len(), 2);
    }

    #[test]
    fn what_is_ambiguous_is_repeated_only_if_it_is_named_and_what_was_retried_never() {
        let mut page = vec![failed(FailureClass::Ambiguous, 1), failed(FailureClass::Fatal, 1)];
        let any = choose(&page, &wanted(r#"{"all":true}"#), 10);
        assert_eq!((any.ids, any.skipped.ambiguous), (vec![page[1].id], 1));
        let named = choose(&page, &wanted(r#"{"class":"ambiguous"}"#), 10);
        assert_eq!((named.ids, named.skipped.ambiguous), (vec![page[0].id], 0));
        page[1].retried = true;
        let again = choose(&page, &wanted(r#"{"code":"CODE"}"#), 10);
        assert_eq!((again.ids, again.skipped.already_retried), (vec![], 1));
        assert!(choose(&page, &wanted(r#"{"code":"OTHER"}"#), 10).ids.is_empty());
    }

    #[test]
    fn a_call_stops_at_its_bounds_and_says_where() {
        let page: Vec<_> = (0..5).map(|_| failed(FailureClass::Fatal, 1)).collect();
        let chosen = choose(&page, &wanted(r#"{"all":true}"#), 2);
        assert_eq!((chosen.ids.len(), chosen.last), (2, Some(page[1].id)));
        assert_eq!(choose(&page, &wanted(r#"{"all":true}"#), 5).last, None);
        let large: Vec<_> = (0..3).map(|_| failed(FailureClass::Fatal, limit::RETRIED_PAYLOAD_CHARS)).collect();
        assert_eq!(choose(&large, &wanted(r#"{"all":true}"#), 5).ids, [large[0].id], "one goes, however large");
    }
}
