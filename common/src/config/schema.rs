//! Every setting by its name, and what is allowed in it. A test holds this table against the structs.

use std::{collections::BTreeSet, net::SocketAddr};

use toml::Value;

use super::{
    price::UsdPerMillion,
    redis_url::{self, RedisUrl},
    telemetry,
};
use crate::{
    domain::{attachment, prompt::PromptTemplate},
    vault::SealingKey,
    wire::credential,
};

/// What a setting may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// A whole number within bounds, both included.
    Whole(i64, i64),
    /// True or false.
    Flag,
    /// A part of the whole: 0 to 1.
    Ratio,
    /// Headers as `name=value` with commas between them; never shown.
    HeaderPairs,
    /// An amount of US dollars.
    Dollars,
    /// Text that is not blank.
    Text,
    /// An address with a port.
    Address,
    /// A URL with one of these schemes. It may hold a password, so it is never shown.
    Url(&'static [&'static str]),
    /// A URL of Redis, in one of its forms; never shown.
    RedisPlace,
    /// The beginning of names in Redis: 1 to 64 of `A-Z a-z 0-9 . _ : -`.
    KeyPrefix,
    /// A key of Errand's form; never shown.
    ApiKey,
    /// An id: a UUID.
    Id,
    /// A secret of at least so many bytes; never shown.
    SigningSecret(usize),
    /// A list of keys that seal secrets, none twice; never shown.
    SealingKeys,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts, none blank, at least so many.
    List(usize),
    /// A list of networks.
    Networks,
    /// So many waits, each in seconds.
    Waits(usize),
    /// One or more of these words.
    Words(&'static [&'static str]),
    /// A list of media types in lower case, without parameters.
    MediaTypes,
    /// A template of a system prompt.
    Prompt,
    /// A list of tools, each with the settings of [`TOOL`].
    Tools,
    /// What a model calls a tool: 1 to 64 of `A-Z a-z 0-9 _ -`.
    ToolName,
    /// A JSON Schema of an object: a table, or JSON as text.
    Schema,
    /// US dollars a million tokens.
    Usd,
}

use Rule::{
    Address, ApiKey, Choice, Dollars, Flag, HeaderPairs, Id, KeyPrefix, List, MediaTypes, Networks, Prompt, Ratio,
    RedisPlace, Schema, SealingKeys, SigningSecret, Text, ToolName, Tools, Url, Usd, Waits, Whole, Words,
};

const HTTP: Rule = Url(&["http", "https"]);
const DAY: i64 = 86_400;
const TOKENS: i64 = 1_000_000_000_000;
/// The largest amount of money that can be set.
const MOST_DOLLARS: f64 = 1_000_000.0;

/// The settings outside `[engines]`.
pub(super) const SETTINGS: &[(&str, Rule)] = &[
    ("server.listen", Address),
    ("server.public_url", HTTP),
    ("server.serve", Words(&["rest", "relay", "console"])),
    ("server.body_limit_kib", Whole(1, 65_536)),
    ("server.attachment_limit_mib", Whole(0, 1_024)),
    ("server.attachment_types", MediaTypes),
    ("server.attachment_memory_mib", Whole(1, 65_536)),
    ("server.header_limit_kib", Whole(4, 1_024)),
    ("server.drain_seconds", Whole(0, 3_600)),
    ("metrics.listen", Address),
    ("telemetry.otlp_endpoint", HTTP),
    ("telemetry.otlp_headers", HeaderPairs),
    ("telemetry.sample_ratio", Ratio),
    ("telemetry.service_name", Text),
    ("telemetry.queue_spans", Whole(64, 65_536)),
    ("telemetry.batch_spans", Whole(1, 8_192)),
    ("telemetry.export_interval_ms", Whole(10, 60_000)),
    ("telemetry.export_timeout_seconds", Whole(1, 60)),
    ("telemetry.flush_seconds", Whole(0, 60)),
    ("database.url", Url(&["postgres", "postgresql", "sqlite"])),
    ("database.max_connections", Whole(1, 1_000)),
    ("database.renewal_connections", Whole(1, 16)),
    ("database.acquire_timeout_seconds", Whole(1, 300)),
    ("database.answer_timeout_seconds", Whole(1, 300)),
    ("database.idle_transaction_seconds", Whole(1, 300)),
    ("redis.url", RedisPlace),
    ("redis.key_prefix", KeyPrefix),
    ("redis.connect_timeout_ms", Whole(10, 60_000)),
    ("redis.command_timeout_ms", Whole(10, 60_000)),
    ("redis.reconnect_max_ms", Whole(10, 60_000)),
    ("redis.ping_interval_ms", Whole(10, 60_000)),
    ("worker.concurrency", Whole(1, 10_000)),
    ("worker.queues", List(1)),
    ("worker.lease_seconds", Whole(2, 3_600)),
    ("worker.drain_seconds", Whole(0, 3_600)),
    ("worker.unknown_kind_seconds", Whole(0, 30 * DAY)),
    ("worker.sweep_interval_ms", Whole(10, 60_000)),
    ("worker.event_flush_ms", Whole(0, 1_000)),
    ("worker.event_flush_max_ms", Whole(0, 10_000)),
    ("worker.event_buffer_kib", Whole(1, 65_536)),
    ("worker.stop_grace_ms", Whole(0, 60_000)),
    ("worker.poll_interval_ms", Whole(10, 60_000)),
    ("worker.approval_warm_seconds", Whole(0, DAY)),
    ("worker.max_warm", Whole(0, 10_000)),
    ("worker.approval_expires_seconds", Whole(1, 365 * DAY)),
    ("worker.isolate_wait_seconds", Whole(1, 86_400)),
    ("worker.snooze_seconds", Whole(1, 3_600)),
    ("worker.sweep_horizon_seconds", Whole(1, 86_400)),
    ("worker.sweep_batch", Whole(1, 10_000)),
    ("worker.history_attachments_mib", Whole(0, 1_024)),
    ("outbound.allow", Networks),
    ("outbound.call_seconds", Whole(1, 300)),
    ("outbound.connect_timeout_seconds", Whole(1, 300)),
    ("outbound.response_limit_kib", Whole(1, 65_536)),
    ("gates.concurrency", Whole(1, 100_000)),
    ("gates.failure_percent", Whole(1, 100)),
    ("gates.min_calls", Whole(1, 100_000)),
    ("gates.window_seconds", Whole(1, 600)),
    ("gates.open_seconds", Whole(1, 3_600)),
    ("gates.probes", Whole(1, 1_000)),
    ("gates.busy_wait_ms", Whole(1, 60_000)),
    ("webhooks.max_endpoints", Whole(0, 1_000)),
    ("webhooks.call_seconds", Whole(1, 60)),
    ("webhooks.retry_seconds", Waits(7)),
    ("webhooks.disable_after_seconds", Whole(1, 365 * DAY)),
    ("gateways.max_connections", Whole(1, 10_000)),
    ("gateways.connect_timeout_seconds", Whole(1, 300)),
    ("gateways.handshake_timeout_seconds", Whole(1, 300)),
    ("gateways.request_timeout_seconds", Whole(1, 300)),
    ("gateways.max_in_flight", Whole(1, 1_000)),
    ("gateways.frame_limit_kib", Whole(64, 1_048_576)),
    ("gateways.idle_seconds", Whole(1, DAY)),
    ("gateways.ping_seconds", Whole(1, 3_600)),
    ("gateways.reconnect_max_ms", Whole(10, 600_000)),
    ("gateways.refused_seconds", Whole(1, DAY)),
    ("gateways.event_buffer", Whole(1, 65_536)),
    ("gateways.history_limit", Whole(1, 100_000)),
    ("gateways.resend", Choice(&["same_key", "never"])),
    ("bridges.callback_seconds", Whole(1, DAY)),
    ("bridges.session_prefix", Text),
    ("auth.bootstrap_key", ApiKey),
    ("auth.failures_per_minute", Whole(1, 10_000)),
    ("auth.jwt_secret", SigningSecret(32)),
    ("auth.jwks_url", HTTP),
    ("auth.issuer", Text),
    ("auth.audience", Text),
    ("auth.tenant_claim", Text),
    ("auth.leeway_seconds", Whole(0, 300)),
    ("auth.jwks_refresh_seconds", Whole(1, DAY)),
    ("auth.jwks_retry_seconds", Whole(1, 3_600)),
    ("auth.jwks_timeout_seconds", Whole(1, 60)),
    ("auth.jwks_limit_kib", Whole(1, 4_096)),
    ("secrets.keys", SealingKeys),
    ("questions.expires_days", Whole(1, 365)),
    ("questions.remind_minutes", Whole(0, 525_600)),
    ("retention.jobs_days", Whole(0, 36_500)),
    ("retention.events_days", Whole(0, 36_500)),
    ("retention.idempotency_hours", Whole(24, 8_760)),
    ("budgets.job_tokens", Whole(1, TOKENS)),
    ("budgets.job_usd", Dollars),
    ("budgets.session_tokens", Whole(1, TOKENS)),
    ("budgets.session_usd", Dollars),
    ("budgets.tenant_day_tokens", Whole(1, TOKENS)),
    ("budgets.tenant_day_usd", Dollars),
    ("texts.locale", Choice(&["en", "zh"])),
    ("relay.max_connections", Whole(1, 1_000_000)),
    ("relay.max_subscriptions", Whole(1, 10_000)),
    ("relay.buffer_frames", Whole(16, 65_536)),
    ("relay.frame_limit_kib", Whole(1, 16_384)),
    ("relay.ping_seconds", Whole(1, 3_600)),
    ("relay.reconnect_spread_ms", Whole(0, 600_000)),
    ("agent.system_prompt", Prompt),
    ("transcription.base_url", HTTP),
    ("transcription.model", Text),
    ("transcription.api_key_env", Text),
    ("transcription.language", Text),
    ("transcription.limit_mib", Whole(1, 1_024)),
    ("transcription.concurrency", Whole(1, 10_000)),
    ("transcription.upload_timeout_seconds", Whole(1, 3_600)),
    ("transcription.connect_timeout_seconds", Whole(1, 300)),
    ("transcription.answer_timeout_seconds", Whole(1, 3_600)),
];

/// The settings of one destination's gate.
pub(super) const DESTINATION: &[(&str, Rule)] =
    &[("concurrency", Whole(1, 100_000)), ("rate_per_second", Whole(1, 1_000_000)), ("burst", Whole(1, 1_000_000))];

/// The settings of one model's price.
pub(super) const PRICE: &[EngineSetting] = &[
    must("input", Usd),
    must("output", Usd),
    may("cache_write_5m", Usd),
    may("cache_write_1h", Usd),
    may("cache_read", Usd),
];

/// The settings of one tool.
pub(super) const TOOL: &[EngineSetting] = &[
    must("name", ToolName),
    must("description", Text),
    may("schema", Schema),
    must("command", List(1)),
    may("env", List(0)),
    may("cwd", Text),
    may("approval", Choice(&["ask", "never"])),
    may("timeout_seconds", Whole(1, 3_600)),
    may("output_limit_kib", Whole(1, 16_384)),
];

/// Whether this is how a destination is written: a host in lower case, and a port; or `gateway:` and a gateway's id.
pub(super) fn is_destination(name: &str) -> bool {
    if let Some(id) = name.strip_prefix("gateway:") {
        return uuid::Uuid::parse_str(id).is_ok_and(|parsed| parsed.to_string() == id);
    }
    name.rsplit_once(':').is_some_and(|(host, port)| {
        let fits =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
        !host.is_empty()
            && host.len() <= 255
            && host.chars().all(fits)
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// One setting of an engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct EngineSetting {
    pub(super) key: &'static str,
    pub(super) rule: Rule,
    pub(super) required: bool,
}

const fn may(key: &'static str, rule: Rule) -> EngineSetting {
    EngineSetting { key, rule, required: false }
}

const fn must(key: &'static str, rule: Rule) -> EngineSetting {
    EngineSetting { key, rule, required: true }
}

/// The types of engines, each with its settings beside `type`.
pub(super) const ENGINES: &[(&str, &[EngineSetting])] = &[
    (
        "echo",
        &[
            may("queue", Text),
            may("word_delay_ms", Whole(0, 60_000)),
            may("asks", Flag),
            may("resumes", Flag),
            may("max_concurrency", Whole(1, 10_000)),
            may("per_tenant_concurrency", Whole(1, 10_000)),
        ],
    ),
    (
        "command",
        &[
            must("command", List(1)),
            may("env", List(0)),
            may("cwd", Text),
            may("queue", Text),
            may("rerun", Choice(&["allowed", "never"])),
            may("output_limit_kib", Whole(1, 1_048_576)),
            may("stop_grace_ms", Whole(0, 60_000)),
            may("stderr_limit_kib", Whole(0, 1_024)),
            may("max_concurrency", Whole(1, 10_000)),
            may("per_tenant_concurrency", Whole(1, 10_000)),
        ],
    ),
    (
        "openai_compatible",
        &[
            must("base_url", HTTP),
            must("model", Text),
            may("api_key_env", Text),
            may("queue", Text),
            may("max_tokens", Whole(1, 10_000_000)),
            may("connect_timeout_seconds", Whole(1, DAY)),
            may("first_byte_timeout_seconds", Whole(1, DAY)),
            may("idle_timeout_seconds", Whole(1, DAY)),
            may("answer_limit_kib", Whole(1, 1_048_576)),
            may("api", Choice(&["chat", "responses"])),
            may("request_retries", Whole(0, 10)),
            may("retry_wait_seconds", Whole(0, 600)),
            may("max_concurrency", Whole(1, 10_000)),
            may("per_tenant_concurrency", Whole(1, 10_000)),
            may("tools", Tools),
        ],
    ),
    (
        "claude_api",
        &[
            must("model", Text),
            may("base_url", HTTP),
            may("api_key_env", Text),
            may("auth", Choice(&["x-api-key", "bearer"])),
            may("betas", List(0)),
            may("queue", Text),
            may("max_tokens", Whole(1, 10_000_000)),
            may("thinking", Choice(&["default", "adaptive", "enabled", "disabled"])),
            may("thinking_budget_tokens", Whole(1_024, 10_000_000)),
            may("thinking_display", Choice(&["summarized", "omitted"])),
            may("cache", Choice(&["5m", "1h", "off"])),
            may("connect_timeout_seconds", Whole(1, DAY)),
            may("first_byte_timeout_seconds", Whole(1, DAY)),
            may("idle_timeout_seconds", Whole(1, DAY)),
            may("answer_limit_kib", Whole(1, 1_048_576)),
            may("request_retries", Whole(0, 10)),
            may("retry_wait_seconds", Whole(0, 600)),
            may("max_concurrency", Whole(1, 10_000)),
            may("per_tenant_concurrency", Whole(1, 10_000)),
            may("tools", Tools),
        ],
    ),
    ("claude_code_cli", CLAUDE_CODE),
    ("claude_agent_sdk", CLAUDE_CODE),
    (
        "openclaw",
        &[
            must("gateway", Id),
            must("agent", Text),
            may("queue", Text),
            may("max_concurrency", Whole(1, 10_000)),
            may("per_tenant_concurrency", Whole(1, 10_000)),
        ],
    ),
];

/// One program, two ways to run it.
const CLAUDE_CODE: &[EngineSetting] = &[
    must("binary", Text),
    must("home", Text),
    may("env", List(0)),
    may("queue", Text),
    may("model", Text),
    may("args", List(0)),
    may("output_limit_kib", Whole(1, 1_048_576)),
    may("line_limit_kib", Whole(64, 1_048_576)),
    may("state_limit_kib", Whole(0, 1_048_576)),
    may("stderr_limit_kib", Whole(0, 1_024)),
    may("stop_grace_ms", Whole(0, 60_000)),
    may("max_concurrency", Whole(1, 10_000)),
    may("per_tenant_concurrency", Whole(1, 10_000)),
];

/// The settings of a type of engine.
pub(super) fn engine_settings(engine_type: &str) -> Option<&'static [EngineSetting]> {
    ENGINES.iter().find(|(name, _)| *name == engine_type).map(|(_, settings)| *settings)
}

/// The rule of a setting outside `[engines]`.
pub(super) fn rule(key: &str) -> Option<Rule> {
    SETTINGS.iter().find(|(name, _)| *name == key).map(|(_, rule)| *rule)
}

/// The sections, `engines` included.
pub(super) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    let of_settings = SETTINGS.iter().filter_map(move |(key, _)| {
        let section = key.split('.').next().unwrap_or_default();
        (std::mem::replace(&mut last, section) != section).then_some(section)
    });
    of_settings.chain(["prices", "engines"])
}

/// The known name that was probably meant.
pub(super) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let bound = (wrong.len() / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

impl Rule {
    /// Whether the setting is a text, so that a variable's raw text is its value.
    pub(super) const fn takes_text(self) -> bool {
        matches!(
            self,
            Text | Address
                | Url(_)
                | RedisPlace
                | KeyPrefix
                | ApiKey
                | Id
                | SigningSecret(_)
                | HeaderPairs
                | Choice(_)
                | Prompt
                | ToolName
                | Schema
                | Usd
        )
    }

    /// In words.
    pub(super) fn allowed(self) -> String {
        match self {
            Whole(min, max) => format!("a whole number from {min} to {max}"),
            Flag => "true or false".to_owned(),
            Dollars => format!("US dollars above 0, such as 2.5; at most {MOST_DOLLARS}"),
            Ratio => "a number from 0 to 1, such as 0.1".to_owned(),
            HeaderPairs => "name=value, with commas between them".to_owned(),
            Text => "text that is not blank".to_owned(),
            Address => "an IP address with a port, such as 127.0.0.1:8080".to_owned(),
            Url(schemes) => format!("a URL that begins with {}://", schemes.join(":// or ")),
            RedisPlace => Url(redis_url::SCHEMES).allowed(),
            KeyPrefix => "1 to 64 of A-Z a-z 0-9 . _ : -".to_owned(),
            ApiKey => "errand_ followed by 32 or more of A-Z a-z 0-9 _ -".to_owned(),
            Id => "an id: a UUID".to_owned(),
            SigningSecret(least) => format!("at least {least} bytes of text"),
            SealingKeys => {
                "a list of keys such as [\"k1:…\"]: a name of 1 to 32 of A-Z a-z 0-9 _ - and, in base64, 32 bytes"
                    .to_owned()
            }
            Choice(words) => words.join(" or "),
            List(0) => "a list of texts such as [\"a\", \"b\"]".to_owned(),
            Waits(count) => format!("a list of {count} whole numbers from 0 to {DAY}"),
            Networks => "a list of networks such as [\"10.1.0.0/16\"]".to_owned(),
            List(_) => "a list of one or more texts such as [\"a\", \"b\"]".to_owned(),
            Words(words) => format!("a list of one or more of {}", words.join(", ")),
            MediaTypes => "a list of media types in lower case such as [\"image/png\"]".to_owned(),
            Prompt => "a template in Jinja's language".to_owned(),
            Tools => "a list of tables, each a tool; see below".to_owned(),
            ToolName => "1 to 64 of A-Z a-z 0-9 _ -".to_owned(),
            Schema => "a table, or a JSON object as text".to_owned(),
            Usd => "US dollars a million tokens, such as 4 or \"0.075\"".to_owned(),
        }
    }

    /// Checks a value.
    ///
    /// # Errors
    /// What is wrong and what is allowed; without the value where that may be a secret.
    pub(super) fn check(self, value: &Value) -> Result<(), String> {
        let fits = match (self, value) {
            (Whole(min, max), Value::Integer(number)) => (min..=max).contains(number),
            (Flag, Value::Boolean(_)) => true,
            (Dollars, Value::Float(amount)) => *amount > 0.0 && *amount <= MOST_DOLLARS,
            #[expect(clippy::cast_precision_loss, reason = "compared with a bound that is far smaller")]
            (Dollars, Value::Integer(amount)) => *amount > 0 && (*amount as f64) <= MOST_DOLLARS,
            (Ratio, Value::Float(part)) => (0.0..=1.0).contains(part),
            (Ratio, Value::Integer(part)) => (0..=1).contains(part),
            (HeaderPairs, Value::String(text)) => telemetry::pairs(text).is_some(),
            (Text, Value::String(text)) => !text.trim().is_empty(),
            (Address, Value::String(text)) => text.parse::<SocketAddr>().is_ok(),
            (Url(schemes), Value::String(text)) => text
                .split_once("://")
                .is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.trim().is_empty()),
            (RedisPlace, Value::String(text)) => {
                // Its own words say more than the list of schemes, once the scheme is one of them.
                Url(redis_url::SCHEMES).check(value)?;
                return RedisUrl::parse(text).map(drop);
            }
            (KeyPrefix, Value::String(text)) => {
                let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
                (1..=64).contains(&text.len()) && text.chars().all(named)
            }
            (ApiKey, Value::String(text)) => credential::is_key(text),
            (Id, Value::String(text)) => uuid::Uuid::parse_str(text).is_ok(),
            (SigningSecret(least), Value::String(text)) => text.trim().len() >= least,
            (SealingKeys, Value::Array(items)) => {
                let ids = items.iter().filter_map(|item| Some(SealingKey::parse(item.as_str()?)?.id().to_owned()));
                ids.collect::<BTreeSet<_>>().len() == items.len()
            }
            (Choice(words), Value::String(text)) => words.contains(&text.as_str()),
            (List(least), Value::Array(items)) => {
                items.len() >= least
                    && items.iter().all(|item| item.as_str().is_some_and(|text| !text.trim().is_empty()))
            }
            (Networks, Value::Array(items)) => {
                items.iter().all(|item| item.as_str().is_some_and(|text| text.parse::<ipnet::IpNet>().is_ok()))
            }
            (Waits(count), Value::Array(items)) => {
                items.len() == count
                    && items.iter().all(|item| item.as_integer().is_some_and(|wait| (0..=DAY).contains(&wait)))
            }
            (Words(words), Value::Array(items)) => {
                !items.is_empty() && items.iter().all(|item| item.as_str().is_some_and(|text| words.contains(&text)))
            }
            (MediaTypes, Value::Array(items)) => {
                items.iter().all(|item| item.as_str().is_some_and(attachment::is_media_type))
            }
            // Its own words say where it is wrong.
            (Prompt, Value::String(text)) => return PromptTemplate::new(text).map(drop),
            // Each is checked by its own settings.
            (Tools, Value::Array(items)) => items.iter().all(Value::is_table),
            (ToolName, Value::String(text)) => {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
                (1..=64).contains(&text.len()) && text.bytes().all(fits)
            }
            (Schema, Value::String(text)) => serde_json::from_str::<serde_json::Map<_, _>>(text).is_ok(),
            (Schema, Value::Table(_)) => true,
            (Usd, Value::String(text)) => UsdPerMillion::parse(text).is_ok(),
            (Usd, Value::Integer(number)) => UsdPerMillion::parse(&number.to_string()).is_ok(),
            (Usd, Value::Float(number)) => UsdPerMillion::parse(&number.to_string()).is_ok(),
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("{}; allowed: {}", self.found(value), self.allowed())) }
    }

    /// What was there, shortened.
    fn found(self, value: &Value) -> String {
        match (self, value) {
            (Url(schemes), Value::String(text)) => match text.split_once("://") {
                Some((scheme, _)) if schemes.contains(&scheme) => "names no place".to_owned(),
                Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') => {
                    format!("has the scheme {scheme:?}")
                }
                _ => "is no such URL".to_owned(),
            },
            (ApiKey, _) => "does not have the form of a key".to_owned(),
            (SigningSecret(_), Value::String(text)) => format!("has {} bytes", text.trim().len()),
            (SigningSecret(_), _) => "is not text".to_owned(),
            (SealingKeys, Value::Array(_)) => "holds something that is no such key, or a name twice".to_owned(),
            (SealingKeys, _) => "is no list".to_owned(),
            (HeaderPairs, _) => "is written otherwise".to_owned(),
            (_, Value::String(text)) if text.trim().is_empty() => "is blank".to_owned(),
            (Url(_) | RedisPlace, _) => "is not text".to_owned(),
            (_, Value::String(text)) => format!("is {:?}", text.chars().take(60).collect::<String>()),
            (_, Value::Integer(number)) => format!("is {number}"),
            (_, Value::Float(number)) => format!("is {number}"),
            (_, Value::Boolean(flag)) => format!("is {flag}"),
            (_, Value::Datetime(_)) => "is a date".to_owned(),
            (_, Value::Array(items)) if items.is_empty() => "is an empty list".to_owned(),
            (Networks, Value::Array(_)) => "holds something that is not a network".to_owned(),
            (MediaTypes, Value::Array(_)) => "holds something that is no such media type".to_owned(),
            (List(_), Value::Array(_)) => "holds something that is not text, or blank text".to_owned(),
            (Waits(_), Value::Array(items)) => format!("holds {} things, or something else", items.len()),
            (Words(_), Value::Array(_)) => "holds something else".to_owned(),
            (_, Value::Array(_)) => "is a list".to_owned(),
            (_, Value::Table(_)) => "is a table".to_owned(),
        }
    }
}
