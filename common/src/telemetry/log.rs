//! Logs: to standard error, for people or for programs.

use std::{
    fmt::{self, Write},
    io::{self, IsTerminal},
};

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer, time::FormatTime},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::trace;
use crate::domain::{JobId, TraceContext};

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
        Format::Text => {
            let lines = lines.with_ansi(false).with_target(false);
            registry.with(lines.map_event_format(|lines| Traced { lines, format })).try_init()
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(true);
            registry.with(lines.map_event_format(|lines| Traced { lines, format })).try_init()
        }
    };
    installed.map_err(|_| LogError::Installed)
}

/// Lines that say which trace, span and job the work at hand belongs to.
struct Traced<F> {
    lines: F,
    format: Format,
}

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (context, job) = (trace::current(), trace::current_job());
        if context.is_none() && job.is_none() {
            return self.lines.format_event(ctx, writer, event);
        }
        let mut line = String::new();
        self.lines.format_event(ctx, Writer::new(&mut line), event)?;
        // What the line itself says of a name wins.
        let says = |name: &str| event.metadata().fields().field(name).is_some();
        writer.write_str(&with_ids(&line, self.format, context.as_ref(), job, says))
    }
}

fn with_ids(
    line: &str,
    format: Format,
    context: Option<&TraceContext>,
    job: Option<JobId>,
    says: impl Fn(&str) -> bool,
) -> String {
    let ids = [
        ("trace_id", context.map(|context| format!("{:032x}", context.trace_id()))),
        ("span_id", context.map(|context| format!("{:016x}", context.span_id()))),
        // In a line for people the run's own words name the job.
        ("job_id", job.filter(|_| format == Format::Json).map(|job| job.to_string())),
    ];
    let (end, mut line) = match format {
        Format::Json => ("}\n", line.trim_end().strip_suffix('}').unwrap_or(line).to_owned()),
        Format::Text => ("\n", line.trim_end().to_owned()),
    };
    for (name, id) in ids {
        let Some(id) = id.filter(|_| !says(name)) else { continue };
        let written = match format {
            Format::Json => write!(line, ",\"{name}\":\"{id}\""),
            Format::Text => write!(line, " {name}={id}"),
        };
        debug_assert!(written.is_ok(), "a text takes all that is written to it");
    }
    line + end
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
    fn a_line_names_trace_span_and_job_unless_it_does_so_itself() {
        let job = JobId::new();
        let context = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None);
        let json = "{\"level\":\"INFO\",\"span\":{\"name\":\"run\"}}\n";
        let line = with_ids(json, Format::Json, context.as_ref(), Some(job), |_| false);
        let read: serde_json::Value = serde_json::from_str(&line).expect("one object");
        assert_eq!(read["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((&read["span_id"], &read["job_id"]), (&"00f067aa0ba902b7".into(), &job.to_string().into()));
        assert_eq!((&read["span"]["name"], line.ends_with("}\n")), (&"run".into(), true));
        let own = with_ids(json, Format::Json, context.as_ref(), Some(job), |name| name == "job_id");
        assert!(!own.contains("job_id"), "{own}");
        let text = with_ids("INFO done\n", Format::Text, context.as_ref(), Some(job), |_| false);
        assert_eq!(text, "INFO done trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7\n");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = init(Format::Text, "errand=loud=very", false).expect_err("refused");
        assert!(error.to_string().contains("errand=loud=very"), "{error}");
    }
}
