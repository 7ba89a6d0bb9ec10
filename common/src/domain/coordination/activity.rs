//! The audit: who did what to whom.

use serde::{Deserialize, Serialize};

use crate::domain::{ActivityId, AgentId, BoardId, Children, Failure, JobId, JobState, Timestamp};

/// One line of the audit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Activity {
    /// Its id.
    pub id: ActivityId,
    /// Whose it is.
    pub tenant: String,
    /// What happened: `agent.nudge.sent`, …
    pub event_type: String,
    /// For people.
    pub message: String,
    /// The actor.
    pub agent_id: Option<AgentId>,
    /// Where.
    pub board_id: Option<BoardId>,
    /// By which job.
    pub job_id: Option<JobId>,
    /// What joins it to logs.
    pub trace_id: Option<String>,
    /// When.
    pub created_at: Timestamp,
}

/// A line to be written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewActivity {
    /// What happened.
    pub event_type: String,
    /// For people.
    pub message: String,
    /// The actor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_id: Option<BoardId>,
    /// What joins it to logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// What is told of a job of coordination when it ends. Written with the job, so that whoever ends it, in whatever way, tells it in
/// the same transaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The actor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_id: Option<BoardId>,
    /// What joins it to logs.
    pub trace_id: String,
    /// Of its success: the event's type and the message. `{sent}` and `{failed}` are the numbers of children that did and did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<(String, String)>,
    /// Of its failure: the event's type and the beginning of the message; the reason follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<(String, String)>,
}

impl Told {
    /// The line for a job that ended, or that waits for an answer now. `None`: nothing is told of that.
    #[must_use]
    pub fn line(&self, state: JobState, failure: Option<&Failure>, children: Option<&Children>) -> Option<NewActivity> {
        let (event_type, message) = match state {
            JobState::Failed | JobState::Expired | JobState::Cancelled if children.is_none() => {
                let (event_type, beginning) = self.failed.as_ref()?;
                let reason = failure.map_or_else(|| state.as_str().to_owned(), |failure| failure.message.clone());
                (event_type, format!("{beginning}{reason}"))
            }
            _ => {
                let (event_type, message) = self.done.as_ref()?;
                (event_type, children.map_or_else(|| message.clone(), |children| counted(message, children)))
            }
        };
        Some(NewActivity {
            event_type: event_type.clone(),
            message,
            agent_id: self.agent_id,
            board_id: self.board_id,
            trace_id: Some(self.trace_id.clone()),
        })
    }
}

fn counted(message: &str, children: &Children) -> String {
    let sent: u64 =
        children.by_state.iter().filter(|(state, _)| *state == JobState::Completed).map(|(_, count)| count).sum();
    let failed = children.total() - sent;
    message.replace("{sent}", &sent.to_string()).replace("{failed}", &failed.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::FailureClass;

    #[test]
    fn the_end_of_a_job_is_told_in_the_words_written_with_it() {
        let told = Told {
            agent_id: Some(AgentId::new()),
            board_id: None,
            trace_id: "t".to_owned(),
            done: Some(("agent.nudge.sent".to_owned(), "Nudge sent to Ada.".to_owned())),
            failed: Some(("agent.nudge.failed".to_owned(), "Nudge failed for Ada: ".to_owned())),
        };
        let line = told.line(JobState::Completed, None, None).expect("told");
        assert_eq!((line.event_type.as_str(), line.message.as_str()), ("agent.nudge.sent", "Nudge sent to Ada."));
        let failure = Failure {
            class: FailureClass::Transient,
            code: "GATEWAY".to_owned(),
            message: "refused".to_owned(),
            attempt: 1,
        };
        let line = told.line(JobState::Failed, Some(&failure), None).expect("told");
        assert_eq!(
            (line.event_type.as_str(), line.message.as_str()),
            ("agent.nudge.failed", "Nudge failed for Ada: refused")
        );
        assert_eq!(line.agent_id, told.agent_id);
        let silent = Told { failed: None, ..told };
        assert_eq!(silent.line(JobState::Failed, Some(&failure), None), None);
    }

    #[test]
    fn a_broadcast_tells_how_many() {
        let told = Told {
            agent_id: None,
            board_id: None,
            trace_id: "t".to_owned(),
            done: Some(("x".to_owned(), "Broadcast question to {sent} board leads (failed: {failed}).".to_owned())),
            failed: None,
        };
        let children =
            Children { by_state: vec![(JobState::Completed, 3), (JobState::Failed, 1), (JobState::Cancelled, 1)] };
        for state in [JobState::Partial, JobState::Failed] {
            let line = told.line(state, None, Some(&children)).expect("told");
            assert_eq!(line.message, "Broadcast question to 3 board leads (failed: 2).");
        }
    }
}
