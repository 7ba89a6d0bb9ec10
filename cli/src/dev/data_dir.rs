//! The data directory: a lock, the API key, the database file. One process at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use errand_common::wire::credential;

/// A data directory, held by this process until it is dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Unlocked by the system when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be, and takes its lock.
    ///
    /// # Errors
    /// Another process holds it, or it can't be made.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
            format!("the data directory {} can't be made; name another with --data-dir", path.display())
        })?;
        let path = fs::canonicalize(path).with_context(|| format!("{} can't be read", path.display()))?;
        let file = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .with_context(|| {
            format!("{} can't be opened; name another directory with --data-dir", file.display())
        })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is only helps the reader; without it the message is still true.
                let _ = lock.read_to_string(&mut holder);
                let holder = Some(holder.trim()).filter(|pid| !pid.is_empty());
                let holder = holder.map_or_else(String::new, |pid| format!(" (process {pid})"));
                bail!(
                    "another `errand dev`{holder} uses {}; stop it, or give this one a directory of its own with --data-dir",
                    path.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("{} can't be locked", file.display()));
            }
        }
        lock.set_len(0)?;
        write!(lock, "{}", std::process::id())?;
        Ok(Self { path, _lock: lock })
    }

    /// Its database file.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("errand.db")
    }

    /// The file of its key.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.path.join("key")
    }

    /// The URL of its database file.
    pub(crate) fn database_url(&self) -> String {
        sqlite_url(&self.database())
    }

    /// Whether a URL means its database file.
    pub(crate) fn owns(&self, database_url: &str) -> bool {
        let Some(rest) = database_url.strip_prefix("sqlite://") else { return false };
        let file = Path::new(rest.split('?').next().unwrap_or_default());
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = fs::canonicalize(parent).is_ok_and(|parent| parent == self.path);
        database_url == self.database_url() || parent && file.file_name() == self.database().file_name()
    }

    /// The key kept in a directory, if it has one.
    ///
    /// # Errors
    /// There is one, and it can't be read or is none.
    pub(crate) fn read_key(directory: &Path) -> anyhow::Result<Option<String>> {
        let file = directory.join("key");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{} can't be read", file.display())),
        };
        let key = text.trim();
        if !credential::is_key(key) {
            bail!("{} does not hold an API key; remove it, and `errand dev` makes a new one", file.display());
        }
        Ok(Some(key.to_owned()))
    }

    /// The key, made now if there is none. Only the owner may read its file.
    pub(crate) fn key(&self) -> anyhow::Result<String> {
        if let Some(key) = Self::read_key(&self.path)? {
            return Ok(key);
        }
        let key = credential::generate_key();
        let (file, draft) = (self.key_file(), self.path.join("key.new"));
        // Renamed into place, so that a key is there whole or not at all.
        let _ = fs::remove_file(&draft);
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut writer| {
                writeln!(writer, "{key}")?;
                writer.sync_all()?;
                fs::rename(&draft, &file)
            });
        written.with_context(|| format!("{} can't be written", file.display()))?;
        Ok(key)
    }
}

/// The URL of a SQLite file; what has a meaning of its own in URLs is escaped.
pub(crate) fn sqlite_url(file: &Path) -> String {
    let path = file.to_string_lossy().replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    format!("sqlite://{path}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = DataDir::open(directory.path()).expect("free");
        let message = DataDir::open(directory.path()).expect_err("held").to_string();
        assert!(message.contains(&format!("(process {})", std::process::id())), "{message}");
        assert!(message.contains("--data-dir"), "{message}");
        drop(first);
        DataDir::open(directory.path()).expect("free again");
    }

    #[test]
    fn the_key_is_made_once_and_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(&directory.path().join("new")).expect("made");
        let key = data.key().expect("made");
        assert!(credential::is_key(&key));
        assert_eq!(data.key().expect("kept"), key);
        let mode = |path: PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(data.path.join("key")), 0o600);
        assert_eq!(mode(data.path), 0o700);
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(DataDir::read_key(directory.path()).expect("none"), None);
        fs::write(directory.path().join("key"), "hunter2").expect("written");
        let message = DataDir::read_key(directory.path()).expect_err("refused").to_string();
        assert!(message.contains("remove it") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn its_own_database_is_known_by_every_spelling() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(directory.path()).expect("free");
        let url = data.database_url();
        assert!(data.owns(&url));
        assert!(data.owns(&format!("{url}?mode=rwc")));
        assert!(data.owns(&format!("sqlite://{}/./errand.db", directory.path().display())));
        assert!(!data.owns(&format!("sqlite://{}/other.db", directory.path().display())));
        assert!(!data.owns("postgres://localhost/errand"));
    }

    #[test]
    fn a_path_with_marks_of_urls_is_escaped() {
        assert_eq!(sqlite_url(Path::new("/a b?/c#%/errand.db")), "sqlite:///a b%3F/c%23%25/errand.db");
    }
}
