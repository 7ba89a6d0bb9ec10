//! `errand submit nudge`, `ask-user`, `lead-message`, `broadcast`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::{arguments::ClientOptions, client, exit, screen::Screen};

#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct Nudge {
    /// The board
    #[arg(long, value_name = "ID")]
    board: String,
    /// The agent
    #[arg(long, value_name = "ID")]
    agent: String,
    /// What it is told; - reads it from standard input
    message: String,
    /// Wait for the end; the outcome is the exit status
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct AskUser {
    /// The board that asks
    #[arg(long, value_name = "ID")]
    board: String,
    /// The agent that is told of the answer
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Where the person is to be reached first
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// The question; - reads it from standard input
    question: String,
    /// Wait for the answer; the outcome is the exit status
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct LeadMessage {
    /// The board, whose lead is made if it has none
    #[arg(long, value_name = "ID")]
    board: String,
    #[command(flatten)]
    said: Said,
}

#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct Broadcast {
    /// The gateway
    #[arg(long, value_name = "ID")]
    gateway: String,
    /// One of its boards; may be said several times [default: all]
    #[arg(long, value_name = "ID")]
    board: Vec<String>,
    #[command(flatten)]
    said: Said,
}

/// What leads are told.
#[derive(Debug, Args)]
struct Said {
    /// What it is
    #[arg(long, default_value = "question", value_parser = ["question", "handoff"])]
    kind: String,
    /// What they are told; - reads it from standard input
    message: String,
    /// Wait for the end; the outcome is the exit status
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientOptions,
}

async fn submit(
    kind: &str,
    payload: &Value,
    follow: bool,
    options: &ClientOptions,
    screen: Screen,
) -> anyhow::Result<ExitCode> {
    super::send("/api/v1/jobs", json!({"kind": kind, "payload": payload}), follow, options, screen).await
}

impl Nudge {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        let message = client::read_text(&self.message)?;
        let payload = json!({"board_id": self.board, "agent_id": self.agent, "message": message});
        submit("nudge", &payload, self.follow, &self.client, screen).await
    }
}

impl AskUser {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        let mut payload = json!({"board_id": self.board, "content": client::read_text(&self.question)?});
        if let Some(agent) = self.agent {
            payload["actor_id"] = agent.into();
        }
        if let Some(channel) = self.channel {
            payload["preferred_channel"] = channel.into();
        }
        submit("ask_user", &payload, self.follow, &self.client, screen).await
    }
}

impl LeadMessage {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        let Said { kind, message, follow, client } = self.said;
        let payload = json!({"board_id": self.board, "kind": kind, "content": crate::client::read_text(&message)?});
        submit("lead_message", &payload, follow, &client, screen).await
    }
}

impl Broadcast {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        let Said { kind, message, follow, client } = self.said;
        let payload = json!({
            "gateway_id": self.gateway, "board_ids": self.board, "kind": kind, "content": crate::client::read_text(&message)?,
        });
        submit("broadcast", &payload, follow, &client, screen).await
    }
}
