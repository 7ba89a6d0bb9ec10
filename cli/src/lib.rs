//! The `errand` program: everything it does hangs below [`main`].
//!
//! * `arguments`: what may be asked; `command`: one file a command.
//! * `client`: REST, with retries; `follow`: the live stream of a job.
//! * `process`: what serves until it is asked to stop.
//! * `dev`: the pieces of `errand dev` (data directory, engines found, banner).
//! * `settings`: the one place that reads the process's environment; `screen`: the one that writes to terminals.

mod arguments;
mod client;
mod command;
mod dev;
mod exit;
mod follow;
mod process;
mod screen;
mod settings;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::{arguments::Arguments, screen::Screen};

/// Runs the program with the arguments and environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    // First of all: a guard is this very program, re-executed, and must become nothing else.
    errand_worker::guard::run_if_guard();
    // An error says that a provider is installed already, which is all we want.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            Screen::standard().error(&format!("the runtime could not be started: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(command::run(arguments));
    // Whatever still runs was told to stop and did not: the process ends regardless.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| exit::report(&error))
}
