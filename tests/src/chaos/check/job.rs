//! Jobs: none lost, none doubled, and each ends for a reason.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Breaches, Law};
use crate::chaos::history::{History, Job, Submission, Work};

pub(super) fn check(history: &History, breaches: &mut Breaches) {
    let mut made: BTreeMap<u64, Vec<Uuid>> = BTreeMap::new();
    for (id, job) in &history.jobs {
        match job.submission.filter(|number| history.submissions.contains_key(number)) {
            Some(number) => made.entry(number).or_default().push(*id),
            None => breaches.add(Law::JobsDoubled, format!("nobody asked for job {id}")),
        }
        if !job.is_terminal() {
            breaches.add(Law::JobsLost, format!("job {id} is still {}", job.state));
        }
    }
    for (number, submission) in &history.submissions {
        let made = made.get(number).map(Vec::as_slice).unwrap_or_default();
        if made.len() > 1 {
            breaches.add(Law::JobsDoubled, format!("submission {number} made {made:?}"));
        }
        let Some(id) = submission.job else { continue };
        match history.jobs.get(&id) {
            None => breaches.add(Law::JobsLost, format!("job {id} was acknowledged and is not there")),
            Some(_) if !made.contains(&id) => {
                breaches.add(Law::JobsDoubled, format!("submission {number} was told of {id} and made {made:?}"));
            }
            Some(job) => check_outcome(id, submission, job, breaches),
        }
    }
    check_messages(history, breaches);
}

fn check_outcome(id: Uuid, submission: &Submission, job: &Job, breaches: &mut Breaches) {
    let crashes = job.events.iter().filter(|event| event.kind == "retrying" && event.data["class"] == "crash").count();
    let explained = match job.state.as_str() {
        "cancelled" => submission.may_be_cancelled,
        // The crash that ended it is an `error` event, not a `retrying` one.
        "failed" => job.failure.as_ref().is_some_and(|failure| failure.class == "crash") && crashes >= 2,
        "completed" => true,
        state => crate::client::TERMINAL.iter().all(|terminal| *terminal != state),
    };
    if !explained {
        breaches.add(Law::OutcomesWrong, format!("job {id} is {}: {:?}", job.state, job.failure));
    }
    if job.state != "completed" {
        return;
    }
    let text = job.visible_text();
    let told = match &submission.work {
        Work::Http | Work::Nudge | Work::Question => true,
        Work::Echo(prompt) => text == *prompt,
        Work::Program(lines) => is_one_run(&text, *lines),
    };
    if !told {
        breaches.add(Law::StaleWrites, format!("job {id} completed, and its readers are left with {text:?}"));
    }
}

/// `<run> 1/n` to `<run> n/n`, all of one run: what another run had written would show.
fn is_one_run(text: &str, lines: u32) -> bool {
    let Some((run, _)) = text.split_once(' ') else { return false };
    let expected: String = (1..=lines).map(|line| format!("{run} {line}/{lines}\n")).collect();
    text == expected
}

/// In a session a completed task has said its prompt once and its answer once; no task says either twice.
fn check_messages(history: &History, breaches: &mut Breaches) {
    let mut said: BTreeMap<(Uuid, &str), usize> = BTreeMap::new();
    for message in &history.messages {
        *said.entry((message.job, &message.role)).or_default() += 1;
    }
    for ((job, role), times) in &said {
        if *times > 1 {
            breaches.add(Law::MessagesDoubled, format!("task {job} has {times} messages of the {role}"));
        }
    }
    for (id, job) in &history.jobs {
        if job.session.is_none() || job.state != "completed" {
            continue;
        }
        for role in ["user", "assistant"] {
            if !said.contains_key(&(*id, role)) {
                breaches.add(Law::MessagesDoubled, format!("task {id} completed without a message of the {role}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::sample::{CANCELLED, ECHO, HTTP, PROGRAM, assert_found, id, job_id, job_mut},
        *,
    };
    use crate::chaos::history::Failure;

    #[test]
    fn an_acknowledged_job_that_is_not_there_is_lost() {
        assert_found(Law::JobsLost, |history| {
            history.jobs.remove(&job_id(HTTP));
        });
    }

    #[test]
    fn a_job_that_never_ends_is_lost() {
        assert_found(Law::JobsLost, |history| job_mut(history, ECHO).state = "running".to_owned());
    }

    #[test]
    fn two_jobs_for_one_submission_are_one_too_many() {
        assert_found(Law::JobsDoubled, |history| {
            let twin = job_mut(history, HTTP).clone();
            history.jobs.insert(id(77), twin);
        });
    }

    #[test]
    fn a_job_that_nobody_asked_for_is_found() {
        assert_found(Law::JobsDoubled, |history| job_mut(history, HTTP).submission = Some(99));
        assert_found(Law::JobsDoubled, |history| job_mut(history, HTTP).submission = None);
    }

    #[test]
    fn an_end_needs_a_cause() {
        assert_found(Law::OutcomesWrong, |history| job_mut(history, HTTP).state = "cancelled".to_owned());
        assert_found(Law::OutcomesWrong, |history| job_mut(history, HTTP).state = "expired".to_owned());
        assert_found(Law::OutcomesWrong, |history| {
            let job = job_mut(history, HTTP);
            job.state = "failed".to_owned();
            job.failure = Some(Failure { class: "transient".to_owned(), code: "503".to_owned() });
        });
        assert_found(Law::OutcomesWrong, |history| {
            let job = job_mut(history, HTTP);
            job.state = "failed".to_owned();
            job.failure = Some(Failure { class: "crash".to_owned(), code: "QUARANTINED".to_owned() });
        });
    }

    #[test]
    fn text_of_a_run_that_was_over_shows() {
        assert_found(Law::StaleWrites, |history| {
            job_mut(history, ECHO).events[6].data = json!({"content": "say say "});
        });
        assert_found(Law::StaleWrites, |history| {
            job_mut(history, PROGRAM).events[6].data = json!({"content": "b 1/2\na 2/2\n"});
        });
        assert_found(Law::StaleWrites, |history| {
            job_mut(history, PROGRAM).events[4].data = json!({"from_seq": 4});
        });
    }

    #[test]
    fn messages_are_said_once() {
        assert_found(Law::MessagesDoubled, |history| {
            let said = history.messages[0].clone();
            history.messages.push(said);
        });
        assert_found(Law::MessagesDoubled, |history| {
            history.messages.pop();
        });
    }

    #[test]
    fn a_cancelled_job_may_have_been_cancelled() {
        let history = super::super::sample::sample();
        assert_eq!(history.jobs[&job_id(CANCELLED)].state, "cancelled");
        assert_eq!(super::super::check(&history), []);
    }
}
