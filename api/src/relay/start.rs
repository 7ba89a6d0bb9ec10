//! Where a watcher begins.

use std::sync::Arc;

use errand_common::{
    domain::{Stream, Timestamp},
    port::store::StreamState,
    telemetry::metric,
};
use serde_json::{Value, json};

use super::watch::{Filter, Watch};
use crate::{
    auth::Caller,
    problem::Problem,
    scope, shown,
    state::App,
    view::{BoardView, SessionView},
};

/// Where a watcher was when it last saw the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    /// The epoch its number belongs to; the present one if it doesn't say.
    pub(crate) epoch: Option<String>,
    /// The last number it saw.
    pub(crate) after: i64,
}

/// A watcher about to be served.
pub(crate) struct Started {
    pub(crate) watch: Watch,
    pub(crate) epoch: Arc<str>,
    pub(crate) state: StreamState,
    /// `None`: it goes on where it was.
    pub(crate) snapshot: Option<Value>,
}

/// The number to go on after; `None`: its position means nothing here any more.
fn resume(position: Option<&Position>, epoch: &str, state: &StreamState) -> Option<i64> {
    let after = position.map_or(0, |position| position.after);
    let known = position.and_then(|position| position.epoch.as_deref()).is_none_or(|theirs| theirs == epoch);
    (known && after >= state.first_seq - 1 && after <= state.tail_seq).then_some(after)
}

/// Begins to watch: the live feed first, then the stream's state. 404 if the caller may see no such stream.
pub(crate) async fn start(
    app: &App,
    caller: &Caller,
    stream: Stream,
    position: Option<Position>,
    filter: Filter,
) -> Result<Started, Problem> {
    let (store, tenant) = (&app.backend.store, caller.tenant.as_str());
    let missing = || {
        Problem::not_found(match stream {
            Stream::Job(_) => "job",
            Stream::Session(_) => "session",
            Stream::Board(_) => "board",
        })
    };
    // Whether it is there comes first: nobody may open feeds of streams that don't exist.
    store.stream(tenant, stream).await?.ok_or_else(missing)?;
    if !scope::stream(app, caller, stream).await? {
        return Err(missing());
    }
    let live = app.hub.watch(stream).await?;
    let state = store.stream(tenant, stream).await?.ok_or_else(missing)?;
    let epoch = app.epoch().await?;
    let after = resume(position.as_ref(), &epoch, &state);
    if position.is_some() {
        let recovered = if after.is_some() { "true" } else { "false" };
        metrics::counter!(metric::STREAM_RECOVERIES_TOTAL, "recovered" => recovered).increment(1);
    }
    let snapshot = match after {
        Some(_) => None,
        None => Some(snapshot(app, tenant, stream, &epoch, &state).await?.ok_or_else(missing)?),
    };
    let after = after.unwrap_or(state.first_seq - 1);
    let watch = Watch::new(stream, app.hub.log(), live, epoch.clone(), after, &state, filter);
    Ok(Started { watch, epoch, state, snapshot })
}

/// The job, session or board as GET shows it, and where its stream stands.
async fn snapshot(
    app: &App,
    tenant: &str,
    stream: Stream,
    epoch: &str,
    state: &StreamState,
) -> Result<Option<Value>, Problem> {
    let store = &app.backend.store;
    let shown = match stream {
        Stream::Job(id) => match store.job(tenant, id).await? {
            Some(job) => Some(("job", serde_json::to_value(shown::job(app, job).await?))),
            None => None,
        },
        Stream::Session(id) => {
            let session = store.session(tenant, id).await?;
            session.map(|session| ("session", serde_json::to_value(SessionView::new(session, epoch))))
        }
        Stream::Board(id) => {
            let board = store.board(tenant, id).await?;
            board.map(|board| ("board", serde_json::to_value(BoardView::from(board))))
        }
    };
    let Some((name, view)) = shown else { return Ok(None) };
    let view = view.map_err(|_| Problem::internal())?;
    let mut snapshot = json!({
        "stream": stream.to_string(),
        "epoch": epoch,
        "first_seq": state.first_seq,
        "tail_seq": state.tail_seq,
        "ts": Timestamp::to_string(&app.now()),
    });
    snapshot[name] = view;
    Ok(Some(snapshot))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: Option<&str>, after: i64) -> Option<Position> {
        Some(Position { epoch: epoch.map(str::to_owned), after })
    }

    #[test]
    fn a_position_is_good_if_its_epoch_is_ours_and_its_number_is_kept() {
        let state = StreamState { first_seq: 5, tail_seq: 9, ended: false };
        assert_eq!(resume(at(Some("e"), 7).as_ref(), "e", &state), Some(7));
        assert_eq!(resume(at(None, 4).as_ref(), "e", &state), Some(4), "the next is the oldest that is kept");
        assert_eq!(resume(at(Some("e"), 9).as_ref(), "e", &state), Some(9));
    }

    #[test]
    fn any_other_position_begins_with_a_snapshot() {
        let state = StreamState { first_seq: 5, tail_seq: 9, ended: false };
        assert_eq!(resume(at(Some("old"), 7).as_ref(), "e", &state), None, "another epoch");
        assert_eq!(resume(at(Some("e"), 3).as_ref(), "e", &state), None, "before the oldest");
        assert_eq!(resume(at(Some("e"), 10).as_ref(), "e", &state), None, "beyond the newest");
        assert_eq!(resume(at(None, i64::MAX).as_ref(), "e", &state), None, "beyond any number");
        assert_eq!(resume(None, "e", &state), None, "the beginning is gone");
        let whole = StreamState { first_seq: 1, tail_seq: 0, ended: false };
        assert_eq!(resume(None, "e", &whole), Some(0));
    }
}
