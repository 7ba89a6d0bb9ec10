//! `errand worker`: one worker of a cluster.

use std::{convert::Infallible, process::ExitCode, sync::Arc};

use clap::Args;
use errand_api::{NotReady, OperationsOptions, Readiness};
use errand_common::config::Config;
use errand_worker::{Condition, Health, RunOptions};

use super::cluster;
use crate::{
    arguments::Global,
    dev,
    process::{self, Parts, Signals},
    screen::Screen,
    settings,
};

#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// Queues it takes from, comma-separated [default: worker.queues, "default"]
    #[arg(long, value_name = "QUEUES", value_delimiter = ',', value_parser = queue)]
    queues: Option<Vec<String>>,
    /// Jobs it runs at once [default: worker.concurrency, 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: Option<u32>,
}

fn queue(name: &str) -> Result<String, String> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 128 {
        return Err("the name of a queue has 1 to 128 characters".to_owned());
    }
    Ok(name.to_owned())
}

impl Worker {
    pub(crate) async fn run(self, global: &Global, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let config = Arc::new(self.config(global)?);
        let database_url = cluster::database_url(&config)?;
        let mut signals = Signals::listen()?;
        let operations = process::bind_operations(config.metrics.listen).await?;
        if let Some(listener) = &operations {
            tracing::info!(url = dev::local_url(listener.local_addr()?), "metrics and health are served");
        }
        let Some(backend) = cluster::connect(&config, &database_url, &operations, &mut signals).await? else {
            return Ok(ExitCode::SUCCESS);
        };
        let (mut parts, metrics) = Parts::new(&config, "worker")?;
        let health = Arc::<Health>::default();
        parts.add_finite("the worker", |shutdown| {
            let guard_program = errand_worker::guard::default_program();
            let (config, health) = (config.clone(), health.clone());
            errand_worker::run(RunOptions {
                backend,
                config,
                guard_program,
                sole_holder: false,
                drainable: true,
                health,
                shutdown,
            })
        });
        if let Some(listener) = operations {
            let (config, readiness) = (config.clone(), readiness(health));
            parts.add("the operations listener", |shutdown| async {
                let options = OperationsOptions { config, listener, readiness, metrics, shutdown };
                errand_api::operations(options).await;
                Ok::<_, Infallible>(())
            });
        }
        let note = format!(
            "stopping: runs have up to {} s to finish; Ctrl-C again stops at once",
            config.worker.drain_seconds
        );
        // A terminal that is gone must not keep the drain from happening.
        parts.serve(&mut signals, || drop(screen.note(&note))).await
    }

    fn config(&self, global: &Global) -> anyhow::Result<Config> {
        let mut config = settings::load(global)?;
        if let Some(queues) = &self.queues {
            config.worker.queues.clone_from(queues);
        }
        if let Some(concurrency) = self.concurrency {
            config.worker.concurrency = concurrency;
        }
        Ok(config)
    }
}

fn readiness(health: Arc<Health>) -> Readiness {
    Arc::new(move || match health.condition() {
        Condition::Ready => Ok(()),
        Condition::Starting => Err(NotReady { code: "starting", detail: "This worker has not registered yet" }),
        Condition::CannotRenew => {
            Err(NotReady { code: "store_unavailable", detail: "This worker could not renew its leases" })
        }
        Condition::Draining => Err(NotReady { code: "shutting_down", detail: "This process is stopping" }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_queue_is_trimmed_and_bounded() {
        assert_eq!(queue(" a ").as_deref(), Ok("a"));
        assert!(queue("").is_err() && queue(&"x".repeat(129)).is_err());
    }
}
