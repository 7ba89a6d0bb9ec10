//! A look at all gateways, for an operator: whether each lets us in.

use errand_common::{
    backend::Backend,
    config::Config,
    domain::{FailureClass, coordination},
    port::StoreError,
};
use futures::future::join_all;

use crate::{
    directory::Directory,
    gateway::{GatewayFailure, failure::code},
};

/// What one look found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probed {
    /// The tenant and the gateway's name.
    pub name: String,
    /// Its version; or what is wrong, and what to do about it.
    pub found: Result<String, String>,
}

/// Connects to the newest `limit` gateways of all tenants, side by side, with the identity that workers use.
///
/// # Errors
/// The store can't say which there are.
pub async fn gateways(backend: &Backend, config: &Config, limit: u32) -> Result<Vec<Probed>, StoreError> {
    let rows = backend.store.all_gateways(limit).await?;
    let directory = Directory::new(backend, config);
    let looks = rows.iter().map(|row| look(&directory, row));
    Ok(join_all(looks).await)
}

async fn look(directory: &Directory, row: &coordination::Gateway) -> Probed {
    let name = format!("{}/{}", row.tenant, row.name);
    let found = match directory.client(row) {
        Ok(gateway) => gateway.identity().await.map_err(|unanswered| unanswered.failure().clone()),
        Err(failure) => Err(failure),
    };
    let found = found.map(|(version, _)| format!("version {version} answers at {}", row.url));
    Probed { name, found: found.map_err(|failure| advise(&failure)) }
}

fn advise(failure: &GatewayFailure) -> String {
    let advice = match (failure.code, failure.class) {
        (code::NOT_PAIRED, _) => "approve this installation's device at the gateway: `openclaw devices approve`",
        (code::SCOPE, _) => "give this installation's device or token the scopes operator.admin, read and write",
        (code::ADDRESS_NOT_ALLOWED, _) => "allow its network in outbound.allow, or use a public address over wss",
        (code::TLS, _) => "check its certificate, or set allow_insecure_tls for it",
        (code::PROTOCOL, _) => {
            "check that its url is that of an OpenClaw gateway of a version that speaks protocol 3 or 4"
        }
        (_, FailureClass::Auth) => "check its token",
        (_, FailureClass::Fatal) => "check its url, and [secrets] keys",
        _ => "check that it runs and can be reached from here",
    };
    format!("{}; {advice}", failure.message)
}
