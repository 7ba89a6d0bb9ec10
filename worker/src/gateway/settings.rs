//! The limits of all connections of a worker.

use std::{sync::Arc, time::Duration};

use errand_common::config::{self, Resend};
use ipnet::IpNet;

/// From `[gateways]` and `[outbound]`.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) max_connections: usize,
    pub(super) connect_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) max_in_flight: usize,
    pub(super) frame_limit: usize,
    pub(super) idle: Duration,
    pub(super) ping: Duration,
    pub(super) reconnect_max: Duration,
    pub(super) refused: Duration,
    pub(super) event_buffer: usize,
    pub(super) history_limit: u32,
    pub(super) resend: Resend,
    /// Networks that may be reached although they are not public.
    pub(super) allow: Arc<[IpNet]>,
}

impl Settings {
    /// Of a whole configuration.
    #[must_use]
    pub fn new(config: &config::Config) -> Self {
        let own = &config.gateways;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Self {
            max_connections: own.max_connections as usize,
            connect_timeout: seconds(own.connect_timeout_seconds),
            handshake_timeout: seconds(own.handshake_timeout_seconds),
            request_timeout: seconds(own.request_timeout_seconds),
            max_in_flight: own.max_in_flight as usize,
            frame_limit: own.frame_limit_kib as usize * 1024,
            idle: seconds(own.idle_seconds),
            ping: seconds(own.ping_seconds),
            reconnect_max: Duration::from_millis(own.reconnect_max_ms.into()),
            refused: seconds(own.refused_seconds),
            event_buffer: own.event_buffer as usize,
            history_limit: own.history_limit,
            resend: own.resend,
            allow: config.outbound.allow.clone().into(),
        }
    }
}
