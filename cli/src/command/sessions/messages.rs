//! `errand sessions messages`

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::path_of;
use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    screen::Screen,
};

#[derive(Debug, Args)]
pub(crate) struct Messages {
    /// The session
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Message>,
    next_cursor: Option<String>,
}

/// A message as the server shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    role: String,
    content: String,
    #[serde(default)]
    attachments: Vec<Attachment>,
    created_at: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attachment {
    media_type: String,
    file_name: Option<String>,
}

impl Messages {
    /// All of them, page by page.
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let client = Client::new(&self.client)?;
        let path = format!("{}/messages", path_of(&self.id)?);
        let mut cursor: Option<String> = None;
        loop {
            let request = Request::get(&path).with("limit", "200");
            let request = match cursor {
                Some(cursor) => request.with("cursor", cursor),
                None => request,
            };
            let answer = client.send(request).await?;
            let page: Page = answer.read()?;
            if self.client.json {
                screen.line(answer.body.trim_end())?;
            } else {
                for message in &page.items {
                    screen.heading(&message.heading())?;
                    screen.answer(&message.text())?;
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

impl Message {
    fn heading(&self) -> String {
        format!("{} · {}", self.role, self.created_at)
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.content.trim_end());
        for Attachment { media_type, file_name } in &self.attachments {
            text +=
                &format!("[{}{media_type}]\n", file_name.as_ref().map(|name| format!("{name}, ")).unwrap_or_default());
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_is_shown_with_what_came_with_it() {
        let message: Message = serde_json::from_value(json!({
            "id": "01", "role": "user", "content": "look at this\n", "createdAt": "2026-11-21T07:00:00Z", "ordinal": 1,
            "attachments": [{"hash": "x", "mediaType": "image/png", "fileName": "plan.png", "size": 3}],
        }))
        .expect("a message");
        assert_eq!(message.heading(), "user · 2026-11-21T07:00:00Z");
        assert_eq!(message.text(), "look at this\n[plan.png, image/png]\n\n");
    }
}
