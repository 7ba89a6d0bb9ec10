//! Retries in bulk.

use std::collections::BTreeSet;

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, params},
    read, row, statement,
    unit::{Unit, id_rows},
};
use crate::{
    domain::{Job, JobId, Timestamp},
    port::{
        StoreError,
        store::{
            Consequences, IdempotencyRecord, NewJob, Retried, Retries, Submission, Submitted, Unsuccessful,
            UnsuccessfulFilter,
        },
    },
};

#[async_trait]
impl<D: Dialect> Retries for SqlStore<D> {
    async fn unsuccessful(&self, tenant: &str, filter: &UnsuccessfulFilter) -> Result<Vec<Unsuccessful>, StoreError> {
        let params = params![
            tenant,
            filter.kind.clone(),
            filter.queue.clone(),
            filter.since,
            read::before(filter.before.map(JobId::uuid)),
            filter.limit,
            read::state_list(&filter.states),
            filter.user_id.clone(),
        ];
        let rows = self.dialect.read(&statement::UNSUCCESSFUL, params).await?;
        rows.iter()
            .map(|row| {
                let failure = row::failure(row, 0)?;
                Ok(Unsuccessful {
                    id: row.uuid("id")?.into(),
                    class: failure.as_ref().map(|failure| failure.class),
                    code: failure.map(|failure| failure.code),
                    retried: row.int("retries")? > 0,
                    payload_chars: row.int("payload_chars")?,
                })
            })
            .collect()
    }

    async fn jobs_by_id(&self, tenant: &str, ids: &[JobId]) -> Result<Vec<Job>, StoreError> {
        let ids = id_rows(ids.iter().map(|id| id.uuid()));
        let rows = self.dialect.read(&statement::JOBS_BY_ID, params![ids, tenant]).await?;
        Ok(rows.iter().filter_map(row::readable).map(|row| row.job).collect())
    }

    async fn submit_retries(
        &self,
        tenant: &str,
        mut jobs: Vec<NewJob>,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<(Retried, Consequences), StoreError> {
        let mut unit = Unit::begin(&self.dialect, now).await?;
        // Before any row: whoever waits here holds nothing that others wait for.
        unit.tx.fetch(&statement::TAKE_TURN, params![format!("errand bulk retry of {tenant}")]).await?;
        let originals = id_rows(jobs.iter().filter_map(|job| job.retry_of).map(JobId::uuid));
        let retried = unit.tx.fetch(&statement::RETRIED, params![originals]).await?;
        let retried: BTreeSet<Uuid> = retried.iter().map(|row| row.uuid("id")).collect::<Result<_, _>>()?;
        jobs.retain(|job| job.retry_of.is_none_or(|original| !retried.contains(&original.uuid())));
        let submission = Submission { jobs, idempotency };
        let (mut results, consequences) = self.submit_in(unit, std::slice::from_ref(&submission)).await?;
        let retried = match results.pop() {
            Some(Submitted::Done(made)) => Retried::Done(made.into_iter().flatten().map(|made| made.id).collect()),
            Some(Submitted::Replayed(answer)) => Retried::Replayed(answer),
            Some(Submitted::Mismatch) => Retried::Mismatch,
            None => return Err(StoreError::Corrupt("a submission without a result".to_owned())),
        };
        Ok((retried, consequences))
    }
}
