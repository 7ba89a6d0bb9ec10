//! What a worker has to do with gateways, as operators see it.

use errand_common::telemetry::metric;

/// One gateway, counted in `errand_gateway_connections` for as long as this lives.
#[derive(Debug)]
pub(super) struct Counted(State);

/// How a gateway is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// A greeted connection.
    Open,
    /// It is away; it is tried again when it is next wanted, after a pause that grows.
    Waiting,
    /// It refused us, and is left alone until somebody may have corrected that.
    Refused,
}

impl State {
    const fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
        }
    }
}

impl Counted {
    pub(super) fn new(state: State) -> Self {
        metrics::gauge!(metric::GATEWAY_CONNECTIONS, "state" => state.label()).increment(1.0);
        Self(state)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(metric::GATEWAY_CONNECTIONS, "state" => self.0.label()).decrement(1.0);
    }
}
