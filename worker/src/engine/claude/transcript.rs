//! What is kept of a conversation between runs: the program's own file of it, so that any worker can go on.
//!
//! A state's content is one line of ours, then the file. It is kept only when a turn has ended well or was interrupted in
//! good order; after a failure the next run begins where this one began.

use std::{io, path::Path};

use errand_common::{
    domain::{JobId, Message},
    port::store::EngineState,
};
use serde::{Deserialize, Serialize};
use tokio::fs;
use uuid::Uuid;

use crate::engine::Turn;

/// The program's running account, which it would go on from: each run's is its own.
const ACCOUNT: &str = "\"type\":\"cost-state\"";

/// Our line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Head {
    /// The task that ran last.
    task: JobId,
    /// Its turn was interrupted, after this was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<String>,
    /// The conversation's file holds all messages up to this one, and those of the task.
    through: i64,
}

/// How a run begins.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Beginning {
    /// The program's own id of the conversation.
    pub(super) engine_session: String,
    /// Its file as of the last run; `None`: it begins anew.
    pub(super) transcript: Option<String>,
    /// This very turn was interrupted, after this was said.
    pub(super) interrupted_after: Option<String>,
    /// What the session's messages say and the file doesn't, oldest first.
    pub(super) unknown: Vec<Message>,
}

impl Beginning {
    /// From what the last run kept, if it kept anything.
    pub(super) fn of(turn: &Turn) -> Self {
        Self::going_on(turn).unwrap_or_else(|| Self::anew(turn))
    }

    /// With a conversation of its own, and told what was said in the session.
    pub(super) fn anew(turn: &Turn) -> Self {
        Self {
            engine_session: Uuid::new_v4().to_string(),
            transcript: None,
            interrupted_after: None,
            unknown: turn.history.clone(),
        }
    }

    fn going_on(turn: &Turn) -> Option<Self> {
        let state = turn.state.as_ref()?;
        let (head, transcript) = state.content.split_once('\n')?;
        let head: Head = serde_json::from_str(head).ok()?;
        let known = |message: &&Message| message.ordinal <= head.through || message.job_id == Some(head.task);
        Some(Self {
            engine_session: state.engine_session.clone(),
            transcript: Some(transcript.to_owned()),
            interrupted_after: head.said.filter(|_| head.task == turn.job_id),
            unknown: turn.history.iter().filter(|message| !known(message)).cloned().collect(),
        })
    }

    /// Puts the file where the program looks for it.
    pub(super) async fn restore(&self, to: &Path) -> io::Result<()> {
        let Some(transcript) = &self.transcript else { return Ok(()) };
        if let Some(folder) = to.parent() {
            super::folders::make_private(folder).await?;
        }
        fs::write(to, transcript).await
    }
}

/// What to keep after a run: `said` is what an interrupted one said. Without content if the file is missing, or longer than
/// `limit` bytes: then the next run begins anew.
pub(super) async fn keep(
    file: &Path,
    engine: &str,
    engine_session: &str,
    turn: &Turn,
    said: Option<&str>,
    limit: u64,
) -> EngineState {
    let through = turn.history.last().map_or(0, |message| message.ordinal);
    let head = Head { task: turn.job_id, said: said.map(str::to_owned), through };
    let content = match read(file, limit).await {
        Ok(Some(transcript)) => {
            serde_json::to_string(&head).map(|head| format!("{head}\n{transcript}")).unwrap_or_default()
        }
        Ok(None) => {
            tracing::info!(task = %turn.job_id, "a conversation's file is longer than `state_limit_kib`; the next run begins anew");
            String::new()
        }
        Err(error) => {
            tracing::warn!(%error, task = %turn.job_id, "a conversation's file can't be read; the next run begins anew");
            String::new()
        }
    };
    EngineState { engine: engine.to_owned(), engine_session: engine_session.to_owned(), content }
}

async fn read(file: &Path, limit: u64) -> io::Result<Option<String>> {
    if fs::metadata(file).await?.len() > limit {
        return Ok(None);
    }
    let text = fs::read_to_string(file).await?;
    Ok(Some(text.split_inclusive('\n').filter(|line| line.ends_with('\n') && !line.contains(ACCOUNT)).collect()))
}

/// The state that names a conversation before it begins.
pub(super) fn announced(engine: &str, engine_session: &str) -> EngineState {
    EngineState { engine: engine.to_owned(), engine_session: engine_session.to_owned(), content: String::new() }
}

#[cfg(test)]
mod tests {
    use errand_common::domain::{MessageId, Role, SessionId, Timestamp};

    use super::*;
    use crate::engine::trial;

    fn message(session: SessionId, task: JobId, ordinal: i64) -> Message {
        Message {
            id: MessageId::new(),
            session_id: session,
            job_id: Some(task),
            role: Role::User,
            content: format!("message {ordinal}"),
            attachments: Vec::new(),
            ordinal,
            created_at: Timestamp::from_micros(0),
        }
    }

    #[tokio::test]
    async fn a_file_goes_from_one_run_to_the_next_without_its_account() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.jsonl");
        let lines =
            "{\"type\":\"user\"}\n{\"type\":\"cost-state\",\"totalCostUSD\":1}\n{\"type\":\"assistant\"}\n{\"half";
        std::fs::write(&file, lines).expect("written");
        let session = SessionId::new();
        let mut turn = Turn { session_id: Some(session), ..trial::turn("hi") };
        turn.history = vec![message(session, JobId::new(), 1)];
        let state = keep(&file, "claude", "id", &turn, None, 1_000).await;
        assert_eq!(state.engine_session, "id");

        let (before, between) = (turn.job_id, JobId::new());
        let mut next = Turn { state: Some(state), ..trial::turn("again") };
        next.history = vec![
            turn.history[0].clone(),
            message(session, before, 2),
            message(session, before, 3),
            message(session, between, 4),
        ];
        let beginning = Beginning::of(&next);
        assert_eq!(beginning.transcript.as_deref(), Some("{\"type\":\"user\"}\n{\"type\":\"assistant\"}\n"));
        assert_eq!((beginning.engine_session.as_str(), &beginning.interrupted_after), ("id", &None));
        assert_eq!(beginning.unknown, [next.history[3].clone()], "what another engine was told");
        let place = folder.path().join("projects/x/id.jsonl");
        beginning.restore(&place).await.expect("restored");
        assert_eq!(std::fs::read_to_string(place).expect("there"), beginning.transcript.expect("a file"));
    }

    #[tokio::test]
    async fn only_the_interrupted_task_itself_goes_on_in_mid_turn() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.jsonl");
        std::fs::write(&file, "{}\n").expect("written");
        let turn = trial::turn("hi");
        let state = keep(&file, "claude", "id", &turn, Some("so far"), 1_000).await;
        let again = Turn { state: Some(state.clone()), ..turn.clone() };
        assert_eq!(Beginning::of(&again).interrupted_after.as_deref(), Some("so far"));
        let other = Turn { state: Some(state), ..trial::turn("next") };
        assert_eq!(Beginning::of(&other).interrupted_after, None);
    }

    #[tokio::test]
    async fn without_a_file_that_can_be_kept_the_next_run_begins_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.jsonl");
        let turn = trial::turn("hi");
        for lines in [None, Some("{\"long\":true}\n")] {
            if let Some(lines) = lines {
                std::fs::write(&file, lines).expect("written");
            }
            let state = keep(&file, "claude", "id", &turn, None, 10).await;
            assert_eq!(state.content, "");
            let next = Beginning::of(&Turn { state: Some(state), ..turn.clone() });
            assert_eq!(next.transcript, None);
            assert_ne!(next.engine_session, "id", "an id that the program may know already is not used again");
        }
    }
}
