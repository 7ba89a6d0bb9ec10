//! Logs: to standard error, for people or for programs.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// How a line of the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// For people; on terminals coloured, with the time of day only.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter can't be read.
    #[error(
        "the log filter {filter:?} can't be read ({reason}); allowed: a level such as info, or errand_worker=debug,info"
    )]
    Filter {
        /// As given.
        filter: String,
        /// Why.
        reason: String,
    },
    /// Another log is installed in this process.
    #[error("a log is already installed")]
    Installed,
}

/// Starts the log of this process. `filter` is `error`, `warn`, `info`, `debug`, `trace`, or directives by module;
/// `colour` applies to [`Format::Text`] on terminals.
///
/// # Errors
/// [`LogError`]
pub fn init(format: Format, filter: &str, colour: bool) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let installed = match format {
        Format::Text if io::stderr().is_terminal() => {
            registry.with(lines.with_ansi(colour).with_target(false).with_timer(TimeOfDay)).try_init()
        }
        Format::Text => registry.with(lines.with_ansi(false).with_target(false)).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true).with_current_span(true)).try_init(),
    };
    installed.map_err(|_| LogError::Installed)
}

/// The local time of day: who looks at a terminal knows the date.
struct TimeOfDay;

impl FormatTime for TimeOfDay {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", chrono::Local::now().format("%H:%M:%S%.3f"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = init(Format::Text, "errand=loud=very", false).expect_err("refused");
        assert!(error.to_string().contains("errand=loud=very"), "{error}");
    }
}
