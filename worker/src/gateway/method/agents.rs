//! Agents: who there is, and making them.

use serde::Deserialize;
use serde_json::{Value, json};

use super::params;
use crate::gateway::{Gateway, Unanswered, frame};

/// The agents of a gateway.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentList {
    /// The one that a bare session key belongs to.
    #[serde(deserialize_with = "frame::text")]
    pub default_id: String,
    /// All of them.
    pub agents: Vec<Agent>,
}

/// An agent.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Agent {
    /// What it is called in keys and calls.
    #[serde(deserialize_with = "frame::text")]
    pub id: String,
    /// What people call it.
    #[serde(deserialize_with = "frame::lenient")]
    pub name: Option<String>,
    /// Its folder on the gateway's machine.
    #[serde(deserialize_with = "frame::lenient")]
    pub workspace: Option<String>,
}

/// An agent to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewAgent<'a> {
    /// The gateway makes the id of it.
    pub name: &'a str,
    /// Its folder; without one, the gateway chooses.
    pub workspace: Option<&'a str>,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedAgent {
    /// As the gateway calls it.
    pub agent_id: String,
}

/// What is to be changed of an agent; what is `None` stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AgentChange<'a> {
    /// What people call it.
    pub name: Option<&'a str>,
    /// Its folder.
    pub workspace: Option<&'a str>,
}

impl Gateway {
    /// All agents.
    ///
    /// # Errors
    /// No good answer.
    pub async fn agents(&self) -> Result<AgentList, Unanswered> {
        self.call("agents.list", &json!({})).await
    }

    /// Makes an agent. It can't be used at once: for some seconds messages to it are refused as to an unknown one, and turns
    /// that begin anywhere on the gateway may be given up.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` among others; after doubt, look at [`Gateway::agents`].
    pub async fn create_agent(&self, agent: &NewAgent<'_>) -> Result<CreatedAgent, Unanswered> {
        let fields =
            params([("name", Some(json!(agent.name))), ("workspace", agent.workspace.map(|path| json!(path)))]);
        self.call("agents.create", &fields).await
    }

    /// Changes an agent; to the same again is no harm.
    ///
    /// # Errors
    /// `UNKNOWN_AGENT` among others, also for one that was made a moment ago.
    pub async fn update_agent(&self, agent_id: &str, change: &AgentChange<'_>) -> Result<(), Unanswered> {
        let fields = params([
            ("agentId", Some(json!(agent_id))),
            ("name", change.name.map(|name| json!(name))),
            ("workspace", change.workspace.map(|path| json!(path))),
        ]);
        self.call::<Value>("agents.update", &fields).await.map(drop)
    }

    /// Removes an agent; with its files, if `delete_files`.
    ///
    /// # Errors
    /// `UNKNOWN_AGENT` among others, also if it was removed before.
    pub async fn delete_agent(&self, agent_id: &str, delete_files: bool) -> Result<(), Unanswered> {
        self.call::<Value>("agents.delete", &json!({"agentId": agent_id, "deleteFiles": delete_files})).await.map(drop)
    }
}
