//! Processes die between the dispatch, its acknowledgement and the callback: the bridge sees one key, the history one answer.

use std::time::Duration;

use errand_tests::{
    both_modes,
    bridge::{Plan, done},
    wait,
};

use super::{World, prompt_echo, turn};

/// Longer than a lease, so that a killed worker's claim has passed.
const AFTER_THE_LEASE: Duration = Duration::from_secs(45);

impl World {
    /// Keys under which a prompt came.
    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.bridge.came().into_iter().map(|(prompt, _)| prompt.idempotency_key).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    async fn settled(&self, task: &errand_tests::Task, answer: &str) {
        wait::until_within(AFTER_THE_LEASE, "the task has ended", || async {
            (self.client().job(&task.id).await["state"] == "completed").then_some(())
        })
        .await;
        assert_eq!(self.keys(), std::slice::from_ref(&task.id), "one key");
        let came = self.bridge.came();
        assert!(came.iter().all(|(_, bytes)| *bytes == came[0].1), "byte by byte the same");
        assert_eq!(self.said(task).await, turn("survive", answer));
        let kinds = self.kinds(task).await;
        assert_eq!(kinds.iter().filter(|kind| *kind == "completed").count(), 1, "{kinds:?}");
    }
}

both_modes! {
    async fn a_worker_killed_before_the_acknowledgement(setup: Setup) {
        let mut world = World::new(setup, |prompt, before| match before {
            0 => Plan { hangs_up: true, ..Plan::silent() },
            _ => prompt_echo(prompt, before),
        })
        .await;
        let task = world.ask("survive").await;
        let prompt = world.taken(&task).await;
        world.errand.kill9_worker(0);
        world.errand.restart().await;
        world.aim();
        wait::until_within(AFTER_THE_LEASE, "it came again", || async { (world.bridge.came().len() > 1).then_some(()) }).await;
        // The key is known there, so the second is no new prompt: what the first began is said now.
        assert_eq!(world.bridge.call_back(&prompt, done("still here")).await.expect("an answer").0, 200);
        world.settled(&task, "still here").await;
        world.finish().await;
    }

    async fn all_killed_while_the_answer_is_made(setup: Setup) {
        let world = World::new(setup, |_, _| Plan::silent()).await;
        let mut world = world;
        let task = world.ask("survive").await;
        let prompt = world.parked(&task).await;
        world.errand.kill9();
        assert_eq!(world.bridge.call_back(&prompt, done("nobody there")).await, None);
        world.errand.restart().await;
        world.aim();
        assert_eq!(world.bridge.call_back(&prompt, done("at last")).await.expect("an answer").0, 200);
        world.settled(&task, "at last").await;
        assert_eq!(world.bridge.came().len(), 1, "what was taken is not sent again");
        world.finish().await;
    }

    async fn an_api_killed_while_it_is_called_back(setup: Setup) {
        let mut world = World::new(setup, |_, _| Plan::silent()).await;
        let task = world.ask("survive").await;
        let prompt = world.parked(&task).await;
        let call = world.bridge.call_back(&prompt, done("one answer"));
        let killed = async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            world.errand.kill9_api(0);
        };
        // Whether it was written before the process died, nobody knows: that is what repeating is for.
        let _ = tokio::join!(call, killed);
        world.errand.restart().await;
        world.aim();
        assert_eq!(world.bridge.call_back(&prompt, done("one answer")).await.expect("an answer").0, 200);
        world.settled(&task, "one answer").await;
        world.finish().await;
    }
}
