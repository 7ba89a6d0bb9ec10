//! What agents say, as they say it: news of chats, for those who watch them.
//!
//! News may be missed: a connection ends, a gateway drops some, a watcher is slow. A watcher is then told of the gap, and
//! reads the session's history. Only the end of a run counts; what comes before it is for show.

mod event;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::sync::mpsc;

use super::{Gateway, GatewayFailure, Unanswered, connection::Connection, failure::code};
pub use event::{ChatEvent, ChatNews, ChatState};
pub(super) use event::{RawChat, message_text};

/// Ends of runs that a watcher remembers, so that it tells each once.
const REMEMBERED_ENDS: usize = 64;
/// Pause before a lost connection is asked for again, where nothing says how long.
const PAUSE: Duration = Duration::from_millis(250);

/// Who watches, on one gateway.
pub(super) struct Watchers {
    seats: Mutex<HashMap<u64, Seat>>,
    next: AtomicU64,
    buffer: usize,
}

struct Seat {
    session_key: String,
    run_id: Option<String>,
    news: mpsc::Sender<ChatEvent>,
    missed: Arc<AtomicBool>,
}

impl Seat {
    fn wants(&self, chat: &RawChat) -> bool {
        match &self.run_id {
            // Gateways write a session's key in their own way, and a run's as it came.
            Some(run_id) => chat.run_id == *run_id,
            None => is_session(&chat.session_key, &self.session_key),
        }
    }
}

/// Whether a gateway's key means the session that was asked for: lower case, and below the default agent if none was named.
fn is_session(theirs: &str, ours: &str) -> bool {
    let (theirs, ours) = (theirs.to_lowercase(), ours.to_lowercase());
    theirs == ours
        || (!ours.starts_with("agent:") && theirs.strip_suffix(&ours).is_some_and(|head| head.ends_with(':')))
}

impl Watchers {
    pub(super) fn new(buffer: usize) -> Self {
        Self { seats: Mutex::default(), next: AtomicU64::new(1), buffer }
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<u64, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands news to those who want them; whoever has too much unread misses them, and is told so.
    pub(super) fn chat(&self, chat: &RawChat) {
        for seat in self.seats().values().filter(|seat| seat.wants(chat)) {
            if seat.news.try_send(chat.read()).is_err() {
                seat.missed.store(true, Ordering::Release);
            }
        }
    }

    /// Everyone may have missed something.
    pub(super) fn missed(&self) {
        for seat in self.seats().values() {
            seat.missed.store(true, Ordering::Release);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seats().is_empty()
    }

    fn leave(&self, id: u64) -> bool {
        let mut seats = self.seats();
        let Some(left) = seats.remove(&id) else { return false };
        !seats.values().any(|seat| seat.session_key == left.session_key)
    }
}

/// The news of one session, or of one run of it. Dropped, nothing more is sent of it.
pub struct Watch {
    gateway: Gateway,
    id: u64,
    session_key: String,
    news: mpsc::Receiver<ChatEvent>,
    missed: Arc<AtomicBool>,
    connection: Option<Arc<Connection>>,
    ended: VecDeque<String>,
    /// Came after a gap that is told first.
    held: Option<ChatEvent>,
}

impl Watch {
    /// Takes a seat, and asks the gateway for the session's news.
    pub(super) async fn open(gateway: Gateway, session_key: &str, run_id: Option<&str>) -> Result<Self, Unanswered> {
        let watchers = gateway.watchers();
        let (sender, news) = mpsc::channel(watchers.buffer);
        let missed = Arc::new(AtomicBool::new(false));
        let seat = Seat {
            session_key: session_key.to_owned(),
            run_id: run_id.map(str::to_owned),
            news: sender,
            missed: missed.clone(),
        };
        let id = watchers.next.fetch_add(1, Ordering::Relaxed);
        watchers.seats().insert(id, seat);
        let session_key = session_key.to_owned();
        let mut watch =
            Self { gateway, id, session_key, news, missed, connection: None, ended: VecDeque::new(), held: None };
        watch.subscribe().await?;
        Ok(watch)
    }

    async fn subscribe(&mut self) -> Result<(), Unanswered> {
        let connection = self.gateway.connection().await.map_err(Unanswered::Refused)?;
        let params = json!({"key": self.session_key});
        let limit = self.gateway.settings().request_timeout;
        match connection.request("sessions.messages.subscribe", &params, limit).await {
            Ok(_) => {}
            // Gateways that can't be asked send the news of all sessions.
            Err(Unanswered::Refused(failure)) if failure.code == code::UNKNOWN_METHOD => {}
            Err(unanswered) => return Err(unanswered),
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// The next news. Connects again by itself, for as long as that may help; the caller bounds it in time.
    ///
    /// # Errors
    /// Why there will be none.
    pub async fn next(&mut self) -> Result<ChatNews, GatewayFailure> {
        loop {
            if self.missed.swap(false, Ordering::AcqRel) {
                return Ok(ChatNews::Gap);
            }
            if let Some(event) = self.held.take() {
                return Ok(ChatNews::Event(event));
            }
            let Some(connection) = self.connection.clone() else {
                match self.subscribe().await {
                    Ok(()) => return Ok(ChatNews::Gap),
                    Err(unanswered) if unanswered.failure().may_pass() => {
                        tokio::time::sleep(unanswered.failure().retry_after.unwrap_or(PAUSE)).await;
                        continue;
                    }
                    Err(unanswered) => return Err(unanswered.failure().clone()),
                }
            };
            tokio::select! {
                biased;
                event = self.news.recv() => {
                    let Some(event) = event else { continue };
                    if self.is_new(&event) {
                        self.held = Some(event);
                    }
                }
                () = connection.wait_for_end() => self.connection = None,
            }
        }
    }

    /// Some runs end twice, and say more after it: only the first end counts.
    fn is_new(&mut self, event: &ChatEvent) -> bool {
        if self.ended.contains(&event.run_id) {
            return false;
        }
        if event.state.is_end() {
            if self.ended.len() == REMEMBERED_ENDS {
                self.ended.pop_front();
            }
            self.ended.push_back(event.run_id.clone());
        }
        true
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let was_last = self.gateway.watchers().leave(self.id);
        if let Some(connection) = &self.connection
            && was_last
        {
            connection.tell("sessions.messages.unsubscribe", &json!({"key": self.session_key}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_by_the_gateways_key_for_it() {
        assert!(is_session("agent:main:probe", "Agent:Main:Probe"));
        assert!(is_session("agent:main:probe", "probe"));
        assert!(!is_session("agent:main:probe", "robe"));
        assert!(!is_session("agent:a:agent:main:probe", "agent:main:probe"));
    }

    #[test]
    fn a_slow_watcher_is_told_that_it_missed_something() {
        let watchers = Watchers::new(1);
        let (news, mut read) = mpsc::channel(1);
        let missed = Arc::new(AtomicBool::new(false));
        let seat = Seat { session_key: "s".into(), run_id: Some("r".into()), news, missed: missed.clone() };
        watchers.seats().insert(1, seat);
        let raw = |run: &str| serde_json::from_value::<RawChat>(json!({"runId": run, "state": "final"})).expect("news");
        watchers.chat(&raw("other"));
        watchers.chat(&raw("r"));
        assert!(!missed.load(Ordering::Acquire));
        watchers.chat(&raw("r"));
        assert!(missed.load(Ordering::Acquire));
        assert_eq!(read.try_recv().expect("the first").run_id, "r");
        assert!(read.try_recv().is_err());
    }
}
