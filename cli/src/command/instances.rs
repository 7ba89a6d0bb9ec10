//! `errand instances`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::listing;
use crate::{
    arguments::ClientOptions,
    client::{self, Request},
    exit::Usage,
    screen::Screen,
};

const STATUSES: [&str; 4] = ["starting", "running", "stopped", "error"];

#[derive(Debug, Subcommand)]
pub(crate) enum Instances {
    /// List instances, newest first
    List(List),
    /// Make an instance known; nothing is sent to it yet
    Add(Add),
    /// Change an instance
    Set(Set),
    /// Forget an instance that has no unfinished tasks
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    client: ClientOptions,
}

/// What may be said of an instance.
#[derive(Debug, Args)]
struct Fields {
    /// The user whose alone it is [default: every user of the tenant may use it]
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Whether it takes prompts [default: running]
    #[arg(long, value_name = "STATUS", value_parser = STATUSES)]
    status: Option<String>,
    /// What signs its callbacks: @FILE, or - for standard input
    #[arg(long, value_name = "FILE")]
    callback_secret: Option<String>,
    /// Ask its bridge so often for what it has not called back about [default: never]
    #[arg(long, value_name = "SECONDS")]
    poll_seconds: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// What people call it
    name: String,
    /// Its bridge's name or address
    host: String,
    /// Its bridge's port
    port: u16,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The instance's id
    id: String,
    /// What people call it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Its bridge's name or address
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Its bridge's port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The instance's id
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Fields {
    /// What was said, with what stands beside it.
    fn body(&self, name: Option<&str>, host: Option<&str>, port: Option<u16>) -> anyhow::Result<Value> {
        if self.callback_secret.as_deref().is_some_and(|secret| secret != "-" && !secret.starts_with('@')) {
            // A secret in the arguments is one that everybody on the machine, and the shell's history, has.
            let wanted = "--callback-secret takes @FILE, or - for standard input; not the secret itself";
            return Err(Usage(wanted.to_owned()).into());
        }
        let secret = self.callback_secret.as_deref().map(client::read_text_or_file).transpose()?;
        let mut body = Map::new();
        let mut put = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(field.to_owned(), value);
            }
        };
        put("name", name.map(Value::from));
        put("serverHost", host.map(Value::from));
        put("hostPort", port.map(Value::from));
        put("userId", self.user.as_deref().map(Value::from));
        put("status", self.status.as_deref().map(Value::from));
        put("callbackSecret", secret.map(|secret| secret.trim().into()));
        put("pollSeconds", self.poll_seconds.map(Value::from));
        Ok(body.into())
    }
}

impl Instances {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => {
                let columns = &[
                    ("ID", "id"),
                    ("NAME", "name"),
                    ("STATUS", "status"),
                    ("USER", "userId"),
                    ("HOST", "serverHost"),
                    ("PORT", "hostPort"),
                    ("SIGNED", "hasCallbackSecret"),
                ];
                listing::list("/api/v1/agent/instances", &[], columns, &list.client, screen).await
            }
            Self::Add(add) => {
                let body = add.fields.body(Some(&add.name), Some(&add.host), Some(add.port))?;
                let request = Request::post("/api/v1/agent/instances", Some(body));
                let note = "`errand submit instance-task` hands it a prompt";
                listing::change(request, "id", note, &add.client, screen).await
            }
            Self::Set(set) => {
                let body = set.fields.body(set.name.as_deref(), set.host.as_deref(), set.port)?;
                let path = path_of(&set.id)?;
                listing::change(Request::patch(&path, body), "status", "", &set.client, screen).await
            }
            Self::Remove(remove) => {
                let path = path_of(&remove.id)?;
                listing::change(Request::delete(&path), "message", "", &remove.client, screen).await
            }
        }
    }
}

fn path_of(id: &str) -> anyhow::Result<String> {
    let path = listing::path_of("instances", id)?;
    Ok(path.replace("/api/v1/", "/api/v1/agent/"))
}
