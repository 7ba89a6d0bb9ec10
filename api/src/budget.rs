//! What a client lets a task spend.

use errand_common::{domain::nano_usd, wire::task::TaskBudget};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{extract::Int, problem::Faults};

/// The largest amount of money that a task may be given.
const MOST_DOLLARS: f64 = 1_000_000.0;

/// What the task may spend over all its runs; at least one of the two. It is judged before each request to a model: one
/// that is under way is not cut short. Beyond it the task fails with `BUDGET_EXCEEDED`. Engines that don't tell what they
/// spend are not bounded.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
// Unlike elsewhere in a task, unknown fields are refused: a misspelt bound would bound nothing.
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = TaskBudget)]
pub(crate) struct BudgetRequest {
    /// Tokens in and out.
    #[schema(inline)]
    max_tokens: Option<Int<1, 1_000_000_000_000>>,
    /// US dollars, above 0 and at most a million. Requests whose cost nobody knows count nothing.
    #[schema(exclusive_minimum = 0, maximum = 1_000_000)]
    max_cost_usd: Option<f64>,
}

impl BudgetRequest {
    /// Finds its faults. `at` is where it lies in the body.
    pub(crate) fn check(&self, at: &str, faults: &mut Faults) {
        let bounds = self.max_tokens.is_some() || self.max_cost_usd.is_some();
        faults.check(bounds, at, || "must have maxTokens or maxCostUsd".to_owned());
        let fits = self.max_cost_usd.is_none_or(|usd| usd > 0.0 && usd <= MOST_DOLLARS);
        faults.check(fits, &format!("{at}/maxCostUsd"), || format!("must be above 0 and at most {MOST_DOLLARS}"));
    }

    /// As the payload holds it.
    pub(crate) fn keep(self) -> TaskBudget {
        TaskBudget {
            max_tokens: self.max_tokens.map(Int::as_u64),
            // What rounds to nothing would be no bound at all.
            max_cost_nano_usd: self.max_cost_usd.map(|usd| nano_usd(usd).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::decode;

    fn faults(text: &str) -> Vec<String> {
        let (budget, mut faults): (BudgetRequest, _) = (decode(text.as_bytes()).expect("a budget"), Faults::default());
        budget.check("/budget", &mut faults);
        faults.finish().map_or_else(|problem| problem.errors.into_iter().map(|e| e.pointer).collect(), |()| Vec::new())
    }

    #[test]
    fn a_budget_bounds_something() {
        assert_eq!(faults("{}"), ["/budget"]);
        assert_eq!(faults(r#"{"maxCostUsd": 0}"#), ["/budget/maxCostUsd"]);
        assert_eq!(faults(r#"{"maxCostUsd": 1000001}"#), ["/budget/maxCostUsd"]);
        assert!(faults(r#"{"maxTokens": 1}"#).is_empty());
        assert!(decode::<BudgetRequest>(br#"{"maxToken": 1}"#).is_err(), "a misspelt bound");
        assert!(decode::<BudgetRequest>(br#"{"maxTokens": 0}"#).is_err());
    }

    #[test]
    fn money_is_kept_in_whole_numbers() {
        let budget: BudgetRequest = decode(br#"{"maxCostUsd": 0.25, "maxTokens": 7}"#).expect("a budget");
        assert_eq!(budget.keep(), TaskBudget { max_tokens: Some(7), max_cost_nano_usd: Some(250_000_000) });
        let least: BudgetRequest = decode(br#"{"maxCostUsd": 1e-12}"#).expect("a budget");
        assert_eq!(least.keep().max_cost_nano_usd, Some(1));
    }
}
