//! A gateway under chaos: the places that messages go to, a gateway that misbehaves by a seed, and what its agents were told.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::history::{Call, History};
use crate::{
    Client,
    fake_gateway::{FakeGateway, Fault, Options},
};

/// Agents that are nudged.
const AGENTS: usize = 12;
/// How often the making of a place is tried.
const TRIES: u32 = 20;
/// The session of the agent that asks.
const ASKER: &str = "agent:main:asker";
/// What a nudge's text begins with; the number of its submission follows.
const NUDGE: &str = "nudge ";

/// Whom submissions speak to.
#[derive(Clone, Debug)]
pub struct Places {
    board: String,
    asker: String,
    agents: Vec<String>,
}

/// The session of the agent with this number.
fn session(number: usize) -> String {
    format!("agent:main:nudged-{number}")
}

impl Places {
    /// Makes the gateway, a board and its agents known.
    ///
    /// # Errors
    /// If one of them is refused.
    pub async fn introduce(client: &Client, url: &str) -> Result<Self> {
        let make = async |path: &str, body: Value| -> Result<Value> {
            let mut tries = 0;
            loop {
                let answer = Client::try_send(client.request(Method::POST, path).json(&body)).await?;
                // A fleet that has only just started may be short of breath; a 503 says that nothing was done.
                if answer.status == 503 && tries < TRIES {
                    tries += 1;
                    sleep(Duration::from_millis(500)).await;
                    continue;
                }
                anyhow::ensure!(answer.status == 200, "{path}: {}", answer.text);
                return Ok(answer.body);
            }
        };
        let id = |body: &Value| body["id"].as_str().map(str::to_owned).context("an id");
        let gateway = json!({"name": "Home", "url": url, "token": Options::default().token});
        let gateway = id(&make("/gateways", gateway).await?)?;
        let board = id(&make("/boards", json!({"name": "Ops", "gateway_id": gateway})).await?)?;
        let agent = async |name: &str, session: &str, leads: bool| -> Result<String> {
            let body = json!({
                "name": name, "gateway_id": gateway, "board_id": board, "is_board_lead": leads,
                "openclaw_session_id": session,
            });
            id(&make("/agents", body).await?)
        };
        let asker = agent("Asker", ASKER, true).await?;
        let mut agents = Vec::with_capacity(AGENTS);
        for number in 0..AGENTS {
            agents.push(agent(&format!("Agent {number}"), &session(number), false).await?);
        }
        Ok(Self { board, asker, agents })
    }

    /// A nudge of one of the agents.
    #[must_use]
    pub fn nudge(&self, number: u64) -> Value {
        let agent = &self.agents[usize::try_from(number).unwrap_or_default() % self.agents.len()];
        json!({
            "kind": "nudge",
            "payload": {"board_id": self.board, "agent_id": agent, "message": format!("{NUDGE}{number}")},
        })
    }

    /// A question of the agent that asks.
    #[must_use]
    pub fn question(&self, number: u64) -> Value {
        let content = format!("question {number}?");
        json!({"kind": "ask_user", "payload": {"board_id": self.board, "actor_id": self.asker, "content": content}})
    }
}

/// Misbehaves, now and then, until it is dropped.
pub async fn misbehave(fake: &FakeGateway, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed ^ 0x6761_7465);
    loop {
        sleep(Duration::from_millis(dice.random_range(300..1_500))).await;
        let fault = match dice.random_range(0..8) {
            0 => Fault::CutBefore,
            1 => Fault::CutAfter,
            2 => Fault::Hang,
            3 => Fault::HangAfter,
            4 => Fault::Late(Duration::from_secs(3)),
            5 => Fault::Twice,
            6 => Fault::Close(1012, "service restart"),
            _ => Fault::Restart,
        };
        fake.fail("chat.send", [fault]);
        match dice.random_range(0..12) {
            0 => fake.restart(),
            1 => fake.cut(),
            _ => {}
        }
    }
}

/// Writes down what the agents were told: nudges by their submission, answers by the question's.
pub fn read(fake: &FakeGateway, history: &mut History) {
    for number in 0..AGENTS {
        for (key, text) in fake.said(&session(number)) {
            let submission = text.strip_prefix(NUDGE).and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
            history.nudged.push(Call { submission, key });
        }
    }
    let questions: BTreeMap<&str, u64> = history
        .answers
        .iter()
        .filter(|(_, answers)| !answers.question.is_empty())
        .map(|(number, answers)| (answers.question.as_str(), *number))
        .collect();
    let mut resumed = Vec::new();
    for (_, text) in fake.said(ASKER) {
        let question = text.lines().find_map(|line| line.strip_prefix("Question ID: ")).unwrap_or_default();
        resumed.push(questions.get(question).copied().unwrap_or(u64::MAX));
    }
    for number in resumed {
        history.answers.entry(number).or_default().resumed += 1;
    }
}
