//! `errand sessions show`

use std::process::ExitCode;

use chrono::Utc;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::path_of;
use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    screen::Screen,
    table,
};

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The session
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    id: String,
    status: String,
    engine_type: String,
    system_prompt: Option<String>,
    metadata: Value,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Deserialize)]
struct Tasks {
    items: Vec<Task>,
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    id: String,
    status: String,
    tokens_used: Option<u64>,
    created_at: String,
    prompt: String,
}

impl Show {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let client = Client::new(&self.client)?;
        let path = path_of(&self.id)?;
        let session = client.send(Request::get(&path)).await?;
        if self.client.json {
            screen.line(session.body.trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        screen.answer(&fields(&screen, session.read()?))?;
        let tasks: Tasks = client.send(Request::get(&format!("{path}/tasks"))).await?.read()?;
        screen.heading("\nTasks")?;
        screen.answer(&rows(&screen, &tasks.items))?;
        if tasks.next_cursor.is_some() {
            screen.note("there are older ones")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn fields(screen: &Screen, session: Session) -> String {
    let mut table = table::without_header(screen);
    let title = session.metadata["title"].as_str().unwrap_or_default().to_owned();
    table.add_row(["id".to_owned(), session.id]);
    table.add_row(["title".to_owned(), title]);
    table.add_row(["status".to_owned(), session.status]);
    table.add_row(["engine".to_owned(), session.engine_type]);
    table.add_row(["created".to_owned(), session.created_at]);
    table.add_row(["updated".to_owned(), session.updated_at]);
    if let Some(prompt) = session.system_prompt {
        table.add_row(["system prompt".to_owned(), prompt.replace('\n', "\n  ")]);
    }
    table::text(table)
}

fn rows(screen: &Screen, tasks: &[Task]) -> String {
    let now = Utc::now();
    let mut table = table::new(screen, &["ID", "STATUS", "TOKENS", "AGE", "PROMPT"]);
    for task in tasks {
        let prompt = task.prompt.lines().next().unwrap_or_default();
        table.add_row([
            task.id.clone(),
            task.status.clone(),
            task.tokens_used.map(|tokens| tokens.to_string()).unwrap_or_default(),
            table::age(&task.created_at, now),
            prompt.chars().take(80).collect(),
        ]);
    }
    table::text(table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::screen::tests::screen;

    #[test]
    fn a_task_is_a_row_with_the_beginning_of_its_prompt() {
        let task: Task = serde_json::from_value(json!({
            "id": "02", "status": "completed", "tokensUsed": 18, "createdAt": Utc::now().to_rfc3339(),
            "prompt": "first line\nsecond line", "result": null,
        }))
        .expect("a task");
        let (screen, ..) = screen(false);
        let text = rows(&screen, &[task]);
        let line: Vec<&str> = text.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(line, ["02", "completed", "18", "0s", "first", "line"]);
    }
}
