//! What tokens cost, by the operator's table.

use std::sync::Arc;

use errand_common::{
    config::{Price, Prices},
    domain::Usage,
};

/// Tokens of one request, by what they cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tokens {
    /// In, from no cache and for none.
    pub(super) input: u64,
    /// Out, with those of reasoning.
    pub(super) output: u64,
    /// In, read from a cache.
    pub(super) cache_read: u64,
    /// In, written to a cache for five minutes.
    pub(super) cache_write_5m: u64,
    /// In, written to a cache for an hour.
    pub(super) cache_write_1h: u64,
}

/// The operator's table.
#[derive(Clone, Debug, Default)]
pub(super) struct PriceTable(Arc<Prices>);

impl PriceTable {
    pub(super) fn new(prices: &Prices) -> Self {
        Self(Arc::new(prices.clone()))
    }

    /// What a request spent. Its price is that of the model that answered, or else of the model that was asked for, which
    /// may be a name for several; without either nobody knows the cost.
    pub(super) fn usage(&self, tokens: Tokens, answered: Option<&str>, asked: &str) -> Usage {
        let price = answered.and_then(|model| self.0.get(model)).or_else(|| self.0.get(asked));
        let Tokens { input, output, cache_read, cache_write_5m, cache_write_1h } = tokens;
        let cache_write_tokens = cache_write_5m.saturating_add(cache_write_1h);
        Usage {
            input_tokens: input.saturating_add(cache_read).saturating_add(cache_write_tokens),
            output_tokens: output,
            cache_read_tokens: cache_read,
            cache_write_tokens,
            cost_nano_usd: price.map(|price| cost(price, tokens)),
            cost_basis: price.map(|_| "prices".to_owned()),
            model: Some(answered.unwrap_or(asked).to_owned()),
        }
    }
}

/// In billionths of a dollar, rounded once.
fn cost(price: &Price, tokens: Tokens) -> u64 {
    const MILLION: u128 = 1_000_000;
    let parts = [
        (tokens.input, price.input),
        (tokens.output, price.output),
        (tokens.cache_read, price.cache_read.unwrap_or(price.input)),
        (tokens.cache_write_5m, price.cache_write_5m.unwrap_or(price.input)),
        (tokens.cache_write_1h, price.cache_write_1h.unwrap_or(price.input)),
    ];
    let sum: u128 = parts.into_iter().map(|(count, price)| u128::from(count) * u128::from(price.nano_usd())).sum();
    u64::try_from((sum + MILLION / 2) / MILLION).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> PriceTable {
        let prices = json!({
            "large": {"input": "4", "output": 20, "cache_write_5m": "5", "cache_write_1h": 8, "cache_read": 0.2},
            "small": {"input": "0.15", "output": "0.6"},
        });
        PriceTable(Arc::new(serde_json::from_value(prices).expect("prices")))
    }

    #[test]
    fn every_kind_of_token_has_its_price() {
        let tokens = Tokens { input: 25, output: 5, cache_read: 1_000, cache_write_5m: 100, cache_write_1h: 10 };
        let usage = table().usage(tokens, Some("large"), "asked");
        assert_eq!((usage.input_tokens, usage.output_tokens), (1_135, 5));
        assert_eq!((usage.cache_read_tokens, usage.cache_write_tokens), (1_000, 110));
        // 25 × 4 + 5 × 20 + 1000 × 0.2 + 100 × 5 + 10 × 8 millionths of a dollar.
        assert_eq!((usage.cost_nano_usd, usage.cost_basis.as_deref()), (Some(980_000), Some("prices")));
        let unset = Tokens { cache_read: 10, ..Tokens::default() };
        assert_eq!(table().usage(unset, Some("small"), "asked").cost_nano_usd, Some(1_500), "as `input`");
    }

    #[test]
    fn an_unknown_model_has_no_cost_rather_than_none_to_pay() {
        let tokens = Tokens { input: 1, ..Tokens::default() };
        let unknown = table().usage(tokens, Some("other"), "another");
        assert_eq!((unknown.cost_nano_usd, unknown.cost_basis, unknown.model.as_deref()), (None, None, Some("other")));
        let dated = table().usage(tokens, Some("large-20261101"), "large");
        assert_eq!((dated.cost_nano_usd, dated.model.as_deref()), (Some(4_000), Some("large-20261101")));
    }
}
