//! What is known of the way to a gateway, and when it may be tried again.

use std::{sync::Arc, time::Duration};

use errand_common::domain::FailureClass;
use tokio::time::Instant;

use crate::gateway::{
    GatewayFailure, Settings, Target,
    connection::Connection,
    counted::{self, Counted},
    device::Form,
};

/// The first pause after a failure; it doubles from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// What is known of the way to the gateway.
pub(super) struct State {
    pub(super) connection: Option<Arc<Connection>>,
    /// Attempts that failed, and connections that ended soon, since one lasted.
    failures: u32,
    /// Whether it is left alone for a while.
    pub(super) wait: Option<Wait>,
    /// The form of signature that it understood last.
    pub(super) form: Form,
    /// Which run of the gateway was met last.
    boot_id: Option<String>,
}

/// Why a gateway is left alone, and for how long.
pub(super) struct Wait {
    until: Instant,
    pub(super) why: GatewayFailure,
    _counted: Option<Counted>,
}

impl Wait {
    fn new(pause: Duration, why: GatewayFailure) -> Self {
        let state = if why.may_pass() { counted::State::Waiting } else { counted::State::Refused };
        // Without a pause it is only not connected, as one that was never wanted.
        let counted = (!pause.is_zero()).then(|| Counted::new(state));
        Self { until: Instant::now() + pause, why, _counted: counted }
    }

    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl State {
    pub(super) const fn new() -> Self {
        Self { connection: None, failures: 0, wait: None, form: Form::V3, boot_id: None }
    }

    /// The connection ended. The first time it is made again at once.
    pub(super) fn lost(&mut self, end: GatewayFailure, lasted: bool, settings: &Settings) {
        self.failures = if lasted { 0 } else { self.failures.saturating_add(1) };
        let pause = match self.failures {
            0 | 1 => Duration::ZERO,
            more => backoff(more - 1, settings.reconnect_max),
        };
        self.wait = Some(Wait::new(end.retry_after.unwrap_or(pause), end));
    }

    /// No connection could be made: when the next attempt may be.
    pub(super) fn failed(&mut self, failure: GatewayFailure, settings: &Settings) -> GatewayFailure {
        self.failures = self.failures.saturating_add(1);
        let pause = match failure.class {
            FailureClass::Transient | FailureClass::RateLimited => backoff(self.failures, settings.reconnect_max),
            // Gateways lock out whoever knocks with a wrong credential again and again.
            _ => settings.refused,
        };
        let pause = failure.retry_after.map_or(pause, |asked| asked.max(pause.min(settings.reconnect_max)));
        self.wait = Some(Wait::new(pause, failure.clone()));
        failure.after(pause)
    }

    pub(super) fn met(&mut self, boot_id: &str, target: &Target) {
        if self.boot_id.as_deref().is_some_and(|known| known != boot_id) {
            tracing::info!(destination = target.destination(), "a gateway was restarted");
        }
        self.boot_id = Some(boot_id.to_owned());
    }
}

/// Doubles, minus up to a quarter by chance.
fn backoff(failures: u32, longest: Duration) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << (failures.max(1) - 1).min(16)).min(longest);
    pause.mul_f64(1.0 - 0.25 * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use errand_common::config::Config;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::gateway::failure::code;

    fn state() -> (State, Settings) {
        (State::new(), Settings::new(&Config::default()))
    }

    fn failure(class: FailureClass) -> GatewayFailure {
        GatewayFailure::new(class, code::UNREACHABLE, "x")
    }

    fn left(state: &State) -> Duration {
        state.wait.as_ref().expect("a wait").left()
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_their_bound_and_vary() {
        let (mut state, settings) = state();
        let mut last = Duration::ZERO;
        for attempt in 0..10 {
            let pause = state.failed(failure(FailureClass::Transient), &settings).retry_after.expect("a pause");
            let whole = FIRST_PAUSE.saturating_mul(1 << attempt).min(settings.reconnect_max);
            assert!(pause <= whole && pause >= whole.mul_f64(0.75), "{attempt}: {pause:?}");
            assert_eq!(left(&state), pause);
            last = pause;
        }
        assert!(last > settings.reconnect_max.mul_f64(0.74));
    }

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_are_not_tried_again_soon() {
        let (mut state, settings) = state();
        state.failed(failure(FailureClass::Auth), &settings);
        assert_eq!(left(&state), settings.refused);
        let asked = Duration::from_secs(300);
        state.failed(failure(FailureClass::RateLimited).after(asked), &settings);
        assert_eq!(left(&state), asked);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_left_alone_is_counted_by_why_and_no_longer() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let says = |line: &str| {
            let text = handle.render();
            assert!(text.contains(&format!("errand_gateway_connections{{{line}\n")), "{line} is not in:\n{text}");
        };
        metrics::with_local_recorder(&recorder, || {
            let (mut state, settings) = state();
            state.lost(failure(FailureClass::Transient), true, &settings);
            assert_eq!(handle.render(), "", "it is made again at once");
            state.failed(failure(FailureClass::Transient), &settings);
            says("state=\"waiting\"} 1");
            state.failed(failure(FailureClass::Transient), &settings);
            says("state=\"waiting\"} 1");
            state.failed(failure(FailureClass::Auth), &settings);
            says("state=\"waiting\"} 0");
            says("state=\"refused\"} 1");
            drop(state);
            says("state=\"refused\"} 0");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_is_made_again_at_once_but_not_again_and_again() {
        let (mut state, settings) = state();
        state.lost(failure(FailureClass::Transient), false, &settings);
        assert_eq!(left(&state), Duration::ZERO);
        state.lost(failure(FailureClass::Transient), false, &settings);
        assert!(left(&state) >= FIRST_PAUSE.mul_f64(0.75));
        state.lost(failure(FailureClass::Transient), true, &settings);
        assert_eq!(left(&state), Duration::ZERO);
    }
}
