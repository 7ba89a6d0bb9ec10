//! The queue on Redis: an index for each named queue, changed by scripts.
//!
//! All keys of a queue carry one hash tag, so that a script touches one slot of a cluster:
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{errand:q:NAME}:mark` | hash | `complete`; `refill`, the token of one under way; `turn`, towards the next id of low priority; `wanting`, set while somebody may be waiting |
//! | `{…}:ring:PRIORITY` | list | the tenants that have ids of this priority, in turn |
//! | `{…}:list:PRIORITY:TENANT` | list | their ids |
//! | `{…}:listed` | set | all ids in the lists |
//! | `{…}:delayed` | sorted set | ids by the microsecond at which they come due |
//!
//! An empty queue leaves its mark only.

mod wake;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use redis::cmd;
use uuid::Uuid;

use super::{
    commands::{Commands, Failure, Script},
    pubsub::PubSub,
};
use crate::{
    domain::{JobId, Timestamp},
    port::{Popped, Queue, QueueError, Ready, Refill},
};
use wake::Wakes;

/// Every so many ids, one is taken from the lowest priority that has any, so that a flood of urgent jobs delays the
/// others but never starves them.
const LOW_TURN: u64 = 8;
/// Most ids one script call adds or takes: a script holds up everything else on its server.
const BATCH: usize = 250;

/// What `pop.lua` answers.
type PopAnswer = (String, String, Vec<String>, Vec<String>);

/// See the module.
#[derive(Debug)]
pub struct RedisQueue {
    commands: Commands,
    wakes: Wakes,
    prefix: String,
    pops: AtomicUsize,
    push: Script,
    pop: Script,
    end_refill: Script,
    declare_incomplete: Script,
}

impl From<Failure> for QueueError {
    fn from(failure: Failure) -> Self {
        Self(failure.to_string())
    }
}

impl RedisQueue {
    pub(super) fn new(commands: Commands, pubsub: Arc<PubSub>, prefix: &str) -> Self {
        Self {
            commands,
            wakes: Wakes::new(pubsub),
            prefix: prefix.to_owned(),
            pops: AtomicUsize::new(0),
            push: Script::new(include_str!("queue/push.lua")),
            pop: Script::new(include_str!("queue/pop.lua")),
            end_refill: Script::new(include_str!("queue/end_refill.lua")),
            declare_incomplete: Script::new(include_str!("queue/declare_incomplete.lua")),
        }
    }

    /// What all keys of a queue begin with.
    fn base(&self, queue: &str) -> String {
        format!("{{{}:q:{queue}}}", self.prefix)
    }

    fn mark(&self, queue: &str) -> String {
        format!("{}:mark", self.base(queue))
    }

    /// Where those who wait for a queue listen. It has the hash tag too, for a script may only publish within its slot.
    fn channel(&self, queue: &str) -> String {
        format!("{}:wake", self.base(queue))
    }

    fn publish(&self) -> &'static str {
        if self.commands.is_cluster() { "SPUBLISH" } else { "PUBLISH" }
    }

    async fn push_batch(&self, queue: &str, entries: &[&Ready]) -> Result<(), Failure> {
        let mut arguments = vec![self.publish().to_owned(), self.channel(queue)];
        for entry in entries {
            let due_at = entry.due_at.map(|at| at.micros().to_string()).unwrap_or_default();
            arguments.extend([entry.id.to_string(), entry.tenant.clone(), entry.priority.get().to_string(), due_at]);
        }
        self.commands.script(&self.push, &self.base(queue), arguments).await
    }

    /// Takes from one queue what there is room for.
    async fn pop_from(&self, queue: &str, limit: usize, now: Timestamp, popped: &mut Popped) -> Result<(), Failure> {
        loop {
            let ready_room = (limit - popped.ready.len()).min(BATCH);
            let due_room = (limit - popped.due.len()).min(BATCH);
            let arguments =
                [ready_room.to_string(), due_room.to_string(), now.micros().to_string(), LOW_TURN.to_string()];
            let (complete, next_due, due, ready): PopAnswer =
                self.commands.script(&self.pop, &self.base(queue), &arguments[..]).await?;
            let may_have_more = (ready.len() == ready_room && popped.ready.len() + ready_room < limit)
                || (due.len() == due_room && popped.due.len() + due_room < limit);
            popped.ready.extend(ids(&ready));
            popped.due.extend(ids(&due));
            if may_have_more {
                continue;
            }
            if complete.is_empty() {
                popped.incomplete.push(queue.to_owned());
            }
            let next = next_due.parse().ok().map(Timestamp::from_micros);
            popped.next_due = popped.next_due.into_iter().chain(next).min();
            return Ok(());
        }
    }
}

fn ids(texts: &[String]) -> impl Iterator<Item = JobId> {
    texts.iter().filter_map(|text| text.parse().ok())
}

#[async_trait]
impl Queue for RedisQueue {
    async fn push(&self, entries: &[Ready]) -> Result<(), QueueError> {
        let mut by_queue: BTreeMap<&str, Vec<&Ready>> = BTreeMap::new();
        for entry in entries {
            by_queue.entry(&entry.queue).or_default().push(entry);
        }
        // One queue that can't be reached must not keep the others from theirs.
        let mut outcome = Ok(());
        for (queue, entries) in by_queue {
            for batch in entries.chunks(BATCH) {
                if let Err(failure) = self.push_batch(queue, batch).await {
                    outcome = Err(failure.into());
                    break;
                }
            }
        }
        outcome
    }

    async fn pop(&self, queues: &[String], limit: usize, now: Timestamp) -> Result<Popped, QueueError> {
        let mut popped = Popped::default();
        // Another queue comes first each time, so that a flood in one does not starve the next.
        let first = self.pops.fetch_add(1, Ordering::Relaxed) % queues.len().max(1);
        let mut failures = Vec::new();
        for queue in queues.iter().cycle().skip(first).take(queues.len()) {
            // Where one server has all, one failure is enough.
            let is_hopeless = !failures.is_empty() && !self.commands.is_cluster();
            if is_hopeless {
                popped.incomplete.push(queue.clone());
            } else if let Err(failure) = self.pop_from(queue, limit, now, &mut popped).await {
                popped.incomplete.push(queue.clone());
                failures.push(failure);
            }
        }
        let is_empty = popped.ready.is_empty() && popped.due.is_empty();
        match failures.pop() {
            // What was taken out of the others must not be lost.
            Some(failure) if is_empty && popped.incomplete.len() >= queues.len() => Err(failure.into()),
            _ => Ok(popped),
        }
    }

    async fn incomplete(&self, queues: &[String]) -> Result<Vec<String>, QueueError> {
        let mut incomplete = Vec::new();
        for queue in queues {
            let mark = self.mark(queue);
            let mut question = cmd("HEXISTS");
            question.arg(&mark).arg("complete");
            let is_complete: bool = self.commands.query(&mark, &question).await?;
            if !is_complete {
                incomplete.push(queue.clone());
            }
        }
        Ok(incomplete)
    }

    async fn begin_refill(&self, queue: &str) -> Result<Refill, QueueError> {
        let refill = Refill { queue: queue.to_owned(), token: Uuid::new_v4().to_string() };
        let mark = self.mark(queue);
        let mut note = cmd("HSET");
        note.arg(&mark).arg("refill").arg(&refill.token);
        let _: u64 = self.commands.query(&mark, &note).await?;
        Ok(refill)
    }

    async fn end_refill(&self, refill: &Refill) -> Result<bool, QueueError> {
        let token = [refill.token.as_str()];
        Ok(self.commands.script(&self.end_refill, &self.base(&refill.queue), &token[..]).await?)
    }

    async fn declare_incomplete(&self, queues: &[String]) -> Result<(), QueueError> {
        for queue in queues {
            let arguments = [self.publish().to_owned(), self.channel(queue)];
            let () = self.commands.script(&self.declare_incomplete, &self.base(queue), &arguments[..]).await?;
        }
        Ok(())
    }

    async fn wait(&self, queues: &[String], timeout: Duration) {
        let channels: Vec<_> = queues.iter().map(|queue| self.channel(queue)).collect();
        self.wakes.wait(&channels, timeout).await;
    }
}
