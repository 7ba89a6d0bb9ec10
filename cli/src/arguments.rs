//! What may be asked of the program.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use errand_common::telemetry::log;

use crate::command::{
    agents, api, boards, dev, doctor, engines, gateways, instances, jobs, keys, migrate, questions, queues, sessions,
    submit, trial, usage, webhooks, worker, workers,
};

/// Errand runs jobs for fleets of AI agents.
#[derive(Debug, Parser)]
#[command(name = "errand", version, about, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Our own words; the worker runtime says the same things again, less well, and PostgreSQL tells what is as it should be.
const DEFAULT_LOG: &str = "info,apalis_core=warn,sqlx::postgres::notice=warn";

/// Said before or after any command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Configuration file [default: errand.toml, if it is there]
    #[arg(long, global = true, env = "ERRAND_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What is logged: a level, or directives such as errand_worker=debug,info
    #[arg(long, global = true, env = "ERRAND_LOG", value_name = "FILTER", default_value = DEFAULT_LOG, hide = true)]
    pub(crate) log: String,
    /// How the log looks
    #[arg(long, global = true, env = "ERRAND_LOG_FORMAT", value_enum, default_value = "text", hide = true)]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl From<LogFormat> for log::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process, on an embedded database
    Dev(dev::Dev),
    /// Serve the API of a cluster, or parts of it
    Api(api::Api),
    /// Run jobs as one worker of a cluster
    Worker(worker::Worker),
    /// Submit work
    #[command(subcommand)]
    Submit(submit::Submit),
    /// Look at jobs, follow, cancel and retry them
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    /// Look at conversations, and close them
    #[command(subcommand)]
    Sessions(sessions::Sessions),
    /// List engines, and choose the default
    #[command(subcommand)]
    Engines(engines::Engines),
    /// Show what was spent
    Usage(usage::Usage),
    /// List, pause and resume queues
    #[command(subcommand)]
    Queues(queues::Queues),
    /// List workers, and drain them
    Workers(workers::Workers),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Tell services outside of what happens: endpoints, deliveries
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
    /// List, add and remove gateways of agents
    #[command(subcommand)]
    Gateways(gateways::Gateways),
    /// List, add, change and remove instances, whose bridges answer prompts
    #[command(subcommand)]
    Instances(instances::Instances),
    /// List, add and remove boards
    #[command(subcommand)]
    Boards(boards::Boards),
    /// List, add, provision and remove agents
    #[command(subcommand)]
    Agents(agents::Agents),
    /// List questions to people, and answer them
    #[command(subcommand)]
    Questions(questions::Questions),
    /// Replace tokens
    #[command(subcommand)]
    Tokens(agents::Tokens),
    /// Run a small task, and watch it over a WebSocket from submission to end
    Trial(trial::Trial),
    /// Check configuration, database, engines, gateways and server, and say what to do
    Doctor(doctor::Doctor),
    /// Bring a database's schema up to date
    Migrate(migrate::Migrate),
}

/// Reads an address to listen at.
///
/// # Errors
/// What to write.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:8080".to_owned())
}

/// Which server, with which key.
#[derive(Debug, Args)]
pub(crate) struct ClientOptions {
    /// Where Errand is [default: http://127.0.0.1:8080]
    #[arg(long, env = "ERRAND_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// API key [default: that of `errand dev` in the data directory]
    #[arg(long, env = "ERRAND_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Data directory of `errand dev`
    #[arg(long, value_name = "DIR", default_value = dev::DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Print the server's JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
