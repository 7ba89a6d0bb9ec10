//! Boards and their streams.

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

use super::{gateway, is_taken};
use crate::{
    adapter::sql::{
        SqlStore,
        dialect::{Dialect, SqlRow, SqlTx, batch, params},
        read::before,
        row,
        statement::coordination as statement,
        submit::used_before,
        unit::{Unit, id_rows},
    },
    domain::{BoardId, Event, EventType, GatewayId, JobId, NewEvent, Timestamp, coordination::Board},
    port::{
        StoreError,
        store::{
            IdempotencyRecord,
            coordination::{BoardChange, BoardFilter, BoardRefused, Boards, NewBoard, Removed},
        },
    },
};

/// What a transaction does to a board at its end.
#[derive(Default)]
pub(super) struct Said {
    /// With the jobs they are about.
    pub(super) events: Vec<(Option<JobId>, NewEvent)>,
    /// Its agents were told to stop, or to go on.
    pub(super) paused: Option<bool>,
}

#[derive(Serialize)]
struct TailRow {
    id: Uuid,
    tail_seq: i64,
    paused: Option<u8>,
}

#[derive(Serialize)]
struct EventRow {
    board_id: Uuid,
    seq: i64,
    ts: i64,
    job_id: Option<Uuid>,
    r#type: &'static str,
    data: String,
}

/// Numbers what is said on boards and writes it, under their locks. What is said on one that is gone is said to nobody.
pub(super) async fn publish<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    let mut boards = std::mem::take(&mut unit.left.boards);
    if boards.is_empty() {
        return Ok(());
    }
    let ids = id_rows(boards.keys().map(|id| id.uuid()));
    let (mut tails, mut events) = (Vec::new(), Vec::new());
    for held in unit.tx.fetch(&statement::LOCK_BOARDS, params![ids]).await? {
        let id = BoardId::from(held.uuid("id")?);
        let Some(said) = boards.remove(&id) else { continue };
        let mut seq = held.int("tail_seq")?;
        for (job, event) in said.events {
            seq += 1;
            events.push(EventRow {
                board_id: id.uuid(),
                seq,
                ts: unit.now.micros(),
                job_id: job.map(JobId::uuid),
                r#type: event.kind.as_str(),
                data: event.data.to_string(),
            });
            unit.consequences.events.push(Event {
                job_id: job,
                board_id: Some(id),
                seq,
                session_id: None,
                session_seq: None,
                ts: unit.now,
                attempt: 0,
                kind: event.kind,
                data: event.data,
            });
        }
        tails.push(TailRow { id: id.uuid(), tail_seq: seq, paused: said.paused.map(u8::from) });
    }
    // The ends of what was asked on a board that is gone are nobody's to hear, but nothing new may be left on it.
    let opens = |kind| matches!(kind, EventType::Memory | EventType::QuestionOpened);
    if boards.values().flat_map(|said| &said.events).any(|(_, event)| opens(event.kind)) {
        return Err(StoreError::Unavailable("a board was removed meanwhile".into()));
    }
    unit.tx.execute(&statement::SAVE_BOARD_TAILS, params![batch(&tails)]).await?;
    if !events.is_empty() {
        unit.tx.execute(&statement::INSERT_BOARD_EVENTS, params![batch(&events)]).await?;
    }
    Ok(())
}

#[async_trait]
impl<D: Dialect> Boards for SqlStore<D> {
    async fn create_board(
        &self,
        new: NewBoard,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<Result<(), BoardRefused>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        if let Some(answer) = used_before(&mut tx, idempotency.as_ref(), now).await? {
            return Ok(Err(BoardRefused::Replayed(Box::new(answer))));
        }
        if !has_gateway(&mut tx, &new.tenant, new.gateway_id).await? {
            return Ok(Err(BoardRefused::GatewayUnknown));
        }
        let gateway = new.gateway_id.map(GatewayId::uuid);
        let values = params![new.id.uuid(), new.tenant, new.name, new.slug, gateway, now];
        if tx.execute(&statement::INSERT_BOARD, values).await? == 0 {
            return Ok(Err(BoardRefused::SlugTaken));
        }
        tx.commit().await?;
        Ok(Ok(()))
    }

    async fn board(&self, tenant: &str, id: BoardId) -> Result<Option<Board>, StoreError> {
        let rows = self.dialect.read(&statement::BOARD, params![tenant, id.uuid()]).await?;
        rows.first().map(read).transpose()
    }

    async fn boards(&self, filter: &BoardFilter) -> Result<Vec<Board>, StoreError> {
        let (gateway, before) = (filter.gateway_id.map(GatewayId::uuid), before(filter.before.map(BoardId::uuid)));
        let params = params![filter.tenant.as_str(), gateway, before, filter.limit];
        self.dialect.read(&statement::BOARDS, params).await?.iter().map(read).collect()
    }

    async fn change_board(
        &self,
        tenant: &str,
        id: BoardId,
        change: BoardChange,
        now: Timestamp,
    ) -> Result<Result<Board, BoardRefused>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        if !has_gateway(&mut tx, tenant, change.gateway_id.flatten()).await? {
            return Ok(Err(BoardRefused::GatewayUnknown));
        }
        let Some(mut board) = lock(&mut tx, tenant, id).await? else { return Ok(Err(BoardRefused::Unknown)) };
        board.name = change.name.unwrap_or(board.name);
        board.slug = change.slug.unwrap_or(board.slug);
        board.gateway_id = change.gateway_id.unwrap_or(board.gateway_id);
        board.updated_at = now;
        let gateway = board.gateway_id.map(GatewayId::uuid);
        let elsewhere = tx.fetch(&statement::AGENTS_ELSEWHERE, params![id.uuid(), gateway]).await?;
        let elsewhere = elsewhere.first().map(|row| row.int("found")).transpose()?.unwrap_or(0);
        if elsewhere > 0 {
            return Ok(Err(BoardRefused::HasAgents(elsewhere.unsigned_abs())));
        }
        let values = params![id.uuid(), board.name.as_str(), board.slug.as_str(), gateway, now];
        match tx.execute(&statement::SAVE_BOARD, values).await {
            Ok(0) => return Ok(Err(BoardRefused::SlugTaken)),
            // By one that was made or changed in this very moment.
            Err(error) if is_taken(&error) => return Ok(Err(BoardRefused::SlugTaken)),
            saved => saved?,
        };
        tx.commit().await?;
        Ok(Ok(board))
    }

    async fn remove_board(&self, tenant: &str, id: BoardId) -> Result<Removed, StoreError> {
        let mut tx = self.dialect.begin().await?;
        if lock(&mut tx, tenant, id).await?.is_none() {
            return Ok(Removed::Unknown);
        }
        let found = tx.fetch(&statement::BELONGINGS, params![id.uuid()]).await?;
        let found = found.first().map(|row| row.int("found")).transpose()?.unwrap_or(0);
        if found > 0 {
            return Ok(Removed::InUse(found.unsigned_abs()));
        }
        for sql in [
            &statement::DELETE_MEMORIES_ON,
            &statement::DELETE_QUESTIONS_ON,
            &statement::DELETE_EVENTS_ON,
            &statement::DELETE_BOARD,
        ] {
            tx.execute(sql, params![id.uuid()]).await?;
        }
        tx.commit().await?;
        Ok(Removed::Done)
    }
}

async fn has_gateway(tx: &mut impl SqlTx, tenant: &str, wanted: Option<GatewayId>) -> Result<bool, StoreError> {
    match wanted {
        None => Ok(true),
        Some(id) => Ok(gateway::lock(tx, tenant, id).await?.is_some()),
    }
}

/// Holds a board, so that it stays while something is made to belong to it.
pub(super) async fn lock(tx: &mut impl SqlTx, tenant: &str, id: BoardId) -> Result<Option<Board>, StoreError> {
    let rows = tx.fetch(&statement::LOCK_BOARD, params![tenant, id.uuid()]).await?;
    rows.first().map(read).transpose()
}

/// As it is, without a lock.
pub(super) async fn see(tx: &mut impl SqlTx, tenant: &str, id: BoardId) -> Result<Option<Board>, StoreError> {
    let rows = tx.fetch(&statement::BOARD, params![tenant, id.uuid()]).await?;
    rows.first().map(read).transpose()
}

pub(super) fn read(row: &impl SqlRow) -> Result<Board, StoreError> {
    Ok(Board {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        name: row.text("name")?,
        slug: row.text("slug")?,
        gateway_id: row.opt_uuid("gateway_id")?.map(Into::into),
        paused: row.int("paused")? > 0,
        tail_seq: row.int("tail_seq")?,
        created_at: row::at(row, "created_at")?,
        updated_at: row::at(row, "updated_at")?,
    })
}
