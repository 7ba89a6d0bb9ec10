//! What engines that ask a model's server have in common: the connection, the retries, the tool loop, the account.
//!
//! ```text
//! talk ── asks ──▶ attempt ── request, pieces of the answer ──▶ protocol (one a kind of server)
//!   │                 └── gate, retries, retraction, account
//!   └── tools, approvals, progress that a later run goes on with
//! ```

mod attempt;
mod client;
pub(in crate::engine) mod failure;
mod pieces;
mod progress;
mod protocol;
mod talk;

#[cfg(test)]
pub(in crate::engine) mod fake;

use std::time::{Duration, Instant};

use errand_common::{config::Secret, domain::FailureClass};
use reqwest::header::HeaderMap;
use tokio::sync::Mutex;

use self::client::Client;
pub(in crate::engine) use self::{
    client::{Address, KeyHeader},
    failure::{ErrorBody, Refusal},
    progress::Round,
    protocol::{Answer, Listener, Protocol, Said, Spent},
};
use super::{Availability, Turn, TurnContext, TurnEnd, TurnFailure, code, prices::PriceTable, toolbox::Toolbox};

/// How long an answer to "are you there" holds. Workers ask at each renewal of their registration.
const REACHABLE_FOR: Duration = Duration::from_secs(60);
/// Longest wait for that answer.
const REACHABLE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a server may take.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Limits {
    /// Longest wait for a connection.
    pub(in crate::engine) connect: Duration,
    /// Longest wait for an answer's head.
    pub(in crate::engine) first_byte: Duration,
    /// Longest silence within an answer.
    pub(in crate::engine) idle: Duration,
    /// Longest answer, in bytes.
    pub(in crate::engine) answer: usize,
    /// How often a request is sent again within one attempt.
    pub(in crate::engine) retries: u32,
    /// Longest wait for that which a server may ask for.
    pub(in crate::engine) retry_wait: Duration,
}

/// The server of one engine.
pub(in crate::engine) struct Server {
    name: String,
    model: String,
    key_env: Option<String>,
    client: Result<Client, String>,
    limits: Limits,
    tools: Toolbox,
    prices: PriceTable,
    reachable: Mutex<Option<(Instant, Availability)>>,
}

impl Server {
    /// The process must have a default cryptography provider by now, as each that speaks TLS.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that differs from engine to engine")]
    pub(in crate::engine) fn new(
        address: &Address<'_>,
        model: &str,
        key_env: Option<&str>,
        key_header: KeyHeader,
        headers: HeaderMap,
        limits: Limits,
        tools: Toolbox,
        prices: PriceTable,
    ) -> Self {
        Self {
            name: address.engine.to_owned(),
            model: model.to_owned(),
            key_env: key_env.map(ToOwned::to_owned),
            client: Client::new(address, limits.connect, limits.first_byte, headers, key_header),
            limits,
            tools,
            prices,
            reachable: Mutex::new(None),
        }
    }

    /// The key as it is now; a sentence if it is named and not there.
    fn key(&self) -> Result<Option<Secret>, String> {
        let Some(name) = &self.key_env else { return Ok(None) };
        match std::env::var(name) {
            Ok(key) if !key.trim().is_empty() => Ok(Some(Secret::new(key.trim().to_owned()))),
            _ => Err(format!("the environment variable {name} is not set; it must hold the key (`api_key_env`)")),
        }
    }

    fn client(&self) -> Result<&Client, TurnFailure> {
        let unavailable =
            |reason: &String| TurnFailure::new(FailureClass::Fatal, code::ENGINE_UNAVAILABLE, reason.clone());
        self.client.as_ref().map_err(unavailable)
    }

    /// Whether it could be asked now. Costs nothing.
    pub(in crate::engine) async fn availability(&self) -> Availability {
        let ready = self.client.as_ref().map_err(Clone::clone).and_then(|client| {
            self.key()?;
            self.tools.check()?;
            Ok(client)
        });
        let client = match ready {
            Ok(client) => client,
            Err(reason) => return Availability::Unavailable(reason),
        };
        let mut reachable = self.reachable.lock().await;
        if let Some((asked, answer)) = reachable.as_ref()
            && asked.elapsed() < REACHABLE_FOR
        {
            return answer.clone();
        }
        let answer = match client.is_reachable(REACHABLE_TIMEOUT).await {
            Ok(()) => Availability::Available,
            Err(reason) => Availability::Unavailable(reason),
        };
        *reachable = Some((Instant::now(), answer.clone()));
        answer
    }

    /// Runs a turn to its end. A stop closes the connection, which tells the server to stop, and ends what tools run.
    pub(in crate::engine) async fn run(
        &self,
        protocol: &mut dyn Protocol,
        turn: &Turn,
        context: &TurnContext,
    ) -> Result<TurnEnd, TurnFailure> {
        talk::talk(self, protocol, turn, context).await
    }
}
