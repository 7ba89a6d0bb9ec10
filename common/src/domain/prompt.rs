//! The system prompt of tasks that bring none: a template of the operator's, rendered for each run.
//!
//! Its faults are found when the configuration is loaded.

use serde::Serialize;

use super::template::{self, TemplateFault};

/// How errors name it.
const NAME: &str = "system_prompt";

/// What a template may speak of.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PromptScene<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// The user who asked, if a user's token said so.
    pub user_id: Option<&'a str>,
    /// Their address.
    pub user_email: Option<&'a str>,
    /// The conversation.
    pub session_id: &'a str,
    /// The engine that will read it.
    pub engine: &'a str,
    /// The day in UTC: `2026-11-21`.
    pub date: &'a str,
}

/// A template that has been checked.
#[derive(Clone, Debug)]
pub struct PromptTemplate {
    source: String,
}

impl PromptTemplate {
    /// Checks a template by rendering it, once as for a user and once as for a key.
    ///
    /// # Errors
    /// What is wrong with it, and what it may speak of.
    pub fn new(source: &str) -> Result<Self, String> {
        let template = Self { source: source.to_owned() };
        let user = PromptScene {
            tenant: "tenant",
            user_id: Some("user"),
            user_email: Some("user@example.com"),
            session_id: "01890a5d-ac96-774b-bcce-b302099a8057",
            engine: "echo",
            date: "2026-11-21",
        };
        for scene in [user, PromptScene { user_id: None, user_email: None, ..user }] {
            template.render(&scene)?;
        }
        Ok(template)
    }

    /// The prompt for one run.
    ///
    /// # Errors
    /// In words: a branch that the check did not reach speaks of what is not there, or the work or the prompt is too long.
    pub fn render(&self, scene: &PromptScene<'_>) -> Result<String, String> {
        template::render(NAME, &self.source, scene).map_err(|fault| explain(&fault))
    }
}

fn explain(fault: &TemplateFault) -> String {
    format!(
        "is no template that can be rendered: {fault}; known are tenant, user_id, user_email, session_id, engine, date"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene<'a>() -> PromptScene<'a> {
        PromptScene {
            tenant: "acme",
            user_id: Some("u1"),
            user_email: None,
            session_id: "s1",
            engine: "claude",
            date: "2026-11-21",
        }
    }

    #[test]
    fn a_template_tells_the_engine_whom_it_serves() {
        let source = "You serve {{ user_id }}{% if user_email %} <{{ user_email }}>{% endif %} of {{ tenant }}, \
                      session {{ session_id }}, on {{ engine }}, {{ date }}.";
        let template = PromptTemplate::new(source).expect("a template");
        assert_eq!(
            template.render(&scene()).expect("a prompt"),
            "You serve u1 of acme, session s1, on claude, 2026-11-21."
        );
    }

    #[test]
    fn what_a_user_brings_is_text_and_never_a_template() {
        let template = PromptTemplate::new("{{ user_id }}").expect("a template");
        let sly = PromptScene { user_id: Some("{{ tenant }}<b>"), ..scene() };
        assert_eq!(template.render(&sly).expect("a prompt"), "{{ tenant }}<b>");
    }

    #[test]
    fn faults_are_found_when_the_template_is_made() {
        let fault = |source: &str| PromptTemplate::new(source).expect_err(source);
        assert!(fault("{{ user.email }}").contains("known are tenant"), "{}", fault("{{ user.email }}"));
        fault("{{ tenant");
        fault("{% include 'x' %}");
        fault("{% if user_email is none %}{{ nobody }}{% endif %}");
        fault("{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}");
        fault(
            "{% for i in range(2000) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
        );
    }
}
