//! The payloads of `instance_task`, one prompt for one instance, and of `instance_poll`, which asks about one; and where bridges
//! may be.

use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Host;

use crate::domain::{FailureClass, InstanceId, JobId, SessionId, Usage, address, instance::Said, nano_usd};

/// The kind of a prompt.
pub const KIND: &str = "instance_task";
/// The kind of a question about a prompt.
pub const POLL: &str = "instance_poll";
/// Version of the payloads. Grows when an older worker would misread a newer payload.
pub const VERSION: u32 = 1;
/// What the conversations of instances name as their engine.
pub const ENGINE: &str = "openclaw";
/// Longest name of a host, in bytes.
const HOST_BYTES: usize = 253;

/// What `POST /agent/instances/{id}/tasks` stores and the worker sends. Additive only: new fields need a default.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceTaskPayload {
    /// Who answers it.
    pub instance_id: InstanceId,
    /// What to do.
    pub prompt: String,
    /// How long its callback is waited for after the bridge has taken it, in seconds.
    pub callback_seconds: u32,
    /// Where the callback goes, without its token.
    pub callback_url: String,
    /// With the session's id behind it: what the bridge knows the conversation by.
    pub session_prefix: String,
}

impl InstanceTaskPayload {
    /// What is sent to the bridge.
    #[must_use]
    pub fn request(&self, session: SessionId, job: JobId, key: &str, token: &str) -> Value {
        json!({
            "prompt": self.prompt,
            "sessionKey": format!("{}{session}", self.session_prefix),
            "idempotencyKey": key,
            "callbackUrl": format!("{}?token={token}", self.callback_url),
            "callbackData": {"sessionId": session, "taskId": job},
        })
    }
}

/// What a bridge calls back with, and answers when it is asked. Unknown fields are ignored.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallbackBody {
    /// Whether it is answered; absent from pieces.
    pub ok: Option<bool>,
    /// The answer.
    pub result: Option<String>,
    /// Why there is none.
    pub error: Option<Value>,
    /// The bridge gave it up after its own time.
    pub is_timeout: Option<bool>,
    /// A piece of the answer.
    pub partial: Option<String>,
    /// The piece's number, from 1.
    pub seq: Option<i64>,
    /// What it cost.
    pub usage: Option<CallbackUsage>,
    /// What came with the prompt.
    pub callback_data: Option<CallbackData>,
}

/// What came with the prompt, given back.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallbackData {
    /// The conversation.
    pub session_id: Option<String>,
    /// The task.
    pub task_id: Option<String>,
}

/// What an answer cost.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallbackUsage {
    /// Tokens in.
    pub input_tokens: u64,
    /// Tokens out.
    pub output_tokens: u64,
    /// Of those in: read from a cache.
    pub cache_read_tokens: u64,
    /// Of those in: written to a cache.
    pub cache_write_tokens: u64,
    /// US dollars.
    pub cost_usd: Option<f64>,
    /// The model.
    pub model: Option<String>,
}

impl From<CallbackUsage> for Usage {
    fn from(usage: CallbackUsage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cache_read_tokens: usage.cache_read_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            cost_nano_usd: usage.cost_usd.map(nano_usd),
            cost_basis: usage.cost_usd.map(|_| "engine".to_owned()),
            model: usage.model,
        }
    }
}

impl CallbackBody {
    /// What it says; `timed_out` and `failed` are for people, where the bridge has no word of its own. `None`: nothing.
    #[must_use]
    pub fn said(self, timed_out: &str, failed: &str) -> Option<Said> {
        if self.ok.is_none()
            && let Some(content) = self.partial
        {
            return Some(Said::Piece { content, number: self.seq });
        }
        if self.ok? {
            let usage = self.usage.map(Usage::from).filter(|usage| *usage != Usage::default());
            return Some(Said::Done { result: self.result.unwrap_or_default(), usage });
        }
        let (class, code, message) = if self.is_timeout == Some(true) {
            (FailureClass::Timeout, "TIMEOUT", timed_out.to_owned())
        } else {
            let error = self.error.map(|error| error.as_str().map_or_else(|| error.to_string(), str::to_owned));
            let told = error.filter(|text| !text.trim().is_empty() && text != "null");
            (FailureClass::Fatal, "EXECUTION_ERROR", told.unwrap_or_else(|| failed.to_owned()))
        };
        Some(Said::Failed { class, code: code.to_owned(), message })
    }
}

/// A job whose bridge is to be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PollPayload {
    /// Which.
    pub job_id: JobId,
}

/// The host of a bridge as it is kept: a name or an address, without scheme, port or path; an IPv6 address without brackets.
///
/// # Errors
/// What is wrong with it, and what is allowed. An address behind a name is judged when it is called.
pub fn check_host(text: &str, allow: &[IpNet]) -> Result<String, String> {
    const WANTED: &str = "must be the name or the address of a host, without scheme, port or path";
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return judge(ip, allow).map(|()| bare.to_owned());
    }
    if text.is_empty() || text.len() > HOST_BYTES || bare != text {
        return Err(WANTED.to_owned());
    }
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !text.chars().all(is_name) {
        return Err(WANTED.to_owned());
    }
    // What a URL takes for an address is one, however it is written.
    match Host::parse(text) {
        Ok(Host::Ipv4(ip)) => judge(IpAddr::V4(ip), allow).map(|()| text.to_owned()),
        Ok(Host::Domain(_)) => Ok(text.to_owned()),
        Ok(Host::Ipv6(_)) | Err(_) => Err(WANTED.to_owned()),
    }
}

/// Whether it may be called at all: over https if it is a public one.
fn judge(ip: IpAddr, allow: &[IpNet]) -> Result<(), String> {
    address::check(ip, true, allow).map_err(|refused| refused.to_string())
}

/// A host as it is written in a URL.
#[must_use]
pub fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_shipped_version_still_decodes() {
        let golden = include_str!("golden/instance_task.v1.json");
        let payload: InstanceTaskPayload = serde_json::from_str(golden).expect("golden payload");
        assert_eq!((payload.prompt.as_str(), payload.callback_seconds), ("What is new?", 600));
        let golden = include_str!("golden/instance_poll.v1.json");
        serde_json::from_str::<PollPayload>(golden).expect("golden payload");
    }

    #[test]
    fn what_a_bridge_says_is_understood() {
        let said = |text: &str| serde_json::from_str::<CallbackBody>(text).expect("a body").said("late", "failed");
        let done = |result: &str, usage| Some(Said::Done { result: result.into(), usage });
        assert_eq!(said(r#"{"ok": true, "result": "hi", "more": 1}"#), done("hi", None));
        assert_eq!(said(r#"{"ok": true, "result": null, "usage": {}}"#), done("", None), "an empty answer is one");
        let usage = Usage { input_tokens: 3, cost_nano_usd: Some(5), ..Usage::default() };
        let usage = Usage { cost_basis: Some("engine".into()), ..usage };
        assert_eq!(said(r#"{"ok": true, "usage": {"inputTokens": 3, "costUsd": 0.000000005}}"#), done("", Some(usage)));
        let failed =
            |class, code: &str, message: &str| Some(Said::Failed { class, code: code.into(), message: message.into() });
        assert_eq!(said(r#"{"ok": false}"#), failed(FailureClass::Fatal, "EXECUTION_ERROR", "failed"));
        assert_eq!(said(r#"{"ok": false, "error": "no"}"#), failed(FailureClass::Fatal, "EXECUTION_ERROR", "no"));
        let timed_out = r#"{"ok": false, "isTimeout": true, "error": "x"}"#;
        assert_eq!(said(timed_out), failed(FailureClass::Timeout, "TIMEOUT", "late"));
        let piece = Some(Said::Piece { content: "a".into(), number: Some(1) });
        assert_eq!(said(r#"{"partial": "a", "seq": 1}"#), piece);
        assert_eq!(said("{}"), None);
    }

    #[test]
    fn bridges_are_at_public_addresses_or_within_networks_that_are_allowed() {
        let allow: Vec<IpNet> = vec!["10.1.0.0/16".parse().expect("a network")];
        for (good, kept) in [
            ("bridge.example.com", "bridge.example.com"),
            (" 8.8.8.8 ", "8.8.8.8"),
            ("10.1.0.7", "10.1.0.7"),
            ("[2606:4700::1111]", "2606:4700::1111"),
            ("2606:4700::1111", "2606:4700::1111"),
            ("under_score", "under_score"),
        ] {
            assert_eq!(check_host(good, &allow).as_deref(), Ok(kept), "{good}");
        }
        for bad in [
            "",
            " ",
            "http://bridge.example",
            "bridge.example:80",
            "bridge.example/x",
            "a b",
            "user@bridge.example",
            "10.2.0.1",
            "127.0.0.1",
            "2130706433",
            "0x7f.1",
            "017700000001",
            "127.1",
            "[::1]",
            "::1",
            "::ffff:10.2.0.1",
            "[bridge.example]",
            "fe80::1%eth0",
            "bridge?x",
            "bridge#x",
        ] {
            assert!(check_host(bad, &allow).is_err(), "{bad}");
        }
        assert_eq!(in_url("::1"), "[::1]");
    }
}
