//! Effects: one key a job, and none left out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Breaches, Law};
use crate::chaos::history::{History, Work};

pub(super) fn check(history: &History, breaches: &mut Breaches) {
    let mut keys: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for call in &history.calls {
        keys.entry(call.submission).or_default().insert(&call.key);
    }
    for (number, keys) in &keys {
        let job = history.submissions.get(number).and_then(|submission| submission.job);
        if keys.len() > 1 {
            breaches.add(Law::EffectsDoubled, format!("submission {number} ({job:?}) was sent under {keys:?}"));
        }
        if let Some(job) = job.map(|job| job.to_string())
            && !keys.contains(job.as_str())
        {
            breaches.add(Law::EffectsDoubled, format!("job {job} was sent under {keys:?}, not under its own id"));
        }
    }
    for (number, submission) in &history.submissions {
        let Some(id) = submission.job.filter(|_| submission.work == Work::Http) else { continue };
        let completed = history.jobs.get(&id).is_some_and(|job| job.state == "completed");
        if completed && !keys.contains_key(number) {
            breaches.add(Law::EffectsMissing, format!("job {id} completed, and its destination was never called"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::sample::{HTTP, assert_found},
        *,
    };

    #[test]
    fn a_second_key_is_a_second_effect() {
        assert_found(Law::EffectsDoubled, |history| history.calls[1].key.push_str(":2"));
        assert_found(Law::EffectsDoubled, |history| {
            for call in &mut history.calls {
                call.key = "random".to_owned();
            }
        });
    }

    #[test]
    fn a_completed_job_without_a_call_is_a_lie() {
        assert_found(Law::EffectsMissing, |history| history.calls.retain(|call| call.submission != HTTP));
    }
}
