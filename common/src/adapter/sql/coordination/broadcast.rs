//! Broadcasts: a message to the leads of a gateway's boards, which are chosen in the transaction that makes them.

use serde_json::{Value, json};
use uuid::Uuid;

use super::board;
use crate::{
    adapter::sql::{
        dialect::{Dialect, SqlRow, SqlTx, params},
        row::{self, JobRow},
        statement::coordination as statement,
        unit::{Unit, id_rows},
    },
    domain::{
        BoardId, Change, EventType, JobId, JobState, NewEvent,
        coordination::{Board, Told, text::Frame},
    },
    port::{
        StoreError,
        store::{NewBroadcast, NewCoordination, NewJob, Refused},
    },
    wire::coordination::{MessagePayload, PROVISION_FAILED, Recipient},
};

/// Most bytes of all the messages of one broadcast.
const TEXT_BYTES: usize = 64 << 20;

/// The messages of a broadcast: one a board, newest board first.
pub(in crate::adapter::sql) async fn children<D: Dialect>(
    unit: &mut Unit<D>,
    new: &NewJob,
    broadcast: &NewBroadcast,
) -> Result<Result<Vec<NewJob>, Refused>, StoreError> {
    let (tenant, gateway) = (new.tenant.as_str(), broadcast.gateway_id.uuid());
    let limit = broadcast.limit.min(TEXT_BYTES / broadcast.message.content.len().max(1));
    let rows = if broadcast.board_ids.is_empty() {
        let page = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        unit.tx.fetch(&statement::BOARDS, params![tenant, Some(gateway), Uuid::max(), page]).await?
    } else {
        let ids = id_rows(broadcast.board_ids.iter().map(|id| id.uuid()));
        unit.tx.fetch(&statement::CHOSEN_BOARDS, params![ids, tenant, gateway]).await?
    };
    if rows.len() > limit {
        let counted = unit.tx.fetch(&statement::COUNT_BOARDS, params![tenant, gateway]).await?;
        let all = counted.first().map(|row| row.int("found")).transpose()?.unwrap_or(0);
        let all = usize::try_from(all).unwrap_or(usize::MAX);
        let found = if broadcast.board_ids.is_empty() { all } else { rows.len() };
        return Ok(Err(Refused::TooManyBoards { found, limit }));
    }
    let boards = rows.iter().map(board::read).collect::<Result<Vec<_>, _>>()?;
    let (trace_id, job_id) = (broadcast.message.trace_id.as_str(), new.id);
    tracing::debug!(trace_id, %job_id, boards = boards.len(), "gateway.coordination.lead_broadcast.start");
    Ok(Ok(boards.iter().map(|board| child(broadcast, board)).collect()))
}

fn child(broadcast: &NewBroadcast, board: &Board) -> NewJob {
    let message = &broadcast.message;
    let frame = Frame {
        base_url: &message.base_url,
        board,
        actor: &message.actor,
        correlation_id: message.correlation_id.as_deref(),
        reply_tags: &message.reply_tags,
        reply_source: &message.reply_source,
    };
    let payload = MessagePayload {
        recipient: Recipient::Lead { gateway_id: broadcast.gateway_id, board_id: board.id },
        board_id: Some(board.id),
        message: frame.to_lead(message.kind, &message.content),
        deliver: false,
        question_id: None,
        trace_id: message.trace_id.clone(),
        actor_id: message.actor_id,
    };
    let told = Told {
        agent_id: message.actor_id,
        board_id: Some(board.id),
        trace_id: message.trace_id.clone(),
        done: Some((
            "gateway.main.lead_message.sent".to_owned(),
            format!("Sent {} to lead for board: {}.", message.kind, board.name),
        )),
        failed: Some((
            "gateway.main.lead_message.failed".to_owned(),
            format!("Lead message failed for {}: ", board.name),
        )),
    };
    let window = broadcast.child.coordination.as_ref().and_then(|given| given.window);
    NewJob {
        id: JobId::new(),
        payload: serde_json::to_value(payload).unwrap_or_default(),
        coordination: Some(NewCoordination { told: Some(told), window, question: None, broadcast: None }),
        ..broadcast.child.clone()
    }
}

/// The result of a broadcast whose messages have all ended, in the order of their boards.
pub(in crate::adapter::sql) async fn result<D: Dialect>(unit: &mut Unit<D>, id: JobId) -> Result<Value, StoreError> {
    let rows = unit.tx.fetch(&statement::BROADCAST_CHILDREN, params![id.uuid()]).await?;
    let mut results = Vec::with_capacity(rows.len());
    let mut sent = 0;
    for row in &rows {
        let state = row::state(row)?;
        let board: Option<BoardId> = row.opt_text("board_id")?.and_then(|text| text.parse().ok());
        let told = row::lenient_json(row, "result")?.unwrap_or_default();
        let ok = state == JobState::Completed;
        sent += usize::from(ok);
        let error = (!ok).then(|| {
            let failure = row::failure(row, 0).ok().flatten();
            match failure {
                Some(failure) if failure.code == PROVISION_FAILED => failure.message,
                Some(failure) => format!("Gateway lead broadcast dispatch failed: {}", failure.message),
                None => format!("Gateway lead broadcast dispatch failed: {state}"),
            }
        });
        results.push(json!({
            "board_id": board, "lead_agent_id": told.get("lead_agent_id"), "lead_agent_name": told.get("lead_agent_name"),
            "ok": ok, "error": error,
        }));
    }
    Ok(body(sent, &results))
}

fn body(sent: usize, results: &[Value]) -> Value {
    let failed = results.len() - sent;
    json!({"ok": failed == 0, "sent": sent, "failed": failed, "results": results})
}

/// Ends a broadcast that was just made and has nobody to speak to. The caller saves the row.
pub(in crate::adapter::sql) fn end_empty<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow) {
    let result = body(0, &[]);
    unit.emit(row, NewEvent::new(EventType::Completed, result.clone()));
    row.job.result = Some(result);
    unit.end(row, Change::Complete);
}
