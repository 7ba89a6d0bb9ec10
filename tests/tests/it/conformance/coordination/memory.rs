//! What is left on boards, and the answers among it.

use errand_common::{
    domain::{
        MemoryId, Stream,
        coordination::QuestionState,
        event::EventType::{self, Memory},
    },
    port::store::{
        Consequences,
        coordination::{MemoryFilter, NewMemory, Posted},
    },
    wire::coordination::{NOTICE, NUDGE},
};
use serde_json::{Value, json};

use super::{Fixture, TENANT, World, ask, cancel, now, nudge, question_in};
use crate::conformance::{on_both, record};

pub(super) fn item(world: &World, content: &str, tags: &[&str]) -> NewMemory {
    NewMemory {
        id: MemoryId::new(),
        tenant: TENANT.to_owned(),
        board_id: world.board,
        content: content.to_owned(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        source: None,
        agent_id: Some(world.lead),
        question_id: None,
        correlation_id: None,
        written_by: "agent-1".to_owned(),
        notices: vec![],
        idempotency: None,
    }
}

/// A reply as the gateway's own agent is told to write it.
fn reply(world: &World, content: &str) -> NewMemory {
    let source = Some("user_via_gateway_main".to_owned());
    NewMemory { source, ..item(world, content, &["gateway_main", "user_reply"]) }
}

/// Leaves an item; nobody has to be told.
pub(super) async fn leave(fixture: &Fixture, new: NewMemory) {
    let (done, _) = posted(fixture, new).await;
    assert!(matches!(done, Posted::Done { .. }), "{done:?}");
}

async fn posted(fixture: &Fixture, new: NewMemory) -> (Posted, Consequences) {
    fixture.store.post_memory(new, now()).await.unwrap()
}

/// The answer that a posted item was, if it was one.
fn answer_in(posted: &Posted) -> Option<Value> {
    let Posted::Done { answered, memory, .. } = posted else { panic!("{posted:?}") };
    assert_eq!(answered.as_ref().map(|question| question.id), memory.question_id);
    answered.as_ref().map(|question| question.answer.clone().unwrap())
}

on_both! {
    async fn an_item_is_kept_with_its_event_and_its_notices(fixture: Fixture) {
        let world = fixture.world().await;
        let mut notice = nudge(&world, None);
        notice.kind = NOTICE.to_owned();
        let new = NewMemory { notices: vec![notice.clone()], ..item(&world, "hi @lead", &["chat"]) };
        let (id, key) = (new.id, Some(record("k", "f", json!({"id": 1}))));
        let (done, consequences) = posted(&fixture, NewMemory { idempotency: key.clone(), ..new }).await;
        let Posted::Done { memory, .. } = done else { panic!("{done:?}") };
        assert!(memory.is_chat && memory.id == id);
        assert_eq!(consequences.ready.iter().map(|ready| ready.id).collect::<Vec<_>>(), [notice.id]);
        assert_eq!(fixture.events(Stream::Board(world.board)).await, [Memory]);
        let told = fixture.store.events(Stream::Board(world.board), 0, 10).await.unwrap();
        assert_eq!((told[0].job_id, &told[0].data["content"]), (None, &json!("hi @lead")));
        assert_eq!(consequences.events.iter().filter(|event| event.board_id.is_some()).count(), 1);
        let (again, _) = posted(&fixture, NewMemory { idempotency: key, ..item(&world, "hi", &[]) }).await;
        assert!(matches!(again, Posted::Replayed(answer) if answer.answer == json!({"id": 1})));
        let filter = MemoryFilter {
            tenant: TENANT.to_owned(), board_id: world.board, is_chat: None, since: None, offset: 0, limit: 10,
        };
        assert_eq!(fixture.store.memories(&filter).await.unwrap(), (vec![*memory], 1));
    }

    async fn items_are_listed_newest_first(fixture: Fixture) {
        let world = fixture.world().await;
        for number in 0..5 {
            let tags: &[&str] = if number % 2 == 0 { &["chat"] } else { &[] };
            leave(&fixture, item(&world, &number.to_string(), tags)).await;
        }
        let list = async |is_chat, offset, limit| {
            let filter = MemoryFilter {
                tenant: TENANT.to_owned(), board_id: world.board, is_chat, since: None, offset, limit,
            };
            let (items, total) = fixture.store.memories(&filter).await.unwrap();
            (items.into_iter().map(|item| item.content).collect::<Vec<_>>().join(""), total)
        };
        assert_eq!(list(None, 0, 10).await, ("43210".to_owned(), 5));
        assert_eq!(list(Some(true), 0, 10).await, ("420".to_owned(), 3));
        assert_eq!(list(Some(false), 0, 10).await, ("31".to_owned(), 2));
        assert_eq!(list(None, 1, 2).await, ("32".to_owned(), 5));
    }

    async fn pause_and_resume_are_said_in_the_chat(fixture: Fixture) {
        let world = fixture.world().await;
        for (content, tag, paused) in [
            ("/pause", "note", false), ("/pause", "chat", true), ("stop", "chat", true), (" /RESUME", "chat", false),
        ] {
            leave(&fixture, item(&world, content, &[tag])).await;
            let board = fixture.store.board(TENANT, world.board).await.unwrap().unwrap();
            assert_eq!(board.paused, paused, "{content}");
        }
        assert_eq!(fixture.events(Stream::Board(world.board)).await, [Memory; 4]);
    }

    async fn a_reply_answers_the_question_it_is_meant_for(fixture: Fixture) {
        let world = fixture.world().await;
        let (first, one) = fixture.asked(ask(&world)).await;
        let mut other = ask(&world);
        question_in(&mut other).correlation_id = Some("c-2".to_owned());
        let (_, two) = fixture.asked(other).await;
        fixture.delivered(first).await;
        assert_eq!(answer_in(&posted(&fixture, reply(&world, "either")).await.0), None, "both are as likely");
        let by_correlation = NewMemory { correlation_id: Some("c-2".to_owned()), ..reply(&world, "two") };
        assert_eq!(answer_in(&posted(&fixture, by_correlation).await.0), Some(json!("two")));
        assert_eq!(fixture.question(two).await.answered_by.as_deref(), Some("agent-1"));
        assert_eq!(fixture.question(one).await.state, QuestionState::Open);
        assert_eq!(answer_in(&posted(&fixture, item(&world, "a note", &["user_reply"])).await.0), None);
        let (done, consequences) = posted(&fixture, reply(&world, "one")).await;
        assert_eq!(answer_in(&done), Some(json!("one")));
        assert_eq!(consequences.ready.len(), 1, "the asking agent is told");
        assert_eq!(fixture.jobs_of_kind(NUDGE).await.len(), 2);
        let question = fixture.question(one).await;
        let Posted::Done { memory, .. } = done else { unreachable!("it was looked at") };
        assert_eq!(question.memory_id, Some(memory.id));
        let events = fixture.events(Stream::Board(world.board)).await;
        assert_eq!(events[events.len() - 2..], [EventType::QuestionAnswered, Memory]);
        assert_eq!(answer_in(&posted(&fixture, reply(&world, "again")).await.0), None, "nothing is open");
    }

    async fn chat_answers_only_what_it_names(fixture: Fixture) {
        let world = fixture.world().await;
        let (_, id) = fixture.asked(ask(&world)).await;
        let chat = || NewMemory { tags: vec!["chat".into(), "gateway_main".into(), "user_reply".into()], ..reply(&world, "x") };
        assert_eq!(answer_in(&posted(&fixture, chat()).await.0), None);
        assert_eq!(answer_in(&posted(&fixture, NewMemory { question_id: Some(id), ..chat() }).await.0), Some(json!("x")));
    }

    async fn who_names_a_question_that_has_ended_is_told_so(fixture: Fixture) {
        let world = fixture.world().await;
        let (job, id) = fixture.asked(ask(&world)).await;
        let (_, _) = fixture.store.cancel(cancel(job)).await.unwrap().unwrap();
        for late in [
            NewMemory { question_id: Some(id), ..reply(&world, "x") },
            item(&world, "x", &[&id.to_string()]),
        ] {
            let (done, _) = posted(&fixture, late).await;
            let Posted::Done { memory, answered: None, late: Some(late), unfit: None } = done else { panic!("{done:?}") };
            assert_eq!((late.id, late.state, memory.question_id), (id, QuestionState::Cancelled, None));
        }
    }

    async fn a_reply_that_does_not_fit_is_kept_and_answers_nothing(fixture: Fixture) {
        let world = fixture.world().await;
        let mut job = ask(&world);
        question_in(&mut job).answer_schema = Some(json!({"type": "integer"}));
        let (_, id) = fixture.asked(job).await;
        let (done, _) = posted(&fixture, reply(&world, "seven")).await;
        assert!(matches!(&done, Posted::Done { answered: None, unfit: Some(_), .. }), "{done:?}");
        assert_eq!(fixture.question(id).await.state, QuestionState::Open);
        assert_eq!(answer_in(&posted(&fixture, reply(&world, "7")).await.0), Some(json!(7)));
        assert_eq!(fixture.count("SELECT count(*) FROM memories").await, 2);
    }
}
