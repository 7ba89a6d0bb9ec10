//! Turns: a session hears one message at a time from this worker. Gateways merge what comes together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

use super::Gateway;

/// Sessions without anyone in turn are forgotten once there are more than these.
const ROOM: usize = 1_024;

/// Who is in turn, by session.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits until nobody else is in turn; first come, first served.
    async fn enter(&self, session_key: &str) -> OwnedMutexGuard<()> {
        let line = {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() >= ROOM {
                lines.retain(|_, line| Arc::strong_count(line) > 1);
            }
            // Gateways keep keys in lower case.
            lines.entry(session_key.to_lowercase()).or_default().clone()
        };
        line.lock_owned().await
    }
}

/// The right to speak to a session. Held to the end of a run, its answer is to one message alone; dropped after a message was
/// taken, the agent may merge the next one into its answer.
pub struct Turn {
    pub(super) gateway: Gateway,
    pub(super) session_key: String,
    _held: OwnedMutexGuard<()>,
}

impl Turn {
    /// Waits for it; the caller bounds it in time.
    pub(super) async fn take(gateway: Gateway, session_key: &str) -> Self {
        let held = gateway.turns().enter(session_key).await;
        Self { gateway, session_key: session_key.to_owned(), _held: held }
    }

    /// The session.
    #[must_use]
    pub fn session_key(&self) -> &str {
        &self.session_key
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_for_each_session() {
        let turns = Arc::new(Turns::default());
        let first = turns.enter("agent:main:a").await;
        let other = tokio::time::timeout(Duration::from_secs(1), turns.enter("agent:main:b")).await;
        assert!(other.is_ok(), "another session");
        let second = tokio::spawn({
            let turns = turns.clone();
            async move { turns.enter("AGENT:main:a").await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!second.is_finished());
        drop(first);
        second.await.expect("its turn");
    }

    #[tokio::test]
    async fn sessions_that_are_quiet_are_forgotten() {
        let turns = Turns::default();
        let held = turns.enter("held").await;
        for number in 0..ROOM * 2 {
            drop(turns.enter(&number.to_string()).await);
        }
        assert!(turns.0.lock().expect("not poisoned").len() <= ROOM);
        assert!(turns.0.lock().expect("not poisoned").contains_key("held"));
        drop(held);
    }
}
