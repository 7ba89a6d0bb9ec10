//! A gateway: each message is said once, each question has one answer, and the asker hears it once.

use std::collections::BTreeMap;

use super::{Breaches, Law};
use crate::chaos::history::{History, Work};

pub(super) fn check(history: &History, breaches: &mut Breaches) {
    let mut said: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for call in &history.nudged {
        said.entry(call.submission).or_default().push(&call.key);
    }
    for (number, submission) in &history.submissions {
        let Some(id) = submission.job else { continue };
        let completed = history.jobs.get(&id).is_some_and(|job| job.state == "completed");
        match submission.work {
            Work::Nudge => {
                let keys = said.get(number).map(Vec::as_slice).unwrap_or_default();
                if keys.len() > 1 || keys.iter().any(|key| *key != id.to_string()) {
                    breaches.add(Law::EffectsDoubled, format!("nudge {id} was said under {keys:?}"));
                }
                if completed && keys.is_empty() {
                    breaches.add(Law::EffectsMissing, format!("nudge {id} completed, and nobody was told"));
                }
            }
            Work::Question if completed => {
                let answers = history.answers.get(number).cloned().unwrap_or_default();
                if (answers.accepted, answers.told, answers.resumed) != (1, 1, 1) {
                    breaches.add(Law::AnswersWrong, format!("question {id}: {answers:?}"));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::sample::{NUDGE, QUESTION, assert_found, job_mut},
        *,
    };

    #[test]
    fn a_nudge_that_is_said_twice_or_never_is_found() {
        assert_found(Law::EffectsDoubled, |history| {
            let said = history.nudged[0].clone();
            history.nudged.push(said);
        });
        assert_found(Law::EffectsDoubled, |history| history.nudged[0].key.push_str(":2"));
        assert_found(Law::EffectsMissing, |history| history.nudged.clear());
        assert!(super::super::check(&super::super::sample::sample()).is_empty());
        assert_found(Law::OutcomesWrong, |history| job_mut(history, NUDGE).state = "expired".to_owned());
    }

    #[test]
    fn a_question_with_two_answers_or_none_or_an_asker_who_hears_nothing_is_found() {
        for plant in [(2, 0, 1), (0, 2, 1), (1, 1, 0), (1, 1, 2)] {
            assert_found(Law::AnswersWrong, |history| {
                let answers = history.answers.get_mut(&QUESTION).expect("answered");
                (answers.accepted, answers.told, answers.resumed) = plant;
            });
        }
    }
}
