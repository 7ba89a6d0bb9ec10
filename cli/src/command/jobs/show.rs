//! `errand jobs show`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::job_id;
use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    screen::Screen,
    table,
};

/// What a person looks for first; all else follows in the order of the server.
const FIRST: [&str; 11] = [
    "id",
    "kind",
    "state",
    "failure",
    "result",
    "queue",
    "attempt",
    "max_attempts",
    "created_at",
    "started_at",
    "finished_at",
];

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The job
    id: String,
    /// Only what happened to it
    #[arg(long)]
    timeline: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Show {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let client = Client::new(&self.client)?;
        let path = format!("/api/v1/jobs/{}", job_id(&self.id)?);
        if !self.timeline {
            let answer = client.send(Request::get(&path)).await?;
            if self.client.json {
                screen.line(answer.body.trim_end())?;
                return Ok(ExitCode::SUCCESS);
            }
            screen.answer(&fields(&screen, &answer.read()?))?;
            screen.heading("\nTimeline")?;
        }
        let answer = client.send(Request::get(&format!("{path}/timeline"))).await?;
        if self.client.json {
            screen.line(answer.body.trim_end())?;
        } else {
            screen.answer(&timeline(&screen, &answer.read()?))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Nothing that a person would miss.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(parts) => parts.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// A value on one line.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace('\n', "\n  "),
        other => other.to_string(),
    }
}

fn fields(screen: &Screen, job: &Value) -> String {
    let Some(job) = job.as_object() else { return plain(job) };
    let mut table = table::without_header(screen);
    let first = FIRST.iter().filter_map(|name| job.get_key_value(*name));
    let rest = job.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    for (name, value) in first.chain(rest) {
        // One level of an object is spread out, so that a result or a failure can be read.
        match value {
            Value::Null => {}
            Value::Object(parts) => {
                for (part, value) in parts.iter().filter(|(_, value)| !is_empty(value)) {
                    table.add_row([format!("{name}.{part}"), plain(value)]);
                }
            }
            value => {
                table.add_row([name.clone(), plain(value)]);
            }
        }
    }
    table::text(table)
}

fn timeline(screen: &Screen, document: &Value) -> String {
    let items = document.get("items").unwrap_or(document).as_array();
    let mut table = table::new(screen, &["TIME", "ATTEMPT", "EVENT", "DETAILS"]);
    for item in items.into_iter().flatten().filter_map(Value::as_object) {
        let word = |name: &str| item.get(name).map(plain).unwrap_or_default();
        let envelope = ["stream", "epoch", "seq", "ts", "session_id", "job_id", "attempt", "type"];
        let details: Vec<String> = item
            .iter()
            .filter(|(name, value)| !envelope.contains(&name.as_str()) && !value.is_null())
            .map(|(name, value)| format!("{name}={}", plain(value)))
            .collect();
        table.add_row([word("ts"), word("attempt"), word("type"), details.join(" ")]);
    }
    table::text(table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::screen::tests::screen;

    #[test]
    fn a_job_is_shown_with_what_matters_first_and_without_what_is_not_there() {
        let (screen, ..) = screen(false);
        let text = fields(
            &screen,
            &json!({"attempt": 1, "id": "01", "deadline": null, "state": "queued", "metadata": {"a": 1}}),
        );
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["id", "01"], vec!["state", "queued"], vec!["attempt", "1"], vec!["metadata.a", "1"]]);
    }

    #[test]
    fn a_timeline_shows_each_event_with_its_own_fields() {
        let (screen, ..) = screen(false);
        let event = json!({"seq": 4, "ts": "T", "attempt": 1, "type": "retrying", "delay_ms": 5, "job_id": "x"});
        let text = timeline(&screen, &json!({"items": [event]}));
        let last: Vec<&str> = text.lines().last().expect("a line").split_whitespace().collect();
        assert_eq!(last, ["T", "1", "retrying", "delay_ms=5"]);
    }
}
