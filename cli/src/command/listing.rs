//! Lists of the server's as tables, page after page; and what several commands do with one thing of a kind.

use std::process::ExitCode;

use chrono::Utc;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    exit::Usage,
    screen::Screen,
    table,
};

/// Pages that are read at most: a list that goes on needs a filter.
const MOST_PAGES: usize = 50;

#[derive(Debug, Deserialize)]
struct Page<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

/// Which pages of a list are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pages {
    First,
    Most(usize),
    All,
}

impl Pages {
    /// As `--all-pages` says.
    pub(super) const fn all(all: bool) -> Self {
        if all { Self::All } else { Self::First }
    }

    const fn is_over(self, read: usize) -> bool {
        match self {
            Self::First => true,
            Self::Most(most) => read >= most,
            Self::All => false,
        }
    }
}

/// What was read of a list.
pub(super) struct Rows<T> {
    pub(super) rows: Vec<T>,
    /// Whether there are more.
    pub(super) more: bool,
}

/// Reads a list page by page. Programs get each page as it comes; for people nothing is printed yet.
pub(super) async fn rows<T: DeserializeOwned>(
    path: &str,
    parameters: &[(&'static str, Option<&str>)],
    pages: Pages,
    options: &ClientOptions,
    screen: &mut Screen,
) -> anyhow::Result<Rows<T>> {
    let client = Client::new(options)?;
    let (mut rows, mut read) = (Vec::new(), 0);
    let mut cursor: Option<String> = None;
    loop {
        let given = parameters.iter().filter_map(|&(name, value)| Some((name, value?.to_owned())));
        let request = given
            .chain(cursor.map(|cursor| ("cursor", cursor)))
            .fold(Request::get(path), |request, (name, value)| request.with(name, value));
        let answer = client.send(request).await?;
        if options.json {
            screen.line(answer.body.trim_end())?;
        }
        let page: Page<T> = answer.read()?;
        rows.extend(page.items);
        read += 1;
        cursor = page.next_cursor;
        if cursor.is_none() || pages.is_over(read) {
            return Ok(Rows { rows, more: cursor.is_some() });
        }
    }
}

/// What a table shows: a column's header, and the field it is of.
pub(super) type Columns = &'static [(&'static str, &'static str)];

/// Prints a list.
pub(super) async fn list(
    path: &str,
    filters: &[(&'static str, Option<&str>)],
    columns: Columns,
    options: &ClientOptions,
    mut screen: Screen,
) -> anyhow::Result<ExitCode> {
    let parameters: Vec<_> = [("limit", Some("200"))].into_iter().chain(filters.iter().copied()).collect();
    let Rows { rows, more } = rows(path, &parameters, Pages::Most(MOST_PAGES), options, &mut screen).await?;
    if !options.json {
        screen.answer(&text(&screen, columns, &rows))?;
        if more {
            screen.note("there are more")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(screen: &Screen, columns: Columns, rows: &[Value]) -> String {
    let header: Vec<_> = columns.iter().map(|(header, _)| *header).collect();
    let (mut table, now) = (table::new(screen, &header), Utc::now());
    for row in rows {
        table.add_row(columns.iter().map(|(_, field)| match row[field].as_str() {
            Some(at) if field.ends_with("_at") => table::age(at, now),
            _ => cell(&row[field]),
        }));
    }
    table::text(table)
}

/// Prints one thing: these fields of it that have a value, or all of it for programs.
pub(super) async fn show(
    path: &str,
    fields: &[&str],
    options: &ClientOptions,
    mut screen: Screen,
) -> anyhow::Result<ExitCode> {
    let answer = Client::new(options)?.send(Request::get(path)).await?;
    if options.json {
        screen.line(answer.body.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let (body, mut table): (Value, _) = (answer.read()?, table::without_header(&screen));
    for field in fields.iter().filter(|field| !body[**field].is_null()) {
        table.add_row([format!("{}:", field.replace('_', " ")), cell(&body[*field])]);
    }
    screen.answer(&table::text(table))?;
    Ok(ExitCode::SUCCESS)
}

/// In one line.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(truth) => if *truth { "yes" } else { "no" }.to_owned(),
        Value::String(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        Value::Array(words) if words.iter().all(Value::is_string) => {
            words.iter().map(cell).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Asks for a change, and prints this field of the answer, or all of it for programs. `note` is for people.
pub(super) async fn change(
    request: Request<'_>,
    field: &str,
    note: &str,
    options: &ClientOptions,
    mut screen: Screen,
) -> anyhow::Result<ExitCode> {
    let answer = Client::new(options)?.send(request).await?;
    if options.json {
        screen.line(answer.body.trim_end())?;
    } else {
        let body: Value = answer.read()?;
        screen.line(&cell(&body[field]))?;
        if !note.is_empty() {
            screen.note(note)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The path of one thing: its id is brought into its usual form first.
pub(super) fn path_of(kind: &str, text: &str) -> anyhow::Result<String> {
    match Uuid::parse_str(text) {
        Ok(id) => Ok(format!("/api/v1/{kind}/{id}")),
        Err(_) => Err(Usage(format!("{text:?} is no id; `errand {kind} list` shows the ids")).into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::screen::tests::screen;

    #[test]
    fn a_row_is_one_line_whatever_is_in_it() {
        let rows = [
            json!({"id": "b-1", "content": ["one\ntwo", "three"], "paused": true, "gateway_id": null, "answer": {"a": 1}}),
        ];
        let columns: Columns =
            &[("ID", "id"), ("PAUSED", "paused"), ("GATEWAY", "gateway_id"), ("ANSWER", "answer"), ("WHAT", "content")];
        let (screen, ..) = screen(false);
        let text = text(&screen, columns, &rows);
        let last: Vec<_> = text.lines().last().expect("a row").split_whitespace().collect();
        assert_eq!(last, ["b-1", "yes", "{\"a\":1}", "one", "two,", "three"]);
    }

    #[test]
    fn an_id_does_not_lead_to_another_path() {
        assert!(path_of("boards", "../keys").is_err());
        let id = "0193a5f0-0000-7000-8000-000000000001";
        assert_eq!(path_of("boards", &id.to_uppercase()).expect("an id"), format!("/api/v1/boards/{id}"));
    }
}
