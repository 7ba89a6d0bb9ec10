//! Due jobs read without the queue: which of those that were found go first.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, batch, params},
    statement,
};
use crate::port::{StoreError, store::Due};

/// So many times as many jobs are read as are asked for, and chance picks among them: workers that ask at the same time
/// would otherwise all get the same.
const SPREAD: u32 = 4;
/// Most tenants of a queue that one look reaches.
const TENANTS: u32 = 64;

#[derive(serde::Serialize)]
struct QueueRow<'a> {
    queue: &'a str,
}

/// A job that could be claimed.
struct Head {
    id: Uuid,
    line: (String, String),
    priority: i64,
}

impl<D: Dialect> SqlStore<D> {
    pub(super) async fn read_due(
        &self,
        queues: &[String],
        after_tenant: Option<&str>,
        limit: u32,
    ) -> Result<Due, StoreError> {
        let names: Vec<_> = queues.iter().map(|queue| QueueRow { queue }).collect();
        let wanted = limit.saturating_mul(SPREAD);
        let params = params![batch(&names), after_tenant.unwrap_or_default(), TENANTS, wanted];
        let mut reached: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut heads = Vec::new();
        for row in self.dialect.read(&statement::DUE, params).await? {
            let (queue, tenant) = (row.text("queue")?, row.text("tenant")?);
            reached.entry(queue.clone()).or_default().insert(tenant.clone());
            if let Some(id) = row.opt_uuid("id")? {
                // Gone since the statement found it: nothing to claim.
                let Some(priority) = row.opt_int("priority")? else { continue };
                heads.push(Head { id, line: (queue, tenant), priority });
            }
        }
        let full = reached.values().filter(|tenants| tenants.len() >= TENANTS as usize);
        let last_tenant = full.filter_map(|tenants| tenants.last().cloned()).min();
        Ok(Due { ids: in_turn(heads, limit, rand::random), last_tenant })
    }
}

/// The urgent first; among those each tenant in turn; who of a tenant's comes first, and which tenant, is left to `dice`.
fn in_turn(heads: Vec<Head>, limit: u32, mut dice: impl FnMut() -> u32) -> Vec<crate::domain::JobId> {
    let mut shuffled: Vec<_> = heads.into_iter().map(|head| (dice(), head)).collect();
    shuffled.sort_by_key(|(dice, head)| (head.priority, *dice));
    let mut taken: BTreeMap<(i64, (String, String)), u32> = BTreeMap::new();
    let mut ranked: Vec<_> = shuffled
        .into_iter()
        .map(|(dice, head)| {
            let turn = taken.entry((head.priority, head.line)).or_default();
            *turn += 1;
            ((head.priority, *turn, dice), head.id)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().take(limit as usize).map(|(_, id)| id.into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::JobId;

    fn heads(tenant: &str, priority: i64, count: usize) -> Vec<Head> {
        let line = ("default".to_owned(), tenant.to_owned());
        (0..count).map(|_| Head { id: JobId::new().uuid(), line: line.clone(), priority }).collect()
    }

    fn counter() -> impl FnMut() -> u32 {
        let mut next = 0;
        move || {
            next += 1;
            next
        }
    }

    #[test]
    fn tenants_take_turns_however_much_one_of_them_has() {
        let quiet = heads("quiet", 2, 1);
        let quiet_id = JobId::from(quiet[0].id);
        let heads = heads("loud", 2, 100).into_iter().chain(quiet).collect();
        assert!(in_turn(heads, 2, counter()).contains(&quiet_id));
    }

    #[test]
    fn the_urgent_of_any_tenant_go_before_the_rest() {
        let urgent = heads("a", 0, 3);
        let ids: BTreeSet<_> = urgent.iter().map(|head| JobId::from(head.id)).collect();
        let heads = heads("b", 2, 10).into_iter().chain(urgent).collect();
        assert_eq!(in_turn(heads, 3, counter()).into_iter().collect::<BTreeSet<_>>(), ids);
    }

    #[test]
    fn two_workers_that_ask_at_once_are_given_different_jobs() {
        let ids: Vec<_> = heads("a", 2, 40).into_iter().map(|head| head.id).collect();
        let again =
            || ids.iter().map(|&id| Head { id, line: ("default".into(), "a".into()), priority: 2 }).collect::<Vec<_>>();
        let mut down = u32::MAX;
        let falling = || {
            down -= 1;
            down
        };
        assert_ne!(in_turn(again(), 10, counter()), in_turn(again(), 10, falling));
    }
}
