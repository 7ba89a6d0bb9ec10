//! What a run asks about tool calls: what was decided before answers, the rest waits.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    approval::read,
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    row::JobRow,
    statement,
    unit::{Unit, id_rows},
};
use crate::{
    domain::{Approval, ApprovalId, Change, Decision, EventType, JobState, NewEvent, SessionId, Timestamp, ToolCall},
    port::{
        StoreError,
        store::{Ask, Asked},
    },
};

#[derive(Serialize)]
struct ApprovalRow {
    id: Uuid,
    tenant: String,
    job_id: Uuid,
    session_id: Option<Uuid>,
    claim: i64,
    ordinal: i64,
    call_id: String,
    tool: String,
    input: String,
    fingerprint: String,
    at: i64,
    expires_at: i64,
}

/// A decision that answers an equal question of a later claim.
#[derive(Serialize)]
struct TakenRow {
    id: Uuid,
    claim: i64,
    taken_by: Uuid,
}

#[derive(Serialize)]
struct FingerprintRow {
    fingerprint: String,
}

#[derive(Serialize)]
struct ToolRow<'a> {
    tool: &'a str,
}

/// Answers what is decided and keeps the rest. The job is held, and the fence was accepted; the caller saves its row.
pub(super) async fn answer<D: Dialect>(
    unit: &mut Unit<D>,
    row: &mut JobRow,
    asks: Vec<Ask>,
    expires_at: Timestamp,
) -> Result<Asked, StoreError> {
    let job = row.job.id.uuid();
    let ids: Vec<_> = asks.iter().map(|ask| ask.id).collect();
    let params = params![id_rows(ids.iter().map(|id| id.uuid())), job];
    let known = by_question(&unit.tx.fetch(&statement::ASKED_APPROVALS, params).await?, &ids)?;
    let fresh: Vec<&Ask> = asks.iter().filter(|ask| !known.contains_key(&ask.id)).collect();
    let mut recorded = recorded(unit, row, &fresh).await?;
    let granted = granted(unit, row.job.session_id, &fresh).await?;
    let last = unit.tx.fetch(&statement::LAST_APPROVAL, params![job]).await?;
    let mut ordinal = last.first().map(|row| row.int("ordinal")).transpose()?.unwrap_or(0);

    let (mut waiting, mut taken) = (Vec::new(), Vec::new());
    let mut decisions = Vec::with_capacity(asks.len());
    for ask in &asks {
        let decision = if let Some(approval) = known.get(&ask.id) {
            approval.decision()
        } else if let Some(former) = recorded.get_mut(&ask.call.fingerprint()).and_then(VecDeque::pop_front) {
            taken.push(TakenRow { id: former.id.uuid(), claim: row.claim, taken_by: ask.id.uuid() });
            former.decision()
        } else if granted.contains(&ask.call.tool) {
            Some(Decision::Allow)
        } else {
            ordinal += 1;
            waiting.push(new_row(unit, row, ask, ordinal, expires_at));
            unit.emit(row, NewEvent::new(EventType::ApprovalRequired, question(ask.id, &ask.call, expires_at)));
            None
        };
        decisions.push((ask.id, decision));
    }
    if !taken.is_empty() {
        unit.tx.execute(&statement::TAKE_APPROVALS, params![batch(&taken)]).await?;
    }
    if !waiting.is_empty() {
        unit.tx.execute(&statement::INSERT_APPROVALS, params![batch(&waiting)]).await?;
        if row.job.state == JobState::Running {
            row.change(Change::AwaitApproval).expect("a running job may ask");
        }
    }
    Ok(Asked { decisions })
}

/// The approvals found, by the question that asked each, or that took its decision over.
pub(super) fn by_question(
    rows: &[impl SqlRow],
    questions: &[ApprovalId],
) -> Result<HashMap<ApprovalId, Approval>, StoreError> {
    let questions: BTreeSet<_> = questions.iter().copied().collect();
    let mut found = HashMap::new();
    for row in rows {
        let approval = read(row)?;
        let taken_by = row.opt_uuid("taken_by")?.map(ApprovalId::from).filter(|id| questions.contains(id));
        found.insert(taken_by.unwrap_or(approval.id), approval);
    }
    Ok(found)
}

/// What former claims of the job were told about equal calls, in the order asked. Each answers one call.
async fn recorded<D: Dialect>(
    unit: &mut Unit<D>,
    row: &JobRow,
    fresh: &[&Ask],
) -> Result<HashMap<String, VecDeque<Approval>>, StoreError> {
    let mut found: HashMap<String, VecDeque<Approval>> = HashMap::new();
    if fresh.is_empty() || row.claim <= 1 {
        return Ok(found);
    }
    let wanted: Vec<_> = fresh.iter().map(|ask| FingerprintRow { fingerprint: ask.call.fingerprint() }).collect();
    let params = params![batch(&wanted), row.job.id.uuid(), row.claim];
    for row in unit.tx.fetch(&statement::RECORDED_APPROVALS, params).await? {
        found.entry(row.text("fingerprint")?).or_default().push_back(read(&row)?);
    }
    Ok(found)
}

/// Those of the tools asked for that were approved for the session. Its row is locked, so no grant comes in between.
async fn granted<D: Dialect>(
    unit: &mut Unit<D>,
    session: Option<SessionId>,
    fresh: &[&Ask],
) -> Result<HashSet<String>, StoreError> {
    let Some(session) = session.filter(|_| !fresh.is_empty()) else { return Ok(HashSet::new()) };
    let tools: BTreeSet<_> = fresh.iter().map(|ask| ask.call.tool.as_str()).collect();
    let tools: Vec<_> = tools.into_iter().map(|tool| ToolRow { tool }).collect();
    let rows = unit.tx.fetch(&statement::GRANTED_TOOLS, params![batch(&tools), session.uuid()]).await?;
    rows.iter().map(|row| row.text("tool")).collect()
}

fn new_row<D: Dialect>(unit: &Unit<D>, row: &JobRow, ask: &Ask, ordinal: i64, expires_at: Timestamp) -> ApprovalRow {
    ApprovalRow {
        id: ask.id.uuid(),
        tenant: row.job.tenant.clone(),
        job_id: row.job.id.uuid(),
        session_id: row.job.session_id.map(SessionId::uuid),
        claim: row.claim,
        ordinal,
        call_id: ask.call.id.clone(),
        tool: ask.call.tool.clone(),
        input: ask.call.input.to_string(),
        fingerprint: ask.call.fingerprint(),
        at: unit.now.micros(),
        expires_at: expires_at.micros(),
    }
}

/// What `approval_required` says.
fn question(id: ApprovalId, call: &ToolCall, expires_at: Timestamp) -> serde_json::Value {
    json!({
        "approvalId": id, "toolName": call.tool, "toolInput": call.input, "toolUseId": call.id, "expiresAt": expires_at,
    })
}
