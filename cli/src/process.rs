//! A process that serves until it is asked to stop: what `dev`, `api` and `worker` share.

use std::{io, net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use errand_api::RenderMetrics;
use errand_common::{
    config::Config,
    telemetry::{metric::Metrics, trace},
};
use futures::future;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::exit;

/// Ctrl-C and the request of a supervisor to end.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Listens at `address`, or says what to do; `option` is what names another.
pub(crate) async fn bind(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!(
                "{address} is in use by another program; choose another with {option} ({}:0 takes any free port)",
                address.ip()
            )
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{address} may not be used by this user; choose a port above 1023 with {option}")
        }
        Err(error) => {
            Err(error).with_context(|| format!("{address} can't be listened on; choose another with {option}"))
        }
    }
}

/// Listens at `metrics.listen`, if that is set.
pub(crate) async fn bind_operations(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    match address {
        Some(address) => bind(address, "metrics.listen").await.map(Some),
        None => Ok(None),
    }
}

/// One part of the process.
struct Part {
    name: &'static str,
    task: JoinHandle<anyhow::Result<()>>,
    stop: CancellationToken,
    /// Its good end by itself is no fault: the process then ends well.
    may_end: bool,
}

/// What runs. The parts stop in the order they were added, each after the one before has ended.
pub(crate) struct Parts {
    parts: Vec<Part>,
    /// Cancelled as soon as the process is to stop.
    draining: CancellationToken,
    upkeep: JoinHandle<()>,
    spans: Option<trace::Exporter>,
}

/// What ended the wait.
enum Ended {
    Asked,
    Part(usize, anyhow::Result<()>),
}

impl Parts {
    /// None yet. From now on metrics are collected, and spans if that is configured; the second value renders the metrics. `role`
    /// is what traces call the process.
    pub(crate) fn new(config: &Config, role: &'static str) -> anyhow::Result<(Self, RenderMetrics)> {
        let spans = trace::start(&config.telemetry, role)?;
        let metrics = Metrics::install()?;
        let renderer = metrics.clone();
        let upkeep = tokio::spawn(async move {
            let mut interval = tokio::time::interval(Metrics::UPKEEP);
            loop {
                interval.tick().await;
                metrics.run_upkeep();
            }
        });
        Ok((
            Self { parts: Vec::new(), draining: CancellationToken::new(), upkeep, spans },
            Arc::new(move || renderer.render()),
        ))
    }

    pub(crate) const fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Adds a part that ends when told to: `work` gets the token that tells it.
    pub(crate) fn add<F, E>(&mut self, name: &'static str, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error>,
    {
        let stop = CancellationToken::new();
        let work = work(stop.clone());
        let task = tokio::spawn(async move { work.await.map_err(Into::into) });
        self.parts.push(Part { name, task, stop, may_end: false });
    }

    /// Adds a part that may also end by itself: the process then ends well.
    pub(crate) fn add_finite<F, E>(&mut self, name: &'static str, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error>,
    {
        self.add(name, work);
        if let Some(part) = self.parts.last_mut() {
            part.may_end = true;
        }
    }

    /// Until asked to stop, or until a part ends by itself: then the others are stopped too. A second request stops at
    /// once. `note` is called when the first comes.
    pub(crate) async fn serve(mut self, signals: &mut Signals, note: impl FnOnce()) -> anyhow::Result<ExitCode> {
        let ended = tokio::select! {
            () = signals.next() => Ended::Asked,
            (done, index, _) = future::select_all(self.parts.iter_mut().map(|part| &mut part.task)) => {
                let done = done.map_err(anyhow::Error::from).and_then(|done| done);
                Ended::Part(index, done)
            }
        };
        if matches!(ended, Ended::Asked) {
            note();
        }
        let drained = tokio::select! {
            drained = self.drain(&ended) => drained,
            () = signals.next() => return Ok(ExitCode::from(exit::INTERRUPTED)),
        };
        match ended {
            Ended::Asked => drained.map(|()| ExitCode::SUCCESS),
            Ended::Part(index, Ok(())) if self.parts[index].may_end => drained.map(|()| ExitCode::SUCCESS),
            Ended::Part(index, Ok(())) => bail!("{} ended by itself", self.parts[index].name),
            Ended::Part(index, Err(error)) => Err(error.context(format!("{} failed", self.parts[index].name))),
        }
    }

    async fn drain(&mut self, ended: &Ended) -> anyhow::Result<()> {
        self.draining.cancel();
        let mut done = Ok(());
        for (index, part) in self.parts.iter_mut().enumerate() {
            part.stop.cancel();
            if !matches!(ended, Ended::Part(ended, _) if *ended == index) {
                let name = part.name;
                let ended = (&mut part.task).await.with_context(|| format!("{name} broke")).and_then(|done| done);
                done = done.and(ended);
            }
        }
        self.upkeep.abort();
        // Last, so that it has the ends of all the others.
        if let Some(spans) = self.spans.take() {
            spans.stop().await;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = taken.local_addr().expect("an address");
        let message = bind(address, "--listen").await.expect_err("taken").to_string();
        assert!(message.starts_with(&format!("{address} is in use")), "{message}");
        assert!(message.contains("--listen"), "{message}");
    }
}
