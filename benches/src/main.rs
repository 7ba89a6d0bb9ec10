//! The benchmark program: boots the real thing, loads it from outside, kills parts of it, and prints what came of it.
//!
//! * `burst` with `lag` and `memory`, `tasks` with `cpu`: throughput. `approval`: how soon a decision reaches who waits.
//!   `backlog`, `flood`: what much waiting work costs.
//!   `gateway`: messages to agents over one connection, and over many. `callbacks`: what bridges are waited for.
//! * `recovery`, `rolling`, `flush`, `outage`: drills. Something dies, and promises must hold.
//! * `fleet` boots a cluster, `load` submits, `stamp` is what command tasks run, `truth` reads what the database holds
//!   afterwards, `report` prints.
//!
//! Client and server share the machine, so rates are lower bounds; only ratios travel between machines.

mod approval;
mod backlog;
mod burst;
mod callbacks;
mod cpu;
mod fleet;
mod flood;
mod flush;
mod gateway;
mod lag;
mod load;
mod memory;
mod outage;
mod recovery;
mod report;
mod rolling;
mod stamp;
mod tasks;
mod truth;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use report::Report;

/// Measures Errand on this machine, and drills it. Without a command: `burst`.
#[derive(Parser, Debug)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    drill: Option<Drill>,
    #[command(flatten)]
    burst: burst::Options,
    /// For programs: one JSON document
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Drill {
    /// Many tasks at once, and how late scheduled ones start
    Burst(burst::Options),
    /// What fetching costs with few and with many jobs waiting
    Backlog(backlog::Options),
    /// What one tenant's flood costs another
    Flood(flood::Options),
    /// How soon an approval reaches the process that waits for it
    Approval(approval::Options),
    /// Many tasks that stream at once on one worker
    Tasks(tasks::Options),
    /// Messages to a gateway's agents over one connection, and over one for each call
    Gateway(gateway::Options),
    /// Many tasks that wait for their bridges, and a burst of callbacks
    Callbacks(callbacks::Options),
    /// SIGKILL of one of two workers
    Recovery(recovery::Options),
    /// Restart of four workers under load, one after the other
    Rolling(rolling::Options),
    /// FLUSHALL with a full queue and full workers
    Flush(flush::Options),
    /// PostgreSQL away for twice the lease, with programs running
    Outage(outage::Options),
    /// The program of command tasks
    #[command(hide = true)]
    Stamp(stamp::Options),
}

fn main() -> ExitCode {
    // The servers under load and their guards are this very program, started again: no other build can be meant.
    errand_worker::guard::run_if_guard();
    if std::env::var_os(fleet::SERVES).is_some() {
        return errand_cli::main();
    }
    if std::env::var_os(approval::PLAYS_CLAUDE).is_some() {
        return errand_tests::claude::program::main();
    }
    let arguments = Arguments::parse();
    let json = arguments.json;
    match run(arguments) {
        Ok(reports) => {
            report::print(&reports, json);
            if reports.iter().all(Report::is_kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the benchmark failed: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// 0: all promises were kept. 1: one was not. 2: it could not be measured.
fn run(arguments: Arguments) -> Result<Vec<Report>> {
    let drill = arguments.drill.unwrap_or(Drill::Burst(arguments.burst));
    if let Drill::Stamp(options) = drill {
        return stamp::run(&options).map(|()| Vec::new());
    }
    // A second attempt would only say that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let reports = runtime.block_on(async {
        Ok(match drill {
            Drill::Burst(options) => burst::run(&options).await?,
            Drill::Backlog(options) => vec![backlog::run(&options).await?],
            Drill::Flood(options) => vec![flood::run(&options).await?],
            Drill::Approval(options) => vec![approval::run(&options).await?],
            Drill::Tasks(options) => vec![tasks::run(&options).await?],
            Drill::Gateway(options) => vec![gateway::run(&options).await?],
            Drill::Callbacks(options) => vec![callbacks::run(&options).await?],
            Drill::Recovery(options) => vec![recovery::run(&options).await?],
            Drill::Rolling(options) => vec![rolling::run(&options).await?],
            Drill::Flush(options) => vec![flush::run(&options).await?],
            Drill::Outage(options) => vec![outage::run(&options).await?],
            Drill::Stamp(_) => Vec::new(),
        })
    });
    // Connections of clients may still be open; nothing of a finished drill is worth waiting for.
    runtime.shutdown_background();
    reports
}
