//! `errand api`: the API of a cluster, or parts of it.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use clap::Args;
use errand_api::ServeOptions;
use errand_common::{
    backend::Backend,
    config::{Config, Part},
};
use tokio::net::TcpListener;

use super::cluster;
use crate::{
    arguments::{self, Global},
    dev,
    process::{self, Parts, Signals},
    screen::Screen,
    settings,
};

#[derive(Debug, Args)]
pub(crate) struct Api {
    /// Address and port; port 0 takes any free one [default: server.listen, 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = arguments::address)]
    listen: Option<SocketAddr>,
    /// Which parts are served here, comma-separated: rest, relay, console [default: server.serve, all of them]
    #[arg(long, value_name = "PARTS", value_delimiter = ',', value_parser = part)]
    serve: Option<Vec<Part>>,
}

fn part(name: &str) -> Result<Part, String> {
    let known = Part::ALL.iter().find(|part| part.as_str() == name.trim());
    known.copied().ok_or_else(|| "parts are rest, relay and console, with commas between them".to_owned())
}

impl Api {
    pub(crate) async fn run(self, global: &Global, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let config = Arc::new(self.config(global)?);
        let database_url = cluster::database_url(&config)?;
        let mut signals = Signals::listen()?;
        let listener = process::bind(config.server.listen, "--listen").await?;
        let operations = process::bind_operations(config.metrics.listen).await?;
        let served: Vec<_> = config.server.serve.iter().map(|part| part.as_str()).collect();
        let url = dev::local_url(listener.local_addr()?);
        tracing::info!(url, parts = served.join(","), "the api listens");
        let listeners = [Some(&listener), operations.as_ref()].into_iter().flatten();
        let Some(backend) = cluster::connect(&config, &database_url, listeners, &mut signals).await? else {
            return Ok(ExitCode::SUCCESS);
        };
        let parts = start(backend, config.clone(), listener, operations)?;
        let note = format!(
            "stopping: requests have up to {} s to finish; Ctrl-C again stops at once",
            config.server.drain_seconds
        );
        // A terminal that is gone must not keep the drain from happening.
        parts.serve(&mut signals, || drop(screen.note(&note))).await
    }

    fn config(&self, global: &Global) -> anyhow::Result<Config> {
        let mut config = settings::load(global)?;
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        if let Some(serve) = &self.serve {
            config.server.serve.clone_from(serve);
        }
        Ok(config)
    }
}

fn start(
    backend: Backend,
    config: Arc<Config>,
    listener: TcpListener,
    operations: Option<TcpListener>,
) -> anyhow::Result<Parts> {
    let (mut parts, metrics) = Parts::new(&config, "api")?;
    let draining = parts.draining().clone();
    parts.add("the api", |shutdown| {
        let metrics = Some(metrics);
        errand_api::serve(ServeOptions { backend, config, listener, operations, metrics, draining, shutdown })
    });
    Ok(parts)
}
