//! Agents: who they are in a gateway, and whether they are there.

use std::time::Duration;

use crate::domain::{AgentId, BoardId, GatewayId, JobId, Timestamp, job::text_enum};

/// How long an agent may be silent before it counts as offline.
pub const SILENCE: Duration = Duration::from_secs(600);

/// What a board's lead is called unless somebody named it.
pub const LEAD_NAME: &str = "Lead Agent";

/// What the gateway's own agent is called in messages to it.
pub const MAIN_LABEL: &str = "Gateway Agent";

text_enum! {
    /// What an agent is for.
    AgentRole {
        /// The gateway's own agent: speaks for the people behind it, and to all boards' leads. It has no board.
        Main = "main",
        /// Leads a board. One a board.
        Lead = "lead",
        /// Works on a board.
        Worker = "worker",
    }
}

text_enum! {
    /// Where an agent is in its provisioning.
    AgentStatus {
        /// Known here; the gateway was not told yet.
        New = "new",
        /// Is being made in the gateway.
        Provisioning = "provisioning",
        /// Is being changed in the gateway.
        Updating = "updating",
        /// The gateway has it.
        Online = "online",
        /// The last provisioning failed; the next message to it tries again.
        Failed = "failed",
        /// Is being removed.
        Deleting = "deleting",
    }
}

text_enum! {
    /// Whether an agent is there, as people see it.
    Presence {
        /// Never seen.
        Provisioning = "provisioning",
        /// Is being changed.
        Updating = "updating",
        /// Seen lately.
        Online = "online",
        /// Silent for longer than [`SILENCE`].
        Offline = "offline",
        /// Could not be provisioned.
        Failed = "failed",
        /// Is being removed.
        Deleting = "deleting",
    }
}

/// An agent of a gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Whose it is.
    pub tenant: String,
    /// Where it runs.
    pub gateway_id: GatewayId,
    /// Where it works; the gateway's own agent has none.
    pub board_id: Option<BoardId>,
    /// For people.
    pub name: String,
    /// What it is for.
    pub role: AgentRole,
    /// Its session in the gateway.
    pub session_key: String,
    /// The session was there before: it is used as it is, and never provisioned.
    pub bound: bool,
    /// Where it is in its provisioning.
    pub status: AgentStatus,
    /// What its `SOUL.md` is meant to hold.
    pub soul: Option<String>,
    /// SHA-256, in hex, of what the gateway is known to hold.
    pub soul_hash: Option<String>,
    /// It has a token.
    pub has_token: bool,
    /// Grows with each provisioning that begins.
    pub generation: i64,
    /// The job that provisions it.
    pub provision_job: Option<JobId>,
    /// Why the last provisioning failed.
    pub provision_error: Option<String>,
    /// When it was last provisioned whole.
    pub provisioned_at: Option<Timestamp>,
    /// When it was last heard of.
    pub last_seen_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Agent {
    /// Its id in the gateway.
    #[must_use]
    pub fn key(&self) -> String {
        key(&self.session_key, &self.name, self.id)
    }

    /// Whether a message must wait until it was provisioned.
    #[must_use]
    pub const fn needs_provisioning(&self) -> bool {
        !self.bound && !matches!(self.status, AgentStatus::Online)
    }

    /// Whether it is there.
    #[must_use]
    pub fn presence(&self, now: Timestamp) -> Presence {
        match self.status {
            AgentStatus::Updating => Presence::Updating,
            AgentStatus::Deleting => Presence::Deleting,
            AgentStatus::Failed => Presence::Failed,
            AgentStatus::New | AgentStatus::Provisioning | AgentStatus::Online => match self.last_seen_at {
                None => Presence::Provisioning,
                Some(seen) if now.since(seen) > SILENCE => Presence::Offline,
                Some(_) => Presence::Online,
            },
        }
    }
}

/// The session of a gateway's own agent.
#[must_use]
pub fn main_session(gateway: GatewayId) -> String {
    format!("agent:mc-gateway-{gateway}:main")
}

/// The session of a board's lead.
#[must_use]
pub fn lead_session(board: BoardId) -> String {
    format!("agent:lead-{board}:main")
}

/// The session of any other agent.
#[must_use]
pub fn worker_session(agent: AgentId) -> String {
    format!("agent:mc-{agent}:main")
}

/// An agent's id in its gateway: the second part of its session's key, or what can be made of its name.
fn key(session_key: &str, name: &str, id: AgentId) -> String {
    let named = session_key.strip_prefix("agent:").and_then(|rest| rest.split(':').next());
    named
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .or_else(|| slug(name))
        .unwrap_or_else(|| id.uuid().simple().to_string())
}

/// A name as gateways and addresses write it: lower case, other runs as one hyphen. `None`: nothing is left of it.
#[must_use]
pub fn slug(text: &str) -> Option<String> {
    let mut slug = String::with_capacity(text.len());
    for c in text.to_lowercase().chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(slug.trim_end_matches('-').len());
    (!slug.is_empty()).then_some(slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_follow_from_ids() {
        let (gateway, board, agent) = (GatewayId::new(), BoardId::new(), AgentId::new());
        assert_eq!(main_session(gateway), format!("agent:mc-gateway-{gateway}:main"));
        assert_eq!(lead_session(board), format!("agent:lead-{board}:main"));
        assert_eq!(worker_session(agent), format!("agent:mc-{agent}:main"));
    }

    #[test]
    fn an_agents_key_is_its_sessions_second_part_or_its_name() {
        let id = AgentId::new();
        for (session, name, expected) in [
            ("agent:lead-7:main", "Boss", "lead-7"),
            ("agent:only", "Boss", "only"),
            ("agent::main", "The Boss!", "the-boss"),
            ("main", "Ünï Code", "n-code"),
        ] {
            assert_eq!(key(session, name, id), expected, "{session}");
        }
        assert_eq!(key("main", "!!", id), id.uuid().simple().to_string());
    }

    #[test]
    fn slugs_are_lower_case_with_single_hyphens() {
        assert_eq!(slug("  Lead  Agent 7! ").as_deref(), Some("lead-agent-7"));
        assert_eq!(slug("¡!"), None);
    }
}
