//! The way through a destination's gate: in before a call, out after it, whatever becomes of the run.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use errand_common::{
    backend::Backend,
    config,
    domain::{
        Timestamp,
        gate::{Entered, Permit, Policy, Reason, Verdict},
    },
};

use crate::engine;

/// Bounds one question to the gates; they decide by themselves well before.
const GATE_LIMIT: Duration = Duration::from_secs(5);

/// What each destination may be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    usual: Policy,
    of: BTreeMap<String, Policy>,
}

impl Policies {
    /// `held` bounds how long a permit is held by a worker that lives.
    pub(crate) fn new(config: &config::Gates, held: Duration) -> Self {
        let usual = Policy {
            concurrency: config.concurrency,
            rate_per_second: None,
            burst: 1,
            failure_percent: config.failure_percent,
            min_calls: config.min_calls,
            window: Duration::from_secs(config.window_seconds.into()),
            open: Duration::from_secs(config.open_seconds.into()),
            probes: config.probes,
            permit: held,
            busy: Duration::from_millis(config.busy_wait_ms.into()),
        };
        let of = config.destinations.iter().map(|(destination, own)| {
            let policy = Policy {
                concurrency: own.concurrency.unwrap_or(usual.concurrency),
                rate_per_second: own.rate_per_second,
                burst: own.burst.or(own.rate_per_second).unwrap_or(usual.burst),
                ..usual
            };
            (destination.clone(), policy)
        });
        Self { usual, of: of.collect() }
    }

    /// One call at a time, whatever becomes of it: order, not protection.
    pub(crate) fn one_at_a_time(config: &config::Gates, held: Duration) -> Self {
        let usual = Policy { concurrency: 1, min_calls: u32::MAX, ..Self::new(config, held).usual };
        Self { usual, of: BTreeMap::new() }
    }

    fn policy(&self, destination: &str) -> Policy {
        self.of.get(destination).copied().unwrap_or(self.usual)
    }
}

/// A closed gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Closed {
    /// Until when, at least.
    pub(crate) until: Timestamp,
    /// Why.
    pub(crate) reason: Reason,
}

/// A place among the calls to one destination. Dropped without [`Passage::leave`], it is given back all the same.
pub(crate) struct Passage {
    backend: Backend,
    destination: String,
    policy: Policy,
    permit: Option<Permit>,
}

impl Passage {
    /// Asks to call `destination`.
    pub(crate) async fn enter(backend: &Backend, policies: &Policies, destination: &str) -> Result<Self, Closed> {
        let policy = policies.policy(destination);
        match backend.gates.enter(destination, &policy, backend.clock.now()).await {
            Entered::Closed { until, reason } => Err(Closed { until, reason }),
            Entered::Open(permit) => {
                Ok(Self { backend: backend.clone(), destination: destination.to_owned(), policy, permit: Some(permit) })
            }
        }
    }

    /// The call is over; for `pause` the destination is left alone by everyone.
    pub(crate) async fn leave(mut self, verdict: Verdict, pause: Option<Duration>) {
        let Some(permit) = self.permit.take() else { return };
        leave(&self.backend, &self.destination, &self.policy, permit, verdict, pause).await;
    }
}

/// An engine's way to its server.
#[async_trait]
impl engine::Passage for Passage {
    async fn leave(self: Box<Self>, verdict: Verdict, pause: Option<Duration>) {
        Passage::leave(*self, verdict, pause).await;
    }
}

async fn leave(
    backend: &Backend,
    destination: &str,
    policy: &Policy,
    permit: Permit,
    verdict: Verdict,
    pause: Option<Duration>,
) {
    let now = backend.clock.now();
    let pause_until = pause.map(|pause| now.plus(pause));
    let left = backend.gates.leave(destination, policy, permit, verdict, pause_until, now);
    if tokio::time::timeout(GATE_LIMIT, left).await.is_err() {
        tracing::warn!("a permit could not be given back; it comes back by itself when it expires");
    }
}

impl Drop for Passage {
    /// The run was dropped in mid-call: what the destination did is not known.
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let (backend, destination, policy) = (self.backend.clone(), std::mem::take(&mut self.destination), self.policy);
        // Bounded, and of no consequence if the runtime ends first: the permit expires.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                leave(&backend, &destination, &policy, permit, Verdict::Neutral, None).await;
            });
        }
    }
}
