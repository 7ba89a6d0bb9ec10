//! What runs did to agents: written with their ends.

use serde::Serialize;
use uuid::Uuid;

use super::agent::lock;
use crate::{
    adapter::sql::{
        dialect::{Dialect, SqlTx, batch, params},
        statement::coordination as statement,
        unit::Unit,
    },
    domain::coordination::AgentStatus,
    port::{
        StoreError,
        store::{AgentWritten, coordination::Provisioned},
    },
};

/// Writes what runs did to agents; their fences were accepted, and they hold their jobs.
pub(super) async fn written<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    let mut done = std::mem::take(&mut unit.left.written);
    let id_of = |written: &AgentWritten| match written {
        AgentWritten::Soul { agent_id, .. } | AgentWritten::Provisioned { agent_id, .. } => *agent_id,
    };
    // In order, so that two batches with the same agents wait for each other instead of deadlocking.
    done.sort_by_key(|(_, _, written)| id_of(written));
    for (job, tenant, written) in done {
        let Some(mut row) = lock(&mut unit.tx, &tenant, id_of(&written)).await? else { continue };
        match written {
            AgentWritten::Soul { content, hash, .. } => {
                row.agent.soul = Some(content);
                row.agent.soul_hash = Some(hash);
            }
            AgentWritten::Provisioned { .. } if row.agent.provision_job != Some(job) => continue,
            AgentWritten::Provisioned { how: Provisioned::Whole { soul_hash }, .. } => {
                row.agent.status = AgentStatus::Online;
                row.agent.soul_hash = soul_hash.or(row.agent.soul_hash);
                row.agent.provision_error = None;
                row.agent.provisioned_at = Some(unit.now);
                row.token_sealed = None;
            }
            AgentWritten::Provisioned { how: Provisioned::Failed { error }, .. } => {
                row.agent.status = AgentStatus::Failed;
                row.agent.provision_error = Some(error);
            }
        }
        row.agent.updated_at = unit.now;
        row.save(&mut unit.tx).await?;
    }
    Ok(())
}

#[derive(Serialize)]
struct GivenUpRow {
    id: Uuid,
    error: String,
}

/// Agents whose provisioning has ended without their being there: the next message to them tries again.
pub(super) async fn give_up_provisions<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    let failed = std::mem::take(&mut unit.left.failed_provisions);
    if failed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = failed
        .into_iter()
        .map(|(job, failure)| GivenUpRow {
            id: job.uuid(),
            error: failure.map_or_else(|| "its provisioning ended".to_owned(), |failure| failure.message),
        })
        .collect();
    unit.tx.execute(&statement::GIVE_UP_PROVISIONS, params![batch(&rows), unit.now]).await.map(drop)
}
