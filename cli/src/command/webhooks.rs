//! `errand webhooks`

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use uuid::Uuid;

use super::listing;
use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    exit::Usage,
    screen::Screen,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Webhooks {
    /// List the endpoints that are told of what happens
    List(List),
    /// Make an endpoint; its secret is printed once, after its id
    Add(Add),
    /// Remove an endpoint; what is on its way to it is not sent any more
    Remove(One),
    /// Tell an endpoint again that was disabled
    Enable(One),
    /// Tell an endpoint nothing for now
    Disable(One),
    /// Give an endpoint another secret, which is printed; the former signs beside it for a while
    Rotate(Rotate),
    /// Send an event of type webhook.test, whatever the endpoint wants to hear
    Test(One),
    /// List what an endpoint was told, and is being told
    Deliveries(Deliveries),
    /// Tell an endpoint once more what a delivery told it
    Redeliver(Redeliver),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Where it is: https:// at a public address, http:// too in a network of outbound.allow
    endpoint_url: String,
    /// What it wants to hear: a type such as job.failed, or a family such as question.* [default: all]
    #[arg(long = "event", value_name = "TYPE")]
    events: Vec<String>,
    /// How it is told
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What people call it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

/// How an endpoint is told.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    /// As Standard Webhooks has it
    Standard,
    /// A CloudEvent in structured mode
    #[value(name = "cloudevents")]
    CloudEvents,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The endpoint's id
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// The endpoint's id
    id: String,
    /// For so long the former secret signs too [default: a day]
    #[arg(long, value_name = "SECONDS")]
    overlap_seconds: Option<u64>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Deliveries {
    /// The endpoint's id
    id: String,
    /// In one of these states, comma-separated; live: every one that has not ended
    #[arg(long, value_name = "STATES")]
    state: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Redeliver {
    /// The endpoint's id
    id: String,
    /// The delivery's id
    delivery: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Webhooks {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => {
                let columns = &[
                    ("ID", "id"),
                    ("STATE", "state"),
                    ("FAILING SINCE", "failing_since"),
                    ("EVENTS", "events"),
                    ("URL", "url"),
                ];
                listing::list("/api/v1/webhooks", &[], columns, &list.client, screen).await
            }
            Self::Add(add) => {
                let mut body = json!({"url": add.endpoint_url, "events": add.events});
                if let Some(format) = add.format {
                    let name = format.to_possible_value().map(|value| value.get_name().to_owned());
                    body["format"] = name.into();
                }
                if let Some(description) = add.description {
                    body["description"] = description.into();
                }
                with_secret(Request::post("/api/v1/webhooks", Some(body)), &add.client, screen).await
            }
            Self::Remove(one) => {
                let path = path_of(&one.id)?;
                listing::change(Request::delete(&path), "message", "", &one.client, screen).await
            }
            Self::Enable(one) => set_state(&one, "enabled", screen).await,
            Self::Disable(one) => set_state(&one, "disabled", screen).await,
            Self::Rotate(rotate) => {
                let path = format!("{}/secret", path_of(&rotate.id)?);
                let body =
                    rotate.overlap_seconds.map_or_else(|| json!({}), |seconds| json!({"overlap_seconds": seconds}));
                with_secret(Request::post(&path, Some(body)), &rotate.client, screen).await
            }
            Self::Test(one) => {
                let path = format!("{}/test", path_of(&one.id)?);
                let note = "`errand jobs show` says what became of it";
                listing::change(Request::post(&path, None), "id", note, &one.client, screen).await
            }
            Self::Deliveries(deliveries) => {
                let columns = &[
                    ("ID", "id"),
                    ("EVENT", "event_type"),
                    ("STATE", "state"),
                    ("ATTEMPT", "attempt"),
                    ("STATUS", "status"),
                    ("JOB", "job_id"),
                    ("MADE", "created_at"),
                ];
                let path = format!("{}/deliveries", path_of(&deliveries.id)?);
                let filters = [("state", deliveries.state.as_deref())];
                listing::list(&path, &filters, columns, &deliveries.client, screen).await
            }
            Self::Redeliver(again) => {
                let delivery = Uuid::parse_str(&again.delivery).map_err(|_| {
                    Usage(format!("{:?} is no id; `errand webhooks deliveries` shows the ids", again.delivery))
                })?;
                let path = format!("{}/deliveries/{delivery}/redeliver", path_of(&again.id)?);
                listing::change(Request::post(&path, None), "id", "", &again.client, screen).await
            }
        }
    }
}

fn path_of(id: &str) -> anyhow::Result<String> {
    listing::path_of("webhooks", id)
}

async fn set_state(one: &One, state: &str, screen: Screen) -> anyhow::Result<ExitCode> {
    let path = path_of(&one.id)?;
    listing::change(Request::patch(&path, json!({"state": state})), "state", "", &one.client, screen).await
}

/// Prints id and secret, or all of the answer for programs.
async fn with_secret(request: Request<'_>, options: &ClientOptions, mut screen: Screen) -> anyhow::Result<ExitCode> {
    let answer = Client::new(options)?.send(request).await?;
    if options.json {
        screen.line(answer.body.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let body: Value = answer.read()?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    screen.line(&text("id").context("the server's answer holds no id")?)?;
    screen.line(&text("secret").context("the server's answer holds no secret: the endpoint was made before")?)?;
    screen.note("keep the secret: it is not shown again")?;
    Ok(ExitCode::SUCCESS)
}
