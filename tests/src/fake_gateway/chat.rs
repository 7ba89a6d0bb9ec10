//! Sessions of the fake: what is said, turns, and keys that it has seen.

use std::{collections::VecDeque, sync::Arc};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Options, Shared,
    fault::{detailed, invalid},
    serve::Order,
    world::{World, text},
};

/// How a turn ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turn {
    /// With this answer.
    Answer(String),
    /// With `answer`, after the agent said `first` and used a tool. Meanwhile the session has a newer run beside it, and names
    /// that one as the run that goes on.
    Work {
        /// What it says before it uses the tool.
        first: String,
        /// What it says in the end.
        answer: String,
    },
    /// With a failure; the message stands in the history.
    Fail(String),
    /// With a failure before the message was written.
    FailBefore(String),
}

/// What a gateway remembers of a key.
#[derive(Clone, Debug)]
pub(super) struct Known {
    fingerprint: (String, String),
    state: KeyState,
}

#[derive(Clone, Debug)]
enum KeyState {
    Running,
    /// With this last text.
    Done(String),
    Aborted,
    Failed(String),
}

/// A conversation.
#[derive(Clone, Debug)]
pub(super) struct Session {
    id: String,
    label: Option<String>,
    rows: Vec<Value>,
    running: Option<Run>,
    /// Messages that wait for the end of the run, each with its row.
    waiting: VecDeque<(Run, Value)>,
    /// Those that waited when the gateway ended: it keeps them, and says them no more.
    interrupted: Vec<(Run, Value)>,
}

#[derive(Clone, Debug)]
struct Run {
    key: String,
    turn: Turn,
    /// Answers of messages that were merged into this turn.
    merged: Vec<String>,
}

impl Default for Session {
    fn default() -> Self {
        let id = Uuid::new_v4().to_string();
        Self { id, label: None, rows: Vec::new(), running: None, waiting: VecDeque::new(), interrupted: vec![] }
    }
}

impl Session {
    pub(super) fn said(&self) -> Vec<(String, String)> {
        let of_user = self.rows.iter().filter(|row| row["role"] == "user");
        let read = |row: &Value| {
            let key = row["idempotencyKey"].as_str().unwrap_or_default();
            (key.trim_end_matches(":user").to_owned(), row["content"].as_str().unwrap_or_default().to_owned())
        };
        of_user.map(read).collect()
    }

    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn lose_run(&mut self) {
        self.running = None;
        self.interrupted.extend(self.waiting.drain(..));
    }

    fn begin(&mut self, run: Run) {
        if let Turn::Work { first, .. } = &run.turn {
            self.rows.push(assistant_row(&run.key, first, "toolUse"));
        }
        self.running = Some(run);
    }

    fn has_said(&self, key: &str) -> bool {
        self.said().iter().any(|(said, _)| said == key)
    }
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": [{"type": "text", "text": text}]})
}

fn assistant_row(key: &str, text: &str, stop_reason: &str) -> Value {
    let mut row = assistant(text);
    row["__openclaw"] = json!({"runId": key});
    row["stopReason"] = json!(stop_reason);
    row
}

/// The parameters that `chat.send` takes.
const SEND: &[&str] = &[
    "sessionKey",
    "message",
    "idempotencyKey",
    "agentId",
    "sessionId",
    "deliver",
    "thinking",
    "timeoutMs",
    "queueMode",
    "attachments",
    "suppressCommandInterpretation",
];

/// What a message led to.
pub(super) struct Sent {
    pub(super) reply: Value,
    /// The session whose turn has begun.
    begun: Option<String>,
    events: Vec<Order>,
}

impl World {
    pub(super) fn send(&mut self, params: &Map<String, Value>, options: &Options) -> Result<Sent, Value> {
        let deduplicates = options.deduplicates;
        if let Some(unknown) = params.keys().find(|name| !SEND.contains(&name.as_str())) {
            return Err(invalid(format!("invalid chat.send params: at root: unexpected property '{unknown}'")));
        }
        let (message, key) = (text(params, "message"), text(params, "idempotencyKey"));
        if message.trim().is_empty() || message.contains('\0') || key.is_empty() {
            return Err(invalid("invalid chat.send params: at /message"));
        }
        let session_key = Self::canonical(&text(params, "sessionKey"));
        let agent = session_key.split(':').nth(1).unwrap_or_default();
        if !self.has_agent(agent) {
            return Err(invalid(format!("Agent \"{agent}\" no longer exists in configuration")));
        }
        let fingerprint = (session_key.clone(), message.clone());
        if let Some(known) = self.known.get(&key).filter(|_| deduplicates) {
            return known_reply(known, &fingerprint, &key).map(|reply| Sent { reply, begun: None, events: vec![] });
        }
        if message.trim() == "/stop" && params.get("suppressCommandInterpretation") != Some(&json!(true)) {
            let stopped = self.abort(&session_key, None);
            return Ok(Sent {
                reply: json!({"ok": true, "aborted": stopped.1.is_some()}),
                begun: None,
                events: stopped.0,
            });
        }
        let session = self.sessions.get(&session_key);
        if session.is_some_and(|session| session.interrupted.iter().any(|(run, _)| run.key == key)) {
            let message = "Error: Pending input ownership ended; submit a new turn to continue";
            return Err(json!({"code": "UNAVAILABLE", "message": message}));
        }
        let turn = self.turns.pop_front().unwrap_or_else(|| Turn::Answer(format!("heard: {message}")));
        self.turns_begun += 1;
        let reply = json!({"runId": key, "status": "started"});
        if let Turn::FailBefore(why) = turn {
            self.known.insert(key.clone(), Known { fingerprint, state: KeyState::Failed(why.clone()) });
            let events = vec![chat(&session_key, &key, json!({"state": "error", "errorMessage": why}))];
            return Ok(Sent { reply, begun: None, events });
        }
        self.known.insert(key.clone(), Known { fingerprint, state: KeyState::Running });
        let session = self.sessions.entry(session_key.clone()).or_default();
        let row = json!({"role": "user", "content": message, "idempotencyKey": format!("{key}:user")});
        let is_known = deduplicates && session.has_said(&key);
        let run = Run { key: key.clone(), turn, merged: vec![] };
        if options.queues && session.running.is_some() {
            session.waiting.push_back((run, row));
            return Ok(Sent { reply, begun: None, events: vec![] });
        }
        if !is_known {
            session.rows.push(row);
        }
        if let Some(running) = &mut session.running {
            // Steered: it is answered in the turn that goes on.
            if let Turn::Answer(answer) = run.turn {
                running.merged.push(answer);
            }
            if let Some(known) = self.known.get_mut(&key) {
                known.state = KeyState::Done(String::new());
            }
            let events = vec![chat(&session_key, &key, json!({"state": "final"}))];
            return Ok(Sent { reply, begun: None, events });
        }
        session.begin(run);
        let events = vec![chat(&session_key, &key, json!({"state": "status", "phase": "preparing_context"}))];
        Ok(Sent { reply, begun: Some(session_key), events })
    }

    /// Ends the turn of a session, and begins the next that waits there.
    pub(super) fn finish(&mut self, session_key: &str) -> Vec<Order> {
        let Some(session) = self.sessions.get_mut(session_key) else { return vec![] };
        let Some(Run { key, turn, merged }) = session.running.take() else { return vec![] };
        let (state, events) = match turn {
            Turn::Answer(answer) | Turn::Work { answer, .. } => {
                let whole = std::iter::once(answer.as_str()).chain(merged.iter().map(String::as_str));
                let whole = whole.collect::<Vec<_>>().join("\n\n");
                let message = assistant(&whole);
                session.rows.push(assistant_row(&key, &whole, "stop"));
                let delta = json!({"state": "delta", "deltaText": whole, "message": message});
                let done = json!({"state": "final", "stopReason": "stop", "message": message});
                (KeyState::Done(whole), vec![delta, done])
            }
            Turn::Fail(why) | Turn::FailBefore(why) => {
                session.rows.push(json!({"role": "custom", "content": why}));
                let again = format!("Agent failed before reply: {why}");
                let events = vec![
                    json!({"state": "error", "errorMessage": why}),
                    json!({"state": "error", "errorMessage": again}),
                ];
                (KeyState::Failed(why), events)
            }
        };
        if let Some((run, row)) = session.waiting.pop_front() {
            session.rows.push(row);
            session.begin(run);
        }
        if let Some(known) = self.known.get_mut(&key) {
            known.state = state;
        }
        events.into_iter().map(|event| chat(session_key, &key, event)).collect()
    }

    pub(super) fn abort(&mut self, session_key: &str, run_id: Option<&str>) -> (Vec<Order>, Option<String>) {
        let wanted = |session: &Session| {
            session.running.as_ref().is_some_and(|run| run_id.is_none_or(|wanted| wanted == run.key))
        };
        // A run's id alone decides, whatever the session.
        let key = match run_id {
            Some(_) => self.sessions.iter().find(|(_, session)| wanted(session)).map(|(key, _)| key.clone()),
            None => Some(session_key.to_owned()),
        };
        let session = key.as_ref().and_then(|key| self.sessions.get_mut(key)).filter(|session| wanted(session));
        let Some(run) = session.and_then(|session| session.running.take()) else { return (vec![], None) };
        if let Some(known) = self.known.get_mut(&run.key) {
            known.state = KeyState::Aborted;
        }
        let key = key.unwrap_or_default();
        (vec![chat(&key, &run.key, json!({"state": "aborted", "stopReason": "rpc"}))], Some(run.key))
    }

    pub(super) fn history(&self, params: &Map<String, Value>) -> Result<Value, Value> {
        let session_key = Self::canonical(&text(params, "sessionKey"));
        let number = |name: &str| params.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let (limit, offset) = (number("limit").unwrap_or(200), number("offset").unwrap_or(0));
        let max_chars = number("maxChars").unwrap_or(HISTORY_CHARS);
        if max_chars > MOST_HISTORY_CHARS {
            return Err(invalid("invalid chat.history params: at /maxChars: must be <= 500000"));
        }
        let empty = Session::default();
        let session = self.sessions.get(&session_key).unwrap_or(&empty);
        let end = session.rows.len().saturating_sub(offset);
        let start = end.saturating_sub(limit);
        let rows: Vec<Value> = session.rows[start..end].iter().map(|row| cut_row(row, max_chars)).collect();
        let waits = |(run, row): &(Run, Value), state: &str| {
            let message = json!({"role": "user", "content": row["content"]});
            json!({"runId": run.key, "message": message, "state": state})
        };
        let interrupted = session.interrupted.iter().map(|item| waits(item, "interrupted"));
        let waiting: Vec<Value> = interrupted.chain(session.waiting.iter().map(|item| waits(item, "queued"))).collect();
        let mut page = json!({
            "sessionKey": session_key,
            "sessionId": session.id,
            "messages": rows,
            "hasMore": start > 0,
            "totalMessages": session.rows.len(),
            "pendingInputs": {"total": waiting.len(), "items": waiting},
            "sessionInfo": {"hasActiveRun": session.is_running(), "activeRunIds": []},
        });
        if let Some(run) = &session.running {
            let newest = if matches!(run.turn, Turn::Work { .. }) { "a-newer-run" } else { &run.key };
            page["sessionInfo"]["activeRunIds"] = json!([run.key, newest]);
            page["inFlightRun"] = json!({"runId": newest, "text": "", "startedAt": 0});
        }
        Ok(page)
    }

    /// `None`: it runs still, or never did.
    pub(super) fn run_end(&self, run_id: &str) -> Option<Value> {
        let reply = |text: &str| match cut(text, TERMINAL_CHARS, "…") {
            text if text.is_empty() => json!({"disposition": "empty"}),
            text => json!({"disposition": "visible", "text": text}),
        };
        match &self.known.get(run_id)?.state {
            KeyState::Running => None,
            KeyState::Done(text) => Some(json!({"runId": run_id, "status": "ok", "terminalReply": reply(text)})),
            KeyState::Aborted => Some(json!({"runId": run_id, "status": "error", "error": "aborted"})),
            KeyState::Failed(why) => Some(json!({"runId": run_id, "status": "error", "error": why})),
        }
    }

    pub(super) fn patch_session(&mut self, params: &Map<String, Value>) -> Result<Value, Value> {
        let key = Self::canonical(&text(params, "key"));
        let label = params.get("label").and_then(Value::as_str).map(str::to_owned);
        let taken = |(other, session): (&String, &Session)| *other != key && session.label == label;
        if let Some(label) = &label
            && self.sessions.iter().any(taken)
        {
            return Err(invalid(format!("label already in use: {label}")));
        }
        let session = self.sessions.entry(key.clone()).or_default();
        session.label = label.or(session.label.take());
        Ok(json!({"ok": true, "key": key, "entry": {"sessionId": session.id, "label": session.label}}))
    }

    pub(super) fn reset_session(&mut self, params: &Map<String, Value>) -> Result<Value, Value> {
        let key = Self::canonical(&text(params, "key"));
        let session = self.sessions.get_mut(&key).ok_or_else(|| invalid("session not found"))?;
        *session = Session { label: session.label.take(), ..Session::default() };
        Ok(json!({"ok": true, "key": key}))
    }

    pub(super) fn list_sessions(&self) -> Value {
        let sessions: Vec<Value> =
            self.sessions.iter().map(|(key, session)| json!({"key": key, "label": session.label})).collect();
        json!({"sessions": sessions})
    }
}

/// What a history tells of a text, unless it is asked for more; and the most that may be asked for.
const HISTORY_CHARS: usize = 8_000;
const MOST_HISTORY_CHARS: usize = 500_000;
/// What `agent.wait` tells of the last text.
const TERMINAL_CHARS: usize = 4_096;

fn cut(text: &str, chars: usize, mark: &str) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}{mark}", &text[..end]),
        None => text.to_owned(),
    }
}

fn cut_row(row: &Value, chars: usize) -> Value {
    let mut row = row.clone();
    let path = if row["content"].is_string() { "/content" } else { "/content/0/text" };
    if let Some(text) = row.pointer_mut(path) {
        *text = json!(cut(text.as_str().unwrap_or_default(), chars, "\n...(truncated)..."));
    }
    row
}

fn known_reply(known: &Known, fingerprint: &(String, String), key: &str) -> Result<Value, Value> {
    if known.fingerprint != *fingerprint {
        let message = "This message ID was already used for different input.";
        return Err(detailed("INVALID_REQUEST", message, &json!({"reason": "chat-request-conflict"})));
    }
    match &known.state {
        KeyState::Running => Ok(json!({"runId": key, "status": "in_flight"})),
        KeyState::Done(_) => Ok(json!({"runId": key, "status": "ok"})),
        KeyState::Aborted => Ok(json!({"runId": key, "status": "timeout", "summary": "aborted", "stopReason": "rpc"})),
        KeyState::Failed(why) => Err(json!({"code": "UNAVAILABLE", "message": why})),
    }
}

/// News of a chat.
fn chat(session_key: &str, run_id: &str, mut payload: Value) -> Order {
    payload["runId"] = json!(run_id);
    payload["sessionKey"] = json!(session_key);
    Order::Event { name: "chat", session_key: Some(session_key.to_owned()), payload }
}

/// Takes a message, and sees its turn through.
pub(super) fn take(shared: &Arc<Shared>, params: &Map<String, Value>) -> Result<Value, Value> {
    let Sent { reply, begun, events } = shared.world().send(params, &shared.options)?;
    for event in events {
        shared.orders.send(event).ok();
    }
    if let Some(session_key) = begun {
        let turn = shared.options.turn;
        let weak = Arc::downgrade(shared);
        shared.spawn(async move {
            loop {
                tokio::time::sleep(turn).await;
                let Some(shared) = weak.upgrade() else { return };
                let events = shared.world().finish(&session_key);
                for event in events {
                    shared.orders.send(event).ok();
                }
                if !shared.world().sessions.get(&session_key).is_some_and(Session::is_running) {
                    return;
                }
            }
        });
    }
    Ok(reply)
}
