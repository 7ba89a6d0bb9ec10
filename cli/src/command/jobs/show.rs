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
            let document = answer.read()?;
            screen.answer(&timeline(&screen, &document))?;
            if let Some(effects) = effects(&screen, &document) {
                screen.heading("\nCalls to the outside")?;
                screen.answer(&effects)?;
            }
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

/// The job's calls to the outside, if it made any.
fn effects(screen: &Screen, document: &Value) -> Option<String> {
    let effects = document.get("effects")?.as_array().filter(|effects| !effects.is_empty())?;
    let mut table = table::new(screen, &["TIME", "ATTEMPT", "KIND", "DESTINATION", "RESULT", "KEY"]);
    for effect in effects {
        let word = |name: &str| effect.get(name).filter(|value| !value.is_null()).map(plain);
        let result = word("result").unwrap_or_else(|| "not known".to_owned());
        let result = word("status").map_or_else(|| result.clone(), |status| format!("{result} ({status})"));
        let mut row =
            ["intent_at", "attempt", "kind", "destination"].map(|name| word(name).unwrap_or_default()).to_vec();
        row.extend([result, word("key").unwrap_or_default()]);
        table.add_row(row);
    }
    Some(table::text(table))
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
    fn calls_are_shown_with_what_is_known_of_them() {
        let (screen, ..) = screen(false);
        let call = |result: Value, status: Value| {
            json!({"ordinal": 1, "kind": "http", "destination": "h:1", "key": "k", "attempt": 2, "intent_at": "T",
                   "receipt_at": null, "result": result, "status": status})
        };
        let document =
            json!({"items": [], "effects": [call(json!("done"), json!(200)), call(json!(null), json!(null))]});
        let text = effects(&screen, &document).expect("a table");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["T", "2", "http", "h:1", "done", "(200)", "k"]);
        assert_eq!(lines[2], ["T", "2", "http", "h:1", "not", "known", "k"]);
        assert!(effects(&screen, &json!({"items": [], "effects": []})).is_none());
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
