//! `errand submit instance-task`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use crate::{
    arguments::ClientOptions,
    client,
    exit::{self, Usage},
    screen::Screen,
};

#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct InstanceTask {
    /// The instance whose bridge answers
    #[arg(long, value_name = "ID")]
    instance: String,
    /// Conversation with it to go on with [default: a new one]
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// What happens if the conversation is busy [default: enqueue]
    #[arg(long, value_name = "WHAT", value_parser = ["interrupt", "enqueue", "reject", "steer"])]
    on_busy: Option<String>,
    /// Longest that its bridge may take to call back
    #[arg(long, value_name = "SECONDS")]
    callback_seconds: Option<u32>,
    /// What to do; - reads it from standard input
    prompt: String,
    /// Show the answer as it comes; the outcome is the exit status
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl InstanceTask {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        let id = Uuid::parse_str(&self.instance)
            .map_err(|_| Usage(format!("{:?} is no id; `errand instances list` shows the ids", self.instance)))?;
        let mut body = json!({"prompt": client::read_text(&self.prompt)?});
        if let Some(session) = &self.session {
            body["sessionId"] = session.as_str().into();
        }
        if let Some(on_busy) = &self.on_busy {
            body["onBusy"] = on_busy.as_str().into();
        }
        if let Some(seconds) = self.callback_seconds {
            body["callbackSeconds"] = seconds.into();
        }
        let path = format!("/api/v1/agent/instances/{id}/tasks");
        super::send(&path, body, self.follow, &self.client, screen).await
    }
}
