//! The benchmark program: boots the real thing, loads it from outside, and prints what came of it.
//!
//! Client and server share the machine, so rates are lower bounds; only ratios travel between machines.

mod burst;
mod lag;
mod memory;
mod report;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use errand_tests::{
    Errand, Mode, Setup,
    postgres::{Durability, Postgres},
};
use report::Report;

/// Measures Errand on this machine.
#[derive(Parser, Debug)]
struct Arguments {
    /// Tasks of the burst.
    #[arg(long, default_value_t = 5_000)]
    jobs: usize,
    /// Keep-alive connections that submit.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Tasks scheduled ahead, to see how late they start.
    #[arg(long, default_value_t = 200)]
    scheduled: usize,
    /// Where the truth is kept.
    #[arg(long, value_enum, default_value_t = Where::Sqlite)]
    store: Where,
    /// For programs: one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Where {
    Sqlite,
    Postgres,
    Both,
}

impl Where {
    const fn modes(self) -> &'static [(&'static str, Mode)] {
        const BOTH: &[(&str, Mode)] = &[("sqlite", Mode::Embedded), ("postgres", Mode::DevOnPostgres)];
        match self {
            Self::Sqlite => BOTH.split_at(1).0,
            Self::Postgres => BOTH.split_at(1).1,
            Self::Both => BOTH,
        }
    }
}

fn main() -> ExitCode {
    // The server under load is this very program, started again with a command of `errand`: no other build can be meant.
    if std::env::args().nth(1).is_some_and(|first| !first.starts_with('-')) {
        return errand_cli::main();
    }
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let reports = runtime.block_on(async {
        let mut reports = Vec::new();
        for &(store, mode) in arguments.store.modes() {
            reports.push(measure_on(store, mode, arguments).await?);
        }
        anyhow::Ok(reports)
    })?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else {
        report::print(&reports);
    }
    Ok(())
}

async fn measure_on(store: &str, mode: Mode, arguments: &Arguments) -> Result<Report> {
    // As a user would run it: the defaults, but for the pause that makes `echo` visible.
    let mut setup = Setup::new(std::env::current_exe()?, mode).section("database", "").section("worker", "");
    let _server = if mode == Mode::DevOnPostgres {
        let postgres = Postgres::boot(Durability::Durable).await?;
        setup = setup.on_database(postgres.create_database().await?);
        Some(postgres)
    } else {
        None
    };
    let errand: Errand = setup.start().await;
    let burst = burst::run(errand.client(), arguments.jobs, arguments.connections).await?;
    let peak_rss_mib = memory::peak_mib(errand.worker_pid(0))?;
    let lag = lag::run(errand.client(), arguments.scheduled).await?;
    errand.finish().await;
    Ok(Report { store: store.to_owned(), burst, peak_rss_mib, lag })
}
