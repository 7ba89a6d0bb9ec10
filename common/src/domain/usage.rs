//! What a run spent.

use serde::{Deserialize, Serialize};

use super::{JobId, SessionId, Timestamp, UsageId};

/// Tokens and money of one run. Tokens that an engine did not tell are 0; money that nobody knows is `None`, never 0.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens in, with those read from a cache and written to it.
    pub input_tokens: u64,
    /// Tokens out, with those of reasoning.
    pub output_tokens: u64,
    /// Of the tokens in: read from a cache.
    pub cache_read_tokens: u64,
    /// Of the tokens in: written to a cache.
    pub cache_write_tokens: u64,
    /// Cost, in billionths of a US dollar.
    pub cost_nano_usd: Option<u64>,
    /// Where the cost comes from: `engine` (the engine said it), `prices` (our table).
    pub cost_basis: Option<String>,
    /// The model that answered, or the last of several.
    pub model: Option<String>,
}

impl Usage {
    /// Tokens in and out.
    #[must_use]
    pub const fn total_tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// Adds what another request of the same run spent. The sum's cost is known only if both are.
    pub fn add(&mut self, other: Self) {
        let nothing_yet = self.total_tokens() == 0 && self.cost_nano_usd.is_none();
        self.cost_nano_usd = match (self.cost_nano_usd, other.cost_nano_usd) {
            (Some(sum), Some(more)) => Some(sum.saturating_add(more)),
            (None, more) if nothing_yet => more,
            _ => None,
        };
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.cache_read_tokens = self.cache_read_tokens.saturating_add(other.cache_read_tokens);
        self.cache_write_tokens = self.cache_write_tokens.saturating_add(other.cache_write_tokens);
        self.cost_basis = other.cost_basis.or(self.cost_basis.take());
        self.model = other.model.or(self.model.take());
    }

    /// Cost in US dollars.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "money for people's eyes; sums are made of whole numbers")]
    pub fn cost_usd(&self) -> Option<f64> {
        self.cost_nano_usd.map(|nano| nano as f64 / 1e9)
    }
}

/// US dollars in billionths of one: 0 for what is negative or no number.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, which is as it should be"
)]
pub fn nano_usd(usd: f64) -> u64 {
    (usd * 1e9).round() as u64
}

/// Billionths of a US dollar for people: `0.0421` with as many digits as say something.
#[must_use]
pub fn usd_text(nano: u64) -> String {
    let (whole, rest) = (nano / 1_000_000_000, nano % 1_000_000_000);
    let text = format!("{whole}.{rest:09}");
    let shown = text.trim_end_matches('0');
    if shown.ends_with('.') { whole.to_string() } else { shown.to_owned() }
}

/// What a run reports at its end.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UsageReport {
    /// What is known.
    pub usage: Usage,
    /// Some request's usage is not known: it was cut off before its destination said so.
    pub incomplete: bool,
}

impl UsageReport {
    /// Nothing was asked of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.incomplete && self.usage == Usage::default()
    }
}

/// One run's usage as kept: at most one a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsageRecord {
    /// Its id.
    pub id: UsageId,
    /// Who pays.
    pub tenant: String,
    /// The task.
    pub job_id: JobId,
    /// The conversation.
    pub session_id: Option<SessionId>,
    /// The user who asked, if a user's token said so.
    pub user_id: Option<String>,
    /// The engine.
    pub engine: String,
    /// Which attempt of the task.
    pub attempt: u32,
    /// Which claim.
    pub claim: i64,
    /// What is known of it.
    pub usage: Usage,
    /// Its run died, or was cut off, before all of it was known.
    pub unknown: bool,
    /// Written.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_read_and_shown_to_the_billionth() {
        for (usd, nano, text) in [(0.0, 0, "0"), (2.5, 2_500_000_000, "2.5"), (0.000_000_001, 1, "0.000000001")] {
            assert_eq!((nano_usd(usd), usd_text(nano).as_str()), (nano, text));
        }
        assert_eq!(usd_text(30_000_000_000), "30");
        assert_eq!((nano_usd(-1.0), nano_usd(f64::NAN), nano_usd(f64::INFINITY)), (0, 0, u64::MAX));
    }

    fn priced(cost: Option<u64>) -> Usage {
        Usage { input_tokens: 10, output_tokens: 1, cost_nano_usd: cost, ..Usage::default() }
    }

    #[test]
    fn a_sum_has_a_cost_only_if_all_of_it_has_one() {
        let sum = |parts: &[Option<u64>]| {
            let mut sum = Usage::default();
            parts.iter().for_each(|cost| sum.add(priced(*cost)));
            (sum.input_tokens, sum.cost_nano_usd)
        };
        assert_eq!(sum(&[Some(5), Some(7)]), (20, Some(12)));
        assert_eq!(sum(&[Some(5), None]), (20, None));
        assert_eq!(sum(&[None, Some(5)]), (20, None));
        assert_eq!(sum(&[]), (0, None));
    }
}
