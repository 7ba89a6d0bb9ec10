//! The queue inside one process.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    domain::{JobId, Priority, Timestamp},
    port::{Popped, Queue, QueueError, Ready, Refill},
};

/// Every so many ids, one is taken from the lowest priority that has any, so that a flood of urgent jobs delays the
/// others but never starves them.
const LOW_TURN: u64 = 8;

/// See the module. One worker waits on it; with several in one process, each is woken by pushes the others took, or by
/// its own safety poll.
#[derive(Debug, Default)]
pub struct MemoryQueue {
    queues: Mutex<HashMap<String, Index>>,
    pops: AtomicUsize,
    pushed: Notify,
}

/// One named queue.
#[derive(Debug, Default)]
struct Index {
    due: [Ring; Priority::COUNT],
    /// All ids in `due`.
    listed: HashSet<JobId>,
    delayed: BTreeMap<(Timestamp, JobId), ()>,
    delayed_until: HashMap<JobId, Timestamp>,
    handed_out: u64,
    /// Holds every job that is due.
    complete: bool,
    /// Token of the refill under way.
    refill: Option<String>,
}

/// Tenants in turn, with a list each: a flood costs its own tenant only.
#[derive(Debug, Default)]
struct Ring {
    turn: VecDeque<String>,
    lists: HashMap<String, VecDeque<JobId>>,
}

impl Ring {
    fn push(&mut self, tenant: &str, id: JobId) {
        if let Some(list) = self.lists.get_mut(tenant) {
            list.push_back(id);
        } else {
            self.lists.insert(tenant.to_owned(), VecDeque::from([id]));
            self.turn.push_back(tenant.to_owned());
        }
    }

    fn pop(&mut self) -> Option<JobId> {
        let tenant = self.turn.pop_front()?;
        let list = self.lists.get_mut(&tenant)?;
        let id = list.pop_front();
        if list.is_empty() {
            self.lists.remove(&tenant);
        } else {
            self.turn.push_back(tenant);
        }
        id
    }
}

impl Index {
    fn push(&mut self, entry: &Ready) {
        match entry.due_at {
            None => {
                if let Some(at) = self.delayed_until.remove(&entry.id) {
                    self.delayed.remove(&(at, entry.id));
                }
                if self.listed.insert(entry.id) {
                    self.due[usize::from(entry.priority.get())].push(&entry.tenant, entry.id);
                }
            }
            Some(at) => {
                if let Some(before) = self.delayed_until.insert(entry.id, at) {
                    self.delayed.remove(&(before, entry.id));
                }
                self.delayed.insert((at, entry.id), ());
            }
        }
    }

    fn pop_due(&mut self) -> Option<JobId> {
        let low_turn = self.handed_out % LOW_TURN == LOW_TURN - 1;
        let id = if low_turn {
            self.due.iter_mut().rev().find_map(Ring::pop)
        } else {
            self.due.iter_mut().find_map(Ring::pop)
        }?;
        self.handed_out += 1;
        self.listed.remove(&id);
        Some(id)
    }

    fn pop_delayed(&mut self, now: Timestamp) -> Option<JobId> {
        let entry = self.delayed.first_entry()?;
        let (at, id) = *entry.key();
        if at > now {
            return None;
        }
        entry.remove();
        self.delayed_until.remove(&id);
        Some(id)
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn push(&self, entries: &[Ready]) -> Result<(), QueueError> {
        {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            for entry in entries {
                match queues.get_mut(&entry.queue) {
                    Some(index) => index.push(entry),
                    None => queues.entry(entry.queue.clone()).or_default().push(entry),
                }
            }
        }
        self.pushed.notify_one();
        Ok(())
    }

    async fn pop(&self, names: &[String], limit: usize, now: Timestamp) -> Result<Popped, QueueError> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let mut popped = Popped::default();
        // Another queue comes first each time, so that a flood in one does not starve the next.
        let first = self.pops.fetch_add(1, Ordering::Relaxed) % names.len().max(1);
        for name in names.iter().cycle().skip(first).take(names.len()) {
            let index = queues.entry(name.clone()).or_default();
            if !index.complete {
                popped.incomplete.push(name.clone());
            }
            while popped.due.len() < limit
                && let Some(id) = index.pop_delayed(now)
            {
                popped.due.push(id);
            }
            while popped.ready.len() < limit
                && let Some(id) = index.pop_due()
            {
                popped.ready.push(id);
            }
            let next = index.delayed.first_key_value().map(|((at, _), ())| *at);
            popped.next_due = popped.next_due.into_iter().chain(next).min();
        }
        Ok(popped)
    }

    async fn incomplete(&self, queues: &[String]) -> Result<Vec<String>, QueueError> {
        let indexes = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let is_complete = |queue: &&String| indexes.get(*queue).is_some_and(|index| index.complete);
        Ok(queues.iter().filter(|queue| !is_complete(queue)).cloned().collect())
    }

    async fn begin_refill(&self, queue: &str) -> Result<Refill, QueueError> {
        let refill = Refill { queue: queue.to_owned(), token: Uuid::new_v4().to_string() };
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.entry(queue.to_owned()).or_default().refill = Some(refill.token.clone());
        Ok(refill)
    }

    async fn end_refill(&self, refill: &Refill) -> Result<bool, QueueError> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = queues.get_mut(&refill.queue) else { return Ok(false) };
        if index.refill.as_ref() != Some(&refill.token) {
            return Ok(false);
        }
        index.refill = None;
        index.complete = true;
        Ok(true)
    }

    async fn declare_incomplete(&self, queues: &[String]) -> Result<(), QueueError> {
        let mut indexes = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in queues {
            let index = indexes.entry(queue.clone()).or_default();
            index.complete = false;
            index.refill = None;
        }
        drop(indexes);
        self.pushed.notify_one();
        Ok(())
    }

    async fn wait(&self, _queues: &[String], timeout: Duration) {
        // `notify_one` keeps a permit, so a push since the last pop is not missed.
        let _ = tokio::time::timeout(timeout, self.pushed.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tenant: &str, priority: u8, due_at: Option<i64>) -> Ready {
        Ready {
            id: JobId::new(),
            tenant: tenant.to_owned(),
            queue: "default".to_owned(),
            priority: Priority::try_from(priority).expect("in range"),
            due_at: due_at.map(Timestamp::from_micros),
        }
    }

    async fn pop(queue: &MemoryQueue, limit: usize, now: i64) -> Popped {
        queue.pop(&["default".to_owned()], limit, Timestamp::from_micros(now)).await.expect("never fails")
    }

    #[tokio::test]
    async fn tenants_take_turns_within_a_priority() {
        let queue = MemoryQueue::default();
        let flood: Vec<_> = (0..100).map(|_| entry("loud", 2, None)).collect();
        let quiet = entry("quiet", 2, None);
        queue.push(&flood).await.expect("never fails");
        queue.push(std::slice::from_ref(&quiet)).await.expect("never fails");
        assert!(pop(&queue, 2, 0).await.ready.contains(&quiet.id));
    }

    #[tokio::test]
    async fn the_urgent_go_first_and_the_low_are_not_starved() {
        let queue = MemoryQueue::default();
        let urgent: Vec<_> = (0..100).map(|_| entry("t", 0, None)).collect();
        let low = entry("t", 3, None);
        queue.push(&[vec![low.clone()], urgent.clone()].concat()).await.expect("never fails");
        let ready = pop(&queue, 8, 0).await.ready;
        assert_eq!(ready[..7], urgent[..7].iter().map(|entry| entry.id).collect::<Vec<_>>());
        assert_eq!(ready[7], low.id);
    }

    #[tokio::test]
    async fn a_flooded_queue_does_not_starve_another() {
        let queue = MemoryQueue::default();
        let flood: Vec<_> = (0..100).map(|_| entry("t", 2, None)).collect();
        let other = Ready { queue: "other".to_owned(), ..entry("t", 2, None) };
        queue.push(&[flood, vec![other.clone()]].concat()).await.expect("never fails");
        let names = ["default".to_owned(), "other".to_owned()];
        let mut ready = Vec::new();
        for _ in 0..2 {
            ready.extend(queue.pop(&names, 4, Timestamp::default()).await.expect("never fails").ready);
        }
        assert!(ready.contains(&other.id));
    }

    #[tokio::test]
    async fn an_id_waits_once_and_a_delayed_one_until_its_time() {
        let queue = MemoryQueue::default();
        let (now, later) = (entry("t", 2, None), entry("t", 2, Some(1_000)));
        queue.push(&[now.clone(), now.clone(), later.clone()]).await.expect("never fails");
        let first = pop(&queue, 10, 0).await;
        assert_eq!((first.ready, first.due), (vec![now.id], vec![]));
        assert_eq!(first.next_due, Some(Timestamp::from_micros(1_000)));
        let second = pop(&queue, 10, 1_000).await;
        assert_eq!((second.ready, second.due), (vec![], vec![later.id]));
    }

    #[tokio::test]
    async fn a_queue_is_incomplete_until_it_was_refilled_without_a_loss_in_between() {
        let queue = MemoryQueue::default();
        assert_eq!(pop(&queue, 1, 0).await.incomplete, ["default"]);
        let first = queue.begin_refill("default").await.expect("never fails");
        queue.declare_incomplete(&["default".to_owned()]).await.expect("never fails");
        assert!(!queue.end_refill(&first).await.expect("never fails"), "it lost its content since");
        let second = queue.begin_refill("default").await.expect("never fails");
        assert!(queue.end_refill(&second).await.expect("never fails"));
        assert!(pop(&queue, 1, 0).await.incomplete.is_empty());
    }

    #[tokio::test]
    async fn a_push_before_the_wait_wakes_it() {
        let queue = MemoryQueue::default();
        queue.push(&[entry("t", 2, None)]).await.expect("never fails");
        let waited = tokio::time::timeout(Duration::from_secs(5), queue.wait(&[], Duration::from_secs(60))).await;
        assert!(waited.is_ok());
    }
}
