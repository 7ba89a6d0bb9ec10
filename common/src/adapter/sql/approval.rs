//! Tool calls that wait for a person. All of it happens under the lock of the job that asks.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    SqlStore, ask,
    cancel::{self, Reason},
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    engine_state, line,
    row::{self, JobRow},
    run::hand_back,
    statement,
    unit::{Unit, id_rows},
    usage,
};
use crate::{
    domain::{
        Approval, ApprovalId, ApprovalScope, ApprovalState, Change, Decision, EventType, Fence, JobId, JobState,
        NewEvent, Timestamp, ToolCall,
    },
    port::{
        StoreError,
        store::{Approvals, Ask, Asked, Consequences, Park, Parked, Ruled, Ruling, Stale, Stop, Verdict},
    },
};

/// Most approvals of a job that are shown.
const SHOWN: u32 = 1_000;

/// What was decided: the row of the `DECIDE_APPROVALS` batch.
#[derive(Serialize)]
struct DecisionRow {
    id: Uuid,
    state: &'static str,
    scope: &'static str,
    message: Option<String>,
    decided_by: Option<String>,
}

#[async_trait]
impl<D: Dialect> Approvals for SqlStore<D> {
    async fn ask(
        &self,
        fence: Fence,
        asks: Vec<Ask>,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(Result<Asked, Stale>, Consequences), StoreError> {
        let (mut unit, mut rows) = self.hold([fence], now).await?;
        let Some(mut row) = asking(rows.remove(&fence.job_id), &fence) else {
            return Ok((Err(Stale), Consequences::default()));
        };
        let asked = ask::answer(&mut unit, &mut row, asks, expires_at).await?;
        unit.save(&mut [row]).await?;
        Ok((Ok(asked), unit.commit().await?))
    }

    async fn decisions(&self, fence: Fence, ids: &[ApprovalId]) -> Result<Vec<Option<Decision>>, StoreError> {
        let params = params![id_rows(ids.iter().map(|id| id.uuid())), fence.job_id.uuid()];
        let known = ask::by_question(&self.dialect.read(&statement::ASKED_APPROVALS, params).await?, ids)?;
        Ok(ids.iter().map(|id| known.get(id).and_then(Approval::decision)).collect())
    }

    async fn rule(&self, verdict: Verdict) -> Result<Option<(Ruled, Consequences)>, StoreError> {
        let seen = self.dialect.read(&statement::JOB, params![verdict.tenant.as_str(), verdict.job_id.uuid()]).await?;
        let Some(seen) = seen.first().map(row::job_row).transpose()? else { return Ok(None) };
        let mut unit = Unit::begin(&self.dialect, verdict.now).await?;
        unit.lock_sessions(seen.job.session_id).await?;
        let Some(mut row) = unit.lock_jobs([verdict.job_id]).await?.pop() else { return Ok(None) };
        row.job.payload = seen.job.payload;
        if row.job.state != JobState::AwaitingApproval {
            return Ok(Some((Ruled::NotAwaiting(Box::new(row.job)), Consequences::default())));
        }
        let pending = pending(&mut unit, [row.job.id]).await?;
        let chosen = match (verdict.approval_id, pending.as_slice()) {
            (Some(id), _) => pending.iter().find(|approval| approval.id == id),
            (None, [only]) => Some(only),
            (None, []) => None,
            (None, _) => return Ok(Some((Ruled::Several(pending), Consequences::default()))),
        };
        let Some(chosen) = chosen.map(|approval| approval.id) else {
            return Ok(Some((Ruled::NotPending, Consequences::default())));
        };
        self.apply(&mut unit, &mut row, pending, chosen, &verdict).await?;
        let mut rows = [row];
        unit.save(&mut rows).await?;
        line::free_next(&mut unit, rows.iter().filter_map(|row| row.job.session_id).collect()).await?;
        let consequences = unit.commit().await?;
        let [row] = rows;
        Ok(Some((Ruled::Done(Box::new(row.job)), consequences)))
    }

    async fn withdraw(
        &self,
        fence: Fence,
        ids: &[ApprovalId],
        now: Timestamp,
    ) -> Result<(Result<(), Stale>, Consequences), StoreError> {
        let (mut unit, mut rows) = self.hold([fence], now).await?;
        let Some(mut row) = asking(rows.remove(&fence.job_id), &fence) else {
            return Ok((Err(Stale), Consequences::default()));
        };
        let (mut withdrawn, rest): (Vec<_>, Vec<_>) =
            pending(&mut unit, [fence.job_id]).await?.into_iter().partition(|approval| ids.contains(&approval.id));
        if withdrawn.is_empty() {
            return Ok((Ok(()), Consequences::default()));
        }
        withdrawn.iter_mut().for_each(|approval| approval.state = ApprovalState::Withdrawn);
        resolve(&mut unit, &mut row, &withdrawn).await?;
        if rest.is_empty() && row.job.state == JobState::AwaitingApproval {
            row.change(Change::ResumeWarm).expect("the state was checked");
        }
        unit.save(&mut [row]).await?;
        Ok((Ok(()), unit.commit().await?))
    }

    async fn park(&self, park: Park, now: Timestamp) -> Result<(Parked, Consequences), StoreError> {
        let (mut unit, mut rows) = self.hold([park.fence], now).await?;
        let Some(mut row) = asking(rows.remove(&park.fence.job_id), &park.fence) else {
            return Ok((Parked::Stale, Consequences::default()));
        };
        let reports = park.usage.map(|report| (&row, report));
        let spent = usage::keep(&mut unit, &Vec::from_iter(reports)).await?;
        for event in park.events.into_iter().chain(spent.into_values()) {
            unit.emit(&mut row, event);
        }
        let resumable = park.engine_state.is_some();
        if let Some(state) = park.engine_state {
            engine_state::keep(&mut unit, &park.fence, state).await?;
        }
        let_wait(&mut row, resumable);
        let parked = if row.job.state == JobState::AwaitingApproval {
            Parked::Done
        } else {
            hand_back(&mut unit, &mut row, "decided");
            Parked::Decided
        };
        unit.save(&mut [row]).await?;
        Ok((parked, unit.commit().await?))
    }

    async fn expire_approvals(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError> {
        let found = self.dialect.read(&statement::EXPIRING_APPROVALS, params![now, limit]).await?;
        let mut late = BTreeSet::new();
        let mut jobs = BTreeSet::new();
        for row in &found {
            late.insert(ApprovalId::from(row.uuid("id")?));
            jobs.insert(JobId::from(row.uuid("job_id")?));
        }
        if jobs.is_empty() {
            return Ok((0, Consequences::default()));
        }
        let jobs: Vec<_> = jobs.into_iter().collect();
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions_of(&jobs).await?;
        let mut rows = unit.lock_free_jobs(&jobs).await?;
        let mut open: HashMap<JobId, Vec<Approval>> = HashMap::new();
        for approval in pending(&mut unit, rows.iter().map(|row| row.job.id)).await? {
            open.entry(approval.job_id).or_default().push(approval);
        }
        rows.retain(|row| open.contains_key(&row.job.id));
        let mut count = 0;
        for row in &mut rows {
            let (mut expired, rest): (Vec<_>, Vec<_>) =
                open.remove(&row.job.id).into_iter().flatten().partition(|approval| late.contains(&approval.id));
            expired.iter_mut().for_each(|approval| approval.state = ApprovalState::Expired);
            count += expired.len();
            resolve(&mut unit, row, &expired).await?;
            if !expired.is_empty() {
                go_on(&mut unit, row, rest.is_empty()).await?;
            }
        }
        unit.save(&mut rows).await?;
        Ok((count, unit.commit().await?))
    }

    async fn approvals(&self, tenant: &str, job: JobId) -> Result<Vec<Approval>, StoreError> {
        let rows = self.dialect.read(&statement::APPROVALS, params![tenant, job.uuid(), SHOWN]).await?;
        rows.iter().map(read).collect()
    }
}

impl<D: Dialect> SqlStore<D> {
    /// Does what a person said about one of the job's pending calls.
    async fn apply(
        &self,
        unit: &mut Unit<D>,
        row: &mut JobRow,
        pending: Vec<Approval>,
        chosen: ApprovalId,
        verdict: &Verdict,
    ) -> Result<(), StoreError> {
        let tool = pending.iter().find(|approval| approval.id == chosen).map(|approval| approval.call.tool.clone());
        let for_session = verdict.ruling == Ruling::Approve(ApprovalScope::Session);
        // What is allowed from now on is allowed to those that wait already.
        let (mut decided, rest): (Vec<_>, Vec<_>) = pending
            .into_iter()
            .partition(|approval| approval.id == chosen || (for_session && Some(&approval.call.tool) == tool.as_ref()));
        for approval in &mut decided {
            approval.decided_by = Some(verdict.decided_by.clone());
            match &verdict.ruling {
                Ruling::Approve(scope) => {
                    approval.state = ApprovalState::Approved;
                    approval.scope = *scope;
                }
                Ruling::Deny { message } => {
                    approval.state = ApprovalState::Denied;
                    approval.message = Some(message.clone());
                }
                Ruling::Reject => approval.state = ApprovalState::Denied,
            }
        }
        resolve(unit, row, &decided).await?;
        if verdict.ruling == Ruling::Reject {
            return cancel::cancel_row(unit, row, &Reason::rejected(), &self.interrupted_marker).await;
        }
        go_on(unit, row, rest.is_empty()).await
    }
}

/// The row, if the fence is its holder's and its run may ask or be asking.
fn asking(row: Option<JobRow>, fence: &Fence) -> Option<JobRow> {
    row.filter(|row| row.accepts(fence))
        .filter(|row| matches!(row.job.state, JobState::Running | JobState::AwaitingApproval))
}

/// The calls of these jobs, which the unit has locked, that wait.
async fn pending<D: Dialect>(
    unit: &mut Unit<D>,
    jobs: impl IntoIterator<Item = JobId>,
) -> Result<Vec<Approval>, StoreError> {
    let ids = id_rows(jobs.into_iter().map(JobId::uuid));
    unit.tx.fetch(&statement::PENDING_APPROVALS, params![ids]).await?.iter().map(read).collect()
}

/// Writes what became of pending calls of one job, and says so. The caller saves the job's row.
async fn resolve<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, decided: &[Approval]) -> Result<(), StoreError> {
    if decided.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = decided
        .iter()
        .map(|approval| DecisionRow {
            id: approval.id.uuid(),
            state: approval.state.as_str(),
            scope: approval.scope.as_str(),
            message: approval.message.clone(),
            decided_by: approval.decided_by.clone(),
        })
        .collect();
    let written = unit.tx.execute(&statement::DECIDE_APPROVALS, params![batch(&rows), unit.now]).await?;
    if written != rows.len() as u64 {
        return Err(StoreError::Corrupt(format!("{} calls waited, but {written} were decided", rows.len())));
    }
    for approval in decided {
        let mut data = json!({"approvalId": approval.id, "state": approval.state});
        if approval.state == ApprovalState::Approved {
            data["scope"] = approval.scope.as_str().into();
        }
        if let Some(message) = &approval.message {
            data["message"] = message.as_str().into();
        }
        if let Some(by) = &approval.decided_by {
            data["decidedBy"] = by.as_str().into();
        }
        unit.emit(row, NewEvent::new(EventType::ApprovalResolved, data));
    }
    Ok(())
}

/// Something was decided: a holder is told. With the last decision the job goes on.
async fn go_on<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, was_last: bool) -> Result<(), StoreError> {
    // A holder whose lease has passed is gone, whether or not a sweep has said so.
    let holder = row.job.worker_id.filter(|_| row.job.lease_until.is_some_and(|until| until >= unit.db_now));
    if let Some(worker_id) = holder {
        unit.consequences.decided.push(Stop { worker_id, job_id: row.job.id, claim: row.claim });
    }
    if !was_last || row.job.state != JobState::AwaitingApproval {
        return Ok(());
    }
    if holder.is_some() {
        row.change(Change::ResumeWarm).expect("the state was checked");
        row.waited_until = row.job.lease_until;
    } else {
        if row.job.lease_until.is_some() {
            usage::lost(unit, std::slice::from_mut(row)).await?;
        }
        let_go(unit, row);
        row.change(Change::ResumeParked).expect("the state was checked");
        row.job.run_at = unit.now;
        unit.queue(row);
    }
    Ok(())
}

/// The holder lets go of a job that waits. With what its engine needs to go on, what was said so far stands.
pub(super) fn let_wait(row: &mut JobRow, resumable: bool) {
    row.end_lease();
    if resumable {
        row.parked_seq = Some(row.job.tail_seq);
    }
}

/// Ends the lease of a holder that was lost while its job waited: no attempt is spent, and the job waits on.
pub(super) fn let_go<D: Dialect>(unit: &Unit<D>, row: &mut JobRow) {
    if row.job.lease_until.is_some() {
        row.end_lease();
        row.cut_off_at = Some(unit.now);
    }
}

/// The run is about to end without waiting for what it asks.
pub(super) async fn end_wait<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow) -> Result<(), StoreError> {
    if row.job.state == JobState::AwaitingApproval {
        close(unit, row).await?;
        row.change(Change::ResumeWarm).expect("the state was checked");
    }
    Ok(())
}

/// Closes what a job asks that is about to end. Plain jobs pay nothing. The
/// caller saves the row.
pub(super) async fn close<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow) -> Result<(), StoreError> {
    if row.job.state != JobState::AwaitingApproval {
        return Ok(());
    }
    let mut open = pending(unit, [row.job.id]).await?;
    open.iter_mut().for_each(|approval| approval.state = ApprovalState::Withdrawn);
    resolve(unit, row, &open).await
}

pub(super) fn read(row: &impl SqlRow) -> Result<Approval, StoreError> {
    Ok(Approval {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        job_id: row.uuid("job_id")?.into(),
        session_id: row.opt_uuid("session_id")?.map(Into::into),
        call: ToolCall {
            id: row.text("call_id")?,
            tool: row.text("tool")?,
            input: row::lenient_json(row, "input")?.unwrap_or_default(),
        },
        state: row::parse(row, "state")?,
        scope: row::parse(row, "scope")?,
        message: row.opt_text("message")?,
        decided_by: row.opt_text("decided_by")?,
        created_at: row::at(row, "created_at")?,
        expires_at: row::at(row, "expires_at")?,
        decided_at: row::opt_at(row, "decided_at")?,
    })
}
