//! The API: REST, streams, and the relay.

use std::{fmt, sync::Arc};

use errand_common::{backend::Backend, config::Config};
use tokio_util::sync::CancellationToken;

/// What the API is composed of.
pub struct ServeOptions {
    /// The ports.
    pub backend: Backend,
    /// The settings.
    pub config: Arc<Config>,
    /// Already bound.
    pub listener: tokio::net::TcpListener,
    /// Renders `/metrics`.
    pub metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    /// Ends it.
    pub shutdown: CancellationToken,
}

/// Serving ended badly.
#[derive(Debug)]
pub struct ServeError(String);

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServeError {}

/// Serves until `shutdown`.
///
/// # Errors
/// The listener failed.
pub async fn serve(options: ServeOptions) -> Result<(), ServeError> {
    options.shutdown.cancelled().await;
    Ok(())
}
