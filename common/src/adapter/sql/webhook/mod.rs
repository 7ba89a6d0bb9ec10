//! Webhooks: what other transactions leave to be told is collected in [`ToTell`], and written by [`settle`] as part of the
//! commit, so that no way to end a job can forget it. Transactions that tell nothing read nothing here; those that end jobs
//! read once who listens, by index.

mod deliver;
mod endpoint;
mod health;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    row::{self, JobRow},
    statement::webhook as statement,
    unit::{Unit, id_rows},
};
use crate::{
    domain::{
        EventType, Job, JobId, NewEvent, WebhookEvent, WebhookEventId, WebhookId,
        webhook::{self, USAGE},
    },
    port::{
        StoreError,
        store::{NewWebhook, Outcome},
    },
    wire::webhook::KIND,
};
use deliver::NewDelivery;
use endpoint::EndpointRow;
use health::Attempt;

/// What a transaction has to tell before it commits.
#[derive(Default)]
pub(super) struct ToTell {
    facts: Vec<Fact>,
    /// Endpoints that jobs brought which are made here.
    targets: Vec<(JobId, EndpointRow)>,
    /// Runs of deliveries that ended here.
    attempts: Vec<(JobId, Attempt)>,
}

/// Something that happened.
struct Fact {
    tenant: String,
    event: &'static str,
    job: Option<JobId>,
    /// `None`: what the job's row says once it is saved.
    data: Option<Value>,
}

/// An endpoint, if an event is for it.
struct Listener {
    id: WebhookId,
    tenant: String,
    events: Vec<String>,
    /// It hears of this job alone, and of its end alone.
    job: Option<JobId>,
}

impl Listener {
    fn wants(&self, fact: &Fact) -> bool {
        match self.job {
            Some(job) => fact.job == Some(job) && fact.data.is_none(),
            None => self.tenant == fact.tenant && webhook::wants(&self.events, fact.event),
        }
    }
}

#[derive(Serialize)]
struct Interest<'a> {
    tenant: &'a str,
    job_id: Option<Uuid>,
}

/// A job and the one it repeats.
#[derive(Serialize)]
struct Heir {
    id: Uuid,
    original: Uuid,
}

#[derive(Serialize)]
struct TargetRow {
    job_id: Uuid,
    endpoint_id: Uuid,
}

impl ToTell {
    /// A job has ended. Nobody is told of deliveries: that would never end.
    pub(super) fn job_ended(&mut self, row: &JobRow) {
        let Some(event) = webhook::end_of(row.job.state).filter(|_| row.job.kind != KIND) else { return };
        self.facts.push(Fact { tenant: row.job.tenant.clone(), event, job: Some(row.job.id), data: None });
    }

    /// Something was said of a question.
    pub(super) fn question(&mut self, tenant: &str, job: JobId, said: &NewEvent) {
        let event = match said.kind {
            EventType::QuestionOpened => "question.opened",
            EventType::QuestionAnswered => "question.answered",
            EventType::QuestionExpired => "question.expired",
            EventType::QuestionCancelled => "question.cancelled",
            _ => return,
        };
        let mut data = said.data.clone();
        data["job_id"] = job.to_string().into();
        self.facts.push(Fact { tenant: tenant.to_owned(), event, job: Some(job), data: Some(data) });
    }

    /// What a run spent was recorded.
    pub(super) fn usage(&mut self, row: &JobRow, recorded: &NewEvent) {
        let mut data = recorded.data.clone();
        data["taskId"] = row.job.id.to_string().into();
        data["sessionId"] = row.job.session_id.map(|id| id.to_string()).into();
        data["userId"] = row.job.user_id.clone().into();
        let tenant = row.job.tenant.clone();
        self.facts.push(Fact { tenant, event: USAGE, job: Some(row.job.id), data: Some(data) });
    }

    /// A job that is made here brings an endpoint of its own.
    pub(super) fn target(&mut self, row: &JobRow, new: &NewWebhook) {
        let endpoint = EndpointRow::new(&row.job.tenant, new, true, row.job.created_at);
        self.targets.push((row.job.id, endpoint));
    }

    /// A run has ended like this.
    pub(super) fn run_ended(&mut self, row: &JobRow, outcome: &Outcome) {
        if row.job.kind == KIND {
            self.attempts.extend(Attempt::of(outcome).map(|attempt| (row.job.id, attempt)));
        }
    }
}

/// Gives jobs the endpoints of those they repeat; a delivery that is repeated goes where it went. Pairs of a job and the one it
/// repeats.
pub(super) async fn inherit<D: Dialect>(unit: &mut Unit<D>, pairs: &[(JobId, JobId)]) -> Result<(), StoreError> {
    if pairs.is_empty() {
        return Ok(());
    }
    let heirs: Vec<_> = pairs.iter().map(|(id, of)| Heir { id: id.uuid(), original: of.uuid() }).collect();
    unit.tx.execute(&statement::INHERIT_TARGETS, params![batch(&heirs)]).await?;
    unit.tx.execute(&statement::INHERIT_DELIVERIES, params![batch(&heirs), unit.now]).await.map(drop)
}

/// Forgets what was kept with jobs that were deleted.
pub(super) async fn forget(tx: &mut impl SqlTx, jobs: &[Uuid]) -> Result<(), StoreError> {
    tx.execute(&statement::DELETE_DELIVERIES, params![id_rows(jobs.iter().copied())]).await?;
    let named = tx.fetch(&statement::DELETE_TARGETS, params![id_rows(jobs.iter().copied())]).await?;
    let named = named.iter().map(|row| row.uuid("endpoint_id")).collect::<Result<BTreeSet<_>, _>>()?;
    if !named.is_empty() {
        tx.execute(&statement::DELETE_UNNAMED_ENDPOINTS, params![id_rows(named)]).await?;
    }
    Ok(())
}

/// Tells what is to be told. Jobs are saved; sessions, events and messages are not written yet.
pub(super) async fn settle<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    keep_targets(unit).await?;
    health::judge(unit).await?;
    tell(unit).await
}

async fn keep_targets<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    let targets = std::mem::take(&mut unit.to_tell.targets);
    if targets.is_empty() {
        return Ok(());
    }
    let named = |(job, endpoint): &(JobId, EndpointRow)| TargetRow { job_id: job.uuid(), endpoint_id: endpoint.id };
    let named: Vec<_> = targets.iter().map(named).collect();
    let endpoints: Vec<_> = targets.into_iter().map(|(_, endpoint)| endpoint).collect();
    unit.tx.execute(&statement::INSERT_ENDPOINTS, params![batch(&endpoints)]).await?;
    unit.tx.execute(&statement::INSERT_TARGETS, params![batch(&named)]).await.map(drop)
}

async fn tell<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    let facts = std::mem::take(&mut unit.to_tell.facts);
    if facts.is_empty() {
        return Ok(());
    }
    let listeners = listeners(unit, &facts).await?;
    let heard: Vec<(&Fact, Vec<&Listener>)> = facts
        .iter()
        .map(|fact| (fact, listeners.iter().filter(|listener| listener.wants(fact)).collect::<Vec<_>>()))
        .filter(|(_, listeners)| !listeners.is_empty())
        .collect();
    if heard.is_empty() {
        return Ok(());
    }
    let jobs = jobs_of(unit, heard.iter().filter_map(|(fact, _)| fact.job)).await?;
    let mut deliveries = Vec::new();
    for (fact, listeners) in heard {
        let job = fact.job.and_then(|job| jobs.get(&job));
        let data = fact.data.clone().or_else(|| Some(webhook::job_data(job?)));
        // A row that can't be read was logged where it was found.
        let Some(data) = data else { continue };
        let event = WebhookEvent {
            id: WebhookEventId::new(),
            r#type: fact.event.to_owned(),
            timestamp: unit.now,
            job_id: fact.job,
            data,
        };
        deliveries.extend(listeners.into_iter().map(|listener| NewDelivery {
            tenant: &listener.tenant,
            endpoint: listener.id,
            event: event.clone(),
            trace: job.map(Job::trace_context),
        }));
    }
    deliver::make(unit, &deliveries).await.map(drop)
}

async fn listeners<D: Dialect>(unit: &mut Unit<D>, facts: &[Fact]) -> Result<Vec<Listener>, StoreError> {
    let mut seen = BTreeSet::new();
    let interests: Vec<_> = facts
        .iter()
        .map(|fact| Interest {
            tenant: &fact.tenant,
            job_id: fact.job.filter(|_| fact.data.is_none()).map(JobId::uuid),
        })
        // One row a tenant, and one an ended job.
        .filter(|interest| interest.job_id.is_some() || seen.insert(interest.tenant))
        .collect();
    let rows = unit.tx.fetch(&statement::LISTENERS, params![batch(&interests)]).await?;
    rows.iter()
        .map(|row| {
            Ok(Listener {
                id: row.uuid("id")?.into(),
                tenant: row.text("tenant")?,
                events: serde_json::from_str(&row.text("events")?).unwrap_or_default(),
                job: row.opt_uuid("job_id")?.map(Into::into),
            })
        })
        .collect()
}

/// What events are about, as it is saved.
async fn jobs_of<D: Dialect>(
    unit: &mut Unit<D>,
    jobs: impl Iterator<Item = JobId>,
) -> Result<BTreeMap<JobId, Job>, StoreError> {
    let ids: BTreeSet<_> = jobs.map(JobId::uuid).collect();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = unit.tx.fetch(&statement::TOLD_JOBS, params![id_rows(ids)]).await?;
    Ok(rows.iter().filter_map(row::readable).map(|row| (row.job.id, row.job)).collect())
}
