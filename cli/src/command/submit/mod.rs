//! `errand submit`

mod attachment;
mod coordination;
mod instance_task;
mod job;
mod task;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    follow,
    screen::Screen,
    settings,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Submit {
    /// Submit a prompt for an engine
    Task(task::Task),
    /// Submit a prompt for an instance's bridge
    InstanceTask(instance_task::InstanceTask),
    /// Tell an agent of a board something
    Nudge(coordination::Nudge),
    /// Ask a person, through a gateway's own agent
    AskUser(coordination::AskUser),
    /// Tell a board's lead something
    LeadMessage(coordination::LeadMessage),
    /// Tell the leads of a gateway's boards something
    Broadcast(coordination::Broadcast),
    /// Submit a job of any kind
    Job(job::Job),
}

impl Submit {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::Task(task) => task.run(screen).await,
            Self::InstanceTask(task) => task.run(screen).await,
            Self::Nudge(nudge) => nudge.run(screen).await,
            Self::AskUser(ask) => ask.run(screen).await,
            Self::LeadMessage(message) => message.run(screen).await,
            Self::Broadcast(broadcast) => broadcast.run(screen).await,
            Self::Job(job) => job.run(screen).await,
        }
    }
}

/// Sends what is to be done, then follows it, or says how to.
async fn send(
    path: &str,
    body: Value,
    follow: bool,
    options: &ClientOptions,
    mut screen: Screen,
) -> anyhow::Result<ExitCode> {
    let client = Client::new(options)?;
    let answer = client.send(Request::post(path, Some(body))).await?;
    let id = answer.job_id()?;
    if follow {
        return follow::follow(&client, &id, options, screen).await;
    }
    if options.json {
        screen.line(answer.body.trim_end())?;
    } else {
        screen.line(&id)?;
        let command = settings::command(&format!("jobs follow {id}"), options);
        screen.note(&format!("submitted; follow it: {command}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
