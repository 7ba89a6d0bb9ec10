//! The clock.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::Timestamp;

/// Tells the time and waits. Leases are *not* judged by it: those go by the database's own clock.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;

    /// Returns once `duration` has passed. Cancelling the future is safe.
    async fn sleep(&self, duration: Duration);
}
