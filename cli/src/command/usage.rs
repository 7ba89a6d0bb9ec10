//! `errand usage`

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;
use errand_common::domain::usd_text;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    screen::Screen,
    table,
};

#[derive(Debug, Args)]
pub(crate) struct Usage {
    /// Only what was recorded at this time or later, such as 2026-11-21T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only what was recorded before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// By what it is summed, comma-separated: day, engine, model, session, user
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "day,engine",
          value_parser = ["day", "engine", "model", "session", "user"])]
    group_by: Vec<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Deserialize)]
struct Sums {
    items: Vec<Sum>,
    /// There are more groups than are shown.
    #[serde(default)]
    truncated: bool,
}

/// A sum as the server shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sum {
    /// The values of the groups, by their names.
    #[serde(flatten)]
    groups: BTreeMap<String, Value>,
    records: u64,
    unknown: u64,
    input_tokens: u64,
    output_tokens: u64,
    cost_usd: f64,
    unpriced: u64,
}

impl Usage {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let mut request = Request::get("/api/v1/agent/usage").with("group_by", self.group_by.join(","));
        for (name, value) in [("from", &self.from), ("to", &self.to)] {
            if let Some(value) = value {
                request = request.with(name, value.clone());
            }
        }
        let answer = Client::new(&self.client)?.send(request).await?;
        if self.client.json {
            screen.line(answer.body.trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        let sums: Sums = answer.read()?;
        screen.answer(&text(&screen, &self.group_by, &sums.items))?;
        if let Some(note) = note(&sums.items) {
            screen.note(&note)?;
        }
        if sums.truncated {
            screen.note("there are more groups; ask for less time, or by less")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(screen: &Screen, groups: &[String], sums: &[Sum]) -> String {
    let names = groups.iter().map(|group| group.to_uppercase());
    let numbers = ["RUNS", "TOKENS IN", "TOKENS OUT", "US DOLLARS"].map(str::to_owned);
    let header: Vec<String> = names.chain(numbers).collect();
    let mut table = table::new(screen, &header.iter().map(String::as_str).collect::<Vec<_>>());
    for sum in sums {
        let values = groups.iter().map(|group| match sum.groups.get(group).and_then(Value::as_str) {
            None | Some("") => "-".to_owned(),
            Some(value) => value.to_owned(),
        });
        let numbers = [
            sum.records.to_string(),
            sum.input_tokens.to_string(),
            sum.output_tokens.to_string(),
            usd_text(nano_usd(sum.cost_usd)),
        ];
        table.add_row(values.chain(numbers));
    }
    table::text(table)
}

/// Whole billionths again, as the server counts them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "costs are neither negative nor that large"
)]
fn nano_usd(dollars: f64) -> u64 {
    (dollars * 1e9).round() as u64
}

/// What the numbers don't say.
fn note(sums: &[Sum]) -> Option<String> {
    if sums.is_empty() {
        return Some("nothing was spent".to_owned());
    }
    let unknown: u64 = sums.iter().map(|sum| sum.unknown).sum();
    let unpriced: u64 = sums.iter().map(|sum| sum.unpriced).sum();
    let mut parts = Vec::new();
    if unknown > 0 {
        parts.push(format!("{unknown} runs died or were cut off before all they had spent was known"));
    }
    if unpriced > 0 {
        parts.push(format!("the cost of {unpriced} runs is not known"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::screen::tests::screen;

    #[test]
    fn a_sum_is_a_row_and_what_is_not_known_is_said() {
        let sums: Vec<Sum> = serde_json::from_value(json!([
            {"day": "2026-11-21", "engine": "gpt", "records": 3, "unknown": 1, "inputTokens": 30, "outputTokens": 9,
             "cacheReadTokens": 0, "cacheWriteTokens": 0, "costUsd": 0.042, "unpriced": 0},
            {"day": "2026-11-21", "engine": "", "records": 1, "unknown": 0, "inputTokens": 1, "outputTokens": 2,
             "cacheReadTokens": 0, "cacheWriteTokens": 0, "costUsd": 0.0, "unpriced": 1},
        ]))
        .expect("sums");
        let (screen, ..) = screen(false);
        let text = text(&screen, &["day".to_owned(), "engine".to_owned()], &sums);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["DAY", "ENGINE", "RUNS", "TOKENS", "IN", "TOKENS", "OUT", "US", "DOLLARS"]);
        assert_eq!(lines[1], ["2026-11-21", "gpt", "3", "30", "9", "0.042"]);
        assert_eq!(lines[2], ["2026-11-21", "-", "1", "1", "2", "0"]);
        let note = note(&sums).expect("a note");
        assert!(note.contains("1 runs died") && note.contains("cost of 1 runs"), "{note}");
    }
}
