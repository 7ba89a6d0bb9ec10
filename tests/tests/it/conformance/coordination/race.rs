//! Answers, ends and clocks that come at once: one wins.

use std::sync::Arc;

use errand_common::{
    domain::{JobState, Stream, coordination::QuestionState, event::EventType},
    port::store::{CancelResult, Finish, Outcome, coordination::Answered},
    wire::coordination::NUDGE,
};
use serde_json::json;

use super::{Fixture, LEASE, answer, ask, cancel, far, now};
use crate::conformance::on_both;

/// Questions of the first race.
const QUESTIONS: usize = 100;
/// Who answers each of them.
const ANSWERS: usize = 5;
/// Rounds of the second race.
const ROUNDS: usize = 12;

on_both! {
    async fn of_racing_answers_one_wins_and_the_others_are_told(fixture: Fixture) {
        let world = fixture.world().await;
        let mut racing = Vec::new();
        let mut asked = Vec::new();
        for _ in 0..QUESTIONS {
            asked.push(fixture.asked(ask(&world)).await);
        }
        for racer in 0..ANSWERS {
            for (_, id) in &asked {
                let (store, id) = (Arc::clone(&fixture.store), *id);
                racing.push(tokio::spawn(async move {
                    let said = json!(racer.to_string());
                    (id, store.answer(answer(id, said.clone(), "k")).await.unwrap().unwrap().0, said)
                }));
            }
        }
        let mut won = std::collections::BTreeMap::new();
        let mut told = 0;
        for one in racing {
            match one.await.unwrap() {
                (id, Answered::Won(_), said) => assert!(won.insert(id, said).is_none(), "{id} was won twice"),
                (_, Answered::Late(late), _) => {
                    assert_eq!(late.state, QuestionState::Answered);
                    told += 1;
                }
                (_, Answered::Unfit { detail, .. }, _) => panic!("{detail}"),
            }
        }
        assert_eq!((won.len(), told), (QUESTIONS, QUESTIONS * (ANSWERS - 1)));
        for (job, id) in asked {
            assert_eq!(fixture.question(id).await.answer.as_ref(), won.get(&id));
            let job = fixture.job(job).await;
            assert_eq!((job.state, &job.result.unwrap()["answer"]), (JobState::Completed, &won[&id]));
        }
        assert_eq!(fixture.count("SELECT count(*) FROM jobs WHERE kind = 'nudge'").await, QUESTIONS as i64, "{NUDGE}");
        let events = fixture.events(Stream::Board(world.board)).await;
        assert_eq!(events.len(), 2 * QUESTIONS, "gap-free, each opened and answered once");
    }

    async fn an_answer_an_end_a_cancellation_and_the_clock_leave_one_story(fixture: Fixture) {
        let world = fixture.world().await;
        for _ in 0..ROUNDS {
            let (job, id) = fixture.asked(ask(&world)).await;
            let run = fixture.claim(job, LEASE).await;
            let store = || Arc::clone(&fixture.store);
            let answering = { let store = store(); tokio::spawn(async move {
                matches!(store.answer(answer(id, json!("x"), "k")).await.unwrap().unwrap().0, Answered::Won(_))
            }) };
            let finishing = { let store = store(); tokio::spawn(async move {
                let entry = Finish::new(run.fence, Outcome::AwaitingAnswer { result: json!({}) });
                store.finish(vec![entry], now()).await.unwrap().0[0].is_ok()
            }) };
            let cancelling = { let store = store(); tokio::spawn(async move {
                matches!(store.cancel(cancel(job)).await.unwrap().unwrap().0, CancelResult::Cancelled(_))
            }) };
            let expiring = { let store = store(); tokio::spawn(async move {
                store.expire_questions(far(), 10).await.unwrap().0 > 0
            }) };
            let _ = finishing.await.unwrap();
            let (answered, cancelled, expired) =
                (answering.await.unwrap(), cancelling.await.unwrap(), expiring.await.unwrap());
            assert_eq!([answered, cancelled, expired].iter().filter(|won| **won).count(), 1, "one ended it");
            let (state, question) = (fixture.job(job).await.state, fixture.question(id).await.state);
            let expected = match (answered, cancelled) {
                (true, _) => (JobState::Completed, QuestionState::Answered),
                (_, true) => (JobState::Cancelled, QuestionState::Cancelled),
                _ => (JobState::Failed, QuestionState::Expired),
            };
            assert_eq!((state, question), expected);
            let ends = |kind: &EventType| matches!(kind, EventType::Completed | EventType::Error | EventType::Cancelled);
            assert_eq!(fixture.events(Stream::Job(job)).await.iter().filter(|kind| ends(kind)).count(), 1);
            let told = fixture.audit().await.into_iter().filter(|(kind, _)| kind.starts_with("gateway.lead.ask_user"));
            assert!(told.count() >= 1);
        }
        let events = fixture.events(Stream::Board(world.board)).await;
        assert_eq!(events.len(), 2 * ROUNDS, "each question has a beginning and one end");
        let lines = fixture.audit().await.into_iter().filter(|(kind, _)| kind.starts_with("gateway.lead.ask_user"));
        assert_eq!(lines.count(), ROUNDS, "each was told once");
    }
}
