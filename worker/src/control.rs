//! Listens to what the fleet tells this worker.

use std::sync::Arc;

use errand_common::{
    backend::Backend,
    domain::WorkerId,
    port::{Subscription, Topic, bus::Received},
    wire::control::Signal,
};
use tokio_util::sync::CancellationToken;

use crate::{pace::Backoff, registry::Registry};

/// Stops runs on signal, until stopped itself. A signal that is lost is found out by the next renewal.
pub(crate) async fn listen(backend: Backend, registry: Arc<Registry>, id: WorkerId, stop: CancellationToken) {
    let listening = async {
        let mut backoff = Backoff::new();
        loop {
            match backend.bus.subscribe(Topic::Worker(id)).await {
                Ok(subscription) => {
                    backoff.reset();
                    // What was sent before is lost.
                    registry.want_renewal();
                    follow(subscription, &registry).await;
                }
                Err(error) => tracing::warn!(%error, "could not listen for signals; renewals tell them late"),
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    };
    stop.run_until_cancelled(listening).await;
}

/// Returns when the subscription is closed.
async fn follow(mut subscription: Subscription, registry: &Registry) {
    loop {
        match subscription.next().await {
            Received::Message(payload) => match serde_json::from_str(&payload) {
                Ok(Signal::Stop { job_id, claim }) => registry.revoke(job_id, claim),
                Ok(Signal::Decided { job_id, claim }) => registry.tell_decided(job_id, claim),
                // Whether it may be drained is for the store to say.
                Ok(Signal::Drain) => registry.want_renewal(),
                Err(error) => tracing::warn!(%error, "a signal can't be read; a newer version may have sent it"),
            },
            Received::Lagged => registry.want_renewal(),
            Received::Closed => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::broadcast;

    use super::*;
    use crate::registry::{
        StopReason,
        tests::{fence, hold},
    };

    #[tokio::test]
    async fn a_signal_stops_the_run_it_names_and_what_cannot_be_read_is_passed_over() {
        let registry = Arc::new(Registry::default());
        let (named, other) = (fence(), fence());
        let lease = Duration::from_secs(30);
        let (named, other) = (hold(&registry, named, lease), hold(&registry, other, lease));
        let (sender, receiver) = broadcast::channel(8);
        let fence = named.run().fence();
        let signal = Signal::Stop { job_id: fence.job_id, claim: fence.claim };
        sender.send("not a signal".into()).expect("a receiver");
        sender.send(serde_json::to_string(&signal).expect("json").into()).expect("a receiver");
        drop(sender);

        follow(Subscription::new(receiver), &registry).await;
        assert_eq!(named.run().stop_reason(), Some(StopReason::Revoked));
        assert_eq!(other.run().stop_reason(), None);
    }
}
