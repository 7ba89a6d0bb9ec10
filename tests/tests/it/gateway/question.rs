//! Questions to people: asked once, answered once, and the asker is told.

use std::time::Duration;

use errand_common::{
    domain::{
        FailureClass, JobId, JobState, QuestionId,
        coordination::{QuestionState, agent},
    },
    port::store::{
        NewJob,
        coordination::{Answer, Answered},
    },
    wire::coordination::ASK_USER,
};
use errand_tests::wait;
use serde_json::json;

use super::{
    Place, World, everywhere,
    world::{self, TENANT, ask_user},
};

impl World {
    async fn answer(&self, id: QuestionId, text: &str) -> Answered {
        let now = self.backend.clock.now();
        let answer =
            Answer { tenant: TENANT.to_owned(), id, content: json!(text), answered_by: "someone".to_owned(), now };
        let (answered, consequences) = self.backend.store.answer(answer).await.expect("a store").expect("a question");
        self.backend.dispatch(consequences).await;
        answered
    }
}

everywhere! {
    async fn a_question_waits_without_a_holder_and_its_answer_reaches_the_asker(place: Place) {
        let world = World::new(place).await;
        let lead = world.agent(world.board("Ops").await, "Lead").await;
        let worker = world.worker();
        let (job, question) = ask_user(world.gateway, &lead, "which one?", 600, world.backend.clock.now());
        let id = world.submit(job).await;
        let job = world.until(id, "the delivery", |job| job.state == JobState::AwaitingAnswer).await;
        let known = json!({
            "ok": true, "board_id": lead.board_id, "main_agent_id": world.main, "main_agent_name": "fake Gateway Agent",
            "question_id": question,
        });
        assert_eq!(job.result, Some(known));
        let said = world.fake.said(&agent::main_session(world.gateway));
        assert_eq!(said.last().map(|(key, text)| (key.as_str(), text.as_str())), Some((id.to_string().as_str(), "which one?")));
        assert_eq!(world.told(id).await.len(), 1, "told when it was delivered");
        // It survives those who asked.
        worker.stop().await;
        assert!(matches!(world.answer(question, "the blue one").await, Answered::Won(_)));
        assert!(matches!(world.answer(question, "the red one").await, Answered::Late(late) if late.answer == Some(json!("the blue one"))));
        assert_eq!(world.job(id).await.state, JobState::Completed);
        let worker = world.worker();
        let told = wait::until("the asker is told", || async { world.fake.said(&lead.session_key).pop() }).await;
        assert!(told.1.starts_with("USER ANSWER\nBoard: Ops\n") && told.1.ends_with("\n\nthe blue one"), "{}", told.1);
        assert_eq!(world.told(id).await.len(), 1, "and not again");
        worker.stop().await;
    }

    async fn a_question_that_nobody_answers_expires(place: Place) {
        let world = World::new(place).await;
        let lead = world.agent(world.board("Ops").await, "Lead").await;
        let worker = world.worker();
        let (job, question) = ask_user(world.gateway, &lead, "anyone?", 6, world.backend.clock.now());
        let id = world.submit(job).await;
        world.until(id, "the delivery", |job| job.state == JobState::AwaitingAnswer).await;
        let failure = world.failed(id).await;
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Timeout, "QUESTION_EXPIRED"));
        let Answered::Late(late) = world.answer(question, "me").await else { panic!("it is over") };
        assert_eq!(late.state, QuestionState::Expired);
        // Repeated, it is asked again.
        let repeated = NewJob {
            id: JobId::new(),
            payload: world.job(id).await.payload,
            retry_of: Some(id),
            coordination: None,
            ..world::job(ASK_USER, &json!({}), None)
        };
        let again = world.submit(repeated).await;
        world.until(again, "the delivery", |job| job.state == JobState::AwaitingAnswer).await;
        let said = world.fake.said(&agent::main_session(world.gateway));
        assert_eq!(said.iter().filter(|(_, text)| text == "anyone?").count(), 2, "{said:?}");
        world.failed(again).await;
        worker.stop().await;
    }

    async fn an_answer_that_overtakes_the_delivery_counts(place: Place) {
        let world = World::new(place).await;
        let lead = world.agent(world.board("Ops").await, "Lead").await;
        let (job, question) = ask_user(world.gateway, &lead, "which one?", 600, world.backend.clock.now());
        let id = world.submit(job).await;
        assert!(matches!(world.answer(question, "blue").await, Answered::Won(_)));
        let worker = world.worker();
        wait::until("the asker is told", || async { world.fake.said(&lead.session_key).pop() }).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(world.job(id).await.state, JobState::Completed);
        assert!(world.fake.said(&agent::main_session(world.gateway)).is_empty(), "nobody needs to be asked any more");
        worker.stop().await;
    }
}
