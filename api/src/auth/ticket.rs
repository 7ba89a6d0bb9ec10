//! Tickets: what stands for a credential where a browser can send none. One opens one stream, and soon.

use std::{net::IpAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use errand_common::{
    domain::{ApiKeyId, Timestamp},
    port::{StoreError, store::Scope},
    wire::{credential, task::TaskUser},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Authenticator, Caller, caller::Identity};
use crate::{limit, problem::Problem};

/// Every ticket starts with it.
const PREFIX: &str = "errand_ticket_";

/// Whom a ticket stands for.
#[derive(Serialize, Deserialize)]
struct Holder {
    tenant: String,
    scopes: Vec<Scope>,
    by: By,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    Key { id: ApiKeyId, prefix: String },
    User { user: TaskUser, until: Timestamp },
}

impl Holder {
    /// `None`: an agent, who opens no streams by ticket.
    fn of(caller: &Caller, now: Timestamp) -> Option<Self> {
        let by = match caller.identity() {
            Identity::Key { id, prefix } => By::Key { id: *id, prefix: prefix.clone() },
            Identity::User { user, until } => {
                let left = until.saturating_duration_since(Instant::now());
                By::User { user: user.clone(), until: now.plus(left) }
            }
            Identity::Agent { .. } => return None,
        };
        Some(Self { tenant: caller.tenant.clone(), scopes: caller.scopes.clone(), by })
    }

    fn caller(self, now: Timestamp) -> Caller {
        let identity = match self.by {
            By::Key { id, prefix } => Identity::Key { id, prefix },
            By::User { user, until } => Identity::User { user, until: Instant::now() + until.since(now) },
        };
        Caller::again(self.tenant, self.scopes, identity)
    }
}

/// A ticket as given out.
pub(crate) struct Ticket {
    pub(crate) text: String,
    pub(crate) expires_at: Timestamp,
}

impl Authenticator {
    /// Makes a ticket that stands for this caller.
    pub(crate) async fn issue_ticket(&self, caller: &Caller, now: Timestamp) -> Result<Ticket, Problem> {
        let holder = Holder::of(caller, now).ok_or_else(Problem::internal)?;
        let holder = serde_json::to_string(&holder).map_err(|_| Problem::internal())?;
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        let expires_at = now.plus(limit::TICKET);
        self.store.keep_ticket(&credential::hash_key(&text), &holder, expires_at).await?;
        Ok(Ticket { text, expires_at })
    }

    /// Uses a ticket up, and says whom it stands for: as long as their own credential is good.
    pub(crate) async fn redeem(&self, ticket: &str, peer: IpAddr, now: Timestamp) -> Result<Arc<Caller>, Problem> {
        let refuse = || self.failures.refuse(peer, "The ticket is unknown, was used, or its 30 s are over".into());
        if !ticket.starts_with(PREFIX) {
            return Err(refuse());
        }
        let Some(kept) = self.store.take_ticket(&credential::hash_key(ticket), now).await? else {
            return Err(refuse());
        };
        let holder: Holder = serde_json::from_str(&kept)
            .map_err(|error| StoreError::Corrupt(format!("a ticket can't be read: {error}")))?;
        let caller = Arc::new(holder.caller(now));
        if self.still_valid(&caller).await? { Ok(caller) } else { Err(refuse()) }
    }

    /// 401 for a callback's token that is no good; counted as a failed authentication.
    pub(crate) fn refuse_callback(&self, peer: IpAddr, detail: &'static str) -> Problem {
        self.failures.refuse(peer, detail.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_brings_back_whom_it_stands_for() {
        let now = Timestamp::from_micros(1_000_000);
        let until = Instant::now() + std::time::Duration::from_secs(60);
        for caller in [Caller::key_for_tests(&[Scope::JobsRead]), Caller::user_for_tests("ann", &[], until)] {
            let kept = serde_json::to_string(&Holder::of(&caller, now).expect("no agent")).expect("plain data");
            let back: Holder = serde_json::from_str(&kept).expect("what was written");
            let back = back.caller(now);
            assert_eq!((back.owner(), &back.tenant, &back.scopes), (caller.owner(), &caller.tenant, &caller.scopes));
        }
    }
}
