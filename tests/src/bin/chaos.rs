//! The chaos program.
//!
//! One file holds all that a run needs, so that it always tests its own build: called with options it is the chaos
//! program, called with `stamp` it is the program of command tasks, and called with a command of `errand` it is that.

use std::{path::Path, process::ExitCode};

use clap::Parser;
use errand_tests::chaos::{options::Options, run::run, stamp};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == "stamp" => match arguments.next() {
            Some(file) => told(stamp::run(Path::new(&file)).map(|()| true)),
            None => ExitCode::FAILURE,
        },
        Some(first) if !first.as_encoded_bytes().starts_with(b"-") => errand_cli::main(),
        _ => told(chaos(&Options::parse())),
    }
}

fn chaos(options: &Options) -> anyhow::Result<bool> {
    // A second attempt would only say that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run(options, &std::env::current_exe()?))?;
    runtime.shutdown_background();
    println!("{report}");
    Ok(report.passed())
}

/// 0: all promises were kept. 1: one was not. 2: the run could not be made.
fn told(outcome: anyhow::Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("errand-chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}
