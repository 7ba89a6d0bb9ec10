//! Questions to people. A question is changed under the lock of the job that asks it, and ends with it.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::answer::{Resolved, follow_up, resolve};
use crate::{
    adapter::sql::{
        SqlStore,
        dialect::{Dialect, SqlRow, SqlTx, batch, params},
        read::before,
        row::{self, JobRow},
        run::give_up,
        statement::{self as jobs, coordination as statement},
        submit::make_plain,
        unit::{Unit, id_rows},
    },
    domain::{
        AgentId, BoardId, Change, EventType, Failure, FailureClass, JobId, JobState, NewEvent, QuestionId, Timestamp,
        coordination::{Question, QuestionState, schema::Unfit, text},
    },
    port::{
        StoreError,
        store::{
            Consequences, NewJob,
            coordination::{Answer, Answered, NewQuestion, QuestionFilter, Questions},
        },
    },
    wire::coordination::{MessagePayload, NOTICE},
};

#[derive(Serialize)]
pub(super) struct QuestionRow {
    id: Uuid,
    tenant: String,
    board_id: Uuid,
    job_id: Uuid,
    agent_id: Option<Uuid>,
    content: String,
    correlation_id: Option<String>,
    reply_tags: String,
    reply_source: String,
    answer_schema: Option<String>,
    remind_at: Option<i64>,
    expires_at: i64,
    at: i64,
}

#[derive(Serialize)]
struct ReminderRow {
    id: Uuid,
    /// 0: only put off.
    step: u8,
}

/// A job that is being made asks.
pub(in crate::adapter::sql) fn open<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, new: NewQuestion) {
    let mut data = json!({
        "question_id": new.id, "board_id": new.board_id, "agent_id": new.agent_id, "content": new.content,
        "expires_at": new.expires_at,
    });
    if let Some(correlation) = &new.correlation_id {
        data["correlation_id"] = correlation.as_str().into();
    }
    say(unit, row, new.board_id, NewEvent::new(EventType::QuestionOpened, data));
    let mut reply_tags = new.reply_tags;
    reply_tags.sort();
    unit.left.questions.push(QuestionRow {
        id: new.id.uuid(),
        tenant: row.job.tenant.clone(),
        board_id: new.board_id.uuid(),
        job_id: row.job.id.uuid(),
        agent_id: new.agent_id.map(AgentId::uuid),
        content: new.content,
        correlation_id: new.correlation_id,
        reply_tags: Value::from(reply_tags).to_string(),
        reply_source: new.reply_source,
        answer_schema: new.answer_schema.as_ref().map(Value::to_string),
        remind_at: new.remind_at.map(Timestamp::micros),
        expires_at: new.expires_at.micros(),
        at: unit.now.micros(),
    });
}

/// In both streams: the job's and the board's.
pub(super) fn say<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, board: BoardId, event: NewEvent) {
    unit.to_tell.question(&row.job.tenant, row.job.id, &event);
    unit.left.say(board, Some(row.job.id), event.clone());
    unit.emit(row, event);
}

/// Writes the questions of jobs that were made.
pub(super) async fn keep<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    let rows = std::mem::take(&mut unit.left.questions);
    if rows.is_empty() {
        return Ok(());
    }
    unit.tx.execute(&statement::INSERT_QUESTIONS, params![batch(&rows)]).await.map(drop)
}

/// Withdraws what jobs that ended still ask.
pub(super) async fn withdraw<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    let jobs = std::mem::take(&mut unit.left.askers);
    if jobs.is_empty() {
        return Ok(());
    }
    let ids = id_rows(jobs.into_iter().map(JobId::uuid));
    for row in unit.tx.fetch(&statement::CANCEL_QUESTIONS, params![ids, unit.now]).await? {
        let (id, board) = (QuestionId::from(row.uuid("id")?), BoardId::from(row.uuid("board_id")?));
        let data = json!({"question_id": id, "board_id": board});
        let event = NewEvent::new(EventType::QuestionCancelled, data);
        let job = JobId::from(row.uuid("job_id")?);
        unit.to_tell.question(&row.text("tenant")?, job, &event);
        unit.left.say(board, Some(job), event);
    }
    Ok(())
}

#[async_trait]
impl<D: Dialect> Questions for SqlStore<D> {
    async fn question(&self, tenant: &str, id: QuestionId) -> Result<Option<Question>, StoreError> {
        let rows = self.dialect.read(&statement::QUESTION, params![tenant, id.uuid()]).await?;
        rows.first().map(read).transpose()
    }

    async fn questions(&self, filter: &QuestionFilter) -> Result<Vec<Question>, StoreError> {
        let params = params![
            filter.tenant.as_str(),
            filter.board_id.map(BoardId::uuid),
            filter.state.map(|state| state.as_str().to_owned()),
            before(filter.before.map(QuestionId::uuid)),
            filter.limit,
        ];
        self.dialect.read(&statement::QUESTIONS, params).await?.iter().map(read).collect()
    }

    async fn answer(&self, answer: Answer) -> Result<Option<(Answered, Consequences)>, StoreError> {
        let Some(seen) = self.question(&answer.tenant, answer.id).await? else { return Ok(None) };
        if seen.state != QuestionState::Open {
            return Ok(Some((Answered::Late(Box::new(seen)), Consequences::default())));
        }
        let mut unit = Unit::begin(&self.dialect, answer.now).await?;
        let (answered, consequences) =
            match resolve(&mut unit, seen, &answer.content, &answer.answered_by, None).await? {
                Resolved::Won(question) => (Answered::Won(Box::new(question)), unit.commit().await?),
                Resolved::Late(question) => (Answered::Late(Box::new(question)), Consequences::default()),
                Resolved::Unfit(Unfit { pointer, detail }) => {
                    (Answered::Unfit { pointer, detail }, Consequences::default())
                }
            };
        Ok(Some((answered, consequences)))
    }

    async fn expire_questions(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError> {
        let found = self.dialect.read(&statement::EXPIRING_QUESTIONS, params![now, limit]).await?;
        let Some((mut unit, mut rows, mut questions)) = self.hold_asking(&found, now).await? else {
            return Ok((0, Consequences::default()));
        };
        questions.retain(|_, question| question.expires_at <= now);
        rows.retain(|row| questions.contains_key(&row.job.id));
        let ids = id_rows(questions.values().map(|question| question.id.uuid()));
        unit.tx.execute(&statement::EXPIRE_QUESTIONS, params![ids, now]).await?;
        for row in &mut rows {
            let Some(question) = questions.get(&row.job.id) else { continue };
            let data = json!({"question_id": question.id, "board_id": question.board_id});
            say(&mut unit, row, question.board_id, NewEvent::new(EventType::QuestionExpired, data));
            let failure = Failure {
                class: FailureClass::Timeout,
                code: "QUESTION_EXPIRED".to_owned(),
                message: "Nobody answered the question in time".to_owned(),
                attempt: row.job.attempt,
            };
            give_up(&mut unit, row, failure, Change::Fail);
            unit.stop_holder(row);
        }
        unit.save(&mut rows).await?;
        Ok((rows.len(), unit.commit().await?))
    }

    async fn remind(
        &self,
        every_seconds: u32,
        now: Timestamp,
        limit: u32,
    ) -> Result<(usize, Consequences), StoreError> {
        let found = self.dialect.read(&statement::REMINDING_QUESTIONS, params![now, limit]).await?;
        let Some((mut unit, rows, mut questions)) = self.hold_asking(&found, now).await? else {
            return Ok((0, Consequences::default()));
        };
        questions.retain(|_, question| question.remind_at.is_some_and(|at| at <= now));
        let asked = id_rows(questions.keys().map(|id| id.uuid()));
        let mut payloads = BTreeMap::new();
        for row in unit.tx.fetch(&jobs::PAYLOADS, params![asked]).await? {
            payloads.insert(JobId::from(row.uuid("id")?), row::lenient_json(&row, "payload")?.unwrap_or_default());
        }
        let (mut notices, mut written) = (Vec::new(), Vec::new());
        for row in &rows {
            let Some(question) = questions.get(&row.job.id) else { continue };
            let payload = payloads.remove(&row.job.id).unwrap_or_default();
            // What was not delivered yet needs no repetition.
            let notice = (row.job.state == JobState::AwaitingAnswer).then(|| reminder(row, payload)).flatten();
            written.push(ReminderRow { id: question.id.uuid(), step: notice.is_some().into() });
            notices.extend(notice.map(|notice| make_plain(&mut unit, &notice, None)));
        }
        unit.insert(&notices).await?;
        let next = now.plus(Duration::from_secs(every_seconds.into()));
        unit.tx.execute(&statement::REMIND_QUESTIONS, params![batch(&written), next]).await?;
        Ok((notices.len(), unit.commit().await?))
    }
}

/// The question once more, to whom it went. `None`: it can't be read.
fn reminder(row: &JobRow, payload: Value) -> Option<NewJob> {
    let asked: MessagePayload = serde_json::from_value(payload).ok()?;
    let notice = MessagePayload { message: text::reminder(&asked.message), ..asked };
    Some(follow_up(row, JobId::new(), NOTICE, &notice, None))
}

/// Jobs that ask, locked, with their open questions by the job.
type Asking<D> = (Unit<D>, Vec<JobRow>, BTreeMap<JobId, Question>);

impl<D: Dialect> SqlStore<D> {
    /// Locks the jobs that were found, but for those that others hold, and reads their questions under that lock. `None`: none.
    async fn hold_asking(&self, found: &[D::Row], now: Timestamp) -> Result<Option<Asking<D>>, StoreError> {
        let ids: Vec<JobId> = found.iter().map(|row| row.uuid("job_id").map(Into::into)).collect::<Result<_, _>>()?;
        if ids.is_empty() {
            return Ok(None);
        }
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions_of(&ids).await?;
        let (ended, rows): (Vec<_>, Vec<_>) =
            unit.lock_free_jobs(&ids).await?.into_iter().partition(|row| row.job.state.is_terminal());
        // Ended by a process that knows nothing of questions.
        unit.left.askers.extend(ended.iter().map(|row| row.job.id));
        let held = id_rows(rows.iter().map(|row| row.job.id.uuid()));
        let mut questions = BTreeMap::new();
        for row in unit.tx.fetch(&statement::QUESTIONS_OF_JOBS, params![held]).await? {
            let question = read(&row)?;
            if question.state == QuestionState::Open {
                questions.insert(question.job_id, question);
            }
        }
        Ok(Some((unit, rows, questions)))
    }
}

pub(super) fn read(row: &impl SqlRow) -> Result<Question, StoreError> {
    Ok(Question {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        board_id: row.uuid("board_id")?.into(),
        job_id: row.uuid("job_id")?.into(),
        agent_id: row.opt_uuid("agent_id")?.map(Into::into),
        content: row.text("content")?,
        correlation_id: row.opt_text("correlation_id")?,
        reply_tags: serde_json::from_str(&row.text("reply_tags")?).unwrap_or_default(),
        reply_source: row.text("reply_source")?,
        answer_schema: row::lenient_json(row, "answer_schema")?,
        state: row::parse(row, "state")?,
        answer: row::lenient_json(row, "answer")?,
        answered_by: row.opt_text("answered_by")?,
        memory_id: row.opt_uuid("memory_id")?.map(Into::into),
        reminders: row::number(row, "reminders")?,
        remind_at: row::opt_at(row, "remind_at")?,
        expires_at: row::at(row, "expires_at")?,
        created_at: row::at(row, "created_at")?,
        ended_at: row::opt_at(row, "ended_at")?,
    })
}
