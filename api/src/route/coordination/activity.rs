//! `GET /activity`, `GET /activity/stream`

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use errand_common::{
    domain::{ActivityId, Timestamp, coordination::Activity},
    port::{StoreError, store::coordination::ActivityFilter},
};
use futures::stream;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval, MissedTickBehavior},
};

use crate::{
    auth::{Anyone, Caller},
    extract::{Page, Params},
    limit,
    problem::Problem,
    state::{App, AppState},
    view::{ActivityView, List},
};

/// Lists who did what to whom, newest first. An agent sees what it did itself.
#[utoipa::path(
    get, path = "/api/v1/activity", tags = ["activity", "agent-lead", "agent-worker", "agent-main"],
    params(
        ("board_id" = Option<uuid::Uuid>, Query, description = "on this board"),
        ("agent_id" = Option<uuid::Uuid>, Query, description = "by this agent"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<ActivityView>))
)]
pub(crate) async fn list_activity(
    State(app): AppState,
    caller: Anyone,
    mut query: Params,
) -> Result<Json<List<ActivityView>>, Problem> {
    let page: Page<ActivityId> = query.page();
    let filter = ActivityFilter { before: page.after, limit: page.probe(), ..filter(&caller, &mut query) };
    query.finish()?;
    let mut lines = app.backend.store.activities(&filter).await?;
    let next_cursor = page.cut(&mut lines, |line| line.id);
    Ok(Json(List { items: lines.into_iter().map(ActivityView::from).collect(), next_cursor }))
}

/// What the caller may see of what they ask for.
fn filter(caller: &Anyone, query: &mut Params) -> ActivityFilter {
    let (board_id, asked) = (query.parse("board_id", "a UUID"), query.parse("agent_id", "a UUID"));
    if let (Some(asked), Some(agent)) = (asked, caller.agent())
        && asked != agent.id
    {
        query.fault("agent_id", "must be the agent itself, or absent");
    }
    ActivityFilter {
        tenant: caller.caller().tenant.clone(),
        board_id,
        agent_id: caller.agent().map(|agent| agent.id).or(asked),
        before: None,
        after: None,
        limit: limit::ACTIVITY_PAGE,
    }
}

/// The last line that a watcher saw: `Last-Event-ID`, or `?after=`.
#[derive(Debug)]
pub(crate) struct After(Option<ActivityId>);

impl<S: Send + Sync> FromRequestParts<S> for After {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("last-event-id") else { return Ok(Self(None)) };
        let id = value.to_str().ok().and_then(|text| text.parse().ok());
        id.map(|id| Self(Some(id))).ok_or_else(|| Problem::field("header:Last-Event-ID", "must be the id of a line"))
    }
}

/// Watches who does what to whom, as server-sent events: each is a line with its id. Without a position it begins with what comes
/// next. After a reconnection lines of the last seconds may come once more: their ids tell.
#[utoipa::path(
    get, path = "/api/v1/activity/stream", tags = ["activity", "agent-lead", "agent-worker", "agent-main"],
    params(
        ("board_id" = Option<uuid::Uuid>, Query, description = "on this board"),
        ("agent_id" = Option<uuid::Uuid>, Query, description = "by this agent"),
        ("Last-Event-ID" = Option<String>, Header, description = "go on after this line; beats the query"),
        ("after" = Option<uuid::Uuid>, Query, description = "the same"),
    ),
    responses((status = 200, description = "Lines", body = String, content_type = "text/event-stream"))
)]
pub(crate) async fn watch_activity(
    State(app): AppState,
    caller: Anyone,
    After(header): After,
    mut query: Params,
) -> Result<Response, Problem> {
    let filter = filter(&caller, &mut query);
    let after: Option<ActivityId> = query.parse("after", "the id of a line");
    query.finish()?;
    let permit = app.admit_watcher()?;
    let watch = Watch::new(app, caller.caller().clone(), filter, header.or(after), permit);
    let body = Body::from_stream(stream::unfold(watch, |mut watch| async move {
        let bytes = watch.next().await?;
        Some((Ok::<_, Infallible>(bytes), watch))
    }));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

/// A watcher of the audit. A line has its id before it is committed, so another one with a later id may be seen first: each look
/// goes back by as long as a commit may take, and what was sent of that time is remembered.
struct Watch {
    app: Arc<App>,
    caller: Arc<Caller>,
    filter: ActivityFilter,
    /// Lines from here on are looked at.
    from: Timestamp,
    /// Those of them that were sent.
    sent: BTreeSet<ActivityId>,
    /// A line is committed at most so long after it got its id.
    overlap: Duration,
    waiting: VecDeque<Activity>,
    poll: Interval,
    comment: Interval,
    done: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    fn new(
        app: Arc<App>,
        caller: Arc<Caller>,
        filter: ActivityFilter,
        after: Option<ActivityId>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let now = app.now();
        let overlap = limit::CLOCKS_APART + Duration::from_secs(app.config.database.answer_timeout_seconds.into());
        let from = after.map_or(now, |id| made_at(id).unwrap_or(now).minus(overlap));
        let mut poll = tokio::time::interval(limit::ACTIVITY_POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let comment = tokio::time::interval_at(Instant::now() + limit::SSE_COMMENT, limit::SSE_COMMENT);
        let sent = after.into_iter().collect();
        let waiting = VecDeque::new();
        Self { app, caller, filter, from, sent, overlap, waiting, poll, comment, done: false, _permit: permit }
    }

    /// `None`: the response is over. Who was cut off comes again with `Last-Event-ID`.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.done {
                return None;
            }
            if let Some(line) = self.waiting.pop_front() {
                return Some(frame(line));
            }
            tokio::select! {
                biased;
                () = self.app.shutdown.cancelled() => {
                    self.done = true;
                    return Some(format!("retry: {}\n\n", self.app.retry_after_ms()).into());
                }
                () = self.caller.expiry() => return None,
                _ = self.comment.tick() => {
                    self.done = matches!(self.app.auth.still_valid(&self.caller).await, Ok(false));
                    return (!self.done).then(|| Bytes::from_static(b": still here\n\n"));
                }
                _ = self.poll.tick() => self.look().await.ok()?,
            }
        }
    }

    /// Takes up what is new, oldest first.
    async fn look(&mut self) -> Result<(), StoreError> {
        let began = self.app.now();
        let mut after = first_id_at(self.from);
        let seen_up_to = loop {
            let filter = ActivityFilter { after: Some(after), ..self.filter.clone() };
            let lines = self.app.backend.store.activities(&filter).await?;
            let is_all = lines.len() < limit::ACTIVITY_PAGE as usize;
            after = lines.last().map_or(after, |line| line.id);
            for line in lines {
                if self.sent.insert(line.id) {
                    self.waiting.push_back(line);
                }
            }
            // Also where nothing was found: a filter that few lines pass must not look at ever more of them.
            if is_all {
                break began;
            }
            // What waits to be sent is bounded; the rest is looked at next.
            if self.waiting.len() >= limit::ACTIVITY_PAGE as usize {
                // An id by a clock that goes ahead says nothing of what was made before now.
                break made_at(after).map_or(began, |at| at.min(began));
            }
        };
        self.from = self.from.max(seen_up_to.minus(self.overlap));
        self.sent = self.sent.split_off(&first_id_at(self.from));
        Ok(())
    }
}

/// When an id was made, to the millisecond.
fn made_at(id: ActivityId) -> Option<Timestamp> {
    let (seconds, nanos) = id.uuid().get_timestamp()?.to_unix();
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    micros.checked_add(i64::from(nanos / 1_000)).map(Timestamp::from_micros)
}

/// Before all ids made at or after a time.
fn first_id_at(time: Timestamp) -> ActivityId {
    let millis = u64::try_from(time.micros() / 1_000).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid().into()
}

fn frame(line: Activity) -> Bytes {
    let view = ActivityView::from(line);
    let id = view.id;
    // Plain data: it always serialises.
    let data = serde_json::to_string(&view).unwrap_or_default();
    format!("id: {id}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_their_time() {
        let id = ActivityId::new();
        let at = made_at(id).expect("a time");
        assert!(first_id_at(at) <= id && first_id_at(at.plus(Duration::from_millis(1))) > id);
    }
}
