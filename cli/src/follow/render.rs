//! A job's events, for people: the answer on standard output, what happens around it on standard error.

use std::{io, time::Instant};

use serde_json::Value;

use crate::screen::Screen;

const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// Renders one job.
pub(crate) struct Renderer {
    screen: Screen,
    /// What it is doing, for the waiting line.
    doing: String,
    since: Instant,
    ticks: usize,
    /// Something of the answer is on the screen.
    answered: bool,
    /// The last thing said is that it will be tried again.
    retries: bool,
    /// Why it was put off, if nothing has come of it since: to look again is not worth a line.
    put_off: Option<String>,
}

/// A text field of an event.
fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event.get(field).and_then(Value::as_str).unwrap_or_default()
}

impl Renderer {
    pub(crate) fn new(screen: Screen) -> Self {
        Self {
            screen,
            doing: "connecting".to_owned(),
            since: Instant::now(),
            ticks: 0,
            answered: false,
            retries: false,
            put_off: None,
        }
    }

    /// Shows one event.
    pub(crate) fn event(&mut self, event: &Value) -> io::Result<()> {
        if !matches!(text(event, "type"), "queued" | "started") {
            self.put_off = None;
        }
        match text(event, "type") {
            "text" => {
                self.answered = true;
                self.doing("working");
                self.screen.answer(text(event, "content"))
            }
            "queued" => self.queued(event),
            "started" => self.started(event),
            "retrying" => self.retrying(event),
            "text_retracted" => {
                self.answered = false;
                self.screen.end_line()?;
                self.screen.note("the answer so far is void: it starts again")
            }
            "tool_use" => self.screen.note(&format!("uses the tool {}", name_of_tool(event))),
            "approval_required" => {
                self.doing("waits for an approval");
                Ok(())
            }
            "approval_resolved" => self.approval_resolved(event),
            "question_opened" => {
                let id = text(event, "question_id");
                self.screen.note(&format!("asks a person; answer it with `errand questions answer {id} ANSWER`"))
            }
            "progress" => self.progress(event),
            "completed" => self.completed(event),
            "error" => self.ended("failed", event),
            "cancelled" => self.ended("cancelled", event),
            "expired" => self.ended("expired", event),
            // Thinking, results of tools and the like are for programs.
            _ => Ok(()),
        }
    }

    fn doing(&mut self, what: impl Into<String>) {
        let what = what.into();
        if self.doing != what {
            self.doing = what;
            self.since = Instant::now();
        }
    }

    fn queued(&mut self, event: &Value) -> io::Result<()> {
        let reason = text(event, "reason");
        if text(event, "state") == "scheduled" && !reason.is_empty() {
            return self.put_off(reason);
        }
        let note = match (text(event, "state"), text(event, "run_at")) {
            ("blocked", _) => "waits for its session".to_owned(),
            ("awaiting_answer", _) => "waits for the answer".to_owned(),
            ("awaiting_callback", _) => "waits for the callback".to_owned(),
            ("awaiting_children", _) => "waits for its jobs".to_owned(),
            ("scheduled", run_at) if !run_at.is_empty() => format!("scheduled for {run_at}"),
            _ => "queued".to_owned(),
        };
        if note != "queued" {
            // Something has come of what it waited for.
            self.put_off = None;
        }
        // That it waits was said by `retrying` already.
        let said = std::mem::take(&mut self.retries) && note == "queued";
        self.doing(note.clone());
        if said || self.put_off.is_some() { Ok(()) } else { self.screen.note(&note) }
    }

    /// It waits for something, and looks again and again; that is said once.
    fn put_off(&mut self, reason: &str) -> io::Result<()> {
        let note = format!("waits: {}", reason.replace('_', " "));
        self.doing(note.clone());
        if self.put_off.as_deref() == Some(reason) {
            return Ok(());
        }
        self.put_off = Some(reason.to_owned());
        self.screen.note(&note)
    }

    fn started(&mut self, event: &Value) -> io::Result<()> {
        self.doing("working");
        if self.put_off.is_some() {
            return Ok(());
        }
        match event.get("attempt").and_then(Value::as_u64) {
            Some(attempt) if attempt > 1 => self.screen.note(&format!("started, attempt {attempt}")),
            _ => self.screen.note("started"),
        }
    }

    fn retrying(&mut self, event: &Value) -> io::Result<()> {
        let wait = match event.get("delay_ms").and_then(Value::as_f64) {
            Some(millis) if millis >= 50.0 => format!(" in {:.1} s", millis / 1_000.0),
            _ => " now".to_owned(),
        };
        let because = match text(event, "message") {
            "" => String::new(),
            message => format!(": {}", message.trim_end_matches('.')),
        };
        self.retries = true;
        self.doing(format!("waits to try again{wait}"));
        self.screen.note(&format!("retrying{wait}{because}"))
    }

    fn approval_resolved(&mut self, event: &Value) -> io::Result<()> {
        self.doing("working");
        match text(event, "state") {
            "approved" => self.screen.note("the tool call was approved"),
            "withdrawn" => Ok(()),
            state => self.screen.note(&format!("the tool call was {state}")),
        }
    }

    fn progress(&mut self, event: &Value) -> io::Result<()> {
        match event.get("message").and_then(Value::as_str) {
            Some(message) => self.screen.note(message),
            None => Ok(()),
        }
    }

    fn completed(&mut self, event: &Value) -> io::Result<()> {
        // An engine that doesn't stream says everything at the end; so does a person.
        if !self.answered {
            match event.get("answer") {
                Some(answer @ (Value::Object(_) | Value::Array(_) | Value::Number(_) | Value::Bool(_))) => {
                    self.screen.answer(&answer.to_string())?;
                }
                Some(Value::String(answer)) => self.screen.answer(answer)?,
                _ => self.screen.answer(text(event, "summary"))?,
            }
        }
        for board in event.get("results").and_then(Value::as_array).into_iter().flatten() {
            if let Some(error) = board["error"].as_str() {
                self.screen.note(&format!("board {}: {error}", text(board, "board_id")))?;
            }
        }
        let state = text(event, "state");
        let mut parts = vec![if state.is_empty() { "completed" } else { state }.to_owned()];
        let number = |field: &str| event.get(field).and_then(Value::as_u64);
        if let (Some(sent), Some(failed)) = (number("sent"), number("failed")) {
            parts.push(format!("{sent} sent, {failed} failed"));
        }
        match (number("inputTokens"), number("outputTokens")) {
            (Some(input), Some(output)) => parts.push(format!("{input} tokens in, {output} out")),
            _ => parts.extend(number("tokensUsed").map(|tokens| format!("{tokens} tokens"))),
        }
        parts.extend(event.get("costUsd").and_then(Value::as_f64).map(|cost| format!("${cost:.4}")));
        parts.extend(event.get("model").and_then(Value::as_str).map(str::to_owned));
        self.screen.note(&parts.join(" · "))
    }

    fn ended(&mut self, how: &str, event: &Value) -> io::Result<()> {
        let code = match text(event, "code") {
            "" => String::new(),
            code => format!(" ({code})"),
        };
        let line = match text(event, "message") {
            "" => format!("{how}{code}"),
            message => format!("{how}: {message}{code}"),
        };
        if how == "failed" { self.screen.alarm(&line) } else { self.screen.note(&line) }
    }

    /// Says something about the following itself.
    pub(crate) fn note(&mut self, note: &str) -> io::Result<()> {
        self.screen.note(note)
    }

    /// Moves the waiting line on.
    pub(crate) fn tick(&mut self) -> io::Result<()> {
        self.ticks += 1;
        let wheel = SPINNER[self.ticks % SPINNER.len()];
        let line = format!("{wheel} {} · {:.1} s", self.doing, self.since.elapsed().as_secs_f64());
        self.screen.waiting(&line)
    }

    /// Leaves the screen tidy.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.screen.clear()
    }
}

fn name_of_tool(event: &Value) -> &str {
    ["name", "toolName", "tool"]
        .into_iter()
        .map(|field| text(event, field))
        .find(|name| !name.is_empty())
        .unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::screen::tests::screen;

    /// What a pipe gets of these events: the answer, and the notes.
    fn rendered(events: &[Value]) -> (String, String) {
        let (screen, answers, notes) = screen(false);
        let mut renderer = Renderer::new(screen);
        for event in events {
            renderer.event(event).expect("written");
        }
        renderer.finish().expect("written");
        (answers.text(), notes.text())
    }

    #[test]
    fn the_answer_goes_to_standard_output_and_all_else_beside_it() {
        let (answer, notes) = rendered(&[
            json!({"type": "queued", "state": "queued"}),
            json!({"type": "started", "attempt": 1}),
            json!({"type": "text", "content": "Hello, "}),
            json!({"type": "text", "content": "world\n"}),
            json!({"type": "completed", "summary": "Hello, world", "inputTokens": 3, "outputTokens": 4, "costUsd": null, "model": "m"}),
        ]);
        assert_eq!(answer, "Hello, world\n");
        assert_eq!(notes, "queued\nstarted\ncompleted · 3 tokens in, 4 out · m\n");
    }

    #[test]
    fn an_answer_that_was_not_streamed_is_shown_at_the_end() {
        let (answer, _) = rendered(&[json!({"type": "completed", "summary": "all at once"})]);
        assert_eq!(answer, "all at once");
    }

    #[test]
    fn a_persons_answer_is_the_answer_and_a_broadcast_says_whom_it_did_not_reach() {
        let (answer, notes) = rendered(&[
            json!({"type": "question_opened", "question_id": "q-1"}),
            json!({"type": "queued", "state": "scheduled", "reason": "provisioning"}),
            json!({"type": "queued", "state": "queued"}),
            json!({"type": "started"}),
            json!({"type": "queued", "state": "awaiting_answer"}),
            json!({"type": "completed", "ok": true, "answer": "the blue one"}),
        ]);
        let asks = "asks a person; answer it with `errand questions answer q-1 ANSWER`";
        assert_eq!(
            (answer.as_str(), notes),
            ("the blue one", format!("{asks}\nwaits: provisioning\nwaits for the answer\ncompleted\n"))
        );
        let (answer, _) = rendered(&[json!({"type": "completed", "answer": {"n": 7}})]);
        assert_eq!(answer, "{\"n\":7}");
        let results = json!([{"board_id": "b-1", "ok": true, "error": null}, {"board_id": "b-2", "ok": false, "error": "not today"}]);
        let (answer, notes) =
            rendered(&[json!({"type": "completed", "state": "partial", "sent": 1, "failed": 1, "results": results})]);
        assert_eq!((answer.as_str(), notes.as_str()), ("", "board b-2: not today\npartial · 1 sent, 1 failed\n"));
    }

    #[test]
    fn what_is_put_off_again_and_again_for_one_reason_is_said_once() {
        let put_off = json!({"type": "queued", "state": "scheduled", "reason": "destination_busy", "run_at": "2026-11-21T12:00:00Z"});
        let (queued, started) = (json!({"type": "queued", "state": "queued"}), json!({"type": "started"}));
        let again = [put_off, queued.clone(), started.clone()];
        let mut events = vec![queued, started];
        events.extend([again.clone(), again].concat());
        events.push(json!({"type": "completed", "summary": ""}));
        let (_, notes) = rendered(&events);
        assert_eq!(notes, "queued\nstarted\nwaits: destination busy\ncompleted\n");
    }

    #[test]
    fn notes_say_what_happens_and_why() {
        for (event, expected) in [
            (json!({"type": "queued", "state": "blocked"}), "waits for its session\n"),
            (json!({"type": "queued", "state": "awaiting_callback"}), "waits for the callback\n"),
            (
                json!({"type": "queued", "state": "scheduled", "run_at": "2026-11-21T12:00:00Z"}),
                "scheduled for 2026-11-21T12:00:00Z\n",
            ),
            (json!({"type": "started", "attempt": 2}), "started, attempt 2\n"),
            (
                json!({"type": "retrying", "delay_ms": 1234, "message": "the server is overloaded."}),
                "retrying in 1.2 s: the server is overloaded\n",
            ),
            (
                json!({"type": "retrying", "delay_ms": 0, "message": "the worker died"}),
                "retrying now: the worker died\n",
            ),
            (json!({"type": "text_retracted", "from_seq": 3}), "the answer so far is void: it starts again\n"),
            (json!({"type": "tool_use", "name": "Read"}), "uses the tool Read\n"),
            (
                json!({"type": "error", "message": "exit status 3", "code": "EXECUTION_ERROR"}),
                "failed: exit status 3 (EXECUTION_ERROR)\n",
            ),
            (
                json!({"type": "cancelled", "message": "on request", "code": "USER_CANCEL"}),
                "cancelled: on request (USER_CANCEL)\n",
            ),
            (json!({"type": "expired"}), "expired\n"),
            (json!({"type": "thinking", "content": "hm"}), ""),
            (json!({"no": "type"}), ""),
        ] {
            let (answer, notes) = rendered(std::slice::from_ref(&event));
            assert_eq!((answer.as_str(), notes.as_str()), ("", expected), "{event}");
        }
    }

    #[test]
    fn text_after_a_retraction_counts_anew() {
        let (answer, _) = rendered(&[
            json!({"type": "text", "content": "first"}),
            json!({"type": "text_retracted"}),
            json!({"type": "completed", "summary": "second"}),
        ]);
        assert_eq!(answer, "first\nsecond");
    }
}
