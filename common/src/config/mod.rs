//! The configuration: built-in defaults ← `errand.toml` ← environment, validated whole.
//!
//! Field docs are the reference; units are in the names.

mod agreement;
mod engine;
mod environment;
mod fault;
mod gateways;
mod load;
mod price;
mod redis_url;
#[cfg(test)]
mod reference;
mod schema;
mod secret;
mod telemetry;
mod tool;
mod webhooks;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use engine::{
    ClaudeApiEngine, ClaudeAuth, ClaudeCodeEngine, CommandEngine, EchoEngine, Engine, EngineLimits, Engines, OpenAiApi,
    OpenAiCompatibleEngine, OpenClawEngine, PromptCache, Rerun, Thinking, ThinkingDisplay,
};
pub use fault::{Fault, Faults, Origin};
pub use gateways::{Gateways, Resend};
pub use load::{File, load};
pub use price::{Price, Prices, UsdPerMillion};
pub use redis_url::{RedisMode, RedisUrl};
pub use secret::Secret;
pub use telemetry::Telemetry;
pub use tool::{Tool, ToolApproval};
pub use webhooks::Webhooks;

use crate::domain::coordination::text::LOCAL_URL;

/// All of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The listener and its limits.
    pub server: Server,
    /// Where `/metrics` is served.
    pub metrics: Metrics,
    /// Where traces go.
    pub telemetry: Telemetry,
    /// The truth.
    pub database: Database,
    /// The index and the fan-out of a cluster.
    pub redis: Redis,
    /// Workers.
    pub worker: Worker,
    /// Calls to the outside.
    pub outbound: Outbound,
    /// How much of them a destination gets.
    pub gates: Gates,
    /// Connections to gateways.
    pub gateways: Gateways,
    /// Bridges of instances.
    pub bridges: Bridges,
    /// Telling others outside.
    pub webhooks: Webhooks,
    /// Who may call.
    pub auth: Auth,
    /// What seals secrets.
    pub secrets: Secrets,
    /// Questions to people.
    pub questions: Questions,
    /// How long things are kept.
    pub retention: Retention,
    /// What may be spent.
    pub budgets: Budgets,
    /// What end users read.
    pub texts: Texts,
    /// Streams to watchers.
    pub relay: Relay,
    /// What runs prompts.
    pub engines: Engines,
    /// What engines are told beside the prompt.
    pub agent: Agent,
    /// What turns speech into text.
    pub transcription: Transcription,
    /// What models cost, by their names.
    pub prices: Prices,
}

/// `[server]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The base of URLs that Errand gives away, as in what agents are told to reply to. Unset, `errand dev` names its own address.
    pub public_url: Option<String>,
    /// Which parts of the api are served here: `rest` requests, `relay` streams (SSE and WebSocket), `console` the page at
    /// `/`. Health, metrics and `/openapi.json` always are.
    pub serve: Vec<Part>,
    /// Largest JSON body, and largest single string in it, in KiB.
    pub body_limit_kib: u32,
    /// Largest sum of decoded attachments of one task, in MiB.
    pub attachment_limit_mib: u32,
    /// Media types that attachments may have. An engine takes those it knows.
    pub attachment_types: Vec<String>,
    /// Most memory that bodies with attachments take at once in this process, in MiB; beyond it a request waits a moment, and is
    /// then told to come again.
    pub attachment_memory_mib: u32,
    /// Largest request head (request line and headers), in KiB.
    pub header_limit_kib: u32,
    /// How long a stopping server lets requests in flight finish, in seconds.
    pub drain_seconds: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            serve: Part::ALL.to_vec(),
            body_limit_kib: 1024,
            attachment_limit_mib: 20,
            attachment_types: ATTACHMENT_TYPES.iter().map(|&media_type| media_type.to_owned()).collect(),
            attachment_memory_mib: 256,
            header_limit_kib: 32,
            drain_seconds: 10,
        }
    }
}

impl Server {
    /// Where agents are told to reply: without a slash at the end.
    #[must_use]
    pub fn base_url(&self) -> &str {
        self.public_url.as_deref().map_or(LOCAL_URL, |url| url.trim_end_matches('/'))
    }

    /// Where bridges call back: without a slash at the end.
    #[must_use]
    pub fn callback_base(&self) -> String {
        match &self.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.listen),
        }
    }
}

/// What engines of this version can be given.
const ATTACHMENT_TYPES: &[&str] =
    &["image/jpeg", "image/png", "image/gif", "image/webp", "application/pdf", "text/plain"];

/// A part of the api.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Requests and their answers.
    Rest,
    /// Streams to watchers.
    Relay,
    /// The page for people.
    Console,
}

impl Part {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Rest, Self::Relay, Self::Console];

    /// As the configuration names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Relay => "relay",
            Self::Console => "console",
        }
    }
}

/// `[metrics]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Unset: `/metrics` and `/scaling`, which ask for no key, are on the main listener, for whoever reaches it; a worker opens
    /// none. Set: they are there instead, with `/livez` and `/readyz`; a worker has no `/scaling`.
    pub listen: Option<SocketAddr>,
}

/// `[database]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://…` or `sqlite://…`. Unset: `errand dev` keeps a SQLite file in its data directory.
    pub url: Option<Secret>,
    /// Most connections of one process to PostgreSQL, or readers of a SQLite file.
    pub max_connections: u32,
    /// Connections of one worker to PostgreSQL beside those, for the renewal of leases alone: what else a worker does can't
    /// hold it up, and one that hangs leaves the other.
    pub renewal_connections: u32,
    /// Longest wait for a free connection, in seconds.
    pub acquire_timeout_seconds: u32,
    /// Longest wait for one answer of PostgreSQL, in seconds: a connection that is cut off takes calls and stays silent.
    pub answer_timeout_seconds: u32,
    /// Longest pause within a transaction before PostgreSQL ends it, in seconds: a process that is stopped or cut off must
    /// not keep its locks from the others.
    pub idle_transaction_seconds: u32,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            max_connections: 16,
            renewal_connections: 2,
            acquire_timeout_seconds: 10,
            answer_timeout_seconds: 15,
            idle_transaction_seconds: 5,
        }
    }
}

/// `[redis]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// Unset: queue and bus live in this process. One server: `redis://user:password@host:6379/0`. A primary that sentinels
    /// name: `redis+sentinel://user:password@host1:26379,host2:26379/name-of-the-primary/0`. A cluster:
    /// `redis://user:password@host1:6379,host2:6379`, or `redis+cluster://host:6379` if one host names them all. `rediss`
    /// instead of `redis` means TLS. User, password, ports and the number of the database may be left out.
    pub url: Option<Secret>,
    /// Begins the names of all keys and channels, so that several fleets can share a server.
    pub key_prefix: String,
    /// Longest wait for a connection, in milliseconds.
    pub connect_timeout_ms: u32,
    /// Longest wait for the answer to a command, in milliseconds; then the connection is given up.
    pub command_timeout_ms: u32,
    /// Longest pause between two attempts to connect, in milliseconds. Commands fail at once meanwhile.
    pub reconnect_max_ms: u32,
    /// Time between two looks whether the connection that listens still lives, in milliseconds.
    pub ping_interval_ms: u32,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: None,
            key_prefix: "errand".to_owned(),
            connect_timeout_ms: 2_000,
            command_timeout_ms: 1_000,
            reconnect_max_ms: 2_000,
            ping_interval_ms: 1_000,
        }
    }
}

/// `[worker]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Worker {
    /// Jobs one worker runs at once.
    pub concurrency: u32,
    /// Queues it takes from.
    pub queues: Vec<String>,
    /// How long a claim holds without renewal.
    pub lease_seconds: u32,
    /// How long a stopping worker lets its runs finish.
    pub drain_seconds: u32,
    /// How long a job waits for a worker that knows its kind.
    pub unknown_kind_seconds: u32,
    /// Time between two rounds of the sweep, in milliseconds.
    pub sweep_interval_ms: u32,
    /// Events of one run are committed at most this often at rest, in milliseconds.
    pub event_flush_ms: u32,
    /// The same under load, when a commit takes longer than that: at most so long, in milliseconds.
    pub event_flush_max_ms: u32,
    /// Events of one run that wait for their commit, in KiB; beyond it the engine waits.
    pub event_buffer_kib: u32,
    /// How long a run that is told to stop may take before it is dropped, in milliseconds. What it does in that time still
    /// counts: a call comes to its end, an engine keeps what it needs to go on.
    pub stop_grace_ms: u32,
    /// How often a worker looks for work, and for decisions, that nobody told it of, in milliseconds.
    pub poll_interval_ms: u32,
    /// How long the process of an engine is kept while its task waits for an approval, in seconds; then it is parked: the
    /// task waits without it, and the engine goes on in another run after the decision. Only engines that can (`resume` in
    /// their capabilities) are parked.
    pub approval_warm_seconds: u32,
    /// Most such runs that are kept; beyond it the longest-waiting is parked. They hold no slot, and go on without waiting for
    /// one, so a worker may run so many more than `concurrency` for a while. Of runs that can't be parked `concurrency` may
    /// wait beside them; the tool calls of more are denied.
    pub max_warm: u32,
    /// How long a tool call waits for a decision, in seconds; then it is denied.
    pub approval_expires_seconds: u32,
    /// How long a worker waits for its other runs to end when a job that crashed its workers must run alone, in seconds;
    /// then it leaves that job to others, or to later.
    pub isolate_wait_seconds: u32,
    /// How long a job that this worker can't run is put off, in seconds.
    pub snooze_seconds: u32,
    /// How far ahead the sweep tells the queue of delayed jobs, in seconds.
    pub sweep_horizon_seconds: u32,
    /// Most rows that one step of the sweep touches.
    pub sweep_batch: u32,
    /// Largest sum of decoded attachments of the history that an engine is given with a prompt, in MiB, the prompt's own not
    /// counted: the newest are given, a note stands in for each older one.
    pub history_attachments_mib: u32,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            concurrency: 64,
            queues: vec!["default".to_owned()],
            lease_seconds: 30,
            drain_seconds: 30,
            unknown_kind_seconds: 600,
            sweep_interval_ms: 1_000,
            event_flush_ms: 20,
            event_flush_max_ms: 200,
            event_buffer_kib: 256,
            stop_grace_ms: 5_000,
            poll_interval_ms: 1_000,
            approval_warm_seconds: 120,
            max_warm: 16,
            approval_expires_seconds: 86_400,
            isolate_wait_seconds: 60,
            snooze_seconds: 5,
            sweep_horizon_seconds: 60,
            sweep_batch: 1_000,
            history_attachments_mib: 20,
        }
    }
}

/// `[outbound]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbound {
    /// Networks that may be reached although they are not public, there also over http: by `http` jobs, webhooks, bridges and
    /// gateways, whose addresses clients set. Public addresses are reached over https only, and ports of other protocols
    /// nowhere. `errand dev` allows this machine (127.0.0.0/8 and ::1/128) if nothing is set.
    pub allow: Vec<IpNet>,
    /// Longest time one call may take, in seconds, from the connection to the end of the answer.
    pub call_seconds: u32,
    /// Longest wait for a connection, in seconds.
    pub connect_timeout_seconds: u32,
    /// Most of an answer's body that is read and kept, in KiB; the rest is cut off.
    pub response_limit_kib: u32,
}

impl Default for Outbound {
    fn default() -> Self {
        Self { allow: Vec::new(), call_seconds: 30, connect_timeout_seconds: 10, response_limit_kib: 256 }
    }
}

/// `[gates]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gates {
    /// Calls to one destination at once, over all workers.
    pub concurrency: u32,
    /// A destination is left alone when so many of a hundred calls failed.
    pub failure_percent: u32,
    /// Fewer calls than these are not judged.
    pub min_calls: u32,
    /// Calls are judged that ended within so many seconds.
    pub window_seconds: u32,
    /// How long a failing destination is left alone, in seconds.
    pub open_seconds: u32,
    /// Calls let through at once after that; so many successes end the trial.
    pub probes: u32,
    /// How long a job is put off at least that finds all places taken, in milliseconds.
    pub busy_wait_ms: u32,
    /// By destination: `host:port`.
    pub destinations: BTreeMap<String, DestinationGate>,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            concurrency: 256,
            failure_percent: 50,
            min_calls: 20,
            window_seconds: 10,
            open_seconds: 10,
            probes: 3,
            busy_wait_ms: 100,
            destinations: BTreeMap::new(),
        }
    }
}

/// `[gates.destinations."<host>:<port>"]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DestinationGate {
    /// Calls to it at once, over all workers; `gates.concurrency` if unset.
    pub concurrency: Option<u32>,
    /// Calls to it begun in a second, over all workers; without a bound if unset.
    pub rate_per_second: Option<u32>,
    /// Calls begun at once after a rest, where there is a rate; as many as in one second if unset.
    pub burst: Option<u32>,
}

/// `[auth]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// The first admin key, of tenant "default". `errand dev` has a key of its own, and takes this one and tokens of users as
    /// well where they are configured.
    pub bootstrap_key: Option<Secret>,
    /// Failed authentications one address may make in a minute before it gets 429.
    pub failures_per_minute: u32,
    /// Tokens of end users (JWT) are taken that are signed with this secret, by HS256 and no other way. Not together with
    /// `jwks_url`; with neither, there are API keys only.
    pub jwt_secret: Option<Secret>,
    /// Tokens of end users (JWT) are taken that are signed with a key of this JWK set: by RS256, ES256 or EdDSA, as the key's
    /// own type says. A token names its key by `kid`. https, or http on this machine and in the networks of
    /// `outbound.allow`. Needs `issuer`.
    pub jwks_url: Option<String>,
    /// What a token's `iss` must be; not looked at if unset.
    pub issuer: Option<String>,
    /// What a token's `aud` must be, or hold. Unset: a token that is made for some audience is refused.
    pub audience: Option<String>,
    /// The claim of a token that names the tenant.
    pub tenant_claim: String,
    /// How far the clock of who made a token may be off, in seconds: `exp` and `nbf` are judged with so much patience.
    pub leeway_seconds: u32,
    /// Time between two fetches of the key set, in seconds. While it can't be fetched, the last one holds.
    pub jwks_refresh_seconds: u32,
    /// Shortest time between two fetches of the key set, in seconds: a key that the set lacks makes it be fetched again, and a
    /// fetch that failed is repeated.
    pub jwks_retry_seconds: u32,
    /// Longest time that one fetch of the key set may take, in seconds.
    pub jwks_timeout_seconds: u32,
    /// Largest key set, in KiB.
    pub jwks_limit_kib: u32,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            bootstrap_key: None,
            failures_per_minute: 20,
            jwt_secret: None,
            jwks_url: None,
            issuer: None,
            audience: None,
            tenant_claim: "tenant_id".to_owned(),
            leeway_seconds: 30,
            jwks_refresh_seconds: 300,
            jwks_retry_seconds: 10,
            jwks_timeout_seconds: 5,
            jwks_limit_kib: 256,
        }
    }
}

/// `[secrets]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// The keys that seal what has to come back: tokens of gateways, the identity shown to them, agents' tokens on their way.
    /// Each has a name; the first seals, all open. To replace one, name the new one last
    /// in every process, then first, then take the old one away. Unset: one is made once and
    /// kept in the database, where whoever reads the database finds it beside what it seals.
    pub keys: Vec<Secret>,
}

/// `[bridges]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bridges {
    /// How long a bridge that has taken a prompt may take to call back, in seconds, unless the task says otherwise. Callbacks go
    /// to `server.public_url`, which bridges must be able to reach.
    pub callback_seconds: u32,
    /// What stands before a session's id where a bridge is told of it.
    pub session_prefix: String,
}

impl Default for Bridges {
    fn default() -> Self {
        Self { callback_seconds: 600, session_prefix: "it0:".to_owned() }
    }
}

/// `[questions]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Questions {
    /// A question to a person waits so long for its answer, in days, unless it says otherwise.
    pub expires_days: u32,
    /// One that waits is asked again each time so many minutes have passed; 0: never.
    pub remind_minutes: u32,
}

impl Default for Questions {
    fn default() -> Self {
        Self { expires_days: 7, remind_minutes: 0 }
    }
}

/// `[retention]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Finished jobs are kept so long, in days; 0: for ever. Sessions and their messages stay.
    pub jobs_days: u32,
    /// Events of finished jobs are kept so long, in days; 0: as long as their jobs. A stream begins later then.
    pub events_days: u32,
    /// Answers to an `Idempotency-Key` are kept at least so long, and never less than their jobs.
    pub idempotency_hours: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { jobs_days: 30, events_days: 30, idempotency_hours: 24 }
    }
}

impl Retention {
    /// How long a job is kept after its end; `None`: for ever.
    #[must_use]
    pub fn jobs_kept(&self) -> Option<Duration> {
        days(self.jobs_days)
    }

    /// How long a job's events are kept after its end, which is never longer than the job; `None`: for ever.
    #[must_use]
    pub fn events_kept(&self) -> Option<Duration> {
        days(self.events_days).into_iter().chain(self.jobs_kept()).min()
    }
}

fn days(count: u32) -> Option<Duration> {
    (count > 0).then(|| Duration::from_secs(u64::from(count) * 86_400))
}

/// `[budgets]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budgets {
    /// Most tokens, in and out, that one task may spend over all its runs; no bound if unset. All budgets are judged before
    /// each request to a model: one that is under way is not cut short. What a run that died had spent is counted as far
    /// as it is known.
    pub job_tokens: Option<u64>,
    /// Most US dollars that one task may spend over all its runs; no bound if unset. Requests whose cost nobody knows count
    /// nothing here: set prices, or a budget of tokens. Claude Code counts by its own prices.
    pub job_usd: Option<f64>,
    /// Most tokens that the tasks of one session may spend; no bound if unset.
    pub session_tokens: Option<u64>,
    /// Most US dollars that the tasks of one session may spend; no bound if unset.
    pub session_usd: Option<f64>,
    /// Most tokens that the tasks of one tenant may spend in a day, which begins at 00:00 UTC; no bound if unset. Tasks that run
    /// at once see what the others spent when their runs have ended.
    pub tenant_day_tokens: Option<u64>,
    /// Most US dollars that the tasks of one tenant may spend in a day, likewise; no bound if unset.
    pub tenant_day_usd: Option<f64>,
}

/// `[texts]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Texts {
    /// The language of what end users read.
    pub locale: Locale,
}

/// A language of end users.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Locale {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

impl Locale {
    /// Ends the text of an interrupted answer in a session's history.
    #[must_use]
    pub const fn interrupted_marker(self) -> &'static str {
        match self {
            Self::En => "\n[interrupted]",
            Self::Zh => "\n[中断]",
        }
    }

    /// A bridge did not call back in time.
    #[must_use]
    pub const fn bridge_timed_out(self) -> &'static str {
        match self {
            Self::En => "The agent did not respond in time; please try again",
            Self::Zh => "智能体响应超时,请重试",
        }
    }

    /// A bridge failed without a word.
    #[must_use]
    pub const fn bridge_failed(self) -> &'static str {
        match self {
            Self::En => "The agent failed",
            Self::Zh => "智能体发生错误",
        }
    }

    /// A bridge could not be reached, and why.
    #[must_use]
    pub fn bridge_unreachable(self, why: &str) -> String {
        match self {
            Self::En => format!("Could not reach the agent: {why}"),
            Self::Zh => format!("无法连接到智能体:{why}"),
        }
    }
}

/// `[relay]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// Most WebSocket and SSE watchers of one process.
    pub max_connections: u32,
    /// Most streams one WebSocket may watch.
    pub max_subscriptions: u32,
    /// Frames a slow watcher may lag behind the live stream before it is cut off.
    pub buffer_frames: u32,
    /// Largest frame a client may send, in KiB.
    pub frame_limit_kib: u32,
    /// Time between two pings of a WebSocket, in seconds: one that answers none is closed. Its credential is checked as
    /// often.
    pub ping_seconds: u32,
    /// A stopping server tells each watcher to come again after a random time up to this, in milliseconds, so that they
    /// don't all come at once.
    pub reconnect_spread_ms: u32,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_subscriptions: 128,
            buffer_frames: 1_024,
            frame_limit_kib: 64,
            ping_seconds: 25,
            reconnect_spread_ms: 5_000,
        }
    }
}

/// `[agent]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// The system prompt of tasks that bring none: a template in Jinja's language. It knows `tenant`, `user_id`, `user_email` (each
    /// `none` if a key submitted the task, or the token did not say), `session_id`, `engine` and `date` (UTC, `2026-11-21`). Unset:
    /// such tasks have none.
    pub system_prompt: Option<String>,
}

/// `[transcription]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transcription {
    /// A server that speaks OpenAI's audio transcription, up to and including `/v1`. Unset: voice is refused.
    pub base_url: Option<String>,
    /// The model to ask for.
    pub model: String,
    /// Name of the environment variable that holds the key; unset: no key is sent.
    pub api_key_env: Option<String>,
    /// The language of speech whose request names none, as ISO 639-1 (`en`); `auto`: the server finds out.
    pub language: String,
    /// Largest audio, in MiB.
    pub limit_mib: u32,
    /// Transcriptions of one process at once; beyond it clients are told to come again.
    pub concurrency: u32,
    /// Longest time an upload may take, in seconds.
    pub upload_timeout_seconds: u32,
    /// Longest wait for a connection to the server, in seconds.
    pub connect_timeout_seconds: u32,
    /// Longest wait for the text once the upload has ended, in seconds.
    pub answer_timeout_seconds: u32,
}

impl Default for Transcription {
    fn default() -> Self {
        Self {
            base_url: None,
            model: "whisper-1".to_owned(),
            api_key_env: None,
            language: "auto".to_owned(),
            limit_mib: 25,
            concurrency: 8,
            upload_timeout_seconds: 120,
            connect_timeout_seconds: 10,
            answer_timeout_seconds: 60,
        }
    }
}
