//! `errand submit task`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

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
        put("onBusy", self.on_busy.clone().map(Value::from));
        put("runAt", self.run_at.clone().map(Value::from));
        put("priority", self.priority.map(Value::from));
        put("timeoutSeconds", self.timeout_seconds.map(Value::from));
        put("maxAttempts", self.max_attempts.map(Value::from));
        Ok(body.into())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

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
    }
}
