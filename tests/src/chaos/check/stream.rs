//! Streams in the database: numbered without a gap, and in an order that the life of a job allows.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Breaches, Law};
use crate::chaos::history::{Event, History, Job};

pub(super) fn check(history: &History, breaches: &mut Breaches) {
    let mut sessions: BTreeMap<Uuid, Vec<i64>> = history.sessions.keys().map(|id| (*id, Vec::new())).collect();
    for (id, job) in &history.jobs {
        check_numbers(&format!("job:{id}"), job.events.iter().map(|event| event.seq), job.tail_seq, breaches);
        Life::default().check(*id, job, breaches);
        let numbers = job.events.iter().filter_map(|event| event.session_seq);
        if let Some(session) = job.session {
            sessions.entry(session).or_default().extend(numbers);
        }
    }
    for (id, mut numbers) in sessions {
        numbers.sort_unstable();
        let tail = history.sessions.get(&id).copied().unwrap_or_default();
        check_numbers(&format!("session:{id}"), numbers.into_iter(), tail, breaches);
    }
}

fn check_numbers(stream: &str, numbers: impl Iterator<Item = i64>, tail: i64, breaches: &mut Breaches) {
    let mut last = 0;
    for number in numbers {
        if number != last + 1 {
            breaches.add(Law::EventsMissing, format!("{stream}: {number} follows {last}"));
        }
        last = number;
    }
    if last != tail {
        breaches.add(Law::EventsMissing, format!("{stream} ends with {last}; its tail is {tail}"));
    }
}

/// Where a job is, as its events tell.
#[derive(Default)]
struct Life {
    place: Place,
    /// The last claim that started.
    claim: i64,
    /// Attempts that failed.
    failures: i64,
    /// The question that it asks was answered: it ends, whoever holds it.
    answered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Place {
    #[default]
    Unborn,
    Waiting,
    Running,
    Ended,
}

impl Life {
    fn check(mut self, id: Uuid, job: &Job, breaches: &mut Breaches) {
        for event in &job.events {
            if let Err(law) = self.step(event) {
                let Event { seq, kind, claim, attempt, .. } = event;
                let Self { place, claim: current, .. } = self;
                let what = format!(
                    "job {id}: event {seq}, {kind} of claim {claim}, attempt {attempt}, while {place:?} under claim {current}"
                );
                breaches.add(law, what);
            }
        }
        if job.is_terminal() != (self.place == Place::Ended) {
            breaches.add(Law::EventsOutOfOrder, format!("job {id} is {}, its stream ends {:?}", job.state, self.place));
        }
    }

    fn step(&mut self, event: &Event) -> Result<(), Law> {
        // What a holder tells after the end changes nothing.
        if event.kind.starts_with("late_") || event.kind == "usage" {
            return Ok(());
        }
        let late = if event.claim < self.claim { Law::StaleWrites } else { Law::EventsOutOfOrder };
        if self.place == Place::Ended {
            return Err(late);
        }
        self.answered |= event.kind == "question_answered";
        if event.kind.starts_with("question_") {
            return Ok(());
        }
        let of_this_run = self.place == Place::Running && event.claim == self.claim;
        match event.kind.as_str() {
            "queued" if self.place == Place::Running && !of_this_run => return Err(Law::StaleWrites),
            "queued" => self.place = Place::Waiting,
            "started" => {
                let legal = self.place == Place::Waiting && event.claim == self.claim + 1;
                self.place = Place::Running;
                self.claim = event.claim;
                if !legal {
                    return Err(late);
                }
                if event.attempt != self.failures + 1 {
                    return Err(Law::AttemptsMisspent);
                }
            }
            // Written by the claim that starts with the next event.
            "text_retracted" if self.place == Place::Waiting && event.claim == self.claim + 1 => {}
            "completed" if self.answered => self.place = Place::Ended,
            "retrying" | "completed" if !of_this_run => return Err(Law::StaleWrites),
            "retrying" => {
                self.place = Place::Waiting;
                self.failures += 1;
            }
            "completed" | "error" | "cancelled" => {
                self.place = Place::Ended;
            }
            _ if !of_this_run => return Err(Law::StaleWrites),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::sample::{ECHO, HTTP, PROGRAM, assert_found, job_mut},
        *,
    };

    /// Puts a copy of event `from` before event `to`, and numbers all of them anew.
    fn repeat(job: &mut Job, from: usize, to: usize) {
        let event = job.events[from].clone();
        job.events.insert(to, event);
        renumber(job);
    }

    fn renumber(job: &mut Job) {
        for (seq, event) in (1..).zip(&mut job.events) {
            event.seq = seq;
        }
        job.tail_seq = job.events.last().map_or(0, |event| event.seq);
    }

    #[test]
    fn a_gap_a_double_and_a_missing_tail_are_found() {
        assert_found(Law::EventsMissing, |history| drop(job_mut(history, HTTP).events.remove(2)));
        assert_found(Law::EventsMissing, |history| job_mut(history, HTTP).events[2].seq = 2);
        assert_found(Law::EventsMissing, |history| drop(job_mut(history, HTTP).events.pop()));
    }

    #[test]
    fn a_gap_in_a_session_is_found() {
        assert_found(Law::EventsMissing, |history| job_mut(history, ECHO).events[2].session_seq = Some(20));
        assert_found(Law::EventsMissing, |history| {
            history.sessions.values_mut().for_each(|tail| *tail += 1);
        });
    }

    #[test]
    fn a_second_end_and_a_start_without_a_queue_are_out_of_order() {
        assert_found(Law::EventsOutOfOrder, |history| repeat(job_mut(history, HTTP), 5, 6));
        assert_found(Law::EventsOutOfOrder, |history| {
            let job = job_mut(history, HTTP);
            job.events.remove(3);
            renumber(job);
        });
        assert_found(Law::EventsOutOfOrder, |history| {
            let job = job_mut(history, HTTP);
            job.events.pop();
            renumber(job);
        });
    }

    #[test]
    fn whatever_an_old_claim_writes_is_stale() {
        // Text of claim 1 within the run of claim 2.
        assert_found(Law::StaleWrites, |history| repeat(job_mut(history, PROGRAM), 2, 7));
        // Its end there.
        assert_found(Law::StaleWrites, |history| job_mut(history, HTTP).events[5].claim = 1);
        // Its hand-back there.
        assert_found(Law::StaleWrites, |history| repeat(job_mut(history, ECHO), 3, 7));
        // Text between its hand-back and the next start.
        assert_found(Law::StaleWrites, |history| repeat(job_mut(history, ECHO), 2, 4));
        // Text after the end.
        assert_found(Law::StaleWrites, |history| repeat(job_mut(history, PROGRAM), 2, 8));
    }

    #[test]
    fn a_claim_that_comes_twice_is_found() {
        assert_found(Law::EventsOutOfOrder, |history| {
            for event in &mut job_mut(history, HTTP).events[4..] {
                event.claim = 1;
            }
        });
    }

    #[test]
    fn an_attempt_spent_on_a_hand_back_is_misspent() {
        assert_found(Law::AttemptsMisspent, |history| {
            for event in &mut job_mut(history, ECHO).events[4..] {
                event.attempt = 2;
            }
        });
    }
}
