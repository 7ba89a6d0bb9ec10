//! Runs of one task in time, by what its programs wrote down themselves.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Breaches, Law};
use crate::chaos::history::{History, Micros};

pub(super) fn check(history: &History, breaches: &mut Breaches) {
    let mut runs: BTreeMap<Uuid, BTreeMap<&str, (Micros, Micros)>> = BTreeMap::new();
    for stamp in &history.stamps {
        let span = runs.entry(stamp.job).or_default().entry(&stamp.run).or_insert((stamp.at, stamp.at));
        *span = (span.0.min(stamp.at), span.1.max(stamp.at));
    }
    for (job, runs) in &runs {
        let mut runs: Vec<_> = runs.iter().map(|(run, (first, last))| (*first, *last, *run)).collect();
        runs.sort_unstable();
        for pair in runs.windows(2) {
            let ((_, last, earlier), (first, _, later)) = (pair[0], pair[1]);
            if last >= first {
                let by = last - first;
                breaches
                    .add(Law::RunsOverlapping, format!("task {job}: {earlier} outlived {later}'s start by {by} µs"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::assert_found, *};

    #[test]
    fn a_run_that_lives_when_the_next_begins_is_found() {
        assert_found(Law::RunsOverlapping, |history| history.stamps[1].at = 31);
    }
}
