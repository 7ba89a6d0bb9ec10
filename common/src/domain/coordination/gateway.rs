//! A gateway: a server that runs agents.

use crate::domain::{GatewayId, Timestamp};

/// A gateway as the fleet knows it. Its token is sealed: only [`crate::vault`] opens it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// Its id.
    pub id: GatewayId,
    /// Whose it is.
    pub tenant: String,
    /// For people.
    pub name: String,
    /// Where it listens: `ws://` or `wss://`.
    pub url: String,
    /// What it is shown, sealed.
    pub token: Option<String>,
    /// Where its agents' workspaces are, on its machine; `~` is left to it.
    pub workspace_root: String,
    /// Come as its control page does, without a device identity.
    pub disable_device_pairing: bool,
    /// Believe any certificate.
    pub allow_insecure_tls: bool,
    /// The identity that this installation shows to it, and what it was given for that; sealed JSON.
    pub device: Option<String>,
    /// Grows with each change of how it is reached.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Gateway {
    /// The workspace of an agent: `{root}/workspace-{slug}`; that of the gateway's own agent goes without its `mc-`.
    #[must_use]
    pub fn workspace(&self, agent_key: &str) -> String {
        let key =
            agent_key.strip_prefix("mc-gateway-").map_or_else(|| agent_key.to_owned(), |id| format!("gateway-{id}"));
        let slug = super::agent::slug(&key).unwrap_or(key);
        format!("{}/workspace-{slug}", self.workspace_root.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspaces_lie_below_the_root() {
        let gateway = Gateway {
            id: GatewayId::new(),
            tenant: "t".to_owned(),
            name: "g".to_owned(),
            url: "ws://127.0.0.1:1".to_owned(),
            token: None,
            workspace_root: "~/.openclaw/".to_owned(),
            disable_device_pairing: false,
            allow_insecure_tls: false,
            device: None,
            version: 1,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        assert_eq!(gateway.workspace("lead-7"), "~/.openclaw/workspace-lead-7");
        assert_eq!(gateway.workspace("mc-gateway-7"), "~/.openclaw/workspace-gateway-7");
        assert_eq!(gateway.workspace("mc-7"), "~/.openclaw/workspace-mc-7");
    }
}
