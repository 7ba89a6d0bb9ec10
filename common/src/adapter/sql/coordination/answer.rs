//! Answers: the first valid one ends its question and the job that asks, and goes to the agent that asked.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    agent, board,
    question::{read, say},
};
use crate::{
    adapter::sql::{
        dialect::{Dialect, SqlTx, params},
        row::JobRow,
        statement::coordination as statement,
        submit::make_plain,
        unit::Unit,
    },
    domain::{
        Change, EventType, JobId, MemoryId, NewEvent,
        coordination::{Agent, Board, Question, QuestionState, Told, schema::Unfit, text},
    },
    port::{
        StoreError,
        store::{NewCoordination, NewJob, Window},
    },
    wire::coordination::{MessagePayload, NUDGE, Recipient, VERSION},
};

/// How long it is tried to tell of an answer, or to remind of a question.
const WINDOW: Window = Window { length: Duration::from_secs(600), from_send: false };

/// What became of an answer.
pub(super) enum Resolved {
    /// It won.
    Won(Question),
    /// The question had ended.
    Late(Question),
    /// It does not follow the schema.
    Unfit(Unfit),
}

/// Answers a question that was seen, if it still waits: locks its job, ends both, and has the asking agent told.
pub(super) async fn resolve<D: Dialect>(
    unit: &mut Unit<D>,
    seen: Question,
    said: &Value,
    by: &str,
    memory: Option<MemoryId>,
) -> Result<Resolved, StoreError> {
    unit.lock_sessions_of(&[seen.job_id]).await?;
    let Some(mut row) = unit.lock_jobs([seen.job_id]).await?.pop() else { return Ok(Resolved::Late(seen)) };
    let found = unit.tx.fetch(&statement::QUESTION, params![seen.tenant.as_str(), seen.id.uuid()]).await?;
    let Some(mut question) = found.first().map(read).transpose()? else { return Ok(Resolved::Late(seen)) };
    if question.state == QuestionState::Open && question.expires_at <= unit.now {
        // The sweep is about to say so.
        question.state = QuestionState::Expired;
        return Ok(Resolved::Late(question));
    }
    if question.state != QuestionState::Open || Change::Answer.apply(row.job.state).is_err() {
        return Ok(Resolved::Late(question));
    }
    if question.expires_at <= unit.now {
        // Its time is over; the sweep that ends it comes any moment.
        question.state = QuestionState::Expired;
        return Ok(Resolved::Late(question));
    }
    let answer = match question.accept(said) {
        Ok(answer) => answer,
        Err(unfit) => return Ok(Resolved::Unfit(unfit)),
    };
    let values = params![question.id.uuid(), answer.to_string(), by, memory.map(MemoryId::uuid), unit.now];
    unit.tx.execute(&statement::ANSWER_QUESTION, values).await?;
    question.state = QuestionState::Answered;
    question.answered_by = Some(by.to_owned());
    question.memory_id = memory;
    question.ended_at = Some(unit.now);

    let mut data = json!({
        "question_id": question.id, "board_id": question.board_id, "answer": answer, "answered_by": by,
    });
    if let Some(memory) = memory {
        data["memory_id"] = json!(memory);
    }
    say(unit, &mut row, question.board_id, NewEvent::new(EventType::QuestionAnswered, data));
    let board = board::see(&mut unit.tx, &question.tenant, question.board_id).await?;
    let main = match board.as_ref().and_then(|board| board.gateway_id) {
        Some(gateway) => agent::see_main(&mut unit.tx, &question.tenant, gateway).await?,
        None => None,
    };
    let result = json!({
        "ok": true, "board_id": question.board_id, "main_agent_id": main.as_ref().map(|main| main.id),
        "main_agent_name": main.map(|main| main.name), "question_id": question.id, "answer": answer, "answered_by": by,
    });
    unit.emit(&mut row, NewEvent::new(EventType::Completed, result.clone()));
    row.job.result = Some(result);
    row.job.failure = None;
    unit.end(&mut row, Change::Answer);
    // Its delivery may be under way: whoever makes it keeps the lease until it lets go.
    unit.stop_holder(&row);
    let asker = match question.agent_id {
        Some(id) => agent::see(&mut unit.tx, &question.tenant, id).await?,
        None => None,
    };
    if let (Some(asker), Some(board)) = (asker, board) {
        let nudge = make_plain(unit, &nudge(&row, &question, &asker, &board, &answer), None);
        unit.insert(&[nudge]).await?;
    }
    unit.save(&mut [row]).await?;
    question.answer = Some(answer);
    Ok(Resolved::Won(question))
}

/// Brings an answer to the agent that asked.
fn nudge(row: &JobRow, question: &Question, asker: &Agent, board: &Board, answer: &Value) -> NewJob {
    let id = JobId::new();
    let trace_id = text::trace_id("coord.nudge", question.correlation_id.as_deref(), id);
    let told = Told {
        agent_id: None,
        board_id: Some(board.id),
        trace_id: trace_id.clone(),
        done: Some(("agent.nudge.sent".to_owned(), format!("Nudge sent to {}.", asker.name))),
        failed: Some(("agent.nudge.failed".to_owned(), format!("Nudge failed for {}: ", asker.name))),
    };
    let payload = MessagePayload {
        recipient: Recipient::Agent { agent_id: asker.id },
        board_id: Some(board.id),
        message: text::user_answer(board, question.id, question.correlation_id.as_deref(), answer),
        deliver: true,
        question_id: None,
        trace_id,
        actor_id: None,
    };
    follow_up(row, id, NUDGE, &payload, Some(told))
}

/// A message that follows from a job that asks.
pub(super) fn follow_up(row: &JobRow, id: JobId, kind: &str, payload: &MessagePayload, told: Option<Told>) -> NewJob {
    NewJob {
        id,
        tenant: row.job.tenant.clone(),
        kind: kind.to_owned(),
        queue: row.job.queue.clone(),
        priority: row.job.priority,
        payload: serde_json::to_value(payload).unwrap_or_default(),
        payload_version: VERSION,
        retry: row.job.retry,
        timeout_ms: row.job.timeout_ms,
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: None,
        retry_of: None,
        user_id: row.job.user_id.clone(),
        task: None,
        dedup: None,
        children: Vec::new(),
        coordination: Some(NewCoordination { told, window: Some(WINDOW), question: None, broadcast: None }),
        webhook: None,
        trace: Some(row.job.trace_context()),
    }
}
