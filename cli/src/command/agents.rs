//! `errand agents`, and `errand tokens agent`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::listing;
use crate::{arguments::ClientOptions, client::Request, screen::Screen};

/// What is shown of one.
const SHOWN: &[&str] = &[
    "id",
    "name",
    "role",
    "status",
    "provisioning",
    "last_provision_error",
    "board_id",
    "gateway_id",
    "openclaw_session_id",
    "last_seen_at",
    "created_at",
];

#[derive(Debug, Subcommand)]
pub(crate) enum Agents {
    /// List agents, newest first
    List(List),
    /// Show an agent
    Show(Show),
    /// Make an agent; its gateway meets it when it is first spoken to
    Add(Add),
    /// Make an agent in its gateway now, or make it again
    Provision(Provision),
    /// Remove an agent
    Remove(One),
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The agent's id
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Those of this board
    #[arg(long, value_name = "ID")]
    board: Option<String>,
    /// Those of this gateway
    #[arg(long, value_name = "ID")]
    gateway: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// What people call it
    name: String,
    /// Where it runs
    #[arg(long, value_name = "ID")]
    gateway: String,
    /// Where it works
    #[arg(long, value_name = "ID")]
    board: Option<String>,
    /// It leads the board
    #[arg(long)]
    lead: bool,
    /// A session that is there already: it is used as it is
    #[arg(long, value_name = "KEY")]
    session: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Provision {
    /// The agent's id
    id: String,
    /// Write the files anew, too, that agents change themselves
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The agent's id
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// Give an agent a new token; the former is invalid at once
    Agent(One),
}

impl Agents {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => {
                let columns = &[
                    ("ID", "id"),
                    ("ROLE", "role"),
                    ("STATUS", "status"),
                    ("BOARD", "board_id"),
                    ("LAST SEEN", "last_seen_at"),
                    ("NAME", "name"),
                    ("FAULT", "last_provision_error"),
                ];
                let filters = [("board_id", list.board.as_deref()), ("gateway_id", list.gateway.as_deref())];
                listing::list("/api/v1/agents", &filters, columns, &list.client, screen).await
            }
            Self::Show(show) => {
                let path = listing::path_of("agents", &show.id)?;
                listing::show(&path, SHOWN, &show.client, screen).await
            }
            Self::Add(add) => {
                let mut body = json!({"name": add.name, "gateway_id": add.gateway, "is_board_lead": add.lead});
                if let Some(board) = add.board {
                    body["board_id"] = board.into();
                }
                // Nobody provisions an agent that is there already: its token has to be told to it.
                let (field, note) = match add.session {
                    Some(session) => {
                        body["openclaw_session_id"] = session.into();
                        (
                            "token",
                            "the agent's token: tell it, it is not shown again; `errand agents list` shows its id",
                        )
                    }
                    None => ("id", "its token comes to it by its provisioning; `--json` shows it once"),
                };
                listing::change(Request::post("/api/v1/agents", Some(body)), field, note, &add.client, screen).await
            }
            Self::Provision(provision) => {
                let path = format!("{}/provision", listing::path_of("agents", &provision.id)?);
                let request = Request::post(&path, Some(json!({"overwrite": provision.overwrite})));
                listing::change(request, "job_id", "", &provision.client, screen).await
            }
            Self::Remove(one) => {
                let path = listing::path_of("agents", &one.id)?;
                listing::change(Request::delete(&path), "message", "", &one.client, screen).await
            }
        }
    }
}

impl Tokens {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        let Self::Agent(one) = self;
        let path = format!("{}/token", listing::path_of("agents", &one.id)?);
        let note = "it is not shown again; the agent learns it by its next provisioning, or from you if its session was there before";
        listing::change(Request::post(&path, None), "token", note, &one.client, screen).await
    }
}
