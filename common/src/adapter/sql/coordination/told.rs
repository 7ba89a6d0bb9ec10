//! What the audit says of jobs: written with them, told by whoever ends them.

use std::collections::BTreeMap;

use super::{
    LeftOver,
    activity::{self, ActivityRow},
};
use crate::{
    adapter::sql::{
        dialect::{Dialect, SqlTx, params},
        family,
        row::JobRow,
        statement,
        unit::{Unit, id_rows},
    },
    domain::{Children, Failure, JobId, JobState, Timestamp, coordination::Told},
    port::StoreError,
    wire::coordination::BROADCAST,
};

/// A job whose line is due.
pub(super) struct Line {
    tenant: String,
    job: JobId,
    told: Told,
    state: JobState,
    failure: Option<Failure>,
    /// Its line says what became of its children.
    is_parent: bool,
}

impl LeftOver {
    /// The line of a job that ended, or that waits for an answer now; each job has one. The caller saves the row.
    pub(in crate::adapter::sql) fn tell(&mut self, row: &mut JobRow, now: Timestamp) {
        let Some(text) = row.told.as_ref().filter(|_| row.told_at.is_none()) else { return };
        match serde_json::from_str(text) {
            Ok(told) => self.lines.push(Line {
                tenant: row.job.tenant.clone(),
                job: row.job.id,
                told,
                state: row.job.state,
                failure: row.job.failure.clone(),
                is_parent: row.job.kind == BROADCAST,
            }),
            Err(error) => tracing::error!(job_id = %row.job.id, %error, "what is told of a job can't be read"),
        }
        row.told_at = Some(now);
    }
}

/// Writes the lines that are due.
pub(super) async fn write<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    let lines = std::mem::take(&mut unit.left.lines);
    if lines.is_empty() {
        return Ok(());
    }
    let parents: Vec<_> = lines.iter().filter(|line| line.is_parent).map(|line| line.job.uuid()).collect();
    let children = if parents.is_empty() {
        BTreeMap::new()
    } else {
        family::counted(&unit.tx.fetch(&statement::CHILDREN, params![id_rows(parents)]).await?)?
    };
    let childless = Children::default();
    let rows: Vec<_> = lines
        .into_iter()
        .filter_map(|line| {
            let children = line.is_parent.then(|| children.get(&line.job).unwrap_or(&childless));
            let told = line.told.line(line.state, line.failure.as_ref(), children)?;
            if line.is_parent {
                // What workers log of other operations: nobody runs this one.
                let (job_id, trace_id, outcome) = (line.job, told.trace_id.as_deref(), told.message.as_str());
                tracing::info!(%job_id, trace_id, outcome, "gateway.coordination.lead_broadcast.success");
            }
            Some(ActivityRow::new(line.tenant, told, Some(line.job), unit.now))
        })
        .collect();
    activity::insert(&mut unit.tx, &rows).await
}
