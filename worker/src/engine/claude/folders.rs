//! Where a run of the program lives: a home for each tenant, a working directory for each session.

use std::{
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tokio::fs;

use crate::engine::Turn;

/// Longest tenant that names its directory as it is, in bytes.
const PLAIN_NAME: usize = 64;

/// The directories of one run; only we may enter them.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    /// The session's.
    session: PathBuf,
    /// `HOME`, shared by the tenant's sessions.
    pub(super) home: PathBuf,
    /// The working directory; kept as long as something is in it.
    pub(super) work: PathBuf,
    /// What the program keeps for itself: ours to throw away, since what matters of it is kept in the store.
    pub(super) config: PathBuf,
    /// No session: nothing is kept.
    passing: bool,
}

impl Folders {
    /// Makes them below `home`.
    pub(super) async fn make(home: &Path, turn: &Turn) -> io::Result<Self> {
        make_private(home).await?;
        // The program names things by its real working directory.
        let tenant = fs::canonicalize(home).await?.join(tenant_name(&turn.tenant));
        let session = tenant.join(turn.session_id.map_or_else(|| turn.job_id.to_string(), |id| id.to_string()));
        let folders = Self {
            home: tenant.join("home"),
            work: session.join("work"),
            config: session.join("config"),
            session,
            passing: turn.session_id.is_none(),
        };
        folders.forget_config().await?;
        for folder in [&tenant, &folders.home, &folders.session, &folders.work, &folders.config] {
            make_private(folder).await?;
        }
        Ok(folders)
    }

    /// Where this version of the program looks for a conversation's file.
    pub(super) fn transcript(&self, engine_session: &str) -> PathBuf {
        let work = self.work.to_string_lossy();
        let project: String = work.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        self.config.join("projects").join(project).join(format!("{engine_session}.jsonl"))
    }

    /// Removes what nobody needs any more. What can't be removed stays until the session's next run.
    pub(super) async fn leave(&self) {
        let left = if self.passing { fs::remove_dir_all(&self.session).await } else { self.forget_config().await };
        if let Err(error) = left {
            tracing::warn!(%error, folder = %self.session.display(), "a directory could not be removed");
        }
        if !self.passing {
            // Only empty ones go.
            let _ = fs::remove_dir(&self.work).await;
            let _ = fs::remove_dir(&self.session).await;
        }
    }

    async fn forget_config(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.config).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

pub(super) async fn make_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await
}

/// A name that stays within its directory, and that no other tenant has.
fn tenant_name(tenant: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if (1..=PLAIN_NAME).contains(&tenant.len()) && tenant.chars().all(plain) {
        return format!("t-{tenant}");
    }
    let digest = Sha256::digest(tenant);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("h-{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tenant_gets_out_of_its_directory_or_into_anothers() {
        assert_eq!(tenant_name("acme_1-x"), "t-acme_1-x");
        let names = ["..", "", "a/b", "A", "a", "h-x", "\0", "\u{4f60}", &"a".repeat(65)].map(tenant_name);
        for (at, name) in names.iter().enumerate() {
            assert!(name.len() <= 66 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "{name}");
            assert!(!names[..at].contains(name), "{name} twice");
        }
    }
}
