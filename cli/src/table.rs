//! Tables for people.

use comfy_table::{ColumnConstraint, ContentArrangement, Table};

use crate::screen::Screen;

/// A table without borders, as wide as the terminal, or as it needs on a pipe.
pub(crate) fn new(screen: &Screen, header: &[&str]) -> Table {
    let mut table = without_header(screen);
    table.set_header(header.iter().copied());
    table
}

/// A table of names and values.
pub(crate) fn without_header(screen: &Screen) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if screen.is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    }
    table
}

/// Its text: no blanks at the ends of lines, and none before the first column. Only the last column is folded: an id in
/// two halves could not be copied.
pub(crate) fn text(mut table: Table) -> String {
    let last = table.column_count().saturating_sub(1);
    for column in table.column_iter_mut().take(last) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned() + "\n").collect()
}

/// How long ago, in the unit that says most.
pub(crate) fn age(at: &str, now: chrono::DateTime<chrono::Utc>) -> String {
    let Ok(at) = chrono::DateTime::parse_from_rfc3339(at) else { return at.to_owned() };
    let seconds = (now - at.with_timezone(&chrono::Utc)).num_seconds();
    match seconds {
        ..0 => format!("in {}", span(-seconds)),
        _ => span(seconds),
    }
}

/// A length of time, likewise.
pub(crate) fn seconds(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "a cast saturates, and fractions are not shown")]
    span(seconds as i64)
}

fn span(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_column_is_folded() {
        let id = "01a1fd63-6a54-772c-a1e4-ccf0b8c0d9fd";
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(60).add_row([id, "failed", "a failure that needs more than one line to be told"]);
        let text = text(table);
        assert!(text.contains(id), "{text}");
        assert!(text.lines().count() > 1, "{text}");
    }

    #[test]
    fn ages_are_said_in_their_largest_unit() {
        let now = "2026-11-21T12:00:00Z".parse().expect("a time");
        for (at, expected) in [
            ("2026-11-21T11:59:18Z", "42s"),
            ("2026-11-21T11:00:01Z", "59m"),
            ("2026-11-20T13:00:00Z", "23h"),
            ("2026-11-01T12:00:00.000001Z", "19d"),
            ("2026-11-21T12:02:00Z", "in 2m"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(age(at, now), expected, "{at}");
        }
    }
}
