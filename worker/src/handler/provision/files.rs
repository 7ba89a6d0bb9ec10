//! The files that make an agent what it is: which there are, when each is written, and what is in it.
//!
//! Newer gateways take no `TOOLS.md` and no `HEARTBEAT.md`: what those say is folded into `AGENTS.md` there.

use errand_common::domain::{
    coordination::{Agent, AgentRole, Board, Gateway},
    template,
};
use serde::Serialize;

use crate::gateway::FileEntry;

/// A file by its template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AgentFile {
    pub(super) name: &'static str,
    /// Its place among the files; never changes.
    pub(super) place: u32,
    template: &'static str,
    when: When,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Always,
    /// It tells of the first start.
    First,
    /// The agent changes it itself.
    Missing,
    /// It holds the token.
    Token,
}

macro_rules! template {
    ($name:literal) => {
        include_str!(concat!("../../../templates/agent/", $name, ".j2"))
    };
}

macro_rules! files {
    ($($place:literal $name:literal $when:ident),+ $(,)?) => {
        [$(AgentFile { name: $name, place: $place, template: template!($name), when: When::$when }),+]
    };
}

const FILES: [AgentFile; 8] = files! {
    0 "AGENTS.md" Always,
    1 "BOOTSTRAP.md" First,
    2 "HEARTBEAT.md" Always,
    3 "IDENTITY.md" Always,
    4 "MEMORY.md" Missing,
    5 "SOUL.md" Always,
    6 "TOOLS.md" Token,
    7 "USER.md" Missing,
};

/// Of gateways that know no others.
const FOLDED: [AgentFile; 6] = {
    let [_, bootstrap, _, identity, memory, soul, _, user] = FILES;
    let template = concat!(template!("AGENTS.md"), "\n", template!("TOOLS.md"), "\n", template!("HEARTBEAT.md"));
    let agents = AgentFile { name: "AGENTS.md", place: 0, template, when: When::Token };
    [agents, bootstrap, identity, memory, soul, user]
};

/// Whether the gateway lists what files an agent may have, and none of its own for tools.
pub(super) fn folds(present: &[FileEntry]) -> bool {
    !present.is_empty() && !present.iter().any(|file| file.name == "TOOLS.md")
}

/// Files of former leads that would say something else.
const STALE: [&str; 6] = ["ROLE.md", "ROUTING.md", "LEARNINGS.md", "WORKFLOW.md", "STATUS.md", "APIS.md"];

/// What is known of the agent's files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    /// The agent was not there before.
    pub(super) is_first: bool,
    /// What agents change themselves is written anew.
    pub(super) overwrite: bool,
    /// It has a token, of which only a hash is kept.
    pub(super) token_is_lost: bool,
}

/// The files that are to be written.
///
/// # Errors
/// The token would have to be written, and is not known.
pub(super) fn plan(role: AgentRole, present: &[FileEntry], scope: Scope) -> Result<Vec<AgentFile>, &'static str> {
    let is_there = |name: &str| is_present(present, name);
    let files: &[AgentFile] = if folds(present) { &FOLDED } else { &FILES };
    let mut planned = Vec::with_capacity(files.len());
    for &file in files {
        let is_written = match file.when {
            When::Always => true,
            When::First => role != AgentRole::Worker && (scope.is_first || scope.overwrite),
            When::Missing => scope.overwrite || !is_there(file.name),
            // What is there holds it.
            When::Token if scope.token_is_lost && is_there(file.name) && !scope.is_first => false,
            When::Token if scope.token_is_lost => {
                return Err(
                    "the gateway has lost the agent's token, and only its hash is kept here: give the agent a new token",
                );
            }
            When::Token => true,
        };
        if is_written {
            planned.push(file);
        }
    }
    Ok(planned)
}

/// Names of files that are to go.
pub(super) fn stale(role: AgentRole, present: &[FileEntry]) -> Vec<&'static str> {
    let is_there = |name: &&str| role == AgentRole::Lead && is_present(present, name);
    STALE.into_iter().filter(is_there).collect()
}

fn is_present(present: &[FileEntry], name: &str) -> bool {
    present.iter().any(|file| file.name == name && file.missing != Some(true))
}

/// What templates may speak of. A soul is text of its own, never a template.
#[derive(Debug, Serialize)]
pub(super) struct Scene<'a> {
    agent_name: &'a str,
    agent_id: String,
    role: &'static str,
    gateway_name: &'a str,
    gateway_id: String,
    board_name: Option<&'a str>,
    board_id: Option<String>,
    base_url: &'a str,
    token: Option<&'a str>,
    soul: Option<&'a str>,
    /// There is no `TOOLS.md`.
    folded: bool,
}

impl<'a> Scene<'a> {
    pub(super) fn new(
        agent: &'a Agent,
        gateway: &'a Gateway,
        board: Option<&'a Board>,
        base_url: &'a str,
        token: Option<&'a str>,
        present: &[FileEntry],
    ) -> Self {
        Self {
            agent_name: &agent.name,
            agent_id: agent.id.to_string(),
            role: agent.role.as_str(),
            gateway_name: &gateway.name,
            gateway_id: gateway.id.to_string(),
            board_name: board.map(|board| board.name.as_str()),
            board_id: board.map(|board| board.id.to_string()),
            base_url,
            token,
            soul: agent.soul.as_deref().filter(|soul| !soul.trim().is_empty()),
            folded: folds(present),
        }
    }

    /// # Errors
    /// In words: the template and the scene do not fit.
    pub(super) fn render(&self, file: AgentFile) -> Result<String, String> {
        template::render(file.name, file.template, self)
            .map_err(|fault| format!("the template of {}: {fault}", file.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene<'a>(role: &'static str, soul: Option<&'a str>) -> Scene<'a> {
        let board = role != "main";
        Scene {
            agent_name: "Ada {{ token }}",
            agent_id: "a-1".to_owned(),
            role,
            gateway_name: "g",
            gateway_id: "g-1".to_owned(),
            board_name: board.then_some("Ops"),
            board_id: board.then(|| "b-1".to_owned()),
            base_url: "https://errand.example",
            token: Some("errand_agent_secret"),
            soul,
            folded: false,
        }
    }

    fn listing(names: &[&str]) -> Vec<FileEntry> {
        names.iter().map(|name| FileEntry { name: (*name).to_owned(), missing: Some(false) }).collect()
    }

    fn names(role: AgentRole, present: &[&str], scope: Scope) -> Vec<&'static str> {
        plan(role, &listing(present), scope).expect("a plan").iter().map(|file| file.name).collect()
    }

    const FIRST: Scope = Scope { is_first: true, overwrite: false, token_is_lost: false };
    const AGAIN: Scope = Scope { is_first: false, overwrite: false, token_is_lost: true };

    #[test]
    fn every_template_fits_every_role_and_only_one_holds_the_token() {
        for role in ["main", "lead", "worker"] {
            for file in FILES {
                let text = scene(role, None).render(file).expect("a text");
                assert!(!text.trim().is_empty(), "{role} {}", file.name);
                assert_eq!(text.contains("errand_agent_secret"), file.when == When::Token, "{role} {}", file.name);
                assert!(text.len() < 20_000, "{role} {}: {} bytes", file.name, text.len());
            }
            for file in FOLDED {
                let text = Scene { folded: true, ..scene(role, None) }.render(file).expect("a text");
                assert_eq!(text.contains("errand_agent_secret"), file.when == When::Token, "{role} {}", file.name);
                let is_foreign = text.contains("TOOLS.md") || text.contains("HEARTBEAT.md");
                assert!(!is_foreign && text.len() < 20_000, "{role} {}: {text}", file.name);
                let has_all = text.contains("# Tools") && text.contains("# Heartbeat");
                assert_eq!(has_all, file.name == "AGENTS.md", "{role} {}", file.name);
            }
        }
    }

    #[test]
    fn where_there_is_no_file_for_tools_they_are_told_elsewhere() {
        let newer = ["AGENTS.md", "SOUL.md", "USER.md", "MEMORY.md"];
        let first = ["AGENTS.md", "BOOTSTRAP.md", "IDENTITY.md", "SOUL.md"];
        assert_eq!(names(AgentRole::Lead, &newer, FIRST), first);
        // What holds the token stays as it is.
        assert_eq!(names(AgentRole::Lead, &newer, AGAIN), ["IDENTITY.md", "SOUL.md"]);
        let made_anew = Scope { is_first: true, ..AGAIN };
        assert!(plan(AgentRole::Lead, &listing(&newer), made_anew).is_err(), "what is there is the gateway's own");
    }

    #[test]
    fn a_soul_is_text_and_never_a_template() {
        let soul = "I am {{ token }} {% for i in x %}";
        let file = FILES.into_iter().find(|file| file.name == "SOUL.md").expect("one of them");
        assert_eq!(scene("lead", Some(soul)).render(file).expect("a text").trim(), soul);
    }

    #[test]
    fn what_agents_change_themselves_is_written_once() {
        let all = FILES.map(|file| file.name);
        assert_eq!(names(AgentRole::Lead, &[], FIRST), all);
        let worker: Vec<_> = all.into_iter().filter(|name| *name != "BOOTSTRAP.md").collect();
        assert_eq!(names(AgentRole::Worker, &[], FIRST), worker);
        let again = ["AGENTS.md", "HEARTBEAT.md", "IDENTITY.md", "SOUL.md"];
        assert_eq!(names(AgentRole::Lead, &["MEMORY.md", "USER.md", "TOOLS.md"], AGAIN), again);
        let overwritten = Scope { overwrite: true, token_is_lost: false, ..AGAIN };
        assert_eq!(names(AgentRole::Lead, &all, overwritten), all);
        assert!(plan(AgentRole::Lead, &listing(&["MEMORY.md"]), AGAIN).is_err(), "the token is lost");
    }

    #[test]
    fn only_leads_files_grow_stale() {
        let present = listing(&["ROLE.md", "SOUL.md", "APIS.md"]);
        assert_eq!(stale(AgentRole::Lead, &present), ["ROLE.md", "APIS.md"]);
        assert!(stale(AgentRole::Worker, &present).is_empty());
    }

    #[test]
    fn places_are_each_files_own() {
        assert!(FILES.iter().enumerate().all(|(at, file)| file.place as usize == at));
    }
}
