//! Questions to people: what was asked, which answer is meant for which, and which answers count.

use serde_json::Value;

use super::schema::{self, Unfit};
use crate::domain::{AgentId, BoardId, JobId, MemoryId, QuestionId, Timestamp, job::text_enum};

text_enum! {
    /// What became of a question. All but `open` are final.
    QuestionState {
        /// Waits for an answer.
        Open = "open",
        /// The first valid answer won.
        Answered = "answered",
        /// Nobody answered in time.
        Expired = "expired",
        /// Its job was cancelled, or failed.
        Cancelled = "cancelled",
    }
}

/// A question to a person.
#[derive(Clone, PartialEq, Debug)]
pub struct Question {
    /// Its id.
    pub id: QuestionId,
    /// Whose it is.
    pub tenant: String,
    /// The board that asks.
    pub board_id: BoardId,
    /// The job that waits for it.
    pub job_id: JobId,
    /// The agent that asks; `None`: a key did.
    pub agent_id: Option<AgentId>,
    /// What is asked.
    pub content: String,
    /// The asker's own mark.
    pub correlation_id: Option<String>,
    /// Tags that an answer carries.
    pub reply_tags: Vec<String>,
    /// Source that an answer names.
    pub reply_source: String,
    /// JSON Schema that an answer has to follow.
    pub answer_schema: Option<Value>,
    /// Whether it waits.
    pub state: QuestionState,
    /// The answer that won: a string, or what the schema asks for.
    pub answer: Option<Value>,
    /// Who gave it.
    pub answered_by: Option<String>,
    /// The item of board memory that it came by.
    pub memory_id: Option<MemoryId>,
    /// How often its asking was repeated.
    pub reminders: u32,
    /// When it is repeated next.
    pub remind_at: Option<Timestamp>,
    /// Until when it waits.
    pub expires_at: Timestamp,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When it was answered or given up.
    pub ended_at: Option<Timestamp>,
}

impl Question {
    /// The answer as it is kept: what was said, if that follows the schema; or, of a text, the JSON that it is.
    ///
    /// # Errors
    /// [`Unfit`], with the first place that does not follow the schema.
    pub fn accept(&self, said: &Value) -> Result<Value, Unfit> {
        let Some(schema) = &self.answer_schema else { return Ok(said.clone()) };
        let unfit = match schema::judge(schema, said) {
            Ok(()) => return Ok(said.clone()),
            Err(unfit) => unfit,
        };
        match said.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
            Some(meant) => schema::judge(schema, &meant).map(|()| meant),
            None => Err(unfit),
        }
    }
}

/// What an item of board memory says about the question it may answer.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// Named by it.
    pub question_id: Option<QuestionId>,
    /// Named by it.
    pub correlation_id: Option<&'a str>,
    /// Its tags.
    pub tags: &'a [String],
    /// Its source.
    pub source: Option<&'a str>,
}

/// The open question of a board that a reply is meant for. The first of these that says anything decides: the question's id, as
/// given or as a tag; the correlation id, as given or as a tag; all of the question's tags and its source. `None`: it is meant
/// for none, or several are equally likely: a wrong answer is worse than none.
#[must_use]
pub fn meant<'a>(open: &'a [Question], reply: &Reply<'_>) -> Option<&'a Question> {
    let tagged = |text: &str| reply.tags.iter().any(|tag| tag == text);
    let by_id = |question: &&Question| reply.question_id == Some(question.id) || tagged(&question.id.to_string());
    if reply.question_id.is_some() || open.iter().any(|question| by_id(&question)) {
        return open.iter().find(by_id);
    }
    let by_correlation = |question: &&Question| {
        question.correlation_id.as_deref().is_some_and(|id| reply.correlation_id == Some(id) || tagged(id))
    };
    if reply.correlation_id.is_some() || open.iter().any(|question| by_correlation(&question)) {
        return only(open.iter().filter(by_correlation));
    }
    only(open.iter().filter(|question| {
        reply.source == Some(question.reply_source.as_str()) && question.reply_tags.iter().all(|tag| tagged(tag))
    }))
}

fn only<'a>(mut found: impl Iterator<Item = &'a Question>) -> Option<&'a Question> {
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(correlation: Option<&str>) -> Question {
        Question {
            id: QuestionId::new(),
            tenant: "t".to_owned(),
            board_id: BoardId::new(),
            job_id: JobId::new(),
            agent_id: None,
            content: "?".to_owned(),
            correlation_id: correlation.map(str::to_owned),
            reply_tags: vec!["gateway_main".to_owned(), "user_reply".to_owned()],
            reply_source: "user_via_gateway_main".to_owned(),
            answer_schema: None,
            state: QuestionState::Open,
            answer: None,
            answered_by: None,
            memory_id: None,
            reminders: 0,
            remind_at: None,
            expires_at: Timestamp::default(),
            created_at: Timestamp::default(),
            ended_at: None,
        }
    }

    fn tags(tags: &[&str]) -> Vec<String> {
        tags.iter().map(|tag| (*tag).to_owned()).collect()
    }

    #[test]
    fn a_text_may_be_the_json_that_is_asked_for() {
        use serde_json::json;
        let plain = question(None);
        assert_eq!(plain.accept(&json!("{\"a\": 1}")), Ok(json!("{\"a\": 1}")), "without a schema it is a text");
        let asked = Question { answer_schema: Some(json!({"type": "integer"})), ..question(None) };
        assert_eq!(asked.accept(&json!("7")), Ok(json!(7)));
        assert_eq!(asked.accept(&json!(7)), Ok(json!(7)));
        assert!(asked.accept(&json!("seven")).is_err() && asked.accept(&json!("\"7\"")).is_err());
    }

    #[test]
    fn a_reply_is_meant_for_the_question_it_names() {
        let open = [question(Some("a")), question(Some("b"))];
        let usual = tags(&["user_reply", "gateway_main"]);
        let reply =
            Reply { question_id: None, correlation_id: None, tags: &usual, source: Some("user_via_gateway_main") };
        assert_eq!(meant(&open, &reply), None, "either");
        assert_eq!(meant(&open[..1], &reply), Some(&open[0]));
        assert_eq!(meant(&open, &Reply { correlation_id: Some("b"), ..reply }), Some(&open[1]));
        assert_eq!(meant(&open, &Reply { correlation_id: Some("c"), ..reply }), None, "another's");
        assert_eq!(
            meant(&open, &Reply { question_id: Some(open[0].id), correlation_id: Some("b"), ..reply }),
            Some(&open[0])
        );
        assert_eq!(
            meant(&open, &Reply { question_id: Some(QuestionId::new()), ..reply }),
            None,
            "one that is not open"
        );
        let by_tag = tags(&[&open[1].id.to_string()]);
        assert_eq!(meant(&open, &Reply { tags: &by_tag, source: None, ..reply }), Some(&open[1]));
        assert_eq!(meant(&open[..1], &Reply { source: Some("else"), ..reply }), None);
        assert_eq!(meant(&open[..1], &Reply { tags: &usual[..1], ..reply }), None);
    }
}
