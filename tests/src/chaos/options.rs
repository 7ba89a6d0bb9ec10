//! What a run is asked to do.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

/// Runs a fleet of real processes under load, breaks everything in turn, and checks that nothing was lost or done twice.
#[derive(Clone, Debug, Parser)]
#[command(name = "errand-chaos")]
pub struct Options {
    /// How long faults happen, in minutes.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub minutes: f64,
    /// Load and faults follow from it.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Worker processes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub workers: u16,
    /// Api processes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub apis: u16,
    /// Jobs to submit, spread over the time.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub jobs: u64,
    /// How long a claim holds without renewal, in seconds.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=60))]
    pub lease_seconds: u32,
    /// Mean time between two faults, in seconds.
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub gap_seconds: f64,
    /// The errand to test; this build's own if not given.
    #[arg(long)]
    pub program: Option<PathBuf>,
    /// Tell each fault as it happens.
    #[arg(long)]
    pub verbose: bool,
    /// Keep the logs of all processes in this directory.
    #[arg(long)]
    pub keep: Option<PathBuf>,
}

impl Options {
    /// How long faults happen.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }

    /// How long a claim holds.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }
}

fn positive(text: &str) -> Result<f64, String> {
    const MOST: f64 = 10_000.0;
    let number: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if number > 0.0 && number < MOST { Ok(number) } else { Err(format!("must be above 0 and below {MOST}")) }
}
