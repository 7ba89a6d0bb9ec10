//! Waiting for callbacks costs a worker nothing, and all of them land.

use errand_tests::{
    both_modes,
    bridge::{Plan, done},
    wait,
};
use serde_json::json;

use super::World;

/// More than a worker has slots.
const TASKS: usize = 60;

both_modes! {
    async fn more_tasks_wait_than_there_are_slots_and_all_are_answered(setup: Setup) {
        let setup = setup.section("worker", "lease_seconds = 5\nconcurrency = 2");
        let world = World::new(setup, |_, _| Plan::silent()).await;
        let mut tasks = Vec::with_capacity(TASKS);
        for number in 0..TASKS {
            tasks.push(world.ask(&format!("prompt {number}")).await);
        }
        wait::until("all wait", || async {
            let waiting = world.client().get("/queues").await.items()[0]["waiting"].clone();
            (waiting == TASKS).then_some(())
        })
        .await;
        // The slots are free: other work goes on.
        let other = world.client().submit_task(&json!({"prompt": "hello"})).await;
        world.client().wait_for_completion(&other.id).await;
        let prompts = world.bridge.taken();
        let calls = tasks.iter().map(|task| world.bridge.call_back(&prompts[&task.id], done(&task.id)));
        for heard in futures::future::join_all(calls).await {
            assert_eq!(heard.expect("an answer").0, 200);
        }
        for task in &tasks {
            assert_eq!(world.said(task).await[1].1, task.id);
        }
        world.finish().await;
    }
}
