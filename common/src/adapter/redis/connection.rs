//! One connection to one server, that is made when it is first needed, and anew after it broke.
//!
//! While the server is away every call fails at once with the reason of the last attempt; the pauses between attempts
//! grow to a bound and are spread, so that a fleet does not come back in one instant.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use super::topology::{Listener, Place, Topology};
use crate::config;

/// Shortest pause after a failed attempt.
const RECONNECT_MIN: Duration = Duration::from_millis(50);

/// How patient to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Longest wait for a connection.
    pub(super) connect: Duration,
    /// Longest wait for an answer.
    pub(super) command: Duration,
    /// Longest pause between two attempts to connect.
    pub(super) reconnect_max: Duration,
    /// Between two looks whether a connection that listens still lives.
    pub(super) ping_interval: Duration,
}

impl From<&config::Redis> for Limits {
    fn from(config: &config::Redis) -> Self {
        let millis = |number: u32| Duration::from_millis(number.into());
        Self {
            connect: millis(config.connect_timeout_ms),
            command: millis(config.command_timeout_ms),
            reconnect_max: millis(config.reconnect_max_ms),
            ping_interval: millis(config.ping_interval_ms),
        }
    }
}

/// Makes the listener of the connection with this number.
pub(super) type MakeListener = Arc<dyn Fn(u64) -> Listener + Send + Sync>;

/// See the module. Clones share it.
#[derive(Clone)]
pub(super) struct Connection(Arc<Shared>);

struct Shared {
    topology: Arc<Topology>,
    place: Place,
    limits: Limits,
    make_listener: Option<MakeListener>,
    /// Numbers the attempts, so that what is said of an old connection does not end a newer one.
    attempts: AtomicU64,
    state: watch::Sender<State>,
}

struct State {
    phase: Phase,
    /// The next pause.
    pause: Duration,
    /// The operator has been told that the server is away.
    is_reported: bool,
}

enum Phase {
    /// Whoever needs it connects.
    Idle,
    Connecting,
    Up {
        number: u64,
        link: MultiplexedConnection,
        since: Instant,
    },
    Away {
        until: Instant,
        why: String,
    },
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.0.place)
    }
}

impl Connection {
    pub(super) fn new(topology: Arc<Topology>, place: Place, make_listener: Option<MakeListener>) -> Self {
        let limits = topology.limits();
        let (state, _) = watch::channel(State { phase: Phase::Idle, pause: RECONNECT_MIN, is_reported: false });
        Self(Arc::new(Shared { topology, place, limits, make_listener, attempts: AtomicU64::new(0), state }))
    }

    /// The connection and its number; made if there is none. Waits for an attempt under way: callers bound that.
    ///
    /// # Errors
    /// Why the last attempt failed, until the next one is due.
    pub(super) async fn link(&self) -> Result<(u64, MultiplexedConnection), String> {
        let mut changes = self.0.state.subscribe();
        loop {
            let is_ours = {
                let state = changes.borrow_and_update();
                match &state.phase {
                    Phase::Up { number, link, .. } => return Ok((*number, link.clone())),
                    Phase::Away { until, why } if Instant::now() < *until => return Err(why.clone()),
                    Phase::Connecting => false,
                    Phase::Idle | Phase::Away { .. } => true,
                }
            };
            if is_ours && self.begin() {
                // In a task of its own, bounded by the time-out, so that it goes on if the caller gives up.
                tokio::spawn(self.clone().connect());
            }
            if changes.changed().await.is_err() {
                return Err("closed".to_owned());
            }
        }
    }

    /// Whether it is for the caller to connect.
    fn begin(&self) -> bool {
        self.0.state.send_if_modified(|state| {
            let may = match &state.phase {
                Phase::Idle => true,
                Phase::Away { until, .. } => Instant::now() >= *until,
                Phase::Up { .. } | Phase::Connecting => false,
            };
            if may {
                state.phase = Phase::Connecting;
            }
            may
        })
    }

    async fn connect(self) {
        let shared = &self.0;
        let number = shared.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let listener = shared.make_listener.as_ref().map(|make| make(number));
        let attempt = shared.topology.connect(&shared.place, listener);
        let outcome = match tokio::time::timeout(shared.limits.connect, attempt).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no connection within {:?}", shared.limits.connect)),
        };
        shared.state.send_modify(|state| match outcome {
            Ok(link) => {
                if std::mem::take(&mut state.is_reported) {
                    tracing::info!(redis = %shared.place, "connected again");
                }
                state.phase = Phase::Up { number, link, since: Instant::now() };
            }
            Err(why) => {
                if !std::mem::replace(&mut state.is_reported, true) {
                    tracing::warn!(redis = %shared.place, why, "can't connect; going on without, and trying again");
                }
                shared.pause(state, why);
            }
        });
    }

    /// This connection is of no use any more.
    pub(super) fn broke(&self, number: u64, why: &str) {
        let shared = &self.0;
        shared.state.send_if_modified(|state| {
            let Phase::Up { number: current, since, .. } = &state.phase else { return false };
            if *current != number {
                return false;
            }
            tracing::debug!(redis = %shared.place, number, why, "connection given up");
            if since.elapsed() >= shared.limits.reconnect_max {
                state.pause = RECONNECT_MIN;
                state.phase = Phase::Idle;
            } else {
                // One that breaks as soon as it is made is no better than none.
                shared.pause(state, why.to_owned());
            }
            true
        });
    }
}

impl Shared {
    fn pause(&self, state: &mut State, why: String) {
        let spread = rand::random_range(0.5..=1.0);
        let longest = self.limits.reconnect_max;
        state.phase = Phase::Away { until: Instant::now() + state.pause.min(longest).mul_f64(spread), why };
        state.pause = (state.pause * 2).min(longest);
    }
}
