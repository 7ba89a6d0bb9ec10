//! Instances: what their bridges do, and what becomes of the tasks.

mod behaviour;
mod callback;
mod cli;
mod kill;
mod parked;
mod rest;
mod ticket;

use errand_tests::{
    Client, Errand, Setup, Task,
    bridge::{Bridge, Plan, Prompt, done},
    client::task_of,
    wait,
};
use serde_json::{Value, json};

/// An Errand that reaches bridges on this machine, and comes back soon to those that refuse.
pub(crate) fn reaching(setup: Setup) -> Setup {
    setup.section("outbound", "allow = [\"127.0.0.0/8\"]\ncall_seconds = 2")
}

/// An Errand, a bridge, and an instance there.
pub(crate) struct World {
    pub(crate) errand: Errand,
    pub(crate) bridge: Bridge,
    pub(crate) instance: String,
}

impl World {
    /// With a bridge that follows this rule.
    pub(crate) async fn new(setup: Setup, rule: impl Fn(&Prompt, usize) -> Plan + Send + Sync + 'static) -> Self {
        let (errand, bridge) = (reaching(setup).start().await, Bridge::start(rule).await);
        let mut world = Self { errand, bridge, instance: String::new() };
        world.aim();
        world.instance = world.register(&json!({})).await;
        world
    }

    /// The bridge calls back where the api listens now.
    pub(crate) fn aim(&self) {
        self.bridge.call_back_to(self.errand.url());
    }

    pub(crate) fn client(&self) -> &Client {
        self.errand.client()
    }

    /// Makes an instance of the bridge, with these fields besides.
    pub(crate) async fn register(&self, more: &Value) -> String {
        let port = self.bridge.address().port();
        let mut body = json!({"name": "near", "serverHost": "127.0.0.1", "hostPort": port});
        for (name, value) in more.as_object().expect("fields") {
            body[name] = value.clone();
        }
        let answer = self.client().post("/agent/instances", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn ask(&self, prompt: &str) -> Task {
        self.ask_with(&json!({"prompt": prompt})).await
    }

    pub(crate) async fn ask_with(&self, body: &Value) -> Task {
        let answer = self.client().post(&format!("/agent/instances/{}/tasks", self.instance), body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        task_of(&answer)
    }

    /// The prompt of a task, once the bridge has taken it.
    pub(crate) async fn taken(&self, task: &Task) -> Prompt {
        wait::until("the bridge has the prompt", || async { self.bridge.taken().get(&task.id).cloned() }).await
    }

    /// The prompt of a task that waits for its callback.
    pub(crate) async fn parked(&self, task: &Task) -> Prompt {
        let prompt = self.taken(task).await;
        self.client().wait_for_state(&task.id, "awaiting_callback").await;
        prompt
    }

    /// Who said what.
    pub(crate) async fn said(&self, task: &Task) -> Vec<(String, String)> {
        let text = |message: &Value, field: &str| message[field].as_str().unwrap_or_default().to_owned();
        let messages = self.client().messages(&task.session_id).await;
        messages.iter().map(|message| (text(message, "role"), text(message, "content"))).collect()
    }

    /// Types of the job's events.
    pub(crate) async fn kinds(&self, task: &Task) -> Vec<String> {
        let frames = self.client().events(&task.id).await;
        frames.iter().filter(|frame| frame.is_event()).map(|frame| frame.kind().to_owned()).collect()
    }

    pub(crate) async fn finish(self) {
        self.errand.finish().await;
    }
}

/// A conversation of one question and one answer.
pub(crate) fn turn(prompt: &str, answer: &str) -> Vec<(String, String)> {
    [("user", prompt), ("assistant", answer)].map(|(role, text)| (role.to_owned(), text.to_owned())).to_vec()
}

/// Takes each prompt, and answers it at once with itself in capitals.
pub(crate) fn prompt_echo(prompt: &Prompt, _: usize) -> Plan {
    Plan::says([done(&prompt.prompt.to_uppercase())])
}
