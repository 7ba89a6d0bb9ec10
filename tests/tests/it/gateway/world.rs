//! A fake gateway, a store that knows it, and workers between them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use errand_common::{
    backend::Backend,
    config::{Config, Secret},
    domain::{
        AgentId, BoardId, Failure, GatewayId, Job, JobId, JobState, Priority, QuestionId, RetryPolicy,
        coordination::{Activity, Agent, AgentRole, Told, agent},
    },
    port::store::{
        NewCoordination, NewJob, Submission, Submitted, Window,
        coordination::{ActivityFilter, NewAgent, NewBoard, NewGateway, NewQuestion},
    },
    vault::Purpose,
    wire::{
        coordination::{ASK_USER, LEAD_MESSAGE, MessagePayload, NUDGE, Recipient, VERSION},
        credential::{generate_agent_token, hash_key},
    },
};
use errand_tests::{
    fake_gateway::{FakeGateway, Options},
    postgres::Postgres,
    redis, wait,
};
use errand_worker::RunOptions;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const TENANT: &str = "default";

/// What workers stand on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Embedded,
    Cluster,
}

/// One worker of this process.
pub(crate) struct Worker {
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), errand_worker::RunError>>,
}

impl Worker {
    /// It is gone in mid-work, without a word: what it held passes with its leases.
    pub(crate) async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        wait::bounded("the drain", self.running).await.expect("no panic").expect("a graceful end");
    }
}

/// All of it.
pub(crate) struct World {
    pub(crate) fake: FakeGateway,
    pub(crate) backend: Backend,
    pub(crate) config: Arc<Config>,
    pub(crate) gateway: GatewayId,
    pub(crate) main: AgentId,
    _directory: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(place: Place) -> Self {
        Self::with(place, Options::default(), |_| {}).await
    }

    pub(crate) async fn with(place: Place, options: Options, change: impl FnOnce(&mut Config)) -> Self {
        let fake = FakeGateway::with(options).await;
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config::default();
        config.outbound.allow = vec!["127.0.0.0/8".parse().expect("a network")];
        config.gateways.request_timeout_seconds = 2;
        config.gateways.handshake_timeout_seconds = 2;
        config.gateways.reconnect_max_ms = 50;
        config.gates.min_calls = 1_000;
        config.worker.lease_seconds = 2;
        config.worker.sweep_interval_ms = 50;
        config.worker.poll_interval_ms = 50;
        config.database.max_connections = 4;
        let url = match place {
            Place::Embedded => format!("sqlite://{}", directory.path().join("errand.db").display()),
            Place::Cluster => {
                config.redis.url = Some(Secret::new(redis::shared_url().await));
                config.redis.key_prefix = redis::unique_prefix();
                Postgres::shared().await.create_database().await.expect("a database")
            }
        };
        change(&mut config);
        let backend = Backend::open(&config, &url).await.expect("a database");
        let (gateway, main) = Self::introduce(&backend, &fake.url()).await;
        Self { fake, backend, config: Arc::new(config), gateway, main, _directory: directory }
    }

    /// A gateway with its own agent, as the store knows them.
    pub(crate) async fn introduce(backend: &Backend, url: &str) -> (GatewayId, AgentId) {
        let (id, main) = (GatewayId::new(), AgentId::new());
        let token = Options::default().token.expect("it has one");
        let new = NewGateway {
            id,
            tenant: TENANT.to_owned(),
            name: "fake".to_owned(),
            url: url.to_owned(),
            token: Some(backend.vault.seal(Purpose::GatewayToken(id), &token)),
            workspace_root: "~/.openclaw/".to_owned(),
            disable_device_pairing: false,
            allow_insecure_tls: false,
            main: NewAgent {
                board_id: None,
                role: AgentRole::Main,
                session_key: agent::main_session(id),
                ..new_agent(backend, id, "fake Gateway Agent", main)
            },
        };
        let made = backend.store.create_gateway(new, None, backend.clock.now()).await.expect("a store");
        assert_eq!(made, None);
        (id, main)
    }

    pub(crate) fn worker(&self) -> Worker {
        let shutdown = CancellationToken::new();
        let options = RunOptions {
            backend: self.backend.clone(),
            config: self.config.clone(),
            guard_program: PathBuf::new(),
            sole_holder: false,
            health: Arc::default(),
            drainable: true,
            shutdown: shutdown.clone(),
        };
        Worker { shutdown, running: tokio::spawn(errand_worker::run(options)) }
    }

    pub(crate) async fn board(&self, name: &str) -> BoardId {
        board(&self.backend, self.gateway, name).await
    }

    /// An agent of the gateway's agent `main`, with a session of its own.
    pub(crate) async fn agent(&self, board: BoardId, name: &str) -> Agent {
        bound_agent(&self.backend, self.gateway, board, name).await
    }

    /// A worker on the board whom the gateway does not know yet.
    pub(crate) async fn unknown_agent(&self, board: BoardId, name: &str) -> Agent {
        let id = AgentId::new();
        let new = NewAgent { board_id: Some(board), ..new_agent(&self.backend, self.gateway, name, id) };
        self.backend.store.create_agent(new, None, self.backend.clock.now()).await.expect("a store").expect("made");
        self.look(id).await
    }

    pub(crate) async fn look(&self, id: AgentId) -> Agent {
        self.backend.store.agent(TENANT, id).await.expect("a store").expect("it is there")
    }

    pub(crate) async fn submit(&self, job: NewJob) -> JobId {
        submit(&self.backend, vec![job]).await.remove(0)
    }

    /// A nudge, and who is nudged.
    pub(crate) async fn nudge(&self, agent: &Agent, text: &str) -> JobId {
        self.submit(nudge(agent, text)).await
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        self.backend.store.job(TENANT, id).await.expect("a store").expect("it is there")
    }

    pub(crate) async fn until(&self, id: JobId, what: &str, holds: impl Fn(&Job) -> bool) -> Job {
        wait::until(format!("{what} of {id}"), || async {
            let job = self.job(id).await;
            holds(&job).then_some(job)
        })
        .await
    }

    pub(crate) async fn ended(&self, id: JobId) -> Job {
        self.until(id, "the end", |job| job.state.is_terminal()).await
    }

    /// Waits for a good end, and gives the result.
    pub(crate) async fn done(&self, id: JobId) -> Value {
        let job = self.ended(id).await;
        assert_eq!(job.state, JobState::Completed, "{:?}", job.failure);
        job.result.expect("a result")
    }

    /// Waits for a bad end.
    pub(crate) async fn failed(&self, id: JobId) -> Failure {
        let job = self.ended(id).await;
        assert_eq!(job.state, JobState::Failed, "{:?}", job.result);
        job.failure.expect("a failure")
    }

    /// What the audit says of a job: type, message.
    pub(crate) async fn told(&self, id: JobId) -> Vec<(String, String)> {
        let filter = ActivityFilter {
            tenant: TENANT.to_owned(),
            board_id: None,
            agent_id: None,
            before: None,
            after: None,
            limit: 200,
        };
        let lines: Vec<Activity> = self.backend.store.activities(&filter).await.expect("a store");
        let of_job = lines.into_iter().filter(|line| line.job_id == Some(id));
        of_job.map(|line| (line.event_type, line.message)).collect()
    }

    /// The methods that were called at the gateway in this order, but for looks.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.fake.requests(method).len()
    }
}

fn new_agent(backend: &Backend, gateway: GatewayId, name: &str, id: AgentId) -> NewAgent {
    let token = generate_agent_token();
    NewAgent {
        id,
        tenant: TENANT.to_owned(),
        gateway_id: gateway,
        board_id: None,
        name: name.to_owned(),
        role: AgentRole::Worker,
        session_key: agent::worker_session(id),
        bound: false,
        token_hash: Some(hash_key(&token)),
        token_sealed: Some(backend.vault.seal(Purpose::AgentToken(id), &token)),
    }
}

pub(crate) async fn board(backend: &Backend, gateway: GatewayId, name: &str) -> BoardId {
    let id = BoardId::new();
    let new = NewBoard {
        id,
        tenant: TENANT.to_owned(),
        name: name.to_owned(),
        slug: id.to_string(),
        gateway_id: Some(gateway),
    };
    backend.store.create_board(new, None, backend.clock.now()).await.expect("a store").expect("made");
    id
}

pub(crate) async fn bound_agent(backend: &Backend, gateway: GatewayId, board: BoardId, name: &str) -> Agent {
    let id = AgentId::new();
    let new = NewAgent {
        board_id: Some(board),
        session_key: format!("agent:main:{id}"),
        bound: true,
        token_sealed: None,
        ..new_agent(backend, gateway, name, id)
    };
    backend.store.create_agent(new, None, backend.clock.now()).await.expect("a store").expect("made");
    backend.store.agent(TENANT, id).await.expect("a store").expect("it is there")
}

/// Makes jobs, and tells the fleet of them.
pub(crate) async fn submit(backend: &Backend, jobs: Vec<NewJob>) -> Vec<JobId> {
    let submission = Submission { jobs, idempotency: None };
    let (mut results, consequences) = backend.store.submit(vec![submission], backend.clock.now()).await;
    backend.dispatch(consequences).await;
    match results.remove(0).expect("a store") {
        Submitted::Done(made) => made.into_iter().map(|made| made.expect("taken").id).collect(),
        other => panic!("{other:?}"),
    }
}

/// A job of coordination with a short window.
pub(crate) fn job(kind: &str, payload: &impl serde::Serialize, told: Option<Told>) -> NewJob {
    let window = Window { length: Duration::from_secs(20), from_send: true };
    NewJob {
        id: JobId::new(),
        tenant: TENANT.to_owned(),
        kind: kind.to_owned(),
        queue: "default".to_owned(),
        priority: Priority::default(),
        payload: serde_json::to_value(payload).expect("plain data"),
        payload_version: VERSION,
        retry: RetryPolicy::MESSAGE,
        timeout_ms: None,
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: None,
        retry_of: None,
        user_id: None,
        task: None,
        dedup: None,
        children: Vec::new(),
        coordination: Some(NewCoordination { told, window: Some(window), question: None, broadcast: None }),
        webhook: None,
        trace: None,
    }
}

/// The same job with another window.
pub(crate) fn within(seconds: u64, mut job: NewJob) -> NewJob {
    if let Some(coordination) = &mut job.coordination {
        coordination.window = Some(Window { length: Duration::from_secs(seconds), from_send: true });
    }
    job
}

fn told(what: &str, done: &str, failed: &str) -> Told {
    Told {
        agent_id: None,
        board_id: None,
        trace_id: "trace".to_owned(),
        done: Some((format!("{what}.sent"), done.to_owned())),
        failed: Some((format!("{what}.failed"), failed.to_owned())),
    }
}

fn message(recipient: Recipient, board: Option<BoardId>, text: &str, deliver: bool) -> MessagePayload {
    MessagePayload {
        recipient,
        board_id: board,
        message: text.to_owned(),
        deliver,
        question_id: None,
        trace_id: "trace".to_owned(),
        actor_id: None,
    }
}

pub(crate) fn nudge(agent: &Agent, text: &str) -> NewJob {
    let told =
        told("agent.nudge", &format!("Nudge sent to {}.", agent.name), &format!("Nudge failed for {}: ", agent.name));
    let payload = message(Recipient::Agent { agent_id: agent.id }, agent.board_id, text, true);
    job(NUDGE, &payload, Some(told))
}

pub(crate) fn lead_message(gateway: GatewayId, board: BoardId, text: &str) -> NewJob {
    let told = told("gateway.main.lead_message", "Sent question to lead.", "Lead message failed: ");
    let payload = message(Recipient::Lead { gateway_id: gateway, board_id: board }, Some(board), text, false);
    job(LEAD_MESSAGE, &payload, Some(told))
}

/// A question for a person, of this agent.
pub(crate) fn ask_user(
    gateway: GatewayId,
    asker: &Agent,
    text: &str,
    seconds: u64,
    now: errand_common::domain::Timestamp,
) -> (NewJob, QuestionId) {
    let id = QuestionId::new();
    let board = asker.board_id.expect("on a board");
    let mut payload = message(Recipient::Main { gateway_id: gateway }, Some(board), text, true);
    payload.question_id = Some(id);
    payload.actor_id = Some(asker.id);
    let told = told("gateway.lead.ask_user", "Lead requested user info.", "Lead user question failed: ");
    let mut job = job(ASK_USER, &payload, Some(told));
    if let Some(coordination) = &mut job.coordination {
        coordination.question = Some(NewQuestion {
            id,
            board_id: board,
            agent_id: Some(asker.id),
            content: text.to_owned(),
            correlation_id: None,
            reply_tags: vec!["gateway_main".to_owned(), "user_reply".to_owned()],
            reply_source: "user_via_gateway_main".to_owned(),
            answer_schema: None,
            remind_at: None,
            expires_at: now.plus(Duration::from_secs(seconds)),
        });
    }
    (job, id)
}
