//! How endpoints do: what the ends of deliveries' runs say of them. Endpoints are locked last of all, by id.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{Fact, endpoint};
use crate::{
    adapter::sql::{
        coordination,
        dialect::{Dialect, SqlRow, SqlTx, batch, params},
        row,
        statement::webhook as statement,
        unit::{Unit, id_rows},
    },
    domain::{
        Timestamp,
        coordination::NewActivity,
        webhook::{DISABLED, WebhookEndpoint, WebhookState},
    },
    port::{StoreError, store::Outcome},
    wire::webhook::{ENDPOINT_DISABLED, ENDPOINT_REMOVED, FAILING_TOO_LONG, GONE},
};

/// What the end of a run says of the endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Attempt {
    /// It does not take what it is sent.
    Failed,
    /// It must not be sent anything more.
    Final(&'static str),
    /// It took it.
    Delivered,
}

impl Attempt {
    /// `None`: nothing.
    pub(super) fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Completed { .. } => Some(Self::Delivered),
            Outcome::Retry { failure, .. } | Outcome::Failed { failure } => match failure.code.as_str() {
                GONE => Some(Self::Final("it answered 410: it is gone")),
                FAILING_TOO_LONG => Some(Self::Final("it failed for too long")),
                ENDPOINT_DISABLED | ENDPOINT_REMOVED | "NOT_SENT" | "INVALID_PAYLOAD" => None,
                _ => Some(Self::Failed),
            },
            _ => None,
        }
    }

    /// What it changes; `None`: nothing.
    fn change(self, state: WebhookState, failing_since: Option<Timestamp>, now: Timestamp) -> Option<Change> {
        match self {
            Self::Delivered if failing_since.is_some() => Some(Change::Recovers),
            Self::Failed if failing_since.is_none() => Some(Change::BeginsToFail(now)),
            Self::Final(why) if state == WebhookState::Enabled => Some(Change::Ends(why)),
            _ => None,
        }
    }
}

enum Change {
    Recovers,
    BeginsToFail(Timestamp),
    Ends(&'static str),
}

#[derive(Serialize)]
struct HealthRow {
    id: Uuid,
    state: WebhookState,
    disabled_why: Option<String>,
    failing_since: Option<i64>,
    updated_at: i64,
}

/// Writes down what attempts said of their endpoints. Where that is nothing new, nothing is locked.
pub(super) async fn judge<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    let attempts = std::mem::take(&mut unit.to_tell.attempts);
    if attempts.is_empty() {
        return Ok(());
    }
    let by_delivery: BTreeMap<Uuid, Attempt> = attempts.into_iter().map(|(id, attempt)| (id.uuid(), attempt)).collect();
    let ids = id_rows(by_delivery.keys().copied());
    let mut said: BTreeMap<Uuid, Attempt> = BTreeMap::new();
    for row in unit.tx.fetch(&statement::ENDPOINTS_OF, params![ids]).await? {
        let Some(attempt) = by_delivery.get(&row.uuid("delivery")?) else { continue };
        let (state, since) = (row::parse(&row, "state")?, row::opt_at(&row, "failing_since")?);
        if attempt.change(state, since, unit.now).is_some() {
            // Of several, a success weighs most, and an end more than a failure.
            let known = said.entry(row.uuid("id")?).or_insert(*attempt);
            *known = (*known).max(*attempt);
        }
    }
    if said.is_empty() {
        return Ok(());
    }
    let (mut saved, mut disabled) = (Vec::new(), Vec::new());
    for row in unit.tx.fetch(&statement::LOCK_ENDPOINTS, params![id_rows(said.keys().copied())]).await? {
        let mut endpoint = endpoint::read(&row)?;
        let attempt = said.get(&endpoint.id.uuid());
        let change = attempt.and_then(|attempt| attempt.change(endpoint.state, endpoint.failing_since, unit.now));
        match change {
            None => continue,
            Some(Change::Recovers) => endpoint.failing_since = None,
            Some(Change::BeginsToFail(now)) => endpoint.failing_since = Some(now),
            Some(Change::Ends(why)) => {
                endpoint.state = WebhookState::Disabled;
                endpoint.disabled_why = Some(why.to_owned());
                endpoint.updated_at = unit.now;
                disabled.push(endpoint.clone());
            }
        }
        saved.push(HealthRow {
            id: endpoint.id.uuid(),
            state: endpoint.state,
            disabled_why: endpoint.disabled_why,
            failing_since: endpoint.failing_since.map(Timestamp::micros),
            updated_at: endpoint.updated_at.micros(),
        });
    }
    if !saved.is_empty() {
        unit.tx.execute(&statement::SAVE_HEALTH, params![batch(&saved)]).await?;
    }
    for endpoint in disabled.into_iter().filter(|endpoint| !endpoint.for_jobs) {
        announce(unit, endpoint).await?;
    }
    Ok(())
}

/// Tells the tenant's other endpoints, and the audit.
async fn announce<D: Dialect>(unit: &mut Unit<D>, endpoint: WebhookEndpoint) -> Result<(), StoreError> {
    let why = endpoint.disabled_why.unwrap_or_default();
    let line = NewActivity {
        event_type: DISABLED.to_owned(),
        message: format!("Webhook endpoint {} was disabled: {why}", endpoint.id),
        agent_id: None,
        board_id: None,
        trace_id: None,
    };
    coordination::note(unit, &endpoint.tenant, line).await?;
    let data = json!({
        "endpoint_id": endpoint.id, "description": endpoint.description, "reason": why,
        "failing_since": endpoint.failing_since,
    });
    unit.to_tell.facts.push(Fact { tenant: endpoint.tenant, event: DISABLED, job: None, data: Some(data) });
    Ok(())
}
