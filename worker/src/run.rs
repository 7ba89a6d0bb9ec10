//! The composition of a worker.

use std::{path::PathBuf, sync::Arc};

use errand_common::{backend::Backend, config::Config};
use tokio_util::sync::CancellationToken;

/// What a worker is composed of.
pub struct RunOptions {
    /// The ports.
    pub backend: Backend,
    /// The settings.
    pub config: Arc<Config>,
    /// The program that is re-executed as guard.
    pub guard_program: PathBuf,
    /// No other holder lives: all leases are ended at start.
    pub sole_holder: bool,
    /// Starts the drain.
    pub shutdown: CancellationToken,
}

/// Running ended badly.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunError(String);

/// Works until `shutdown`, then drains.
///
/// # Errors
/// The worker could not go on.
pub async fn run(options: RunOptions) -> Result<(), RunError> {
    options.shutdown.cancelled().await;
    Ok(())
}
