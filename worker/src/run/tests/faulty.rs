//! A store that can be away, in front of a real one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use errand_common::{
    domain::{
        AgentId, ApiKeyId, Approval, ApprovalId, AttachmentContent, AttachmentRef, BoardId, Children, Decision, Effect,
        Event, Fence, GatewayId, InstanceId, Job, JobId, MemoryId, Message, QuestionId, Session, SessionId, Stream,
        Timestamp, UsageRecord, WebhookEvent, WebhookId, WorkerId,
        coordination::{Activity, Agent, Board, Gateway, Memory, NewActivity, Question},
        instance::Instance,
        webhook::WebhookEndpoint,
    },
    port::{
        Ready, Store, StoreError,
        store::{coordination::*, *},
    },
};

/// Delegates, unless it is away.
pub(super) struct Faulty {
    inner: Arc<dyn Store>,
    away: AtomicBool,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, away: AtomicBool::new(false) }
    }

    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn reach(&self) -> Result<&dyn Store, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("told to be away".into()));
        }
        Ok(self.inner.as_ref())
    }
}

macro_rules! delegate {
    ($port:ident { $($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)* }) => {
        #[async_trait]
        impl $port for Faulty {
            $(async fn $name(&self, $($arg: $ty),*) -> Result<$ret, StoreError> {
                self.reach()?.$name($($arg),*).await
            })*
        }
    };
}

#[async_trait]
impl Submissions for Faulty {
    async fn submit(
        &self,
        batch: Vec<Submission>,
        now: Timestamp,
    ) -> (Vec<Result<Submitted, StoreError>>, Consequences) {
        self.inner.submit(batch, now).await
    }

    async fn cancel(&self, request: CancelRequest) -> Result<Option<(CancelResult, Consequences)>, StoreError> {
        self.reach()?.cancel(request).await
    }

    async fn close_session(&self, tenant: &str, id: SessionId, now: Timestamp) -> Result<bool, StoreError> {
        self.reach()?.close_session(tenant, id, now).await
    }

    async fn recall(&self, tenant: &str, owner: &str, key: &str) -> Result<Option<StoredAnswer>, StoreError> {
        self.reach()?.recall(tenant, owner, key).await
    }

    async fn remember(&self, record: IdempotencyRecord) -> Result<Option<StoredAnswer>, StoreError> {
        self.reach()?.remember(record).await
    }
}

delegate! { Runs {
    promote(ids: &[JobId], now: Timestamp) -> Consequences;
    claim(worker: WorkerId, lease: Duration, ids: &[JobId], now: Timestamp) -> (Claims, Consequences);
    claim_alone(worker: WorkerId, lease: Duration, id: JobId, now: Timestamp) -> (Option<Claimed>, Consequences);
    renew(lease: Duration, fences: &[Fence]) -> Vec<Result<Timestamp, Stale>>;
    append(batch: Vec<Append>, now: Timestamp) -> (Vec<Result<(), Stale>>, Consequences);
    finish(batch: Vec<Finish>, now: Timestamp) -> (Vec<Result<(), Stale>>, Consequences);
    release(release: Release, now: Timestamp) -> (Result<(), Stale>, Consequences);
    history(session: SessionId, job: JobId, limit: u32) -> Vec<Message>;
} }

delegate! { Approvals {
    ask(fence: Fence, asks: Vec<Ask>, expires_at: Timestamp, now: Timestamp) -> (Result<Asked, Stale>, Consequences);
    decisions(fence: Fence, ids: &[ApprovalId]) -> Vec<Option<Decision>>;
    rule(verdict: Verdict) -> Option<(Ruled, Consequences)>;
    withdraw(fence: Fence, ids: &[ApprovalId], now: Timestamp) -> (Result<(), Stale>, Consequences);
    park(park: Park, now: Timestamp) -> (Parked, Consequences);
    expire_approvals(now: Timestamp, limit: u32) -> (usize, Consequences);
    approvals(tenant: &str, job: JobId) -> Vec<Approval>;
} }

delegate! { EngineStates {
    engine_state(session: SessionId, engine: &str) -> Option<EngineState>;
    keep_engine_state(fence: Fence, state: EngineState) -> Result<(), Stale>;
} }

delegate! { UsageReads {
    usage_sums(filter: &UsageFilter, groups: &[UsageGroup], limit: u32) -> Vec<UsageSum>;
    usage_of(tenant: &str, job: JobId) -> Vec<UsageRecord>;
    spent(tenant: &str, job: JobId, session: Option<SessionId>, since: Timestamp) -> SpentBy;
} }

delegate! { Webhooks {
    create_webhook(tenant: &str, new: &NewWebhook, limit: u32, now: Timestamp) -> bool;
    webhook(tenant: &str, id: WebhookId) -> Option<WebhookEndpoint>;
    webhooks(tenant: &str, before: Option<WebhookId>, limit: u32) -> Vec<WebhookEndpoint>;
    change_webhook(tenant: &str, id: WebhookId, change: WebhookChange, now: Timestamp) -> Option<WebhookEndpoint>;
    replace_webhook_secrets(
        tenant: &str, id: WebhookId, expected: Option<&str>, secrets: &str, now: Timestamp
    ) -> bool;
    remove_webhook(tenant: &str, id: WebhookId) -> bool;
    deliveries(tenant: &str, id: WebhookId, filter: &DeliveryFilter) -> Vec<Delivery>;
    deliver(tenant: &str, id: WebhookId, event: WebhookEvent, now: Timestamp) -> Option<(JobId, Consequences)>;
    redeliver(tenant: &str, id: WebhookId, delivery: JobId, now: Timestamp) -> Option<(JobId, Consequences)>;
} }

delegate! { Attachments {
    keep_attachments(tenant: &str, contents: Vec<AttachmentContent>, now: Timestamp) -> ();
    attachments(tenant: &str, hashes: &[String]) -> Vec<AttachmentContent>;
} }

delegate! { Preferences {
    default_engine(tenant: &str) -> Option<String>;
    choose_engine(tenant: &str, engine: &str, now: Timestamp) -> ();
} }

delegate! { Sweeps {
    queued(queue: &str, after: Option<&Ready>, limit: u32) -> Vec<Queued>;
    queue_names(limit: u32) -> Vec<String>;
    due(queues: &[String], after_tenant: Option<&str>, limit: u32) -> Due;
    upcoming(until: Timestamp, limit: u32) -> Vec<Ready>;
    rescue(scope: RescueScope, now: Timestamp, limit: u32) -> (Vec<LostRun>, Consequences);
    expire(now: Timestamp, limit: u32) -> (usize, Consequences);
    unblock(after: Option<SessionId>, now: Timestamp, limit: u32) -> (Unblocked, Consequences);
    forget_keys(now: Timestamp, jobs_kept: Option<Duration>, limit: u32) -> u64;
} }

delegate! { Fleet {
    register_worker(info: &WorkerInfo, lease: Duration) -> bool;
    release_worker(id: WorkerId) -> ();
    take_duty(duty: &str, worker: WorkerId, term: Duration) -> bool;
    live_workers() -> Vec<WorkerInfo>;
} }

delegate! { Restore {
    renew_epoch() -> String;
} }

delegate! { SealingKey {
    sealing_key(fresh: Option<&str>) -> Option<String>;
} }

delegate! { Gateways {
    create_gateway(new: NewGateway, idempotency: Option<IdempotencyRecord>, now: Timestamp) -> Option<StoredAnswer>;
    gateway(tenant: &str, id: GatewayId) -> Option<Gateway>;
    gateways(tenant: &str, before: Option<GatewayId>, limit: u32) -> Vec<Gateway>;
    all_gateways(limit: u32) -> Vec<Gateway>;
    change_gateway(tenant: &str, id: GatewayId, change: GatewayChange, now: Timestamp) -> Option<Gateway>;
    remove_gateway(tenant: &str, id: GatewayId) -> Removed;
    keep_device(id: GatewayId, expected: Option<&str>, device: &str) -> Option<String>;
} }

delegate! { Boards {
    create_board(
        new: NewBoard, idempotency: Option<IdempotencyRecord>, now: Timestamp
    ) -> Result<(), BoardRefused>;
    board(tenant: &str, id: BoardId) -> Option<Board>;
    boards(filter: &BoardFilter) -> Vec<Board>;
    change_board(tenant: &str, id: BoardId, change: BoardChange, now: Timestamp) -> Result<Board, BoardRefused>;
    remove_board(tenant: &str, id: BoardId) -> Removed;
} }

delegate! { Agents {
    create_agent(
        new: NewAgent, idempotency: Option<IdempotencyRecord>, now: Timestamp
    ) -> Result<(), AgentRefused>;
    agent(tenant: &str, id: AgentId) -> Option<Agent>;
    agents(filter: &AgentFilter) -> Vec<Agent>;
    agent_by_token(hash: &str) -> Option<Agent>;
    main_agent(tenant: &str, gateway: GatewayId) -> Option<Agent>;
    main_agents(tenant: &str, gateways: &[GatewayId]) -> Vec<(GatewayId, AgentId)>;
    change_agent(tenant: &str, id: AgentId, change: AgentChange, now: Timestamp) -> Result<Agent, AgentRefused>;
    remove_agent(tenant: &str, id: AgentId) -> Removed;
    agent_seen(id: AgentId, heartbeat: bool, now: Timestamp) -> ();
    ensure_lead(new: NewAgent, job: JobId, now: Timestamp) -> Option<EnsuredLead>;
    take_files(fence: Fence, id: AgentId, now: Timestamp) -> Result<bool, Stale>;
    begin_provisioning(
        fence: Fence, id: AgentId, now: Timestamp
    ) -> Result<Option<(Agent, Option<String>)>, Stale>;
} }

delegate! { Memories {
    post_memory(new: NewMemory, now: Timestamp) -> (Posted, Consequences);
    memory(tenant: &str, id: MemoryId) -> Option<Memory>;
    memories(filter: &MemoryFilter) -> (Vec<Memory>, u64);
} }

delegate! { Questions {
    question(tenant: &str, id: QuestionId) -> Option<Question>;
    questions(filter: &QuestionFilter) -> Vec<Question>;
    answer(answer: Answer) -> Option<(Answered, Consequences)>;
    expire_questions(now: Timestamp, limit: u32) -> (usize, Consequences);
    remind(every_seconds: u32, now: Timestamp, limit: u32) -> (usize, Consequences);
} }

delegate! { Activities {
    activities(filter: &ActivityFilter) -> Vec<Activity>;
    tell(tenant: &str, line: NewActivity, now: Timestamp) -> ();
} }

delegate! { Retries {
    unsuccessful(tenant: &str, filter: &UnsuccessfulFilter) -> Vec<Unsuccessful>;
    jobs_by_id(tenant: &str, ids: &[JobId]) -> Vec<Job>;
    submit_retries(
        tenant: &str, jobs: Vec<NewJob>, idempotency: Option<IdempotencyRecord>, now: Timestamp
    ) -> (Retried, Consequences);
} }

delegate! { Retains {
    drop_events(before: Timestamp, after: Option<Passed>, limit: u32) -> Step;
    delete_jobs(before: Timestamp, after: Option<Passed>, limit: u32, now: Timestamp) -> Step;
    drop_attachments(before: Timestamp, limit: u32) -> u64;
    drop_board_events(before: Timestamp, limit: u32) -> u64;
    drop_activities(before: Timestamp, limit: u32) -> u64;
} }

delegate! { Control {
    pause(queue: &str, tenant: Option<&str>, now: Timestamp) -> ();
    resume(queue: &str, tenant: Option<&str>) -> ();
    paused(tenant: &str) -> Vec<PausedQueue>;
    ask_drain(worker: WorkerId) -> DrainAsked;
} }

delegate! { Access {
    create_key(key: NewApiKey, idempotency: Option<IdempotencyRecord>, now: Timestamp) -> Option<StoredAnswer>;
    keys_by_prefix(prefix: &str) -> Vec<ApiKey>;
    keys(tenant: &str) -> Vec<ApiKey>;
    revoke_key(tenant: &str, id: ApiKeyId, now: Timestamp) -> bool;
} }

delegate! { Effects {
    intend(batch: Vec<Intend>, now: Timestamp) -> Vec<Result<Intended, Stale>>;
    effects(id: JobId, limit: u32) -> Vec<Effect>;
} }

delegate! { Reads {
    epoch() -> String;
    ping() -> ();
    job(tenant: &str, id: JobId) -> Option<Job>;
    jobs(tenant: &str, filter: &JobFilter) -> Vec<Job>;
    children(parents: &[JobId]) -> BTreeMap<JobId, Children>;
    stream(tenant: &str, stream: Stream) -> Option<StreamState>;
    tails(streams: &[Stream]) -> Vec<(Stream, StreamState)>;
    events(stream: Stream, after: i64, limit: u32) -> Vec<Event>;
    timeline(id: JobId, limit: u32) -> Vec<Event>;
    session(tenant: &str, id: SessionId) -> Option<Session>;
    sessions(tenant: &str, filter: &SessionFilter) -> Vec<Session>;
    session_attachment(session: SessionId, hash: &str) -> Option<AttachmentRef>;
    messages(session: SessionId, after: i64, limit: u32) -> Vec<Message>;
    queue_stats(tenant: Option<&str>) -> Vec<QueueStats>;
} }

delegate! { Instances {
    create_instance(new: Instance, idempotency: Option<IdempotencyRecord>, now: Timestamp) -> Option<StoredAnswer>;
    instance(tenant: &str, id: InstanceId) -> Option<Instance>;
    instances(tenant: &str, user_id: Option<&str>, before: Option<InstanceId>, limit: u32) -> Vec<Instance>;
    change_instance(tenant: &str, id: InstanceId, change: InstanceChange, now: Timestamp) -> Option<Instance>;
    remove_instance(tenant: &str, id: InstanceId) -> Removed;
} }

delegate! { Callbacks {
    call_back(batch: Vec<Callback>, now: Timestamp) -> (Vec<Received>, Consequences);
    instance_of(tenant: &str, job: JobId) -> Option<Instance>;
    expire_callbacks(message: &str, now: Timestamp, limit: u32) -> (usize, Consequences);
    poll_callbacks(now: Timestamp, limit: u32) -> (usize, Consequences);
} }

delegate! { Tickets {
    keep_ticket(hash: &str, caller: &str, expires_at: Timestamp) -> ();
    take_ticket(hash: &str, now: Timestamp) -> Option<String>;
    drop_tickets(now: Timestamp, limit: u32) -> u64;
} }
