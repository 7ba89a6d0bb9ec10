//! Tool calls that wait for a person: asked on the terminal, or, where there is none, how to decide elsewhere.

use std::{
    collections::VecDeque,
    io::{self, BufRead, IsTerminal},
};

use serde_json::{Value, json};
use tokio::sync::mpsc;

/// What the engine is told if the person gives no reason.
const DENIED: &str = "The user denied this tool call";
/// Most characters of a call's input that are shown.
const SHOWN: usize = 2_000;

/// A call that waits.
#[derive(Clone, PartialEq, Debug)]
struct Call {
    approval_id: String,
    tool: String,
    input: String,
}

/// Where answers come from.
enum Answers {
    /// A person at this terminal; asked from the first question on.
    Terminal,
    /// Their lines.
    Lines(mpsc::Receiver<String>),
    /// Nobody is here.
    Nobody,
}

/// The calls that wait, and who answers.
pub(super) struct Desk {
    calls: VecDeque<Call>,
    /// The first of them is on the screen.
    shown: bool,
    answers: Answers,
}

/// A decision: the body of the request, and what to say about it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Decision {
    pub(super) body: Value,
    pub(super) said: &'static str,
}

impl Desk {
    /// Asks whoever sits at the terminal, if standard input and the notes are one.
    pub(super) fn of_process() -> Self {
        let at_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        Self::new(if at_terminal { Answers::Terminal } else { Answers::Nobody })
    }

    /// Asks nobody.
    pub(super) fn empty() -> Self {
        Self::new(Answers::Nobody)
    }

    /// Answers are these lines.
    #[cfg(test)]
    pub(super) fn answered_by(lines: mpsc::Receiver<String>) -> Self {
        Self::new(Answers::Lines(lines))
    }

    const fn new(answers: Answers) -> Self {
        Self { calls: VecDeque::new(), shown: false, answers }
    }

    /// Takes note of an event.
    pub(super) fn event(&mut self, event: &Value) {
        let text = |field: &str| event.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        match text("type").as_str() {
            "approval_required" => {
                let input = event.get("toolInput").map(Value::to_string).unwrap_or_default();
                let shown: String = input.chars().take(SHOWN).collect();
                let input = if shown.len() < input.len() { format!("{shown}…") } else { shown };
                self.calls.push_back(Call { approval_id: text("approvalId"), tool: text("toolName"), input });
            }
            "approval_resolved" => {
                let id = text("approvalId");
                self.shown &= self.calls.front().is_some_and(|call| call.approval_id != id);
                self.calls.retain(|call| call.approval_id != id);
            }
            "completed" | "error" | "cancelled" | "expired" => {
                self.calls.clear();
                self.shown = false;
            }
            _ => {}
        }
    }

    /// A question is on the screen, and nothing may be written over it.
    pub(super) const fn is_asking(&self) -> bool {
        self.shown && !matches!(self.answers, Answers::Nobody)
    }

    /// What to put on the screen now, if something new is to be asked. `elsewhere` tells who is not here what to do.
    pub(super) fn question(&mut self, elsewhere: impl FnOnce(&str) -> String) -> Option<String> {
        if self.shown {
            return None;
        }
        let call = self.calls.front()?;
        self.shown = true;
        if matches!(self.answers, Answers::Terminal) {
            self.answers = Answers::Lines(read_lines());
        }
        let Call { approval_id, tool, input } = call;
        Some(match self.answers {
            Answers::Nobody => format!("waits for an approval: {tool} {input}\n{}", elsewhere(approval_id)),
            _ => format!(
                "may it use {tool}? {input}\n  y: yes   s: yes, for the whole session   n: no (n WHY tells the engine)"
            ),
        })
    }

    /// The next line that is typed. Never comes where nobody is.
    pub(super) async fn line(&mut self) -> String {
        if let Answers::Lines(lines) = &mut self.answers
            && self.shown
        {
            if let Some(line) = lines.recv().await {
                return line;
            }
            // Their input has ended: they decide elsewhere, if at all.
            self.answers = Answers::Nobody;
            self.shown = false;
            return String::new();
        }
        std::future::pending().await
    }

    /// What a line means for the call on the screen. `None`: nothing; it is asked again.
    pub(super) fn decide(&mut self, line: &str) -> Option<Decision> {
        self.shown = false;
        let id = &self.calls.front()?.approval_id;
        let (word, why) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), DENIED));
        let (body, said) = match word.to_lowercase().as_str() {
            "y" | "yes" => (json!({"approved": true, "approvalId": id}), "approved"),
            "s" | "session" => {
                (json!({"approved": true, "approvalId": id, "scope": "session"}), "approved for the session")
            }
            "n" | "no" => (json!({"approved": false, "approvalId": id, "message": why.trim()}), "denied"),
            _ => return None,
        };
        Some(Decision { body, said })
    }

    /// It was decided: on to the next.
    pub(super) fn decided(&mut self) {
        self.calls.pop_front();
        self.shown = false;
    }
}

/// Lines of standard input. A read can't be called off, so the thread ends with the process.
fn read_lines() -> mpsc::Receiver<String> {
    let (lines, typed) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    typed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(id: &str) -> Value {
        json!({"type": "approval_required", "approvalId": id, "toolName": "Bash", "toolInput": {"command": "ls"}})
    }

    fn asking() -> Desk {
        let mut desk = Desk::answered_by(mpsc::channel(1).1);
        desk.event(&required("a"));
        desk.event(&required("b"));
        assert!(desk.question(|_| String::new()).expect("a question").contains(r#"Bash? {"command":"ls"}"#));
        desk
    }

    #[test]
    fn a_line_is_yes_no_or_for_the_session_and_anything_else_asks_again() {
        for (line, wanted) in [
            ("y", json!({"approved": true, "approvalId": "a"})),
            (" S ", json!({"approved": true, "approvalId": "a", "scope": "session"})),
            ("n", json!({"approved": false, "approvalId": "a", "message": DENIED})),
            ("no  use git instead", json!({"approved": false, "approvalId": "a", "message": "use git instead"})),
        ] {
            assert_eq!(asking().decide(line).expect(line).body, wanted);
        }
        let mut desk = asking();
        assert_eq!(desk.decide("maybe"), None);
        assert!(desk.question(|_| String::new()).is_some(), "asked again");
    }

    #[test]
    fn one_call_is_asked_after_the_other_and_none_that_was_decided_elsewhere() {
        let mut desk = asking();
        assert!(desk.question(|_| String::new()).is_none(), "it is on the screen");
        desk.event(&json!({"type": "approval_resolved", "approvalId": "a", "state": "approved"}));
        assert!(!desk.is_asking());
        assert!(desk.question(|_| String::new()).is_some());
        assert_eq!(desk.decide("y").expect("a decision").body["approvalId"], "b");
        desk.decided();
        assert!(desk.question(|_| String::new()).is_none());
    }

    #[test]
    fn where_nobody_is_it_says_once_how_to_decide_elsewhere() {
        let mut desk = Desk::empty();
        desk.event(&required("a"));
        let said = desk.question(|id| format!("decide about {id} elsewhere")).expect("said");
        assert!(said.contains("Bash") && said.ends_with("decide about a elsewhere"), "{said}");
        assert!(desk.question(|_| String::new()).is_none());
        assert!(!desk.is_asking());
    }
}
