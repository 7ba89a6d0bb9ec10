//! `[gateways]`: connections of workers to OpenClaw gateways.

use serde::{Deserialize, Serialize};

/// `[gateways]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateways {
    /// Most connections of one worker to gateways; there is one for each gateway and credential.
    pub max_connections: u32,
    /// Longest wait for a connection to a gateway, in seconds: name, TCP, TLS and upgrade together.
    pub connect_timeout_seconds: u32,
    /// Longest wait for a gateway's greeting after that, in seconds.
    pub handshake_timeout_seconds: u32,
    /// Longest wait for the answer to one request, in seconds.
    pub request_timeout_seconds: u32,
    /// Requests that wait for their answers at once on one connection; more wait for their turn.
    pub max_in_flight: u32,
    /// Largest frame that is sent to a gateway or taken from it, in KiB.
    pub frame_limit_kib: u32,
    /// A connection that nobody uses for so many seconds is closed.
    pub idle_seconds: u32,
    /// Time between two pings, in seconds: a gateway that is silent for two of them is given up.
    pub ping_seconds: u32,
    /// Longest pause between two attempts to connect, in milliseconds. Requests fail at once meanwhile.
    pub reconnect_max_ms: u32,
    /// How long a gateway is left alone that refused our credentials or our version, in seconds: gateways lock out whoever
    /// comes again too often.
    pub refused_seconds: u32,
    /// News of a chat that wait for their reader; beyond it they are dropped, and the reader looks into the history.
    pub event_buffer: u32,
    /// Most rows of a session's history that are looked through for a message that may have been sent.
    pub history_limit: u32,
    /// Whether a message whose answer was lost, and which the session's history does not have, is sent again under the same
    /// key (`same_key`), or its job ends `ambiguous` (`never`): for gateways that don't tell repeats by their key.
    pub resend: Resend,
}

impl Default for Gateways {
    fn default() -> Self {
        Self {
            max_connections: 256,
            connect_timeout_seconds: 10,
            handshake_timeout_seconds: 15,
            request_timeout_seconds: 30,
            max_in_flight: 64,
            frame_limit_kib: 25_600,
            idle_seconds: 300,
            ping_seconds: 20,
            reconnect_max_ms: 10_000,
            refused_seconds: 60,
            event_buffer: 256,
            history_limit: 2_000,
            resend: Resend::SameKey,
        }
    }
}

/// Whether a message in doubt is sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resend {
    /// Under its key, by which the gateway tells repeats.
    SameKey,
    /// Never.
    Never,
}
