//! `errand keys`

mod create;
mod list;
mod revoke;

use std::process::ExitCode;

use clap::Subcommand;

use crate::{arguments::Global, screen::Screen};

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key; its secret is printed once
    Create(create::Create),
    /// List keys, without their secrets
    List(list::List),
    /// End a key's validity
    Revoke(revoke::Revoke),
}

impl Keys {
    pub(crate) async fn run(self, global: &Global, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create(create) => create.run(global, screen).await,
            Self::List(list) => list.run(screen).await,
            Self::Revoke(revoke) => revoke.run(screen).await,
        }
    }
}
