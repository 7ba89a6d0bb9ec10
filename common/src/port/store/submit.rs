//! What clients bring: submissions and cancellations.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Consequences, NewWebhook, StoreError, coordination::NewQuestion};
use crate::{
    domain::{
        AgentId, AttachmentRef, BoardId, Dedup, DedupMode, GatewayId, InstanceId, Job, JobId, JobState, OnBusy,
        Priority, RetryPolicy, SessionId, Timestamp, TraceContext,
        coordination::{
            Agent, Told,
            text::{LeadMessageKind, trace_id},
        },
        job::text_enum,
    },
    wire::coordination::{PROVISION, ProvisionPayload, VERSION, provision_key},
};

/// One job to be made.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Made by the caller, so that an answer can be prepared before the commit.
    pub id: JobId,
    /// Whose it is.
    pub tenant: String,
    /// Names the handler.
    pub kind: String,
    /// Which workers may take it.
    pub queue: String,
    /// 0 first.
    pub priority: Priority,
    /// The input.
    pub payload: Value,
    /// Version of its kind's schema that the payload follows: `VERSION` in [`crate::wire`].
    pub payload_version: u32,
    /// How it is retried.
    pub retry: RetryPolicy,
    /// Bounds one attempt, in milliseconds.
    pub timeout_ms: Option<i64>,
    /// Not before; `None` or past means now.
    pub run_at: Option<Timestamp>,
    /// Expires if not started by then.
    pub expires_at: Option<Timestamp>,
    /// Ends by then.
    pub deadline: Option<Timestamp>,
    /// The client's own.
    pub metadata: Option<Value>,
    /// The job it repeats.
    pub retry_of: Option<JobId>,
    /// The user who submits it, if a user's token said so; `None`: a key, and every key of the tenant sees it.
    pub user_id: Option<String>,
    /// Present for a `task`: the conversation it belongs to.
    pub task: Option<NewTask>,
    /// What it means if the same was submitted before. A job that joins a session, or has children, knows only the modes
    /// that leave others alone ([`crate::domain::DedupMode::touches_others`]).
    pub dedup: Option<Dedup>,
    /// With any, no worker runs the job: it waits for their end. They are made in the same transaction, take over its
    /// `expires_at` if they have none, are never refused (`onBusy: reject` waits), and have neither children nor a dedup key
    /// of their own.
    pub children: Vec<NewJob>,
    /// Present for a job of coordination.
    pub coordination: Option<NewCoordination>,
    /// Who is told of its end, beside the tenant's endpoints. Jobs that repeat it tell it too.
    pub webhook: Option<NewWebhook>,
    /// The span that makes it; its children without one are given the job's. `None`: its trace has its own id.
    pub trace: Option<TraceContext>,
}

/// What a job of coordination brings beside its payload.
#[derive(Clone, Debug)]
pub struct NewCoordination {
    /// What is told of its end.
    pub told: Option<Told>,
    /// How long it may be tried.
    pub window: Option<Window>,
    /// The question it asks, which is made with it.
    pub question: Option<NewQuestion>,
    /// It is a broadcast: its children are chosen in the transaction that makes it.
    pub broadcast: Option<Box<NewBroadcast>>,
}

/// How long a delivery may be tried. Held back, snoozed, or waiting for a provisioning, it is not tried: that time does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// So long.
    pub length: Duration,
    /// From the first send; otherwise from the job's making.
    pub from_send: bool,
}

/// A message to the leads of a gateway's boards.
#[derive(Clone, Debug)]
pub struct NewBroadcast {
    /// Whose boards.
    pub gateway_id: GatewayId,
    /// Those of them alone; empty: all.
    pub board_ids: Vec<BoardId>,
    /// More boards than that, and nothing is made: [`Refused::TooManyBoards`].
    pub limit: usize,
    /// The message for each, newest board first: its name and id are put into the frame.
    pub message: BroadcastMessage,
    /// What each child is made of; id, payload and what is told of it are its own.
    pub child: NewJob,
}

/// What is said to each lead.
#[derive(Clone, Debug)]
pub struct BroadcastMessage {
    /// Question or handoff.
    pub kind: LeadMessageKind,
    /// What.
    pub content: String,
    /// Who says it: the name.
    pub actor: String,
    /// Who says it.
    pub actor_id: Option<AgentId>,
    /// The sender's own mark.
    pub correlation_id: Option<String>,
    /// Tags that a reply shall carry.
    pub reply_tags: Vec<String>,
    /// Source that a reply shall name.
    pub reply_source: String,
    /// Where replies go.
    pub base_url: String,
    /// What joins them to logs.
    pub trace_id: String,
}

impl NewJob {
    /// What makes an agent in its gateway, or makes it again. While one has not ended, further ones fall to it.
    #[must_use]
    pub fn provision(agent: &Agent, overwrite: bool, user_id: Option<String>) -> Self {
        const QUEUE: &str = "default";
        const WINDOW: Window = Window { length: Duration::from_secs(600), from_send: false };
        let id = JobId::new();
        let told = Told {
            agent_id: Some(agent.id),
            board_id: agent.board_id,
            trace_id: trace_id("coord.provision", None, id),
            done: Some(("agent.provisioned".to_owned(), format!("{} is ready in its gateway.", agent.name))),
            failed: Some(("agent.provision.failed".to_owned(), format!("{} could not be provisioned: ", agent.name))),
        };
        let payload = ProvisionPayload { agent_id: agent.id, overwrite, if_needed: false };
        Self {
            id,
            tenant: agent.tenant.clone(),
            kind: PROVISION.to_owned(),
            queue: QUEUE.to_owned(),
            priority: Priority::default(),
            // It always serialises: it has string keys only.
            payload: serde_json::to_value(payload).unwrap_or_default(),
            payload_version: VERSION,
            retry: RetryPolicy::MESSAGE,
            timeout_ms: None,
            run_at: None,
            expires_at: None,
            deadline: None,
            metadata: None,
            retry_of: None,
            user_id,
            task: None,
            dedup: Some(Dedup { key: provision_key(agent.id), mode: DedupMode::Drop, ttl: Duration::ZERO }),
            children: Vec::new(),
            coordination: Some(NewCoordination {
                told: Some(told),
                window: Some(WINDOW),
                question: None,
                broadcast: None,
            }),
            webhook: None,
            trace: None,
        }
    }

    /// Itself and its children.
    #[must_use]
    pub const fn rows(&self) -> usize {
        1 + self.children.len()
    }
}

/// The conversation's side of a task.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// The session asked for. If it is unknown, closed, another tenant's or, where a user asks, another user's, `fresh` is opened
    /// instead; it is the asking user's then.
    pub session_id: Option<SessionId>,
    /// The id of the session to open.
    pub fresh: SessionId,
    /// The engine it runs on; a fresh session remembers it.
    pub engine: String,
    /// The system prompt a fresh session remembers.
    pub system_prompt: Option<String>,
    /// What the user says; becomes a message once the task is its session's active one.
    pub prompt: String,
    /// The session's title, set once, by its first task.
    pub title: String,
    /// Asked by voice.
    pub voice_mode: bool,
    /// What to do if the session is busy.
    pub on_busy: OnBusy,
    /// Images and documents that come with the prompt; their contents are kept already.
    pub attachments: Vec<AttachmentRef>,
    /// Its runs spend tokens: one that dies leaves a record that says so.
    pub metered: bool,
    /// What the task that gives way is told, if `on_busy` is `interrupt`.
    pub interruption: Interruption,
    /// The instance that answers it. Its conversations are with one instance: a session of another, or of none, is as good as
    /// unknown.
    pub instance_id: Option<InstanceId>,
}

text_enum! {
    /// Why a session's active task gives way to a new one.
    #[derive(Default)]
    Interruption {
        /// A new task: code `USER_INTERRUPT`.
        #[default]
        Task = "task",
        /// Text put into the live task: code `USER_INJECT`.
        Inject = "inject",
        /// A voice message: code `VOICE_INJECT`.
        Voice = "voice",
    }
}

/// An `Idempotency-Key` with all that it stands for.
#[derive(Clone, Debug)]
pub struct IdempotencyRecord {
    /// Scope.
    pub tenant: String,
    /// Scope: the credential's owner.
    pub owner: String,
    /// The header's value.
    pub key: String,
    /// Of method, path and body.
    pub fingerprint: String,
    /// The status to answer with again.
    pub status: u16,
    /// What is needed to give the answer again: JSON, written by the api and read by it alone. To that of a board's item the store
    /// adds `late`, the question that had ended before, and `unfit`, why it is no answer.
    pub answer: Value,
    /// Kept at least until then.
    pub expires_at: Timestamp,
}

/// An answer given before.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredAnswer {
    /// Fingerprint it was given to.
    pub fingerprint: String,
    /// Status.
    pub status: u16,
    /// As [`IdempotencyRecord::answer`].
    pub answer: Value,
    /// Those of the submission's jobs that were not made, by the id they would have had: what stood for each.
    pub deduplicated: BTreeMap<JobId, Created>,
}

/// Jobs that are submitted together: all under one key, each with a result of its own.
#[derive(Clone, Debug)]
pub struct Submission {
    /// One, or a batch.
    pub jobs: Vec<NewJob>,
    /// The key, if the client sent one.
    pub idempotency: Option<IdempotencyRecord>,
}

impl Submission {
    /// How many jobs it may make, with their children.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.jobs.iter().map(NewJob::rows).sum()
    }
}

/// One job as made, or the one that stands for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Created {
    /// Its id.
    pub id: JobId,
    /// Where it starts; or, if it was there before, where it is.
    pub state: JobState,
    /// The session it is in.
    pub session_id: Option<SessionId>,
    /// It was there before, under the same dedup key.
    pub deduplicated: bool,
}

/// Why one job was not made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// `onBusy: reject`, and the session has an unfinished task.
    #[error("session {session_id} is busy with task {active}")]
    SessionBusy {
        /// The session.
        session_id: SessionId,
        /// The task in the way.
        active: JobId,
    },
    /// A broadcast would go to more boards than one may.
    #[error("{found} boards are more than {limit}")]
    TooManyBoards {
        /// How many it would go to.
        found: usize,
        /// How many it may.
        limit: usize,
    },
    /// It repeats a job whose question is known no more, as its board was removed.
    #[error("its question is gone with its board")]
    QuestionGone,
}

/// What became of a submission.
#[derive(Clone, PartialEq, Debug)]
pub enum Submitted {
    /// Durable; one result per job. If the only job was refused, the key was not stored.
    Done(Vec<Result<Created, Refused>>),
    /// The key was used before for the same request.
    Replayed(StoredAnswer),
    /// The key was used before for another request.
    Mismatch,
}

/// Whom to cancel, and what to say.
#[derive(Clone, Debug)]
pub struct CancelRequest {
    /// Scope.
    pub tenant: String,
    /// The job.
    pub id: JobId,
    /// `USER_CANCEL`, `USER_INTERRUPT`, …
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// Now.
    pub now: Timestamp,
}

/// What became of a cancellation.
#[derive(Clone, PartialEq, Debug)]
pub enum CancelResult {
    /// Cancelled by this call.
    Cancelled(Box<Job>),
    /// It had ended before, one way or another.
    AlreadyTerminal(Box<Job>),
}

/// What clients bring.
#[async_trait]
pub trait Submissions: Send + Sync {
    /// Makes jobs, with their children, sessions and keys. What a dedup key already stands for is decided here, under the
    /// key's lock, by [`crate::domain::dedup::judge`]: one that is not made is answered by the job that stands for it. One transaction for the whole batch of submissions; if the database
    /// refuses it, the batch is halved until the bad submission stands alone. One result per submission, in order.
    async fn submit(
        &self,
        batch: Vec<Submission>,
        now: Timestamp,
    ) -> (Vec<Result<Submitted, StoreError>>, Consequences);

    /// Cancels a job in any non-terminal state: the partial text goes to the history with its marker, then the
    /// `cancelled` event, the state and the fence, in one transaction. The row of a running job keeps its claim, worker
    /// and lease until [`super::Runs::release`], and its session's next task waits for that. Its children are cancelled with it.
    /// `None`: no such job in this tenant.
    async fn cancel(&self, request: CancelRequest) -> Result<Option<(CancelResult, Consequences)>, StoreError>;

    /// Closes a session: no task may join it any more. Its unfinished tasks are cancelled first, by the caller.
    /// `false`: no such session in this tenant.
    async fn close_session(&self, tenant: &str, id: SessionId, now: Timestamp) -> Result<bool, StoreError>;

    /// The answer given before under this key.
    async fn recall(&self, tenant: &str, owner: &str, key: &str) -> Result<Option<StoredAnswer>, StoreError>;

    /// Keeps an answer. If the key has one already, that one stays and is returned.
    async fn remember(&self, record: IdempotencyRecord) -> Result<Option<StoredAnswer>, StoreError>;
}
