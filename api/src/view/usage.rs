//! Usage as clients see it.

use errand_common::{domain::UsageRecord, port::store::UsageSum};
use serde::Serialize;
use utoipa::ToSchema;

/// A sum of usage records: one a run that spent something.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Usage)]
pub(crate) struct UsageView {
    /// Runs that spent something.
    records: u64,
    /// Of them: runs that died or were cut off before all they spent was known. What is known of it is in the sums.
    unknown: u64,
    /// Tokens in, with those read from caches and written to them.
    input_tokens: u64,
    /// Tokens out.
    output_tokens: u64,
    /// Of the tokens in: read from caches.
    cache_read_tokens: u64,
    /// Of the tokens in: written to caches.
    cache_write_tokens: u64,
    /// Tokens in and out.
    total_tokens: u64,
    /// US dollars, of the records whose cost is known.
    cost_usd: f64,
    /// Records with tokens whose cost nobody knows.
    unpriced: u64,
}

impl UsageView {
    /// The sum of these records.
    pub(crate) fn of(records: &[UsageRecord]) -> Self {
        let mut sum = UsageSum::default();
        for record in records {
            let usage = &record.usage;
            sum.records += 1;
            sum.unknown += u64::from(record.unknown);
            sum.input_tokens += usage.input_tokens;
            sum.output_tokens += usage.output_tokens;
            sum.cache_read_tokens += usage.cache_read_tokens;
            sum.cache_write_tokens += usage.cache_write_tokens;
            sum.cost_nano_usd += usage.cost_nano_usd.unwrap_or_default();
            sum.unpriced += u64::from(usage.cost_nano_usd.is_none() && usage.total_tokens() > 0);
        }
        sum.into()
    }
}

impl From<UsageSum> for UsageView {
    #[expect(clippy::cast_precision_loss, reason = "money for people's eyes; sums are made of whole numbers")]
    fn from(sum: UsageSum) -> Self {
        Self {
            records: sum.records,
            unknown: sum.unknown,
            input_tokens: sum.input_tokens,
            output_tokens: sum.output_tokens,
            cache_read_tokens: sum.cache_read_tokens,
            cache_write_tokens: sum.cache_write_tokens,
            total_tokens: sum.input_tokens.saturating_add(sum.output_tokens),
            cost_usd: sum.cost_nano_usd as f64 / 1e9,
            unpriced: sum.unpriced,
        }
    }
}
