//! What a task may still spend: its own budget, and the settings' for tasks, sessions and tenants.

use errand_common::{
    config,
    domain::{FailureClass, Job, JobId, SessionId, Timestamp, UsageReport, nano_usd, usd_text},
    port::store::{Spent, SpentBy},
    wire::task::TaskBudget,
};

use super::{RunContext, asking::ask};
use crate::engine::{Remaining, TurnFailure, code};

const DAY_MICROS: i64 = 86_400 * 1_000_000;

/// Whose spending a budget bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    /// This task's, by its own request.
    Task,
    /// Any task's.
    Job,
    Session,
    TenantDay,
}

/// A bound; `None`: there is none.
#[derive(Clone, Copy, Debug)]
struct Bound {
    scope: Scope,
    tokens: Option<u64>,
    nano_usd: Option<u64>,
}

/// The budgets of one task.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    bounds: Vec<Bound>,
    tenant: String,
    job_id: JobId,
    session_id: Option<SessionId>,
}

impl Budget {
    pub(super) fn new(limits: &config::Budgets, own: Option<TaskBudget>, job: &Job) -> Self {
        let of = |scope, tokens, usd: Option<f64>| Bound { scope, tokens, nano_usd: usd.map(nano_usd) };
        let own = Bound {
            scope: Scope::Task,
            tokens: own.and_then(|budget| budget.max_tokens),
            nano_usd: own.and_then(|budget| budget.max_cost_nano_usd),
        };
        let mut bounds = vec![
            own,
            of(Scope::Job, limits.job_tokens, limits.job_usd),
            of(Scope::Session, limits.session_tokens, limits.session_usd),
            of(Scope::TenantDay, limits.tenant_day_tokens, limits.tenant_day_usd),
        ];
        bounds.retain(|bound| bound.tokens.is_some() || bound.nano_usd.is_some());
        Self { bounds, tenant: job.tenant.clone(), job_id: job.id, session_id: job.session_id }
    }

    /// What is left, after what is written of others and of former runs, and what this run has spent so far.
    ///
    /// # Errors
    /// A budget is used up, or the run is to stop.
    pub(super) async fn remaining(&self, context: &RunContext) -> Result<Remaining, TurnFailure> {
        if self.bounds.is_empty() {
            return Ok(Remaining::default());
        }
        let now = context.backend.clock.now();
        let (store, since) = (&context.backend.store, day_of(now));
        let written = ask(context, "BUDGET_UNREADABLE", "what was spent so far", || {
            store.spent(&self.tenant, self.job_id, self.session_id, since)
        })
        .await?;
        judge(&self.bounds, &written, this_run(context.ledger().report().as_ref()), now)
    }
}

/// The beginning of a time's day.
const fn day_of(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.micros() - at.micros().rem_euclid(DAY_MICROS))
}

fn this_run(report: Option<&UsageReport>) -> Spent {
    let usage = report.map(|report| &report.usage);
    Spent {
        tokens: usage.map_or(0, errand_common::domain::Usage::total_tokens),
        cost_nano_usd: usage.and_then(|usage| usage.cost_nano_usd).unwrap_or(0),
    }
}

/// What the tightest of the bounds leave.
fn judge(bounds: &[Bound], written: &SpentBy, run: Spent, now: Timestamp) -> Result<Remaining, TurnFailure> {
    let mut remaining = Remaining::default();
    for bound in bounds {
        let before = bound.scope.of(written);
        let tokens = before.tokens.saturating_add(run.tokens);
        let nano_usd = before.cost_nano_usd.saturating_add(run.cost_nano_usd);
        if let Some(limit) = bound.tokens.filter(|limit| tokens >= *limit) {
            let spent = format!("{tokens} of {limit} tokens");
            return Err(bound.scope.exceeded(&spent, "tokens", now));
        }
        if let Some(limit) = bound.nano_usd.filter(|limit| nano_usd >= *limit) {
            let spent = format!("{} of {} US dollars", usd_text(nano_usd), usd_text(limit));
            return Err(bound.scope.exceeded(&spent, "usd", now));
        }
        remaining.tokens = tighter(remaining.tokens, bound.tokens.map(|limit| limit - tokens));
        remaining.cost_nano_usd = tighter(remaining.cost_nano_usd, bound.nano_usd.map(|limit| limit - nano_usd));
    }
    Ok(remaining)
}

fn tighter(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

impl Scope {
    const fn of(self, written: &SpentBy) -> Spent {
        match self {
            Self::Task | Self::Job => written.job,
            Self::Session => written.session,
            Self::TenantDay => written.tenant,
        }
    }

    /// `unit`: as the settings' names end.
    fn exceeded(self, spent: &str, unit: &str, now: Timestamp) -> TurnFailure {
        let message = match self {
            Self::Task => format!("the task has spent {spent} of its own budget; submit it again with a larger one"),
            Self::Job => format!(
                "the task has spent {spent}, the most for one task; make it smaller, or have budgets.job_{unit} raised"
            ),
            Self::Session => format!(
                "the session has spent {spent}, the most for one session; go on in a new one, or have \
                 budgets.session_{unit} raised"
            ),
            Self::TenantDay => {
                let midnight = Timestamp::from_micros(day_of(now).micros() + DAY_MICROS);
                format!(
                    "the tenant has spent {spent}, the most for one day; submit the task again after {midnight}, or \
                     have budgets.tenant_day_{unit} raised"
                )
            }
        };
        TurnFailure::new(FailureClass::Fatal, code::BUDGET_EXCEEDED, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::tests::claimed;

    fn spent(tokens: u64, cost_nano_usd: u64) -> Spent {
        Spent { tokens, cost_nano_usd }
    }

    fn noon() -> Timestamp {
        "2026-11-21T12:00:00Z".parse::<chrono::DateTime<chrono::Utc>>().expect("a time").into()
    }

    fn judged(limits: &config::Budgets, own: Option<TaskBudget>, by: SpentBy, run: Spent) -> Result<Remaining, String> {
        let budget = Budget::new(limits, own, &claimed().job);
        judge(&budget.bounds, &by, run, noon()).map_err(|failure| {
            assert_eq!((failure.class, failure.code), (FailureClass::Fatal, code::BUDGET_EXCEEDED));
            failure.message
        })
    }

    #[test]
    fn without_budgets_nothing_is_bounded() {
        let all = SpentBy { job: spent(u64::MAX, u64::MAX), ..SpentBy::default() };
        assert_eq!(judged(&config::Budgets::default(), None, all, spent(1, 1)), Ok(Remaining::default()));
    }

    #[test]
    fn the_tightest_bound_says_what_is_left() {
        let limits = config::Budgets {
            job_tokens: Some(1_000),
            session_tokens: Some(500),
            tenant_day_usd: Some(2.0),
            ..config::Budgets::default()
        };
        let by = SpentBy { job: spent(100, 0), session: spent(300, 0), tenant: spent(900, 1_500_000_000) };
        let left = Remaining { tokens: Some(150), cost_nano_usd: Some(400_000_000) };
        assert_eq!(judged(&limits, None, by, spent(50, 100_000_000)), Ok(left));
        let own = TaskBudget { max_tokens: Some(160), max_cost_nano_usd: None };
        let left = Remaining { tokens: Some(10), ..left };
        assert_eq!(judged(&limits, Some(own), by, spent(50, 100_000_000)), Ok(left));
    }

    #[test]
    fn a_used_up_budget_says_which_how_much_and_what_to_do() {
        let limits = config::Budgets { session_usd: Some(0.5), ..config::Budgets::default() };
        let by = SpentBy { session: spent(0, 400_000_000), ..SpentBy::default() };
        assert!(judged(&limits, None, by, spent(9, 99_999_999)).is_ok(), "a hair is left");
        let message = judged(&limits, None, by, spent(9, 100_000_000)).expect_err("used up");
        for part in ["the session has spent 0.5 of 0.5 US dollars", "a new one", "budgets.session_usd"] {
            assert!(message.contains(part), "{message}");
        }
        let limits = config::Budgets { tenant_day_tokens: Some(10), ..config::Budgets::default() };
        let by = SpentBy { tenant: spent(11, 0), ..SpentBy::default() };
        let message = judged(&limits, None, by, Spent::default()).expect_err("used up");
        assert!(message.contains("11 of 10 tokens") && message.contains("2026-11-22T00:00:00"), "{message}");
        let own = TaskBudget { max_tokens: Some(5), max_cost_nano_usd: None };
        let message = judged(&config::Budgets::default(), Some(own), by, spent(7, 0)).expect_err("used up");
        assert!(message.contains("7 of 5 tokens of its own budget"), "{message}");
    }
}
