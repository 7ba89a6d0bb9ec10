//! What runs spent: written with the end of a run, read in sums.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    row::{self, JobRow},
    statement,
    unit::Unit,
};
use crate::{
    domain::{EventType, JobId, NewEvent, SessionId, Timestamp, Usage, UsageId, UsageRecord, UsageReport},
    port::{
        StoreError,
        store::{Spent, SpentBy, UsageFilter, UsageGroup, UsageReads, UsageSum},
    },
};

/// Most records of a job that are shown.
const SHOWN: u32 = 1_000;
/// No single number of a record is larger, so that an engine that talks nonsense can't make sums overflow.
const MOST: u64 = 1 << 50;

#[derive(Serialize)]
struct UsageRow<'a> {
    id: Uuid,
    tenant: &'a str,
    job_id: Uuid,
    claim: i64,
    session_id: Option<Uuid>,
    user_id: Option<&'a str>,
    engine: &'a str,
    model: Option<&'a str>,
    attempt: u32,
    input_tokens: u64,
    output_tokens: u64,
    cache_read_tokens: u64,
    cache_write_tokens: u64,
    cost_nano_usd: Option<u64>,
    cost_basis: Option<&'a str>,
    unknown: u8,
    at: i64,
}

impl<'a> UsageRow<'a> {
    fn new(row: &'a JobRow, report: &'a UsageReport, now: Timestamp) -> Self {
        let UsageReport { usage, incomplete } = report;
        Self {
            id: UsageId::new().uuid(),
            tenant: &row.job.tenant,
            job_id: row.job.id.uuid(),
            claim: row.claim,
            session_id: row.job.session_id.map(SessionId::uuid),
            user_id: row.job.user_id.as_deref(),
            engine: row.engine.as_deref().unwrap_or_default(),
            model: usage.model.as_deref(),
            attempt: row.job.attempt,
            input_tokens: usage.input_tokens.min(MOST),
            output_tokens: usage.output_tokens.min(MOST),
            cache_read_tokens: usage.cache_read_tokens.min(MOST),
            cache_write_tokens: usage.cache_write_tokens.min(MOST),
            cost_nano_usd: usage.cost_nano_usd.map(|cost| cost.min(MOST)),
            cost_basis: usage.cost_basis.as_deref(),
            unknown: (*incomplete).into(),
            at: now.micros(),
        }
    }

    fn event(&self, usage: &Usage) -> NewEvent {
        let data = json!({
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "cacheReadTokens": self.cache_read_tokens,
            "cacheWriteTokens": self.cache_write_tokens,
            "totalTokens": self.input_tokens + self.output_tokens,
            "costUsd": usage.cost_usd(),
            "costBasis": self.cost_basis,
            "model": self.model,
            "engineType": self.engine,
            "unknown": self.unknown == 1,
        });
        NewEvent::new(EventType::Usage, data)
    }
}

/// Keeps what runs report, for jobs that are held and whose fences were accepted: at most one record a claim, whoever comes
/// first. Returns the events to be emitted, by job.
pub(super) async fn keep<D: Dialect>(
    unit: &mut Unit<D>,
    reports: &[(&JobRow, UsageReport)],
) -> Result<BTreeMap<JobId, NewEvent>, StoreError> {
    let rows: Vec<_> = reports
        .iter()
        .filter(|(_, report)| !report.is_empty())
        .map(|(row, report)| (row.job.id, UsageRow::new(row, report, unit.now), &report.usage))
        .collect();
    if rows.is_empty() {
        return Ok(BTreeMap::new());
    }
    let written: Vec<_> = rows.iter().map(|(_, row, _)| row).collect();
    let written = unit.tx.fetch(&statement::INSERT_USAGE, params![batch(&written)]).await?;
    let written = written.iter().map(|row| row.uuid("id")).collect::<Result<BTreeSet<_>, _>>()?;
    let events: BTreeMap<_, _> = rows
        .iter()
        .filter(|(_, row, _)| written.contains(&row.id))
        .map(|(job, row, usage)| (*job, row.event(usage)))
        .collect();
    for (row, _) in reports {
        if let Some(event) = events.get(&row.job.id) {
            unit.to_tell.usage(row, event);
        }
    }
    Ok(events)
}

/// The runs of these jobs, which the unit holds, ended without a word: what those of metered tasks spent is not known. The caller
/// saves the rows.
pub(super) async fn lost<D: Dialect>(unit: &mut Unit<D>, rows: &mut [JobRow]) -> Result<(), StoreError> {
    let unknown = || UsageReport { incomplete: true, ..UsageReport::default() };
    let reports: Vec<_> = rows.iter().filter(|row| row.metered).map(|row| (row, unknown())).collect();
    let mut events = keep(unit, &reports).await?;
    for row in rows {
        if let Some(event) = events.remove(&row.job.id) {
            unit.emit(row, event);
        }
    }
    Ok(())
}

#[async_trait]
impl<D: Dialect> UsageReads for SqlStore<D> {
    async fn usage_sums(
        &self,
        filter: &UsageFilter,
        groups: &[UsageGroup],
        limit: u32,
    ) -> Result<Vec<UsageSum>, StoreError> {
        let key = |place: usize| groups.get(place).map_or("", |group| group.as_str());
        let mut params = params![
            filter.tenant.as_str(),
            filter.from.unwrap_or_default(),
            filter.to.unwrap_or(Timestamp::from_micros(i64::MAX)),
            filter.user_id.clone(),
            key(0),
            key(1),
            key(2),
            key(3),
            key(4),
            limit,
        ];
        let sql = match filter.session_id {
            Some(session) => {
                params.push(session.uuid().into());
                &statement::SESSION_USAGE_SUMS
            }
            None => &statement::USAGE_SUMS,
        };
        self.dialect.read(sql, params).await?.iter().map(|row| sum(row, groups)).collect()
    }

    async fn usage_of(&self, tenant: &str, job: JobId) -> Result<Vec<UsageRecord>, StoreError> {
        let rows = self.dialect.read(&statement::USAGE_OF_JOB, params![tenant, job.uuid(), SHOWN]).await?;
        rows.iter().map(record).collect()
    }

    async fn spent(
        &self,
        tenant: &str,
        job: JobId,
        session: Option<SessionId>,
        since: Timestamp,
    ) -> Result<SpentBy, StoreError> {
        let params = params![job.uuid(), session.map(SessionId::uuid), tenant, since];
        let mut by = SpentBy::default();
        for row in self.dialect.read(&statement::SPENT, params).await? {
            let spent = Spent { tokens: row::number(&row, "tokens")?, cost_nano_usd: row::number(&row, "cost")? };
            match row.text("whose")?.as_str() {
                "job" => by.job = spent,
                "session" => by.session = spent,
                _ => by.tenant = spent,
            }
        }
        Ok(by)
    }
}

fn sum(row: &impl SqlRow, groups: &[UsageGroup]) -> Result<UsageSum, StoreError> {
    const KEYS: [&str; 5] = ["g1", "g2", "g3", "g4", "g5"];
    let number = |column| row::number(row, column);
    let group = groups.iter().zip(KEYS).map(|(group, key)| Ok(shown(*group, row.text(key)?)));
    Ok(UsageSum {
        group: group.collect::<Result<_, StoreError>>()?,
        records: number("records")?,
        unknown: number("unknown")?,
        input_tokens: number("input_tokens")?,
        output_tokens: number("output_tokens")?,
        cache_read_tokens: number("cache_read_tokens")?,
        cache_write_tokens: number("cache_write_tokens")?,
        cost_nano_usd: number("cost_nano_usd")?,
        unpriced: number("unpriced")?,
    })
}

/// A group's key as clients see it: the database gives days as their number since 1970, and ids in bare hex.
fn shown(group: UsageGroup, key: String) -> String {
    let shown = match group {
        UsageGroup::Day => key
            .parse::<i64>()
            .ok()
            .and_then(|day| chrono::DateTime::from_timestamp(day.checked_mul(86_400)?, 0))
            .map(|at| at.date_naive().to_string()),
        UsageGroup::Session => Uuid::parse_str(&key).ok().map(|id| id.to_string()),
        UsageGroup::Engine | UsageGroup::Model | UsageGroup::User => None,
    };
    shown.unwrap_or(key)
}

fn record(row: &impl SqlRow) -> Result<UsageRecord, StoreError> {
    let cost = row.opt_int("cost_nano_usd")?;
    Ok(UsageRecord {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        job_id: row.uuid("job_id")?.into(),
        session_id: row.opt_uuid("session_id")?.map(Into::into),
        user_id: row.opt_text("user_id")?,
        engine: row.text("engine")?,
        attempt: row::number(row, "attempt")?,
        claim: row.int("claim")?,
        usage: Usage {
            input_tokens: row::number(row, "input_tokens")?,
            output_tokens: row::number(row, "output_tokens")?,
            cache_read_tokens: row::number(row, "cache_read_tokens")?,
            cache_write_tokens: row::number(row, "cache_write_tokens")?,
            cost_nano_usd: cost.and_then(|cost| u64::try_from(cost).ok()),
            cost_basis: row.opt_text("cost_basis")?,
            model: row.opt_text("model")?,
        },
        unknown: row.int("unknown")? > 0,
        created_at: row::at(row, "created_at")?,
    })
}
