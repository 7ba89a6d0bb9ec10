//! `errand questions`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::listing;
use crate::{
    arguments::ClientOptions,
    client::{self, Request},
    screen::Screen,
};

/// What is shown of one.
const SHOWN: &[&str] = &[
    "id",
    "state",
    "board_id",
    "agent_id",
    "job_id",
    "correlation_id",
    "content",
    "answer_schema",
    "answer",
    "answered_by",
    "expires_at",
    "created_at",
];

#[derive(Debug, Subcommand)]
pub(crate) enum Questions {
    /// List questions to people, newest first
    List(List),
    /// Show a question
    Show(Show),
    /// Answer a question; the first valid answer counts
    Answer(Answer),
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The question's id
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Those of this board
    #[arg(long, value_name = "ID")]
    board: Option<String>,
    /// Those in this state
    #[arg(long, value_parser = ["open", "answered", "expired", "cancelled"])]
    state: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Answer {
    /// The question's id
    id: String,
    /// The answer; - reads it from standard input
    answer: String,
    /// The answer is JSON, as the question's schema asks for
    #[arg(long)]
    parse: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Questions {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => {
                let columns = &[
                    ("ID", "id"),
                    ("STATE", "state"),
                    ("BOARD", "board_id"),
                    ("EXPIRES", "expires_at"),
                    ("ANSWER", "answer"),
                    ("QUESTION", "content"),
                ];
                let filters = [("board_id", list.board.as_deref()), ("state", list.state.as_deref())];
                listing::list("/api/v1/questions", &filters, columns, &list.client, screen).await
            }
            Self::Show(show) => {
                let path = listing::path_of("questions", &show.id)?;
                listing::show(&path, SHOWN, &show.client, screen).await
            }
            Self::Answer(answer) => {
                let text = client::read_text(&answer.answer)?;
                let content: Value = if answer.parse { serde_json::from_str(&text)? } else { text.trim().into() };
                let path = format!("{}/answer", listing::path_of("questions", &answer.id)?);
                let request = Request::post(&path, Some(json!({"answer": content})));
                listing::change(request, "state", "", &answer.client, screen).await
            }
        }
    }
}
