//! One file a command.

pub(crate) mod agents;
pub(crate) mod api;
pub(crate) mod boards;
mod cluster;
pub(crate) mod database;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod engines;
pub(crate) mod gateways;
pub(crate) mod instances;
pub(crate) mod jobs;
pub(crate) mod keys;
mod listing;
pub(crate) mod migrate;
pub(crate) mod questions;
pub(crate) mod queues;
pub(crate) mod sessions;
pub(crate) mod submit;
pub(crate) mod trial;
pub(crate) mod usage;
pub(crate) mod webhooks;
pub(crate) mod worker;
pub(crate) mod workers;

use std::process::ExitCode;

use errand_common::telemetry::log;

use crate::{
    arguments::{Arguments, Command, Global},
    exit::Usage,
    screen::Screen,
};

/// Does what was asked.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { global, command } = arguments;
    let screen = Screen::standard();
    start_log(&global, &screen)?;
    match command {
        Command::Dev(dev) => dev.run(&global, screen).await,
        Command::Api(api) => api.run(&global, screen).await,
        Command::Worker(worker) => worker.run(&global, screen).await,
        Command::Submit(submit) => submit.run(screen).await,
        Command::Jobs(jobs) => jobs.run(screen).await,
        Command::Sessions(sessions) => sessions.run(screen).await,
        Command::Engines(engines) => engines.run(screen).await,
        Command::Usage(usage) => usage.run(screen).await,
        Command::Queues(queues) => queues.run(screen).await,
        Command::Workers(workers) => workers.run(screen).await,
        Command::Trial(trial) => trial.run(screen).await,
        Command::Webhooks(webhooks) => webhooks.run(screen).await,
        Command::Keys(keys) => keys.run(&global, screen).await,
        Command::Gateways(gateways) => gateways.run(screen).await,
        Command::Instances(instances) => instances.run(screen).await,
        Command::Boards(boards) => boards.run(screen).await,
        Command::Agents(agents) => agents.run(screen).await,
        Command::Questions(questions) => questions.run(screen).await,
        Command::Tokens(tokens) => tokens.run(screen).await,
        Command::Doctor(doctor) => doctor.run(&global, screen).await,
        Command::Migrate(migrate) => migrate.run(&global, screen).await,
    }
}

fn start_log(global: &Global, screen: &Screen) -> anyhow::Result<()> {
    log::init(global.log_format.into(), &global.log, screen.colours()).map_err(|error| Usage(error.to_string()).into())
}
