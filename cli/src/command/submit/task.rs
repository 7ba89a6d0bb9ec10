//! `errand submit task`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::{Map, Value, json};

use super::attachment;
use crate::{arguments::ClientOptions, client, exit, screen::Screen};

#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct Task {
    /// What to do; - reads it from standard input
    prompt: String,
    /// Which engine runs it [default: the tenant's]
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// Session to go on with [default: a new one]
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Instructions for the engine
    #[arg(long, value_name = "TEXT")]
    system_prompt: Option<String>,
    /// Image or document that goes with the prompt; may be said several times
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// Tool that needs no approval; may be said several times
    #[arg(long, value_name = "TOOL")]
    allow: Vec<String>,
    /// Most rounds of the engine [default: 10]
    #[arg(long, value_name = "N")]
    max_turns: Option<u32>,
    /// Most US dollars that it may spend
    #[arg(long, value_name = "AMOUNT")]
    budget_usd: Option<f64>,
    /// Most tokens that it may spend
    #[arg(long, value_name = "N")]
    budget_tokens: Option<u64>,
    /// What happens if the session is busy [default: interrupt]
    #[arg(long, value_name = "WHAT", value_parser = ["interrupt", "enqueue", "reject", "steer"])]
    on_busy: Option<String>,
    /// Not before this time, such as 2030-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    run_at: Option<String>,
    /// 0 (first) to 3 (last) [default: 2]
    #[arg(long, value_name = "N")]
    priority: Option<u8>,
    /// Longest that one attempt may take
    #[arg(long, value_name = "SECONDS")]
    timeout_seconds: Option<u64>,
    /// Most attempts, the first included [default: 3]
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// URL that is told of its end, unsigned; `errand webhooks add` makes one that is signed
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Show the answer as it comes; the outcome is the exit status
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Task {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        super::send("/api/v1/agent/tasks", self.body()?, self.follow, &self.client, screen).await
    }

    fn body(&self) -> anyhow::Result<Value> {
        let mut body = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        put("prompt", Some(client::read_text(&self.prompt)?.into()));
        put("engineType", self.engine.clone().map(Value::from));
        put("sessionId", self.session.clone().map(Value::from));
        put("systemPrompt", self.system_prompt.clone().map(Value::from));
        put("attachments", Some(attachment::read(&self.file)?).filter(|files| !files.is_empty()).map(Value::from));
        put("allowedTools", Some(&self.allow).filter(|tools| !tools.is_empty()).map(|tools| json!(tools)));
        put("maxTurns", self.max_turns.map(Value::from));
        put("budget", self.budget());
        put("onBusy", self.on_busy.clone().map(Value::from));
        put("runAt", self.run_at.clone().map(Value::from));
        put("priority", self.priority.map(Value::from));
        put("timeoutSeconds", self.timeout_seconds.map(Value::from));
        put("maxAttempts", self.max_attempts.map(Value::from));
        put("webhook", self.webhook.as_ref().map(|url| json!({"url": url})));
        Ok(body.into())
    }

    fn budget(&self) -> Option<Value> {
        let usd = self.budget_usd.map(|usd| ("maxCostUsd".to_owned(), usd.into()));
        let tokens = self.budget_tokens.map(|tokens| ("maxTokens".to_owned(), tokens.into()));
        let bounds: Map<String, Value> = usd.into_iter().chain(tokens).collect();
        (!bounds.is_empty()).then(|| bounds.into())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        task: Task,
    }

    fn body(line: &[&str]) -> Value {
        let words = ["task"].iter().chain(line);
        Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).task.body().expect("a body")
    }

    #[test]
    fn only_what_was_said_is_sent() {
        assert_eq!(body(&["hello"]), json!({"prompt": "hello"}));
        assert_eq!(
            body(&["hello", "--engine", "echo", "--session", "s", "--on-busy", "enqueue", "--priority", "1"]),
            json!({"prompt": "hello", "engineType": "echo", "sessionId": "s", "onBusy": "enqueue", "priority": 1})
        );
        assert_eq!(
            body(&["hello", "--webhook", "https://example.com/x"]),
            json!({"prompt": "hello", "webhook": {"url": "https://example.com/x"}})
        );
        let words = ["hello", "--allow", "Read", "--allow", "Bash(ls)", "--max-turns", "3", "--budget-usd", "0.5"];
        assert_eq!(
            body(&words),
            json!({"prompt": "hello", "allowedTools": ["Read", "Bash(ls)"], "maxTurns": 3, "budget": {"maxCostUsd": 0.5}})
        );
    }
}
