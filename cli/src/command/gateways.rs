//! `errand gateways`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::listing;
use crate::{
    arguments::ClientOptions,
    client::{self, Request},
    exit::Usage,
    screen::Screen,
};

/// What is shown of one.
const SHOWN: &[&str] = &[
    "id",
    "name",
    "url",
    "has_token",
    "workspace_root",
    "disable_device_pairing",
    "allow_insecure_tls",
    "main_agent_id",
    "created_at",
];

#[derive(Debug, Subcommand)]
pub(crate) enum Gateways {
    /// List gateways, newest first
    List(List),
    /// Show a gateway
    Show(Show),
    /// Make a gateway known; nothing is sent to it yet
    Add(Add),
    /// Forget a gateway that no board names, with its agents
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The gateway's id
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// What people call it
    name: String,
    /// Where it listens: wss:// at a public address, ws:// in a network of outbound.allow
    gateway_url: String,
    /// What it is shown: @FILE, or - for standard input
    #[arg(long, value_name = "FILE")]
    token: Option<String>,
    /// Where its agents' workspaces are, on its machine [default: ~/.openclaw]
    #[arg(long, value_name = "PATH")]
    workspace_root: Option<String>,
    /// Come as its control page does, without a device identity
    #[arg(long)]
    disable_device_pairing: bool,
    /// Believe any certificate
    #[arg(long)]
    allow_insecure_tls: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The gateway's id
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Gateways {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => {
                let columns = &[("ID", "id"), ("NAME", "name"), ("TOKEN", "has_token"), ("URL", "url")];
                listing::list("/api/v1/gateways", &[], columns, &list.client, screen).await
            }
            Self::Show(show) => {
                let path = listing::path_of("gateways", &show.id)?;
                listing::show(&path, SHOWN, &show.client, screen).await
            }
            Self::Add(add) => {
                if add.token.as_deref().is_some_and(|token| token != "-" && !token.starts_with('@')) {
                    // A secret in the arguments is one that everybody on the machine, and the shell's history, has.
                    return Err(
                        Usage("--token takes @FILE, or - for standard input; not the token itself".to_owned()).into()
                    );
                }
                let token = add.token.as_deref().map(client::read_text_or_file).transpose()?;
                let mut body = json!({
                    "name": add.name, "url": add.gateway_url, "disable_device_pairing": add.disable_device_pairing,
                    "allow_insecure_tls": add.allow_insecure_tls,
                });
                if let Some(token) = token {
                    body["token"] = token.trim().into();
                }
                if let Some(root) = add.workspace_root {
                    body["workspace_root"] = root.into();
                }
                let request = Request::post("/api/v1/gateways", Some(body));
                listing::change(request, "id", "`errand doctor` says whether it lets us in", &add.client, screen).await
            }
            Self::Remove(remove) => {
                let path = listing::path_of("gateways", &remove.id)?;
                listing::change(Request::delete(&path), "message", "", &remove.client, screen).await
            }
        }
    }
}
