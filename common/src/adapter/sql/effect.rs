//! Intents and receipts of calls to the outside.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    row::at,
    statement,
    unit::{Unit, id_rows},
};
use crate::{
    domain::{Effect, JobId, Receipt, Timestamp, effect},
    port::{
        StoreError,
        store::{EffectReceipt, Effects, Intend, Intended, Stale},
    },
    wire,
};

#[derive(Serialize)]
struct EffectRow {
    job_id: Uuid,
    ordinal: u32,
    key: String,
    kind: String,
    destination: String,
    fingerprint: String,
    request: Option<String>,
    claim: i64,
    attempt: u32,
    intent_at: i64,
    receipt: Option<String>,
    receipt_at: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct ReceiptRow {
    job_id: Uuid,
    ordinal: u32,
    receipt: String,
    at: i64,
}

#[derive(Serialize)]
struct EffectId {
    job_id: Uuid,
    ordinal: u32,
}

#[async_trait]
impl<D: Dialect> Effects for SqlStore<D> {
    async fn intend(&self, entries: Vec<Intend>, now: Timestamp) -> Result<Vec<Result<Intended, Stale>>, StoreError> {
        let (mut unit, rows) = self.hold(entries.iter().map(|entry| entry.fence), now).await?;
        let holder = |entry: &Intend| rows.get(&entry.fence.job_id).filter(|row| row.accepts(&entry.fence));
        let accepted = || entries.iter().filter(|entry| holder(entry).is_some());

        let receipts: Vec<_> =
            accepted().flat_map(|entry| receipt_rows(entry.fence.job_id, entry.receipts.clone(), now)).collect();
        write_receipts(&mut unit, &receipts).await?;

        let wanted: Vec<_> = accepted()
            .map(|entry| EffectId { job_id: entry.fence.job_id.uuid(), ordinal: entry.effect.ordinal })
            .collect();
        let mut known: HashMap<(JobId, u32), Effect> = HashMap::new();
        for row in unit.tx.fetch(&statement::EFFECTS_BY_ID, params![batch(&wanted)]).await? {
            let effect = read(&row)?;
            known.insert((effect.job_id, effect.ordinal), effect);
        }

        let mut written: BTreeMap<(JobId, u32), EffectRow> = BTreeMap::new();
        let mut answers = Vec::with_capacity(entries.len());
        for entry in &entries {
            let Some(row) = holder(entry) else {
                answers.push(Err(Stale));
                continue;
            };
            let id = (entry.fence.job_id, entry.effect.ordinal);
            let key = effect::key(id.0, id.1);
            answers.push(Ok(match known.get(&id) {
                Some(known) if known.fingerprint != entry.effect.fingerprint => Intended::Changed,
                Some(Effect { receipt: Some((Receipt::Done(answer), _)), .. }) => {
                    Intended::Done { answer: answer.clone() }
                }
                Some(Effect { receipt: None, key, claim, .. }) if *claim != entry.fence.claim => {
                    Intended::InDoubt { key: key.clone() }
                }
                // Also an intent of this very claim: its answer was lost on the way, so nothing was sent.
                unsent => {
                    let key = unsent.map_or(key, |effect| effect.key.clone());
                    written.insert(id, intent(entry, key.clone(), row.job.attempt, now));
                    Intended::Fresh { key }
                }
            }));
        }
        let written: Vec<_> = written.into_values().collect();
        if !written.is_empty() {
            unit.tx.execute(&statement::SAVE_INTENTS, params![batch(&written)]).await?;
            let is_first = |id: &&Uuid| {
                let row = rows.get(&JobId::from(**id));
                row.is_some_and(|row| row.window.is_some() && row.first_sent_at.is_none())
            };
            let first: Vec<_> = written.iter().map(|effect| &effect.job_id).filter(is_first).copied().collect();
            if !first.is_empty() {
                unit.tx.execute(&statement::coordination::FIRST_SENT, params![id_rows(first), now]).await?;
            }
        }
        // No event: an intent is no change of the job.
        drop(unit.commit().await?);
        Ok(answers)
    }

    async fn effects(&self, id: JobId, limit: u32) -> Result<Vec<Effect>, StoreError> {
        self.dialect.read(&statement::EFFECTS, params![id.uuid(), limit]).await?.iter().map(read).collect()
    }
}

fn intent(entry: &Intend, key: String, attempt: u32, now: Timestamp) -> EffectRow {
    EffectRow {
        job_id: entry.fence.job_id.uuid(),
        ordinal: entry.effect.ordinal,
        key,
        kind: entry.effect.kind.clone(),
        destination: entry.effect.destination.clone(),
        fingerprint: entry.effect.fingerprint.clone(),
        request: entry.effect.request.clone(),
        claim: entry.fence.claim,
        attempt,
        intent_at: now.micros(),
        receipt: None,
        receipt_at: None,
    }
}

/// The receipts of one job as rows.
pub(super) fn receipt_rows(
    job: JobId,
    receipts: Vec<EffectReceipt>,
    now: Timestamp,
) -> impl Iterator<Item = ReceiptRow> {
    receipts.into_iter().map(move |EffectReceipt { ordinal, receipt }| ReceiptRow {
        job_id: job.uuid(),
        ordinal,
        receipt: serde_json::to_string(&receipt).expect("a receipt is plain data"),
        at: now.micros(),
    })
}

/// Writes receipts of effects that were intended. The jobs are held, and their fences were accepted.
pub(super) async fn write_receipts<D: Dialect>(unit: &mut Unit<D>, rows: &[ReceiptRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let written = unit.tx.execute(&statement::SAVE_RECEIPTS, params![batch(rows)]).await?;
    if written != rows.len() as u64 {
        return Err(StoreError::Corrupt(format!("{} receipts, but {written} intents for them", rows.len())));
    }
    Ok(())
}

/// Whether a job has sent something of which nobody knows what came.
pub(super) async fn any_in_doubt<D: Dialect>(unit: &mut Unit<D>, job: JobId) -> Result<bool, StoreError> {
    Ok(!unit.tx.fetch(&statement::EFFECT_IN_DOUBT, params![job.uuid()]).await?.is_empty())
}

/// Gives new jobs the finished effects of those they repeat, keys and receipts: what is done is not done again. Unfinished
/// ones are left behind; their new keys are the new job's.
pub(super) async fn inherit<D: Dialect>(unit: &mut Unit<D>, pairs: &[(JobId, JobId)]) -> Result<(), StoreError> {
    if pairs.is_empty() {
        return Ok(());
    }
    let old = id_rows(pairs.iter().map(|(_, old)| old.uuid()));
    let mut done: HashMap<JobId, Vec<Effect>> = HashMap::new();
    for row in unit.tx.fetch(&statement::EFFECTS_OF_JOBS, params![old]).await? {
        let effect = read(&row)?;
        // A bridge that has taken a prompt has not answered it, and what was read is in no receipt: these are worth nothing to
        // another job.
        let is_of_its_job = [wire::instance::KIND, wire::coordination::FILE_READ].contains(&effect.kind.as_str());
        if matches!(effect.receipt, Some((Receipt::Done(_), _))) && !is_of_its_job {
            done.entry(effect.job_id).or_default().push(effect);
        }
    }
    let copies: Vec<EffectRow> = pairs
        .iter()
        .flat_map(|(new, old)| done.get(old).into_iter().flatten().map(|effect| copy(*new, effect)))
        .collect();
    if !copies.is_empty() {
        unit.tx.execute(&statement::SAVE_INTENTS, params![batch(&copies)]).await?;
    }
    Ok(())
}

/// No claim of the new job made it.
fn copy(job: JobId, effect: &Effect) -> EffectRow {
    EffectRow {
        job_id: job.uuid(),
        ordinal: effect.ordinal,
        key: effect.key.clone(),
        kind: effect.kind.clone(),
        destination: effect.destination.clone(),
        fingerprint: effect.fingerprint.clone(),
        request: effect.request.clone(),
        claim: 0,
        attempt: effect.attempt,
        intent_at: effect.intent_at.micros(),
        receipt: effect.receipt.as_ref().and_then(|(receipt, _)| serde_json::to_string(receipt).ok()),
        receipt_at: effect.receipt.as_ref().map(|(_, at)| at.micros()),
    }
}

pub(super) fn read(row: &impl SqlRow) -> Result<Effect, StoreError> {
    let number = |column: &str| {
        let value = row.int(column)?;
        u32::try_from(value).map_err(|_| StoreError::Corrupt(format!("{column} of an effect is {value}")))
    };
    let receipt = match row.opt_text("receipt")? {
        None => None,
        Some(text) => {
            let receipt = serde_json::from_str(&text)
                .map_err(|error| StoreError::Corrupt(format!("a receipt can't be read: {error}")))?;
            Some((receipt, at(row, "receipt_at")?))
        }
    };
    Ok(Effect {
        job_id: row.uuid("job_id")?.into(),
        ordinal: number("ordinal")?,
        key: row.text("key")?,
        kind: row.text("kind")?,
        destination: row.text("destination")?,
        fingerprint: row.text("fingerprint")?,
        request: row.opt_text("request")?,
        claim: row.int("claim")?,
        attempt: number("attempt")?,
        intent_at: at(row, "intent_at")?,
        receipt,
    })
}
