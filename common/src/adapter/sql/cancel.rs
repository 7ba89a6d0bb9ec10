//! Cancellation, in any state.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    SqlStore, approval,
    dialect::{Dialect, SqlRow, SqlTx, params},
    effect, family, line,
    row::{self, JobRow},
    statement,
    unit::Unit,
};
use crate::{
    domain::{Change, EventType, Failure, FailureClass, JobState, NewEvent, Role},
    port::{
        StoreError,
        store::{CancelRequest, CancelResult, Consequences, Interruption},
    },
};

/// What is said about a cancellation.
pub(super) struct Reason {
    pub code: String,
    pub message: String,
}

impl Reason {
    /// Said to the task that gives way to another.
    pub(super) fn interrupted(by: Interruption) -> Self {
        let (code, message) = match by {
            Interruption::Task => ("USER_INTERRUPT", "Interrupted by a new task"),
            Interruption::Inject => ("USER_INJECT", "Interrupted by user injection"),
            Interruption::Voice => ("VOICE_INJECT", "Interrupted by voice message"),
        };
        Self { code: code.to_owned(), message: message.to_owned() }
    }

    /// Said to a task one of whose tool calls was refused, and itself with it.
    pub(super) fn rejected() -> Self {
        Self { code: "USER_REJECT".to_owned(), message: "Command rejected by user".to_owned() }
    }

    /// Said to the children of a job whose deadline has passed.
    pub(super) fn parent_overdue() -> Self {
        Self {
            code: "PARENT_TIMEOUT".to_owned(),
            message: "The deadline of the job it belongs to has passed".to_owned(),
        }
    }
}

/// Cancels a locked job that has not ended: its text so far to the history, what it asks withdrawn, then event and state. A holder keeps its lease
/// until it has released the job, and is told to stop. The caller saves the row.
pub(super) async fn cancel_row<D: Dialect>(
    unit: &mut Unit<D>,
    row: &mut JobRow,
    reason: &Reason,
    marker: &str,
) -> Result<(), StoreError> {
    let Reason { code, message } = reason;
    let partial = shown_text(unit, row).await?;
    if !partial.is_empty() {
        unit.say(row, Role::Assistant, partial + marker);
    }
    approval::close(unit, row).await?;
    let mut data = json!({"message": message, "code": code});
    if row.claim > 0 && effect::any_in_doubt(unit, row.job.id).await? {
        data["effect_unknown"] = true.into();
    }
    unit.emit(row, NewEvent::new(EventType::Cancelled, data));
    row.job.failure = Some(Failure {
        class: FailureClass::Cancelled,
        code: code.clone(),
        message: message.clone(),
        attempt: row.job.attempt,
    });
    unit.end(row, Change::Cancel);
    unit.stop_holder(row);
    Ok(())
}

/// The text that watchers were shown and that was not retracted.
pub(super) async fn shown_text<D: Dialect>(unit: &mut Unit<D>, row: &JobRow) -> Result<String, StoreError> {
    let Some(from) = row.text_from else { return Ok(String::new()) };
    let mut shown: Vec<(i64, String)> = Vec::new();
    for event in unit.tx.fetch(&statement::TEXT, params![row.job.id.uuid(), from]).await? {
        let data: Value = serde_json::from_str(&event.text("data")?).unwrap_or_default();
        if event.text("type")? == EventType::TextRetracted.as_str() {
            let from = data["from_seq"].as_i64().unwrap_or_default();
            shown.retain(|(seq, _)| *seq < from);
        } else {
            shown.push((event.int("seq")?, data["content"].as_str().unwrap_or_default().to_owned()));
        }
    }
    Ok(shown.into_iter().map(|(_, text)| text).collect())
}

impl<D: Dialect> SqlStore<D> {
    pub(super) async fn cancel_job(
        &self,
        request: CancelRequest,
    ) -> Result<Option<(CancelResult, Consequences)>, StoreError> {
        let seen = self.dialect.read(&statement::JOB, params![request.tenant, request.id.uuid()]).await?;
        let Some(seen) = seen.first().map(row::job_row).transpose()? else { return Ok(None) };
        let mut unit = Unit::begin(&self.dialect, request.now).await?;
        let reason = Reason { code: request.code, message: request.message };
        let mut rows = if seen.job.state == JobState::AwaitingChildren {
            let parent = family::cancel_children(&mut unit, request.id, &reason, &self.interrupted_marker).await?;
            Vec::from_iter(parent)
        } else {
            unit.lock_sessions(seen.job.session_id).await?;
            unit.lock_jobs([request.id]).await?
        };
        let Some(row) = rows.first_mut() else { return Ok(None) };
        if row.job.state.is_terminal() {
            row.job.payload = seen.job.payload;
            return Ok(Some((CancelResult::AlreadyTerminal(Box::new(row.job.clone())), Consequences::default())));
        }
        cancel_row(&mut unit, row, &reason, &self.interrupted_marker).await?;
        unit.save(&mut rows).await?;
        line::free_next(&mut unit, BTreeSet::from_iter(seen.job.session_id)).await?;
        let consequences = unit.commit().await?;
        let mut job = rows.swap_remove(0).job;
        job.payload = seen.job.payload;
        Ok(Some((CancelResult::Cancelled(Box::new(job)), consequences)))
    }
}
