//! Retention: walks over what finished long ago, oldest first, and drops it in small steps.

use std::time::Duration;

use errand_common::{
    backend::Backend,
    config,
    domain::Timestamp,
    port::{
        StoreError,
        store::{Passed, Step},
    },
};

use crate::pace::within;

/// Steps of one kind in one round.
const STEPS_PER_ROUND: usize = 5;
/// After a walk to the end, the next begins so many rounds later.
const ROUNDS_BETWEEN_WALKS: u32 = 60;
/// A content that no task came with is kept so long: its submission follows within seconds, or never.
const UNNAMED_ATTACHMENTS_KEPT: Duration = Duration::from_secs(3_600);

/// See the module.
pub(crate) struct Retention {
    backend: Backend,
    events: Option<Walk>,
    jobs: Option<Walk>,
    batch: u32,
    /// Bounds one call to the store.
    call_limit: Duration,
}

/// A walk over finished jobs.
struct Walk {
    /// What finished longer ago goes.
    kept: Duration,
    after: Option<Passed>,
    /// Rounds until the next walk begins.
    rest: u32,
}

impl Walk {
    const fn new(kept: Duration) -> Self {
        Self { kept, after: None, rest: 0 }
    }

    /// Goes some steps on, unless it rests. Returns how much they removed.
    async fn go_on<S>(&mut self, limit: Duration, step: impl Fn(&Self) -> S) -> Result<u64, StoreError>
    where
        S: Future<Output = Result<Step, StoreError>>,
    {
        let mut removed = 0;
        self.rest = self.rest.saturating_sub(1);
        if self.rest > 0 {
            return Ok(removed);
        }
        for _ in 0..STEPS_PER_ROUND {
            let step = within(limit, step(self)).await?;
            removed += step.removed;
            self.after = step.next;
            if self.after.is_none() {
                self.rest = ROUNDS_BETWEEN_WALKS;
                break;
            }
        }
        Ok(removed)
    }
}

impl Retention {
    pub(crate) fn new(backend: Backend, config: &config::Retention, batch: u32, call_limit: Duration) -> Self {
        let (events, jobs) = (config.events_kept().map(Walk::new), config.jobs_kept().map(Walk::new));
        Self { backend, events, jobs, batch, call_limit }
    }

    /// Goes on where the last round stopped: events first, as a job goes when it has none left.
    pub(crate) async fn round(&mut self) -> Result<(), StoreError> {
        let (store, now) = (&self.backend.store, self.backend.clock.now());
        let (mut events, mut jobs) = (0, 0);
        if let Some(walk) = &mut self.events {
            let step = |walk: &Walk| store.drop_events(now.minus(walk.kept), walk.after, self.batch);
            events = walk.go_on(self.call_limit, step).await?;
        }
        if let Some(walk) = &mut self.jobs {
            let step = |walk: &Walk| store.delete_jobs(now.minus(walk.kept), walk.after, self.batch, now);
            jobs = walk.go_on(self.call_limit, step).await?;
        }
        let on_boards = self.drop_what_boards_keep(now).await?;
        let unnamed = now.minus(UNNAMED_ATTACHMENTS_KEPT);
        let attachments = within(self.call_limit, store.drop_attachments(unnamed, self.batch)).await?;
        if events + jobs + attachments + on_boards > 0 {
            tracing::debug!(events, jobs, attachments, on_boards, "dropped what is old");
        }
        Ok(())
    }

    /// Events of boards and lines of the audit are kept as long as those of jobs.
    async fn drop_what_boards_keep(&self, now: Timestamp) -> Result<u64, StoreError> {
        let Some(walk) = &self.events else { return Ok(0) };
        let (store, before) = (&self.backend.store, now.minus(walk.kept));
        let events = within(self.call_limit, store.drop_board_events(before, self.batch)).await?;
        Ok(events + within(self.call_limit, store.drop_activities(before, self.batch)).await?)
    }
}
