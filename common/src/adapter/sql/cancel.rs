//! Cancellation, in any state.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, params},
    effect, line,
    row::{self, JobRow},
    statement,
    unit::Unit,
};
use crate::{
    domain::{Change, EventType, Failure, FailureClass, NewEvent, Role},
    port::{
        StoreError,
        store::{CancelRequest, CancelResult, Consequences},
    },
};

/// What is said about a cancellation.
pub(super) struct Reason {
    pub code: String,
    pub message: String,
}

impl Reason {
    pub(super) fn interrupted() -> Self {
        Self { code: "USER_INTERRUPT".to_owned(), message: "Interrupted by a new task".to_owned() }
    }
}

/// Cancels a locked job that has not ended: its text so far to the history, then event and state. A holder keeps its lease
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
    let mut data = json!({"message": message, "code": code});
    if row.claim > 0 && effect::any_in_doubt(unit, row.job.id).await? {
        data["effect_unknown"] = true.into();
    }
    unit.emit(row, NewEvent::new(EventType::Cancelled, data));
    unit.end(row, Change::Cancel);
    row.job.failure = Some(Failure {
        class: FailureClass::Cancelled,
        code: code.clone(),
        message: message.clone(),
        attempt: row.job.attempt,
    });
    unit.stop_holder(row);
    Ok(())
}

/// The text that watchers were shown and that was not retracted.
async fn shown_text<D: Dialect>(unit: &mut Unit<D>, row: &JobRow) -> Result<String, StoreError> {
    let Some(from) = row.text_from else { return Ok(String::new()) };
    let mut text = String::new();
    for event in unit.tx.fetch(&statement::TEXT, params![row.job.id.uuid(), from]).await? {
        let data: Value = serde_json::from_str(&event.text("data")?).unwrap_or_default();
        text.push_str(data["content"].as_str().unwrap_or_default());
    }
    Ok(text)
}

impl<D: Dialect> SqlStore<D> {
    pub(super) async fn cancel_job(
        &self,
        request: CancelRequest,
    ) -> Result<Option<(CancelResult, Consequences)>, StoreError> {
        let seen = self.dialect.read(&statement::JOB, params![request.tenant, request.id.uuid()]).await?;
        let Some(seen) = seen.first().map(row::job_row).transpose()? else { return Ok(None) };
        let mut unit = Unit::begin(&self.dialect, request.now).await?;
        unit.lock_sessions(seen.job.session_id).await?;
        let mut rows = unit.lock_jobs([request.id]).await?;
        let Some(row) = rows.first_mut() else { return Ok(None) };
        if row.job.state.is_terminal() {
            row.job.payload = seen.job.payload;
            return Ok(Some((CancelResult::AlreadyTerminal(Box::new(row.job.clone())), Consequences::default())));
        }
        let reason = Reason { code: request.code, message: request.message };
        cancel_row(&mut unit, row, &reason, &self.interrupted_marker).await?;
        unit.save(&mut rows).await?;
        line::free_next(&mut unit, BTreeSet::from_iter(seen.job.session_id)).await?;
        let consequences = unit.commit().await?;
        let mut job = rows.swap_remove(0).job;
        job.payload = seen.job.payload;
        Ok(Some((CancelResult::Cancelled(Box::new(job)), consequences)))
    }
}
