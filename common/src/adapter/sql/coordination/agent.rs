//! Agents.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    activity::{self, ActivityRow},
    board, gateway, is_taken,
};
use crate::{
    adapter::sql::{
        SqlStore,
        dialect::{Dialect, Param, Sql, SqlRow, SqlTx, params},
        read::before,
        row,
        statement::coordination as statement,
        submit::used_before,
        unit::id_rows,
    },
    domain::{
        AgentId, BoardId, Fence, GatewayId, JobId, Timestamp,
        coordination::{Agent, AgentRole, AgentStatus, NewActivity},
    },
    port::{
        StoreError,
        store::{
            IdempotencyRecord, Stale,
            coordination::{AgentChange, AgentFilter, AgentRefused, Agents, EnsuredLead, NewAgent, Removed},
        },
    },
};

/// An agent that was heard of so lately is not written again.
const SEEN_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// An agent as one transaction holds it.
pub(super) struct AgentRow {
    pub(super) agent: Agent,
    token_hash: Option<String>,
    pub(super) token_sealed: Option<String>,
    made_by: Option<JobId>,
}

impl AgentRow {
    /// Writes back what may change.
    pub(super) async fn save(&self, tx: &mut impl SqlTx) -> Result<(), StoreError> {
        let agent = &self.agent;
        let values = params![
            agent.id.uuid(),
            agent.name.as_str(),
            agent.session_key.as_str(),
            u32::from(agent.bound),
            agent.status.as_str(),
            agent.soul.clone(),
            agent.soul_hash.clone(),
            self.token_hash.clone(),
            self.token_sealed.clone(),
            agent.generation,
            agent.provision_job.map(JobId::uuid),
            agent.provision_error.clone(),
            agent.provisioned_at,
            agent.updated_at,
        ];
        tx.execute(&statement::SAVE_AGENT, values).await.map(drop)
    }
}

/// Writes a new agent. `false`: its place or its session is another's.
pub(super) async fn insert(
    tx: &mut impl SqlTx,
    new: &NewAgent,
    made_by: Option<JobId>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    // One that is bound is there already.
    let status = if new.bound { AgentStatus::Online } else { AgentStatus::New };
    let values = params![
        new.id.uuid(),
        new.tenant.as_str(),
        new.gateway_id.uuid(),
        new.board_id.map(BoardId::uuid),
        new.name.as_str(),
        new.role.as_str(),
        new.session_key.as_str(),
        u32::from(new.bound),
        status.as_str(),
        new.token_hash.clone(),
        new.token_sealed.clone(),
        made_by.map(JobId::uuid),
        now,
    ];
    Ok(tx.execute(&statement::INSERT_AGENT, values).await? > 0)
}

#[async_trait]
impl<D: Dialect> Agents for SqlStore<D> {
    async fn create_agent(
        &self,
        new: NewAgent,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<Result<(), AgentRefused>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        if let Some(answer) = used_before(&mut tx, idempotency.as_ref(), now).await? {
            return Ok(Err(AgentRefused::Replayed(Box::new(answer))));
        }
        if gateway::lock(&mut tx, &new.tenant, new.gateway_id).await?.is_none() {
            return Ok(Err(AgentRefused::GatewayUnknown));
        }
        if let Some(id) = new.board_id {
            let board = board::lock(&mut tx, &new.tenant, id).await?;
            if board.is_none_or(|board| board.gateway_id != Some(new.gateway_id)) {
                return Ok(Err(AgentRefused::BoardUnknown));
            }
        }
        if !insert(&mut tx, &new, None, now).await? {
            let values = params![new.gateway_id.uuid(), new.session_key.as_str(), new.id.uuid()];
            let session = tx.fetch(&statement::SESSION_AGENT, values).await?;
            let is_single = new.role != AgentRole::Worker;
            return Ok(Err(match session.first() {
                Some(_) if !is_single || self.has_role(&mut tx, &new).await?.is_none() => AgentRefused::SessionTaken,
                _ => AgentRefused::RoleTaken,
            }));
        }
        tx.commit().await?;
        Ok(Ok(()))
    }

    async fn agent(&self, tenant: &str, id: AgentId) -> Result<Option<Agent>, StoreError> {
        self.one(&statement::AGENT, params![tenant, id.uuid()]).await
    }

    async fn agents(&self, filter: &AgentFilter) -> Result<Vec<Agent>, StoreError> {
        let params = params![
            filter.tenant.as_str(),
            filter.board_id.map(BoardId::uuid),
            filter.gateway_id.map(GatewayId::uuid),
            before(filter.before.map(AgentId::uuid)),
            filter.limit,
        ];
        let rows = self.dialect.read(&statement::AGENTS, params).await?;
        rows.iter().map(|row| read(row).map(|row| row.agent)).collect()
    }

    async fn agent_by_token(&self, hash: &str) -> Result<Option<Agent>, StoreError> {
        self.one(&statement::AGENT_BY_TOKEN, params![hash]).await
    }

    async fn main_agent(&self, tenant: &str, gateway: GatewayId) -> Result<Option<Agent>, StoreError> {
        self.one(&statement::MAIN_AGENT, params![tenant, gateway.uuid()]).await
    }

    async fn main_agents(&self, tenant: &str, gateways: &[GatewayId]) -> Result<Vec<(GatewayId, AgentId)>, StoreError> {
        let ids = id_rows(gateways.iter().map(|id| id.uuid()));
        let rows = self.dialect.read(&statement::MAIN_AGENTS, params![ids, tenant]).await?;
        rows.iter().map(|row| Ok((row.uuid("gateway_id")?.into(), row.uuid("id")?.into()))).collect()
    }

    async fn change_agent(
        &self,
        tenant: &str,
        id: AgentId,
        change: AgentChange,
        now: Timestamp,
    ) -> Result<Result<Agent, AgentRefused>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let Some(mut row) = lock(&mut tx, tenant, id).await? else { return Ok(Err(AgentRefused::Unknown)) };
        if let Some(name) = change.name {
            row.agent.name = name;
        }
        if let Some(session) = change.session_key {
            let values = params![row.agent.gateway_id.uuid(), session.as_str(), id.uuid()];
            if !tx.fetch(&statement::SESSION_AGENT, values).await?.is_empty() {
                return Ok(Err(AgentRefused::SessionTaken));
            }
            row.agent.session_key = session;
            row.agent.bound = true;
            row.agent.status = AgentStatus::Online;
            row.agent.provision_job = None;
            row.agent.provision_error = None;
            row.token_sealed = None;
        }
        if let Some((hash, sealed)) = change.token {
            row.token_hash = Some(hash);
            row.agent.has_token = true;
            if !row.agent.bound {
                // Whoever provisions it now brings the former one: what that says of its end does not count.
                row.token_sealed = Some(sealed);
                row.agent.provision_job = None;
                let is_there = row.agent.provisioned_at.is_some();
                row.agent.status = if is_there { AgentStatus::Updating } else { AgentStatus::New };
            }
        }
        row.agent.updated_at = now;
        match row.save(&mut tx).await {
            // By one that was made or changed in this very moment.
            Err(error) if is_taken(&error) => return Ok(Err(AgentRefused::SessionTaken)),
            saved => saved?,
        }
        tx.commit().await?;
        Ok(Ok(row.agent))
    }

    async fn remove_agent(&self, tenant: &str, id: AgentId) -> Result<Removed, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let Some(row) = lock(&mut tx, tenant, id).await? else { return Ok(Removed::Unknown) };
        if row.agent.role == AgentRole::Main {
            return Ok(Removed::InUse(1));
        }
        tx.execute(&statement::DELETE_AGENT, params![id.uuid()]).await?;
        tx.commit().await?;
        Ok(Removed::Done)
    }

    async fn agent_seen(&self, id: AgentId, heartbeat: bool, now: Timestamp) -> Result<(), StoreError> {
        let rows = self.dialect.read(&statement::LAST_SEEN, params![id.uuid()]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let last = row::opt_at(row, "last_seen_at")?;
        if !heartbeat && last.is_some_and(|last| now.since(last) <= SEEN_AGAIN_AFTER) {
            return Ok(());
        }
        let mut tx = self.dialect.begin().await?;
        tx.execute(&statement::AGENT_SEEN, params![id.uuid(), now]).await?;
        if heartbeat {
            let line = NewActivity {
                event_type: "agent.heartbeat".to_owned(),
                message: format!("Heartbeat received from {}.", row.text("name")?),
                agent_id: Some(id),
                board_id: row.opt_uuid("board_id")?.map(Into::into),
                trace_id: None,
            };
            activity::insert(&mut tx, &[ActivityRow::new(row.text("tenant")?, line, None, now)]).await?;
        }
        tx.commit().await
    }

    async fn ensure_lead(&self, new: NewAgent, job: JobId, now: Timestamp) -> Result<Option<EnsuredLead>, StoreError> {
        let Some(board_id) = new.board_id else { return Ok(None) };
        let mut tx = self.dialect.begin().await?;
        // Who asks at the same time waits here, and then finds what the first has made.
        let board = board::lock(&mut tx, &new.tenant, board_id).await?;
        if board.is_none_or(|board| board.gateway_id != Some(new.gateway_id)) {
            return Ok(None);
        }
        let new = NewAgent { role: AgentRole::Lead, ..new };
        if lead(&mut tx, board_id).await?.is_none() && !insert(&mut tx, &new, Some(job), now).await? {
            tracing::error!(%board_id, session = new.session_key, "the session of a board's lead is another agent's");
            return Ok(None);
        }
        let Some(row) = lead(&mut tx, board_id).await? else { return Ok(None) };
        tx.commit().await?;
        Ok(Some(EnsuredLead { created: row.made_by == Some(job), agent: row.agent }))
    }

    async fn take_files(&self, fence: Fence, id: AgentId, now: Timestamp) -> Result<Result<bool, Stale>, StoreError> {
        let (mut unit, rows) = self.hold([fence], now).await?;
        let Some(job) = rows.get(&fence.job_id).filter(|row| row.accepts(&fence)) else { return Ok(Err(Stale)) };
        let values = params![job.job.tenant.as_str(), id.uuid(), fence.job_id.uuid(), fence.claim];
        let taken = unit.tx.execute(&statement::TAKE_FILES, values).await? > 0;
        // No event: it is no change of the job.
        drop(unit.commit().await?);
        Ok(Ok(taken))
    }

    async fn begin_provisioning(
        &self,
        fence: Fence,
        id: AgentId,
        now: Timestamp,
    ) -> Result<Result<Option<(Agent, Option<String>)>, Stale>, StoreError> {
        let (mut unit, rows) = self.hold([fence], now).await?;
        let Some(job) = rows.get(&fence.job_id).filter(|row| row.accepts(&fence)) else { return Ok(Err(Stale)) };
        let Some(mut row) = lock(&mut unit.tx, &job.job.tenant, id).await? else { return Ok(Ok(None)) };
        let agent = &mut row.agent;
        if agent.bound || agent.status == AgentStatus::Deleting {
            return Ok(Ok(None));
        }
        let is_under_way = matches!(agent.status, AgentStatus::Provisioning | AgentStatus::Updating);
        if agent.provision_job != Some(fence.job_id) || !is_under_way {
            agent.generation += 1;
            agent.provision_job = Some(fence.job_id);
            agent.provision_error = None;
            let is_there = agent.provisioned_at.is_some();
            agent.status = if is_there { AgentStatus::Updating } else { AgentStatus::Provisioning };
            agent.updated_at = now;
            row.save(&mut unit.tx).await?;
        }
        // No event: it is no change of the job.
        drop(unit.commit().await?);
        Ok(Ok(Some((row.agent, row.token_sealed))))
    }
}

impl<D: Dialect> SqlStore<D> {
    async fn one(&self, sql: &'static Sql, params: Vec<Param>) -> Result<Option<Agent>, StoreError> {
        let rows = self.dialect.read(sql, params).await?;
        rows.first().map(|row| read(row).map(|row| row.agent)).transpose()
    }

    /// The agent that has the single place that `new` asks for.
    async fn has_role(&self, tx: &mut D::Tx, new: &NewAgent) -> Result<Option<AgentRow>, StoreError> {
        match (new.role, new.board_id) {
            (AgentRole::Main, _) => {
                let params = params![new.tenant.as_str(), new.gateway_id.uuid()];
                tx.fetch(&statement::MAIN_AGENT, params).await?.first().map(read).transpose()
            }
            (AgentRole::Lead, Some(board)) => lead(tx, board).await,
            _ => Ok(None),
        }
    }
}

pub(super) async fn lock(tx: &mut impl SqlTx, tenant: &str, id: AgentId) -> Result<Option<AgentRow>, StoreError> {
    tx.fetch(&statement::LOCK_AGENT, params![tenant, id.uuid()]).await?.first().map(read).transpose()
}

async fn lead(tx: &mut impl SqlTx, board: BoardId) -> Result<Option<AgentRow>, StoreError> {
    tx.fetch(&statement::LEAD, params![board.uuid()]).await?.first().map(read).transpose()
}

/// As it is, without a lock.
pub(super) async fn see(tx: &mut impl SqlTx, tenant: &str, id: AgentId) -> Result<Option<Agent>, StoreError> {
    let rows = tx.fetch(&statement::AGENT, params![tenant, id.uuid()]).await?;
    rows.first().map(|row| read(row).map(|row| row.agent)).transpose()
}

/// The gateway's own agent, without a lock.
pub(super) async fn see_main(
    tx: &mut impl SqlTx,
    tenant: &str,
    gateway: GatewayId,
) -> Result<Option<Agent>, StoreError> {
    let rows = tx.fetch(&statement::MAIN_AGENT, params![tenant, gateway.uuid()]).await?;
    rows.first().map(|row| read(row).map(|row| row.agent)).transpose()
}

fn read(row: &impl SqlRow) -> Result<AgentRow, StoreError> {
    let token_hash = row.opt_text("token_hash")?;
    let agent = Agent {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        gateway_id: row.uuid("gateway_id")?.into(),
        board_id: row.opt_uuid("board_id")?.map(Into::into),
        name: row.text("name")?,
        role: row::parse(row, "role")?,
        session_key: row.text("session_key")?,
        bound: row.int("bound")? > 0,
        status: row::parse(row, "status")?,
        soul: row.opt_text("soul")?,
        soul_hash: row.opt_text("soul_hash")?,
        has_token: token_hash.is_some(),
        generation: row.int("generation")?,
        provision_job: row.opt_uuid("provision_job")?.map(Into::into),
        provision_error: row.opt_text("provision_error")?,
        provisioned_at: row::opt_at(row, "provisioned_at")?,
        last_seen_at: row::opt_at(row, "last_seen_at")?,
        created_at: row::at(row, "created_at")?,
        updated_at: row::at(row, "updated_at")?,
    };
    let made_by = row.opt_uuid("made_by")?.map(Into::into);
    Ok(AgentRow { agent, token_hash, token_sealed: row.opt_text("token_sealed")?, made_by })
}
