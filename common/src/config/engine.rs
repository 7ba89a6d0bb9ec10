//! `[engines]`: what runs prompts, one table an engine.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::Tool;

/// `[engines]`: `default`, and one table an engine. A table's name is what `engineType` selects.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Engines {
    /// The engine of those who name none. Unset: the first that is available, `echo` at worst.
    #[serde(default)]
    pub default: Option<String>,
    /// By name.
    #[serde(flatten)]
    pub table: BTreeMap<String, Engine>,
}

/// `[engines.<name>]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Engine {
    /// Says the prompt back: for trials.
    Echo(EchoEngine),
    /// Runs a program of the operator's.
    Command(CommandEngine),
    /// Any server that speaks chat completions.
    OpenaiCompatible(OpenAiCompatibleEngine),
    /// Asks Claude over the Messages API.
    ClaudeApi(ClaudeApiEngine),
    /// Claude Code, which uses without asking what it may and refuses itself the rest.
    ClaudeCodeCli(ClaudeCodeEngine),
    /// Claude Code, which asks before it uses tools.
    ClaudeAgentSdk(ClaudeCodeEngine),
    /// An agent of a gateway.
    Openclaw(OpenClawEngine),
}

/// `type = "echo"`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EchoEngine {
    /// Where its tasks go.
    pub queue: String,
    /// Pause before each word, in milliseconds, so that a stream can be seen.
    pub word_delay_ms: u32,
    /// Plays an engine with tools: a line `!tool NAME JSON` of the prompt asks whether the tool NAME may be called with that
    /// input, and is answered by `allowed`, or by `denied` and why. Nothing is called.
    pub asks: bool,
    /// Where it asks: whether it goes on in a later run after its process was let go.
    pub resumes: bool,
    /// Its tasks that one worker runs at once; more wait. Unset: as many as the worker runs.
    pub max_concurrency: Option<u32>,
    /// The same of one tenant.
    pub per_tenant_concurrency: Option<u32>,
}

impl Default for EchoEngine {
    fn default() -> Self {
        Self {
            queue: default_queue(),
            word_delay_ms: 20,
            asks: false,
            resumes: true,
            max_concurrency: None,
            per_tenant_concurrency: None,
        }
    }
}

/// `type = "command"`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandEngine {
    /// Program and arguments. The prompt comes on its standard input.
    pub command: Vec<String>,
    /// Names of our environment variables that it may see; it sees no other.
    #[serde(default = "default_command_env")]
    pub env: Vec<String>,
    /// Its working directory; ours if unset.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// Where its tasks go.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// Whether it may be run again after a crash in mid-run.
    #[serde(default)]
    pub rerun: Rerun,
    /// Most output of one run, in KiB; beyond it the run fails.
    #[serde(default = "default_output_limit_kib")]
    pub output_limit_kib: u32,
    /// How much of the end of its standard error a failure keeps, in KiB.
    #[serde(default = "default_stderr_limit_kib")]
    pub stderr_limit_kib: u32,
    /// How long a run that is stopped may take to end after SIGTERM before it is killed, in milliseconds.
    #[serde(default = "default_stop_grace_ms")]
    pub stop_grace_ms: u32,
    /// Its tasks that one worker runs at once; more wait. Unset: as many as the worker runs.
    #[serde(default)]
    pub max_concurrency: Option<u32>,
    /// The same of one tenant.
    #[serde(default)]
    pub per_tenant_concurrency: Option<u32>,
}

/// What may follow a run that was cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rerun {
    /// Another run.
    #[default]
    Allowed,
    /// None: the task ends `ambiguous`.
    Never,
}

/// `type = "openai_compatible"`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAiCompatibleEngine {
    /// Up to and including `/v1`.
    pub base_url: String,
    /// The model to ask for.
    pub model: String,
    /// Name of the environment variable that holds the key; unset: no key is sent.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Where its tasks go.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// Longest answer to ask for, in tokens; unset: the server's own limit.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// Longest wait for a connection, in seconds.
    #[serde(default = "default_connect_timeout_seconds")]
    pub connect_timeout_seconds: u32,
    /// Longest wait for the answer's head, in seconds.
    #[serde(default = "default_first_byte_timeout_seconds")]
    pub first_byte_timeout_seconds: u32,
    /// Longest silence within an answer, in seconds.
    #[serde(default = "default_idle_timeout_seconds")]
    pub idle_timeout_seconds: u32,
    /// Most text and reasoning of one answer, in KiB; beyond it the run fails.
    #[serde(default = "default_output_limit_kib")]
    pub answer_limit_kib: u32,
    /// What the server speaks: `chat` completions, which all such servers do, or the `responses` API of newer ones.
    #[serde(default)]
    pub api: OpenAiApi,
    /// How often a request is sent again within one attempt that the server refused, or broke off, for a reason that may pass.
    #[serde(default = "default_request_retries")]
    pub request_retries: u32,
    /// A server that asks for a longer wait than this, in seconds, gets it: the attempt ends, and the next one waits.
    #[serde(default = "default_retry_wait_seconds")]
    pub retry_wait_seconds: u32,
    /// Its tasks that one worker runs at once; more wait. Unset: as many as the worker runs.
    #[serde(default)]
    pub max_concurrency: Option<u32>,
    /// The same of one tenant.
    #[serde(default)]
    pub per_tenant_concurrency: Option<u32>,
    /// What its models may use.
    #[serde(default)]
    pub tools: Vec<Tool>,
}

/// What a server speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenAiApi {
    /// Chat completions.
    #[default]
    Chat,
    /// The Responses API.
    Responses,
}

/// `type = "claude_api"`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaudeApiEngine {
    /// The model to ask for.
    pub model: String,
    /// Without `/v1`.
    #[serde(default = "default_claude_base_url")]
    pub base_url: String,
    /// Name of the environment variable that holds the key.
    #[serde(default = "default_claude_key_env")]
    pub api_key_env: String,
    /// How the key is sent: in the header `x-api-key`, or as a `bearer` token.
    #[serde(default)]
    pub auth: ClaudeAuth,
    /// Names of features under test to switch on, sent as `anthropic-beta`.
    #[serde(default)]
    pub betas: Vec<String>,
    /// Where its tasks go.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// Longest answer to ask for, in tokens, with those of thinking.
    #[serde(default = "default_claude_max_tokens")]
    pub max_tokens: u32,
    /// Whether the model thinks first: `default` says nothing of it, `adaptive` leaves it to the model, `enabled` needs
    /// `thinking_budget_tokens`. Which of them it takes depends on the model.
    #[serde(default)]
    pub thinking: Thinking,
    /// Most tokens of thinking where it is `enabled`; less than `max_tokens`.
    #[serde(default = "default_thinking_budget_tokens")]
    pub thinking_budget_tokens: u32,
    /// How thinking is shown: `summarized` or `omitted`; unset: as the server does by itself.
    #[serde(default)]
    pub thinking_display: Option<ThinkingDisplay>,
    /// How long the server keeps the beginning of a conversation for the next request: `5m`, `1h` or `off`.
    #[serde(default)]
    pub cache: PromptCache,
    /// Longest wait for a connection, in seconds.
    #[serde(default = "default_connect_timeout_seconds")]
    pub connect_timeout_seconds: u32,
    /// Longest wait for the answer's head, in seconds.
    #[serde(default = "default_first_byte_timeout_seconds")]
    pub first_byte_timeout_seconds: u32,
    /// Longest silence within an answer, in seconds.
    #[serde(default = "default_idle_timeout_seconds")]
    pub idle_timeout_seconds: u32,
    /// Most text, thinking and tool input of one answer, in KiB; beyond it the run fails.
    #[serde(default = "default_output_limit_kib")]
    pub answer_limit_kib: u32,
    /// How often a request is sent again within one attempt that the server refused, or broke off, for a reason that may pass.
    #[serde(default = "default_request_retries")]
    pub request_retries: u32,
    /// A server that asks for a longer wait than this, in seconds, gets it: the attempt ends, and the next one waits.
    #[serde(default = "default_retry_wait_seconds")]
    pub retry_wait_seconds: u32,
    /// Its tasks that one worker runs at once; more wait. Unset: as many as the worker runs.
    #[serde(default)]
    pub max_concurrency: Option<u32>,
    /// The same of one tenant.
    #[serde(default)]
    pub per_tenant_concurrency: Option<u32>,
    /// What its models may use.
    #[serde(default)]
    pub tools: Vec<Tool>,
}

/// How a key is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaudeAuth {
    /// In a header of its own.
    #[default]
    XApiKey,
    /// As `Authorization: Bearer`.
    Bearer,
}

/// Whether a model thinks before it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thinking {
    /// As it does by itself.
    #[default]
    Default,
    /// As it sees fit.
    Adaptive,
    /// Up to a budget.
    Enabled,
    /// No.
    Disabled,
}

/// How thinking is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThinkingDisplay {
    /// In short.
    Summarized,
    /// Not at all.
    Omitted,
}

/// How long the beginning of a conversation is kept for the next request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum PromptCache {
    /// Five minutes.
    #[default]
    #[serde(rename = "5m")]
    FiveMinutes,
    /// An hour.
    #[serde(rename = "1h")]
    OneHour,
    /// Not at all.
    #[serde(rename = "off")]
    Off,
}

impl OpenAiCompatibleEngine {
    /// A server with the default limits.
    #[must_use]
    pub fn at(base_url: String, model: String) -> Self {
        Self {
            base_url,
            model,
            api_key_env: None,
            queue: default_queue(),
            max_tokens: None,
            connect_timeout_seconds: default_connect_timeout_seconds(),
            first_byte_timeout_seconds: default_first_byte_timeout_seconds(),
            idle_timeout_seconds: default_idle_timeout_seconds(),
            answer_limit_kib: default_output_limit_kib(),
            api: OpenAiApi::default(),
            request_retries: default_request_retries(),
            retry_wait_seconds: default_retry_wait_seconds(),
            max_concurrency: None,
            per_tenant_concurrency: None,
            tools: Vec::new(),
        }
    }
}

/// `type = "claude_code_cli"`
/// and
/// `type = "claude_agent_sdk"`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaudeCodeEngine {
    /// The program `claude`: its path, or its name to be found on the PATH that it is given. Errand brings none along.
    pub binary: String,
    /// A directory of this engine's own, made if it is missing. Each tenant has a home and its sessions' working directories
    /// below it, which are kept.
    pub home: PathBuf,
    /// Names of our environment variables that it may see, and with it the tools that it runs; it sees no other.
    #[serde(default = "default_claude_env")]
    pub env: Vec<String>,
    /// Where its tasks go.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// The model to ask for; unset: the program's own choice.
    #[serde(default)]
    pub model: Option<String>,
    /// More arguments for the program, after ours.
    #[serde(default)]
    pub args: Vec<String>,
    /// Most text of one answer, in KiB; beyond it the run fails.
    #[serde(default = "default_output_limit_kib")]
    pub output_limit_kib: u32,
    /// Longest line that the program may write, in KiB: what one tool said is in one line.
    #[serde(default = "default_line_limit_kib")]
    pub line_limit_kib: u32,
    /// Most of a conversation's file that is kept between runs, in KiB. A longer one begins anew, with the session's messages.
    #[serde(default = "default_state_limit_kib")]
    pub state_limit_kib: u32,
    /// How much of the end of its standard error a failure keeps, in KiB.
    #[serde(default = "default_stderr_limit_kib")]
    pub stderr_limit_kib: u32,
    /// How long a run that is stopped may take to end before it is killed, in milliseconds; less than `worker.stop_grace_ms`.
    /// Half of it is for what the program has to say about its interruption: where that comes too late, or the run is killed,
    /// the next run does the turn again.
    #[serde(default = "default_claude_stop_grace_ms")]
    pub stop_grace_ms: u32,
    /// Its tasks at once, in one worker; no bound of its own if unset.
    #[serde(default)]
    pub max_concurrency: Option<u32>,
    /// Of them, one tenant's; no bound of its own if unset.
    #[serde(default)]
    pub per_tenant_concurrency: Option<u32>,
}

/// `type = "openclaw"`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenClawEngine {
    /// The id of the gateway. Tasks of other tenants than the gateway's fail.
    pub gateway: String,
    /// The agent's id in the gateway.
    pub agent: String,
    /// Where its tasks go.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// Its tasks at once, in one worker; no bound of its own if unset.
    #[serde(default)]
    pub max_concurrency: Option<u32>,
    /// Of them, one tenant's; no bound of its own if unset.
    #[serde(default)]
    pub per_tenant_concurrency: Option<u32>,
}

/// How much of a worker an engine gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EngineLimits {
    /// Its tasks at once.
    pub max_concurrency: Option<u32>,
    /// Of them, one tenant's.
    pub per_tenant_concurrency: Option<u32>,
}

impl Engine {
    /// The `type` it is configured with.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Echo(_) => "echo",
            Self::Command(_) => "command",
            Self::OpenaiCompatible(_) => "openai_compatible",
            Self::ClaudeApi(_) => "claude_api",
            Self::ClaudeCodeCli(_) => "claude_code_cli",
            Self::ClaudeAgentSdk(_) => "claude_agent_sdk",
            Self::Openclaw(_) => "openclaw",
        }
    }

    /// Where its tasks go.
    #[must_use]
    pub fn queue(&self) -> &str {
        match self {
            Self::Echo(echo) => &echo.queue,
            Self::Command(command) => &command.queue,
            Self::OpenaiCompatible(server) => &server.queue,
            Self::ClaudeApi(server) => &server.queue,
            Self::ClaudeCodeCli(program) | Self::ClaudeAgentSdk(program) => &program.queue,
            Self::Openclaw(agent) => &agent.queue,
        }
    }

    /// How much of a worker it gets.
    #[must_use]
    pub const fn limits(&self) -> EngineLimits {
        let (max_concurrency, per_tenant_concurrency) = match self {
            Self::Echo(engine) => (engine.max_concurrency, engine.per_tenant_concurrency),
            Self::Command(engine) => (engine.max_concurrency, engine.per_tenant_concurrency),
            Self::OpenaiCompatible(engine) => (engine.max_concurrency, engine.per_tenant_concurrency),
            Self::ClaudeApi(engine) => (engine.max_concurrency, engine.per_tenant_concurrency),
            Self::ClaudeCodeCli(engine) | Self::ClaudeAgentSdk(engine) => {
                (engine.max_concurrency, engine.per_tenant_concurrency)
            }
            Self::Openclaw(engine) => (engine.max_concurrency, engine.per_tenant_concurrency),
        };
        EngineLimits { max_concurrency, per_tenant_concurrency }
    }
}

fn default_queue() -> String {
    "default".to_owned()
}

pub(super) fn default_command_env() -> Vec<String> {
    vec!["PATH".to_owned(), "LANG".to_owned()]
}

fn default_claude_env() -> Vec<String> {
    ["PATH", "LANG", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"].map(str::to_owned).to_vec()
}

const fn default_line_limit_kib() -> u32 {
    16_384
}

const fn default_state_limit_kib() -> u32 {
    16_384
}

const fn default_claude_stop_grace_ms() -> u32 {
    4_000
}

const fn default_output_limit_kib() -> u32 {
    4_096
}

const fn default_stderr_limit_kib() -> u32 {
    8
}

const fn default_stop_grace_ms() -> u32 {
    500
}

const fn default_connect_timeout_seconds() -> u32 {
    10
}

const fn default_first_byte_timeout_seconds() -> u32 {
    120
}

const fn default_idle_timeout_seconds() -> u32 {
    90
}

const fn default_request_retries() -> u32 {
    2
}

const fn default_retry_wait_seconds() -> u32 {
    30
}

fn default_claude_base_url() -> String {
    "https://api.anthropic.com".to_owned()
}

fn default_claude_key_env() -> String {
    "ANTHROPIC_API_KEY".to_owned()
}

const fn default_claude_max_tokens() -> u32 {
    16_384
}

const fn default_thinking_budget_tokens() -> u32 {
    4_096
}
