//! One message, said once.
//!
//! ```text
//! send ─► answered ─────────────────────────► delivered
//!   │  └► refused ──────────────────────────► refused: nothing happened
//!   ▼
//! doubt ─► ask the history for `<key>:user` ─► there ─► delivered
//!   ▲                                       └ not there ─► send again under the same key
//!   └────────── not asked ◄─ pause ◄────────┘              (or ambiguous, where that may not be)
//!
//! A gateway that dies between taking a message and saying it to the agent keeps it as interrupted, and leaves it at that. It may
//! take it again under its key; if it does not, the message goes under a new one.
//! ```
//!
//! A gateway tells repeats by their key, for some minutes and until it restarts; its history tells them for good. It is asked
//! over the connection that the message is then sent on, so no restart lies between.

use std::time::Duration;

use errand_common::{config::Resend, domain::FailureClass};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    Gateway, GatewayFailure, HistoryPage, HistoryRequest, Turn, Unanswered, connection::Connection, failure::code,
    link::ask, method::chat,
};

/// Pauses between two looks or sends: they double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Rows of one page of a history, and how much of each text: only the keys are wanted.
const PAGE: u32 = 200;
const PAGE_CHARS: u32 = 64;

/// A message to a session's agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Not empty, without NUL.
    pub text: &'a str,
    /// The same in every attempt, on every worker. It is also the id of the run that the message begins.
    pub key: &'a str,
    /// Whether the agent's answer goes to the session's outside channel too.
    pub deliver: bool,
    /// How long the agent may take; the gateway's own limit if none.
    pub timeout: Option<Duration>,
    /// Whether a text that begins with `/` is an order to the gateway.
    pub commands: bool,
    /// Whether somebody may have sent it before under this key.
    pub in_doubt: bool,
}

/// How it is known that a message is there: once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivered {
    /// The gateway took it.
    Answered,
    /// It was found in the session's history, or in the run that it began.
    Found,
}

/// Why a message is not known to be there.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Undelivered {
    /// It is not there. It may be sent again under its key, if the class of the failure says that this may help.
    #[error("{0}")]
    Refused(GatewayFailure),
    /// It is not there, and the gateway keeps a failure or an interrupted turn under its key: it can only be sent under a new
    /// one.
    #[error("{0}")]
    NewOrdinal(GatewayFailure),
    /// It may be there, and the gateway could not be asked in time. To be tried again under its key, as in doubt.
    #[error("{0}")]
    Doubt(GatewayFailure),
    /// It may be there, can't be found, and may not be sent again.
    #[error("{0}")]
    Ambiguous(GatewayFailure),
}

impl Undelivered {
    /// What failed.
    #[must_use]
    pub const fn failure(&self) -> &GatewayFailure {
        match self {
            Self::Refused(failure) | Self::NewOrdinal(failure) | Self::Doubt(failure) | Self::Ambiguous(failure) => {
                failure
            }
        }
    }
}

impl Turn {
    /// Says it once: sends it, and clears up whatever doubt comes up, until `deadline`.
    ///
    /// # Errors
    /// Why it is not known to be there, and what may be done.
    pub async fn deliver(&self, message: &Message<'_>, deadline: Instant) -> Result<Delivered, Undelivered> {
        let mut delivery = Delivery { turn: self, message, deadline, in_doubt: message.in_doubt, not_there: false };
        let mut pause = FIRST_PAUSE;
        loop {
            let why = match delivery.step().await {
                Step::Ended(end) => return end,
                Step::Again(why) => why,
            };
            let wait = why.retry_after.unwrap_or(pause).max(pause);
            if Instant::now() + wait >= deadline {
                return Err(delivery.out_of_time(why));
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Gateway {
    /// Whether a message with this key is in the session, as far as its newest rows tell (`history_limit`).
    ///
    /// # Errors
    /// If the gateway can't be asked.
    pub async fn look_up(&self, session_key: &str, key: &str) -> Result<bool, Unanswered> {
        let connection = self.connection().await.map_err(Unanswered::Refused)?;
        let limit = self.settings().request_timeout;
        let place = look(&connection, session_key, key, self.settings().history_limit, limit).await?;
        Ok(place == Place::There)
    }
}

/// Where a message is, as far as a history tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    There,
    /// Taken, not said, and not about to be.
    Interrupted,
    NotThere,
}

/// What follows a step.
enum Step {
    Ended(Result<Delivered, Undelivered>),
    Again(GatewayFailure),
}

/// A message on its way.
struct Delivery<'a> {
    turn: &'a Turn,
    message: &'a Message<'a>,
    deadline: Instant,
    /// It may have been sent.
    in_doubt: bool,
    /// The gateway was asked last, and it was not said.
    not_there: bool,
}

impl Delivery<'_> {
    async fn step(&mut self) -> Step {
        let connecting = timeout_at(self.deadline, self.turn.gateway.connection());
        let connection = match connecting.await.unwrap_or_else(|_| Err(too_late())) {
            Ok(connection) => connection,
            Err(failure) if !self.in_doubt => return Step::Ended(Err(Undelivered::Refused(failure))),
            Err(failure) if failure.may_pass() => return Step::Again(failure),
            Err(failure) => return Step::Ended(Err(Undelivered::Doubt(failure))),
        };
        let may_resend = self.turn.gateway.settings().resend == Resend::SameKey;
        if self.in_doubt {
            self.not_there = false;
            match self.look(&connection).await {
                Ok(Place::There) => return Step::Ended(Ok(Delivered::Found)),
                Ok(Place::Interrupted) if !may_resend => {
                    return Step::Ended(Err(Undelivered::NewOrdinal(interrupted())));
                }
                Ok(_) if may_resend => self.not_there = true,
                // It may still be on its way within the gateway.
                Ok(_) => {
                    self.not_there = true;
                    return Step::Again(unknown("the gateway does not have it yet"));
                }
                Err(Unanswered::Refused(failure)) if !failure.may_pass() => {
                    if !may_resend {
                        return Step::Ended(Err(Undelivered::Ambiguous(failure)));
                    }
                    tracing::warn!(
                        reason = failure.message,
                        "a gateway can't be asked for a message; it is sent again"
                    );
                }
                Err(unanswered) => return Step::Again(unanswered.failure().clone()),
            }
        }
        match self.send(&connection).await {
            Ok(()) => Step::Ended(Ok(Delivered::Answered)),
            Err(Unanswered::Doubt(failure)) => {
                (self.in_doubt, self.not_there) = (true, false);
                Step::Again(failure)
            }
            // How a gateway says that the turn which this key began has failed or was interrupted, and that it could not begin one.
            Err(Unanswered::Refused(failure)) if failure.code == code::UNAVAILABLE => {
                match self.look(&connection).await {
                    Ok(Place::There) => Step::Ended(Ok(Delivered::Found)),
                    Ok(Place::NotThere | Place::Interrupted) => Step::Ended(Err(Undelivered::NewOrdinal(failure))),
                    Err(unanswered) => {
                        self.in_doubt = true;
                        Step::Again(unanswered.failure().clone())
                    }
                }
            }
            Err(Unanswered::Refused(failure)) if self.in_doubt && failure.may_pass() => Step::Again(failure),
            // What was sent before may be there all the same.
            Err(Unanswered::Refused(failure)) if self.in_doubt && !self.not_there => {
                Step::Ended(Err(Undelivered::Ambiguous(failure)))
            }
            Err(Unanswered::Refused(failure)) => Step::Ended(Err(Undelivered::Refused(failure))),
        }
    }

    fn limit(&self) -> Duration {
        self.turn.gateway.settings().request_timeout.min(self.deadline.saturating_duration_since(Instant::now()))
    }

    async fn look(&self, connection: &Connection) -> Result<Place, Unanswered> {
        let rows = self.turn.gateway.settings().history_limit;
        look(connection, &self.turn.session_key, self.message.key, rows, self.limit()).await
    }

    async fn send(&self, connection: &Connection) -> Result<(), Unanswered> {
        let params = params(&self.turn.session_key, self.message);
        // Any good answer means that it was taken: `started`, `in_flight`, or how its run has ended meanwhile.
        connection.request("chat.send", &params, self.limit()).await.map(drop)
    }

    fn out_of_time(&self, why: GatewayFailure) -> Undelivered {
        let may_resend = self.turn.gateway.settings().resend == Resend::SameKey;
        match (self.in_doubt, self.not_there) {
            (false, _) => Undelivered::Refused(why),
            (true, true) if !may_resend => Undelivered::Ambiguous(why),
            (true, _) => Undelivered::Doubt(why),
        }
    }
}

fn too_late() -> GatewayFailure {
    let message = "there was no connection to the gateway in time";
    GatewayFailure::new(FailureClass::Transient, code::UNREACHABLE, message)
}

fn unknown(words: &str) -> GatewayFailure {
    GatewayFailure::new(FailureClass::Ambiguous, code::TIMEOUT, words)
}

fn interrupted() -> GatewayFailure {
    let message = "the gateway was cut off before the agent heard the message";
    GatewayFailure::new(FailureClass::Transient, code::INTERRUPTED, message)
}

fn params(session_key: &str, message: &Message<'_>) -> Value {
    let mut params = json!({
        "sessionKey": session_key,
        "message": message.text,
        "deliver": message.deliver,
        "idempotencyKey": message.key,
    });
    if let Some(timeout) = message.timeout {
        params["timeoutMs"] = json!(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    }
    // Only where it matters: older gateways refuse a field they don't know.
    if !message.commands && message.text.trim_start().starts_with('/') {
        params["suppressCommandInterpretation"] = json!(true);
    }
    params
}

/// Looks through the newest rows of a session's history, all within `limit`.
async fn look(
    connection: &Connection,
    session_key: &str,
    key: &str,
    rows: u32,
    limit: Duration,
) -> Result<Place, Unanswered> {
    let deadline = Instant::now() + limit;
    let (mut offset, mut place) = (0, Place::NotThere);
    loop {
        let request = HistoryRequest { limit: PAGE.min(rows - offset), offset, max_chars: Some(PAGE_CHARS) };
        let params = chat::history_params(session_key, &request);
        let left = deadline.saturating_duration_since(Instant::now());
        let page: HistoryPage = ask(connection, "chat.history", &params, left).await?;
        if page.has_message(key) {
            return Ok(Place::There);
        }
        if page.has_interrupted(key) {
            place = Place::Interrupted;
        }
        offset = offset.saturating_add(request.limit);
        if !page.has_more || offset >= rows {
            return Ok(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_is_an_order_only_where_it_may_be() {
        let message =
            |text, commands| Message { text, key: "k", deliver: true, timeout: None, commands, in_doubt: false };
        let sent = |text, commands| params("s", &message(text, commands));
        assert_eq!(
            sent("hello", false),
            json!({"sessionKey": "s", "message": "hello", "deliver": true, "idempotencyKey": "k"})
        );
        assert_eq!(sent(" /stop", false)["suppressCommandInterpretation"], true);
        assert!(sent("/stop", true).get("suppressCommandInterpretation").is_none());
    }
}
