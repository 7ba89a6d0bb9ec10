//! What a credential stands for: a tenant, and in it a service, a user or an agent.

use axum::http::StatusCode;
use errand_common::{
    domain::{AgentId, ApiKeyId},
    port::store::{ApiKey, Scope},
    wire::task::TaskUser,
};
use tokio::time::Instant;

use crate::problem::Problem;

/// What every user may do with what is theirs.
const USER_SCOPES: &[Scope] = &[Scope::JobsRead, Scope::JobsWrite, Scope::JobsCancel, Scope::Approve];

/// Who calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: String,
    pub(crate) scopes: Vec<Scope>,
    identity: Identity,
}

/// By which credential.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Identity {
    /// A service, with an API key.
    Key {
        id: ApiKeyId,
        /// Finds the key again, to see whether it is still valid.
        prefix: String,
    },
    /// A user, with a token.
    User {
        user: TaskUser,
        /// When the token is good no longer.
        until: Instant,
    },
    /// An agent behind a gateway, with its token.
    Agent {
        id: AgentId,
        /// Finds it again, to see whether the token is still its own.
        token_hash: String,
    },
}

impl Caller {
    pub(super) fn key(key: ApiKey) -> Self {
        Self { tenant: key.tenant, scopes: key.scopes, identity: Identity::Key { id: key.id, prefix: key.prefix } }
    }

    /// A user: beyond what all users may, what their token's own scopes say. No token makes an operator of the whole
    /// installation: `fleet` is left out.
    pub(super) fn user(
        tenant: String,
        user: TaskUser,
        granted: impl IntoIterator<Item = Scope>,
        until: Instant,
    ) -> Self {
        let mut scopes = USER_SCOPES.to_vec();
        for scope in granted {
            if scope != Scope::Fleet && !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        Self { tenant, scopes, identity: Identity::User { user, until } }
    }

    /// An agent: it has no scopes. What it may do follows from its role and its board.
    pub(super) const fn agent(tenant: String, id: AgentId, token_hash: String) -> Self {
        Self { tenant, scopes: Vec::new(), identity: Identity::Agent { id, token_hash } }
    }

    /// One that was written down before.
    pub(super) const fn again(tenant: String, scopes: Vec<Scope>, identity: Identity) -> Self {
        Self { tenant, scopes, identity }
    }

    pub(super) const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// `admin` stands for everything within the tenant; `fleet` is never implied.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || (scope != Scope::Fleet && self.scopes.contains(&Scope::Admin))
    }

    pub(crate) fn require(&self, scope: Scope) -> Result<(), Problem> {
        self.require_any(&[scope])
    }

    /// Any of these will do.
    pub(super) fn require_any(&self, scopes: &[Scope]) -> Result<(), Problem> {
        if scopes.iter().any(|scope| self.may(*scope)) {
            return Ok(());
        }
        let names: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
        let what = self.credential();
        let detail = match names.as_slice() {
            [one] => format!("This needs the scope {one}, which the {what} does not have"),
            several => format!("This needs one of the scopes {}; the {what} has neither", several.join(" and ")),
        };
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    /// For what shows, or changes, more of a tenant than one user's own: any key, and users who are its admins.
    pub(crate) fn require_whole_tenant(&self) -> Result<(), Problem> {
        if self.confined_to().is_none() {
            return Ok(());
        }
        let detail = "This concerns the whole tenant: a user needs the scope admin for it";
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    const fn credential(&self) -> &'static str {
        match self.identity {
            Identity::Key { .. } => "key",
            Identity::User { .. } => "token",
            Identity::Agent { .. } => "agent",
        }
    }

    /// Who this is, in records and as the owner of idempotency keys: a key's id, `user:<id>` or `agent:<id>`.
    pub(crate) fn owner(&self) -> String {
        match &self.identity {
            Identity::Key { id, .. } => id.to_string(),
            Identity::User { user, .. } => format!("user:{}", user.id),
            Identity::Agent { id, .. } => format!("agent:{id}"),
        }
    }

    /// The user who calls; `None`: a service.
    pub(crate) const fn as_user(&self) -> Option<&TaskUser> {
        match &self.identity {
            Identity::Key { .. } | Identity::Agent { .. } => None,
            Identity::User { user, .. } => Some(user),
        }
    }

    /// The user whose rows alone this caller may read and change; `None`: all of the tenant.
    pub(crate) fn confined_to(&self) -> Option<&str> {
        if self.may(Scope::Admin) { None } else { self.as_user().map(|user| user.id.as_str()) }
    }

    /// Whether this caller may read and change a row of this user, in their own tenant.
    pub(crate) fn may_see(&self, user_id: Option<&str>) -> bool {
        self.confined_to().is_none_or(|user| user_id == Some(user))
    }

    /// Returns when the credential is good no longer, if that is known beforehand; else never.
    pub(crate) fn expiry(&self) -> impl Future<Output = ()> + Send + use<> {
        let until = match self.identity {
            Identity::Key { .. } | Identity::Agent { .. } => None,
            Identity::User { until, .. } => Some(until),
        };
        async move {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
impl Caller {
    pub(crate) fn key_for_tests(scopes: &[Scope]) -> Self {
        let identity = Identity::Key { id: ApiKeyId::new(), prefix: "errand_x".into() };
        Self { tenant: "t".into(), scopes: scopes.to_vec(), identity }
    }

    pub(crate) fn user_for_tests(id: &str, granted: &[Scope], until: Instant) -> Self {
        let user = TaskUser { id: id.into(), email: None };
        Self::user("t".into(), user, granted.iter().copied(), until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_stands_for_everything_but_the_fleet() {
        for caller in [
            Caller::key_for_tests(&[Scope::Admin]),
            Caller::user_for_tests("u", &[Scope::Admin, Scope::Fleet], Instant::now()),
        ] {
            for &scope in Scope::ALL {
                assert_eq!(caller.may(scope), scope != Scope::Fleet, "{scope}");
            }
        }
    }

    #[test]
    fn a_user_sees_their_own_and_an_admin_or_a_key_all_of_the_tenant() {
        let user = Caller::user_for_tests("ann", &[], Instant::now());
        let sees = |caller: &Caller| [Some("ann"), Some("bob"), None].map(|owner| caller.may_see(owner));
        assert_eq!(sees(&user), [true, false, false]);
        assert_eq!(sees(&Caller::user_for_tests("ann", &[Scope::Admin], Instant::now())), [true; 3]);
        assert_eq!(sees(&Caller::key_for_tests(&[Scope::JobsRead])), [true; 3]);
        assert_eq!(user.owner(), "user:ann");
        assert!(user.require_whole_tenant().is_err());
    }
}
