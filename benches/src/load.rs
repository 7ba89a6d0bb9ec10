//! Work for a fleet: `echo` tasks of a known length, one by one or many at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use errand_tests::{Client, Setup};
use serde_json::{Value, json};

/// Most jobs of one request.
const PER_REQUEST: usize = 1_000;

/// An engine whose tasks take so long for each word of their prompt.
pub(crate) fn with_pace(setup: Setup, engine: &str, word: Duration) -> Setup {
    setup.engine(engine, &format!("type = \"echo\"\nword_delay_ms = {}", word.as_millis()))
}

/// A job that says so many words.
pub(crate) fn task(engine: &str, words: usize) -> Value {
    json!({"kind": "task", "payload": {"prompt": vec!["word"; words].join(" "), "engineType": engine}})
}

/// Submits one; its status is the caller's to judge.
pub(crate) async fn submit(client: &Client, job: &Value) -> Result<u16> {
    Ok(Client::try_send(client.request(reqwest::Method::POST, "/jobs").json(job)).await?.status)
}

/// Submits so many, of these kinds in turn.
///
/// # Errors
/// If one is refused.
pub(crate) async fn submit_many(client: &Client, kinds: &[Value], count: usize) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let jobs: Vec<_> = kinds.iter().cycle().take(left.min(PER_REQUEST)).collect();
        let answer = client.post("/jobs/batch", &json!({"jobs": jobs})).await;
        ensure!(answer.status == 202, "refused with {}: {}", answer.status, answer.text);
        let made = answer.items().iter().filter(|item| item["id"].is_string()).count();
        ensure!(made == jobs.len(), "{made} of {} were made: {}", jobs.len(), answer.text);
        left -= made;
    }
    Ok(())
}
