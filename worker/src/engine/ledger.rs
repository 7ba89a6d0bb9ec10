//! What a run spends, as its engine learns it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use errand_common::domain::{Usage, UsageReport};

/// The account of one run. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Account>>);

#[derive(Debug, Default)]
struct Account {
    report: UsageReport,
    /// Requests under way by their number, with what is known of each.
    open: BTreeMap<u64, Usage>,
    /// Requests so far.
    begun: u64,
}

impl Ledger {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is about to be sent that may cost: until its usage is known, the run's is incomplete.
    #[must_use = "what is dropped without a report counts as unknown"]
    pub fn begin(&self) -> Spending {
        let mut account = self.account();
        account.begun += 1;
        let number = account.begun;
        account.open.insert(number, Usage::default());
        drop(account);
        Spending { ledger: self.clone(), number, reported: false }
    }

    /// What is known now. `None`: nothing was ever sent that may cost.
    #[must_use]
    pub fn report(&self) -> Option<UsageReport> {
        let account = self.account();
        let mut report = account.report.clone();
        report.incomplete |= !account.open.is_empty();
        account
            .open
            .values()
            .filter(|usage| **usage != Usage::default())
            .for_each(|usage| report.usage.add(usage.clone()));
        (!report.is_empty()).then_some(report)
    }
}

/// One request under way. Dropped without [`Spending::report`], it leaves the run's usage incomplete.
#[derive(Debug)]
pub struct Spending {
    ledger: Ledger,
    number: u64,
    reported: bool,
}

impl Spending {
    /// This much of it is known by now; it counts unless the end tells otherwise.
    pub fn so_far(&self, usage: Usage) {
        self.ledger.account().open.insert(self.number, usage);
    }

    /// All of it is known.
    pub fn report(mut self, usage: Usage) {
        self.so_far(usage);
        self.reported = true;
    }

    /// Nothing was spent: the request was refused before anything was done.
    pub fn nothing(mut self) {
        self.so_far(Usage::default());
        self.reported = true;
    }

    /// This much is known, and there was more: the request was cut off.
    pub fn cut_off(self, usage: Usage) {
        self.so_far(usage);
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        let mut account = self.ledger.account();
        let known = account.open.remove(&self.number).unwrap_or_default();
        if known != Usage::default() {
            account.report.usage.add(known);
        }
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

    #[test]
    fn what_is_known_of_a_request_under_way_counts_until_its_end_tells_more() {
        let ledger = Ledger::default();
        let spending = ledger.begin();
        spending.so_far(tokens(3));
        assert_eq!(ledger.report(), Some(UsageReport { usage: tokens(3), incomplete: true }));
        spending.so_far(tokens(4));
        spending.report(tokens(7));
        assert_eq!(ledger.report(), Some(UsageReport { usage: tokens(7), incomplete: false }));
        let cut = ledger.begin();
        cut.so_far(tokens(1));
        drop(cut);
        assert_eq!(ledger.report(), Some(UsageReport { usage: tokens(8), incomplete: true }));
    }
}
