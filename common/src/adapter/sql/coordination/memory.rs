//! What is left on boards.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    answer::{Resolved, resolve},
    board, question,
};
use crate::{
    adapter::sql::{
        SqlStore,
        dialect::{Dialect, SqlRow, SqlTx, params},
        row,
        statement::{self as jobs, coordination as statement},
        submit::{make_plain, used_before},
        unit::{Unit, id_rows},
    },
    domain::{
        AgentId, EventType, MemoryId, NewEvent, QuestionId, Timestamp,
        coordination::{
            Memory, Question, QuestionState,
            memory::{CHAT, Command},
            question::{Reply, meant},
        },
    },
    port::{
        StoreError,
        store::{
            Consequences,
            coordination::{Memories, MemoryFilter, NewMemory, Posted},
        },
    },
};

/// Open questions of a board that a reply which names none is held against: the youngest.
const OPEN_LOOKED_AT: u32 = 1_000;

#[async_trait]
impl<D: Dialect> Memories for SqlStore<D> {
    async fn post_memory(&self, new: NewMemory, now: Timestamp) -> Result<(Posted, Consequences), StoreError> {
        let mut unit = Unit::begin(&self.dialect, now).await?;
        if let Some(answer) = used_before(&mut unit.tx, new.idempotency.as_ref(), now).await? {
            return Ok((Posted::Replayed(answer), Consequences::default()));
        }
        if board::see(&mut unit.tx, &new.tenant, new.board_id).await?.is_none() {
            return Ok((Posted::Unknown, Consequences::default()));
        }
        let is_chat = new.tags.iter().any(|tag| tag == CHAT);
        let (mut answered, mut late, mut unfit) = (None, None, None);
        if let Some(question) = question_of(&mut unit, &new, is_chat).await? {
            let said = Value::from(new.content.as_str());
            match resolve(&mut unit, question, &said, &new.written_by, Some(new.id)).await? {
                Resolved::Won(question) => answered = Some(Box::new(question)),
                Resolved::Late(question) => late = Some(Box::new(question)),
                Resolved::Unfit(why) => unfit = Some(why.detail),
            }
        }
        if let Some(record) = new.idempotency.as_ref().filter(|_| late.is_some() || unfit.is_some()) {
            let mut answer = record.answer.clone();
            answer["late"] = json!(late.as_ref().map(|question| question.id));
            answer["unfit"] = json!(unfit);
            let (tenant, owner, key) = (record.tenant.as_str(), record.owner.as_str(), record.key.as_str());
            unit.tx.execute(&jobs::KEEP_ANSWER, params![tenant, owner, key, answer.to_string()]).await?;
        }
        let memory = Memory {
            id: new.id,
            tenant: new.tenant,
            board_id: new.board_id,
            content: new.content,
            tags: new.tags,
            source: new.source,
            is_chat,
            agent_id: new.agent_id,
            question_id: answered.as_ref().map(|question| question.id),
            created_at: now,
        };
        write(&mut unit.tx, &memory).await?;
        unit.left.say(memory.board_id, None, NewEvent::new(EventType::Memory, shown(&memory)));
        if let Some(command) = Command::of(&memory.content).filter(|_| is_chat) {
            unit.left.boards.entry(memory.board_id).or_default().paused = Some(command == Command::Pause);
        }
        let notices: Vec<_> = new.notices.iter().map(|notice| make_plain(&mut unit, notice, None)).collect();
        unit.insert(&notices).await?;
        let consequences = unit.commit().await?;
        Ok((Posted::Done { memory: Box::new(memory), answered, late, unfit }, consequences))
    }

    async fn memory(&self, tenant: &str, id: MemoryId) -> Result<Option<Memory>, StoreError> {
        let rows = self.dialect.read(&statement::MEMORY, params![tenant, id.uuid()]).await?;
        rows.first().map(read).transpose()
    }

    async fn memories(&self, filter: &MemoryFilter) -> Result<(Vec<Memory>, u64), StoreError> {
        let (tenant, board) = (filter.tenant.as_str(), filter.board_id.uuid());
        let is_chat = filter.is_chat.map(i64::from);
        let params = params![tenant, board, is_chat, filter.since];
        let found = self.dialect.read(&statement::COUNT_MEMORIES, params).await?;
        let total = found.first().map(|row| row.int("found")).transpose()?.unwrap_or(0).unsigned_abs();
        let params = params![tenant, board, is_chat, filter.since, filter.limit, filter.offset];
        let rows = self.dialect.read(&statement::MEMORIES, params).await?;
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, total))
    }
}

/// The question that an item is meant for: an open one, or one that it names and that has ended.
async fn question_of<D: Dialect>(
    unit: &mut Unit<D>,
    new: &NewMemory,
    is_chat: bool,
) -> Result<Option<Question>, StoreError> {
    let named = new.question_id.into_iter().chain(new.tags.iter().filter_map(|tag| tag.parse().ok()));
    let named = id_rows(named.map(QuestionId::uuid));
    let rows = unit.tx.fetch(&statement::NAMED_QUESTIONS, params![named, new.board_id.uuid()]).await?;
    let mut candidates = rows.iter().map(question::read).collect::<Result<Vec<_>, _>>()?;
    let mut ended = None;
    if candidates.is_empty() {
        if is_chat {
            return Ok(None);
        }
        let rows = unit.tx.fetch(&statement::OPEN_QUESTIONS, params![new.board_id.uuid(), OPEN_LOOKED_AT]).await?;
        candidates = rows.iter().map(question::read).collect::<Result<_, _>>()?;
    } else {
        ended = candidates.iter().find(|question| question.state != QuestionState::Open).cloned();
        candidates.retain(|question| question.state == QuestionState::Open);
    }
    let reply = Reply {
        question_id: new.question_id,
        correlation_id: new.correlation_id.as_deref(),
        tags: &new.tags,
        source: new.source.as_deref(),
    };
    Ok(meant(&candidates, &reply).cloned().or(ended))
}

async fn write(tx: &mut impl SqlTx, memory: &Memory) -> Result<(), StoreError> {
    let values = params![
        memory.id.uuid(),
        memory.tenant.as_str(),
        memory.board_id.uuid(),
        memory.content.as_str(),
        Value::from(memory.tags.clone()).to_string(),
        memory.source.clone(),
        u32::from(memory.is_chat),
        memory.agent_id.map(AgentId::uuid),
        memory.question_id.map(QuestionId::uuid),
        memory.created_at,
    ];
    tx.execute(&statement::INSERT_MEMORY, values).await.map(drop)
}

/// As lists show it.
fn shown(memory: &Memory) -> Value {
    json!({
        "id": memory.id, "board_id": memory.board_id, "content": memory.content, "tags": memory.tags,
        "source": memory.source, "is_chat": memory.is_chat, "agent_id": memory.agent_id,
        "question_id": memory.question_id, "created_at": memory.created_at,
    })
}

fn read(row: &impl SqlRow) -> Result<Memory, StoreError> {
    Ok(Memory {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        board_id: row.uuid("board_id")?.into(),
        content: row.text("content")?,
        tags: serde_json::from_str(&row.text("tags")?).unwrap_or_default(),
        source: row.opt_text("source")?,
        is_chat: row.int("is_chat")? > 0,
        agent_id: row.opt_uuid("agent_id")?.map(Into::into),
        question_id: row.opt_uuid("question_id")?.map(Into::into),
        created_at: row::at(row, "created_at")?,
    })
}
