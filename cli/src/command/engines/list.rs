//! `errand engines list`

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    screen::Screen,
    table,
};

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Deserialize)]
struct Page {
    engines: Vec<Row>,
}

/// An engine as the server shows it.
#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    #[serde(rename = "type")]
    engine_type: String,
    available: bool,
    reason: Option<String>,
    queue: String,
    capabilities: Value,
    default: bool,
}

impl List {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let answer = Client::new(&self.client)?.send(Request::get("/api/v1/agent/engines")).await?;
        if self.client.json {
            screen.line(answer.body.trim_end())?;
        } else {
            let page: Page = answer.read()?;
            screen.answer(&text(&screen, &page.engines))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(screen: &Screen, rows: &[Row]) -> String {
    let mut table = table::new(screen, &["ENGINE", "TYPE", "STATE", "QUEUE", "CAN"]);
    for row in rows {
        let capabilities = row.capabilities.as_object().into_iter().flatten();
        let can: Vec<&str> = capabilities.filter(|(_, has)| **has == true).map(|(name, _)| name.as_str()).collect();
        // What stands in the way is worth more than what it could do.
        let can = row.reason.clone().unwrap_or_else(|| can.join(" "));
        table.add_row([row.name.clone(), row.engine_type.clone(), row.state().to_owned(), row.queue.clone(), can]);
    }
    table::text(table)
}

impl Row {
    const fn state(&self) -> &'static str {
        match (self.available, self.default) {
            (true, true) => "default",
            (true, false) => "available",
            (false, true) => "unavailable, default",
            (false, false) => "unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::screen::tests::screen;

    #[test]
    fn a_row_says_what_an_engine_can_do_or_why_it_can_not() {
        let rows: Vec<Row> = serde_json::from_value(json!([
            {"name": "echo", "type": "echo", "available": true, "reason": null, "queue": "default", "default": true,
             "capabilities": {"streaming": true, "steer": false, "history": true}},
            {"name": "gpt", "type": "openai_compatible", "available": false, "reason": "no key", "queue": "gpu",
             "capabilities": {"streaming": true}, "default": false},
        ]))
        .expect("rows");
        let (screen, ..) = screen(false);
        let text = text(&screen, &rows);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["echo", "echo", "default", "default", "history", "streaming"]);
        assert_eq!(lines[2], ["gpt", "openai_compatible", "unavailable", "gpu", "no", "key"]);
    }
}
