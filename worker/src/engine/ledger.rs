//! What a run spends, as its engine learns it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use errand_common::domain::{Usage, UsageReport};

/// The account of one run. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Account>>);

#[derive(Debug, Default)]
struct Account {
    report: UsageReport,
    /// Requests under way, whose usage is not known yet.
    open: u32,
}

impl Ledger {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is about to be sent that may cost: until its usage is known, the run's is incomplete.
    #[must_use = "what is dropped without a report counts as unknown"]
    pub fn begin(&self) -> Spending {
        self.account().open += 1;
        Spending { ledger: self.clone(), reported: false }
    }

    /// What is known now. `None`: nothing was ever sent that may cost.
    #[must_use]
    pub fn report(&self) -> Option<UsageReport> {
        let account = self.account();
        let mut report = account.report.clone();
        report.incomplete |= account.open > 0;
        (!report.is_empty()).then_some(report)
    }
}

/// One request under way. Dropped without [`Spending::report`], it leaves the run's usage incomplete.
#[derive(Debug)]
pub struct Spending {
    ledger: Ledger,
    reported: bool,
}

impl Spending {
    /// All of it is known.
    pub fn report(mut self, usage: Usage) {
        self.ledger.account().report.usage.add(usage);
        self.reported = true;
    }

    /// Nothing was spent: the request was refused before anything was done.
    pub fn nothing(mut self) {
        self.reported = true;
    }

    /// This much is known, and there was more: the request was cut off.
    pub fn cut_off(self, usage: Usage) {
        self.ledger.account().report.usage.add(usage);
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        let mut account = self.ledger.account();
        account.open = account.open.saturating_sub(1);
        account.report.incomplete |= !self.reported;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: u64) -> Usage {
        Usage { input_tokens: input, ..Usage::default() }
    }

    #[test]
    fn a_request_whose_usage_nobody_told_leaves_the_account_incomplete() {
        let ledger = Ledger::default();
        assert_eq!(ledger.report(), None);
        let first = ledger.begin();
        assert!(ledger.report().is_some_and(|report| report.incomplete), "it is under way");
        first.report(tokens(3));
        assert_eq!(ledger.report(), Some(UsageReport { usage: tokens(3), incomplete: false }));
        ledger.begin().nothing();
        assert_eq!(ledger.report(), Some(UsageReport { usage: tokens(3), incomplete: false }));
        ledger.begin().cut_off(tokens(2));
        assert_eq!(ledger.report(), Some(UsageReport { usage: tokens(5), incomplete: true }));
    }
}
