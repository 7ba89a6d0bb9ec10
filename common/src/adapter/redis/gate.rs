//! Gates that all workers share: one script a question, on keys that lie in one slot and expire when nobody comes.
//!
//! While Redis is away each process decides by itself: a destination then gets as much from each of them as it would have
//! got from all.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use uuid::Uuid;

use super::commands::{Commands, Failure, Script};
use crate::{
    adapter::memory::MemoryGates,
    domain::{
        Timestamp,
        gate::{Entered, Permit, Policy, Reason, Verdict},
    },
    port::Gates,
};

/// A gate that nobody has come to for so long, beyond what it has to remember, is forgotten.
const KEEP: Duration = Duration::from_secs(60);

/// Gates on Redis.
#[derive(Debug)]
pub struct RedisGates {
    commands: Commands,
    prefix: String,
    enter: Script,
    leave: Script,
    /// For as long as Redis is away.
    own: MemoryGates,
    /// Permits of ours that Redis knows nothing of. No more than there are calls under way.
    own_permits: Mutex<HashSet<Permit>>,
    is_away: AtomicBool,
}

impl RedisGates {
    pub(super) fn new(commands: Commands, prefix: &str) -> Self {
        Self {
            commands,
            prefix: prefix.to_owned(),
            enter: Script::new(include_str!("gate/enter.lua")),
            leave: Script::new(include_str!("gate/leave.lua")),
            own: MemoryGates::default(),
            own_permits: Mutex::default(),
            is_away: AtomicBool::new(false),
        }
    }

    /// What all keys of a gate begin with: its hash tag.
    fn base(&self, destination: &str) -> String {
        format!("{{{}:gate:{destination}}}", self.prefix)
    }

    fn own_permits(&self) -> MutexGuard<'_, HashSet<Permit>> {
        self.own_permits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        &self,
        destination: &str,
        policy: &Policy,
        permit: Permit,
        now: Timestamp,
    ) -> Result<Entered, Failure> {
        let arguments = [
            permit.0.simple().to_string(),
            policy.concurrency.max(1).to_string(),
            policy.rate_per_second.unwrap_or(0).to_string(),
            policy.burst.max(1).to_string(),
            policy.probes.max(1).to_string(),
            policy.permit.as_millis().to_string(),
            policy.busy.as_millis().max(1).to_string(),
            keep(policy).as_millis().to_string(),
        ];
        let (wait, reason): (u64, String) =
            self.commands.script(&self.enter, &self.base(destination), arguments.to_vec()).await?;
        if reason.is_empty() {
            return Ok(Entered::Open(permit));
        }
        let reason = reason.parse::<Reason>().map_err(|error| Failure::Refused(error.to_string()))?;
        Ok(Entered::Closed { until: now.plus(Duration::from_millis(wait)), reason })
    }

    /// Says once that Redis is away, and once that it is back.
    fn note(&self, failure: Option<&Failure>) {
        let was_away = self.is_away.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(failure) if !was_away => {
                tracing::warn!(%failure, "the gates can't be reached; this process judges destinations by itself");
            }
            None if was_away => tracing::info!("the gates can be reached again"),
            _ => {}
        }
    }
}

/// Long enough to remember all that a policy looks back at.
fn keep(policy: &Policy) -> Duration {
    let fill = policy
        .rate_per_second
        .map_or(Duration::ZERO, |rate| Duration::from_secs(u64::from(policy.burst.max(1).div_ceil(rate.max(1)))));
    KEEP + policy.window.max(policy.open).max(fill)
}

#[async_trait]
impl Gates for RedisGates {
    async fn enter(&self, destination: &str, policy: &Policy, now: Timestamp) -> Entered {
        let permit = Permit(Uuid::new_v4());
        match self.ask(destination, policy, permit, now).await {
            Ok(entered) => {
                self.note(None);
                entered
            }
            Err(failure) => {
                self.note(Some(&failure));
                let entered = self.own.enter(destination, policy, now).await;
                if let Entered::Open(permit) = entered {
                    self.own_permits().insert(permit);
                }
                entered
            }
        }
    }

    async fn leave(
        &self,
        destination: &str,
        policy: &Policy,
        permit: Permit,
        verdict: Verdict,
        pause_until: Option<Timestamp>,
        now: Timestamp,
    ) {
        if self.own_permits().remove(&permit) {
            return self.own.leave(destination, policy, permit, verdict, pause_until, now).await;
        }
        let pause = pause_until.map_or(Duration::ZERO, |until| until.since(now));
        let arguments = [
            permit.0.simple().to_string(),
            verdict.as_str().to_owned(),
            pause.as_millis().to_string(),
            policy.failure_percent.to_string(),
            policy.min_calls.to_string(),
            policy.window.as_secs().max(1).to_string(),
            policy.open.as_millis().to_string(),
            policy.probes.max(1).to_string(),
            keep(policy).as_millis().to_string(),
        ];
        let left: Result<i64, Failure> =
            self.commands.script(&self.leave, &self.base(destination), arguments.to_vec()).await;
        self.note(left.as_ref().err());
        // What it showed of its destination should not be lost as long as Redis is away.
        if left.is_err() {
            self.own.leave(destination, policy, permit, verdict, pause_until, now).await;
        }
    }
}
