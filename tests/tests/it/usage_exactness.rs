//! What was spent is recorded once, whatever dies.

use std::{collections::BTreeMap, time::Duration};

use errand_tests::{
    cluster_only,
    fake_openai::{FakeOpenAi, Reply, Step},
    usage::{records, until_all_are_released},
};
use futures::future::join_all;
use serde_json::{Value, json};

const ENGINE: &str = "model";
const TASKS: usize = 200;
/// What one answered request costs.
const TOKENS: usize = 18;

/// A whole answer that takes a while.
fn slow_answer() -> Reply {
    let mut steps = Vec::new();
    for word in ["one ", "two ", "three"] {
        steps.extend([Step::Text(word.to_owned()), Step::Pause(Duration::from_millis(200))]);
    }
    steps.extend([Step::Finish("stop"), Step::Usage(11, 7), Step::Done]);
    Reply::Stream(steps)
}

/// How many requests the server got for each prompt.
fn requests_by_prompt(fake: &FakeOpenAi) -> BTreeMap<String, usize> {
    let mut requests = BTreeMap::new();
    for request in fake.requests() {
        let messages = request.body["messages"].as_array().cloned().unwrap_or_default();
        let prompt = messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
        *requests.entry(prompt.to_owned()).or_default() += 1;
    }
    requests
}

cluster_only! {
    async fn under_kills_and_cancels_the_sums_are_the_servers_count_less_the_unknown_runs(setup: Setup) {
        let fake = FakeOpenAi::always(slow_answer()).await;
        let mut errand = setup
            .workers(2)
            .section("worker", "concurrency = 8\nlease_seconds = 3")
            .engine(ENGINE, &fake.engine())
            .start()
            .await;
        let client = errand.client().clone();
        let submit = |number: usize| {
            let body = json!({"prompt": format!("task {number}"), "engineType": ENGINE, "maxAttempts": 5});
            let client = &client;
            async move { client.submit_task(&body).await.id }
        };
        let ids: Vec<String> = join_all((0..TASKS).map(submit)).await;
        let begun = |count: usize| {
            let fake = &fake;
            move || async move { (fake.requests().len() >= count).then_some(()) }
        };
        errand_tests::wait::until("work is under way", begun(30)).await;
        errand.kill9_worker(0);
        errand.restart_workers().await;
        // Some that run, some that wait, some that have ended.
        for id in ids.iter().step_by(10) {
            assert_eq!(client.delete(&format!("/agent/tasks/{id}")).await.status, 200);
        }
        errand_tests::wait::until("it goes on", begun(80)).await;
        errand.kill9_worker(0);
        errand.restart_workers().await;
        let jobs: Vec<Value> = join_all(ids.iter().map(|id| client.wait_for_end(id))).await;

        until_all_are_released(&errand).await;
        let (records, requests) = (records(&errand).await, requests_by_prompt(&fake));
        let (mut known, mut unknown, mut tokens) = (0, 0, 0);
        for (number, job) in jobs.iter().enumerate() {
            let id = job["id"].as_str().expect("an id");
            let asked = requests.get(&format!("task {number}")).copied().unwrap_or_default();
            let kept = records.get(id).copied().unwrap_or_default();
            let spent = usize::try_from(kept.input + kept.output).expect("few");
            assert_eq!(spent, TOKENS * kept.known, "{kept:?} {job:#}");
            let lost = asked.checked_sub(kept.known);
            assert!(lost.is_some_and(|lost| lost <= kept.unknown), "{asked} requests, {kept:?}: {job:#}");
            if job["state"] == "completed" {
                assert!(kept.known >= 1, "its last run ended well and is not recorded: {kept:?} {job:#}");
            }
            known += kept.known;
            unknown += kept.unknown;
            tokens += spent;
        }
        let of_unknown = fake.requests().len() - known;
        println!("{} requests, {known} known records, {unknown} unknown with {of_unknown} requests", fake.requests().len());
        assert!(unknown > 0 && of_unknown > 0, "nothing was cut off: the test shows nothing");
        let server = (fake.requests().len() - of_unknown) * TOKENS;
        assert_eq!(tokens, server, "the sums are what the server counts, less the requests of runs marked unknown");
        let completed = jobs.iter().filter(|job| job["state"] == "completed").count();
        assert!(completed >= TASKS * 8 / 10, "only {completed} of {TASKS} completed");
        errand.finish().await;
    }
}
