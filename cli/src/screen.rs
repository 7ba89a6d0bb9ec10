//! Everything that is written to terminals: answers on standard output, notes about them on standard error.
//!
//! Colours and the waiting line appear on terminals only; `NO_COLOR` is honoured. A closed pipe is an error, no panic.

use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// Clears the line the cursor is on.
const CLEAR_LINE: &str = "\r\x1b[2K";

/// One of the two streams.
struct Channel {
    writer: Box<dyn Write + Send>,
    terminal: bool,
    colour: bool,
}

impl Channel {
    fn new<S>(stream: S) -> Self
    where
        S: Write + anstream::stream::RawStream + Send + 'static,
    {
        let terminal = stream.is_terminal();
        let colour = terminal && AutoStream::choice(&stream) != ColorChoice::Never;
        Self { writer: Box::new(stream), terminal, colour }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Where people look.
pub(crate) struct Screen {
    answers: Channel,
    notes: Channel,
    /// The answer stands in the middle of a line.
    mid_line: bool,
    waiting: bool,
}

impl Screen {
    /// The process's own streams.
    pub(crate) fn standard() -> Self {
        Self { answers: Channel::new(io::stdout()), notes: Channel::new(io::stderr()), mid_line: false, waiting: false }
    }

    /// Whether answers go to a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.answers.terminal
    }

    /// Whether notes may be coloured.
    pub(crate) fn colours(&self) -> bool {
        self.notes.colour
    }

    /// Part of an answer, as it comes. A terminal gets no control characters from it.
    pub(crate) fn answer(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.clear()?;
        if self.answers.terminal {
            self.answers.writer.write_all(printable(text).as_bytes())?;
        } else {
            self.answers.writer.write_all(text.as_bytes())?;
        }
        self.answers.writer.flush()?;
        self.mid_line = !text.ends_with('\n');
        Ok(())
    }

    /// A whole line of the answer.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.answer(&format!("{text}\n"))
    }

    /// A line of the answer in bold, where there are styles.
    pub(crate) fn heading(&mut self, text: &str) -> io::Result<()> {
        self.clear()?;
        let styled = self.answers.styled(Style::new().bold(), text);
        writeln!(self.answers.writer, "{styled}")?;
        self.answers.writer.flush()
    }

    /// A line about what goes on, dim.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        self.note_styled(Style::new().dimmed(), text)
    }

    /// A line about what went wrong.
    pub(crate) fn alarm(&mut self, text: &str) -> io::Result<()> {
        self.note_styled(AnsiColor::Red.on_default(), text)
    }

    fn note_styled(&mut self, style: Style, text: &str) -> io::Result<()> {
        self.clear()?;
        self.break_line()?;
        let text = if self.notes.terminal { printable(text) } else { text.to_owned() };
        let styled = self.notes.styled(style, &text);
        writeln!(self.notes.writer, "{styled}")?;
        self.notes.writer.flush()
    }

    /// The last word of a program that failed. Nothing is left to do if it can't be said.
    pub(crate) fn error(&mut self, text: &str) {
        let _ = self.clear();
        let label = self.notes.styled(AnsiColor::Red.on_default().bold(), "error:");
        let _ = writeln!(self.notes.writer, "{label} {text}");
    }

    /// A line that is replaced by whatever comes next. Only on terminals, and not in the middle of an answer's line.
    pub(crate) fn waiting(&mut self, text: &str) -> io::Result<()> {
        if !self.notes.terminal || self.mid_line {
            return Ok(());
        }
        let styled = self.notes.styled(Style::new().dimmed(), &printable(text));
        write!(self.notes.writer, "{CLEAR_LINE}{styled}")?;
        self.notes.writer.flush()?;
        self.waiting = true;
        Ok(())
    }

    /// Removes the waiting line.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.waiting) {
            self.notes.writer.write_all(CLEAR_LINE.as_bytes())?;
            self.notes.writer.flush()?;
        }
        Ok(())
    }

    /// Before a note: a pipe gets the answer as it is.
    fn break_line(&mut self) -> io::Result<()> {
        if self.answers.terminal { self.end_line() } else { Ok(()) }
    }

    /// Ends the answer's line, so that what follows begins its own.
    pub(crate) fn end_line(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.mid_line) {
            writeln!(self.answers.writer)?;
            self.answers.writer.flush()?;
        }
        Ok(())
    }
}

/// Without what could steer a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was written, to be looked at.
    #[derive(Clone, Default)]
    pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("lock").clone()).expect("UTF-8")
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A screen, its answers and its notes.
    pub(crate) fn screen(terminal: bool) -> (Screen, Written, Written) {
        let (answers, notes) = (Written::default(), Written::default());
        let channel = |written: &Written| Channel { writer: Box::new(written.clone()), terminal, colour: false };
        let screen = Screen { answers: channel(&answers), notes: channel(&notes), mid_line: false, waiting: false };
        (screen, answers, notes)
    }

    #[test]
    fn a_pipe_gets_answers_as_they_are_and_a_terminal_gets_no_control_characters() {
        let (mut pipe, answers, _) = screen(false);
        pipe.answer("a\x1b[31mb").expect("written");
        assert_eq!(answers.text(), "a\x1b[31mb");
        let (mut terminal, answers, _) = screen(true);
        terminal.answer("a\x1b[31mb\tc\n").expect("written");
        assert_eq!(answers.text(), "a[31mb\tc\n");
    }

    #[test]
    fn a_note_begins_its_own_line_on_a_terminal_and_leaves_a_piped_answer_alone() {
        for (terminal, expected) in [(true, "half\n"), (false, "half")] {
            let (mut screen, answers, notes) = screen(terminal);
            screen.answer("half").expect("written");
            screen.note("note").expect("written");
            assert_eq!(answers.text(), expected);
            assert_eq!(notes.text(), "note\n");
        }
    }

    #[test]
    fn the_waiting_line_is_on_terminals_only_and_goes_when_something_comes() {
        let (mut pipe, _, notes) = screen(false);
        pipe.waiting("queued").expect("written");
        assert_eq!(notes.text(), "");
        let (mut terminal, _, notes) = screen(true);
        terminal.waiting("queued").expect("written");
        terminal.answer("x").expect("written");
        terminal.waiting("not in mid-line").expect("written");
        assert_eq!(notes.text(), format!("{CLEAR_LINE}queued{CLEAR_LINE}"));
    }
}
