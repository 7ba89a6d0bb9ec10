//! Opening a database for commands that work on it directly.

use anyhow::Context;
use errand_common::{
    backend::{Backend, Schema},
    config::Config,
};

use crate::exit::Usage;

/// The URL a flag or the configuration names.
pub(crate) fn url(flag: Option<&str>, config: &Config) -> Option<String> {
    flag.or_else(|| config.database.url.as_ref().map(errand_common::config::Secret::expose)).map(str::to_owned)
}

/// The URL, or what to do without one.
pub(crate) fn require_url(flag: Option<&str>, config: &Config) -> anyhow::Result<String> {
    url(flag, config).ok_or_else(|| {
        Usage("no database is named; pass --database-url, or set ERRAND_DATABASE_URL or database.url".to_owned()).into()
    })
}

/// Opens one that is there, as it is: a name written wrong must not make a new file, nor a small change a large one.
pub(crate) async fn open_existing(config: &Config, url: &str) -> anyhow::Result<Backend> {
    let schema = Backend::inspect(config, url).await.context("the database can't be opened")?;
    if let Schema::NoFile(file) = schema {
        let file = file.display();
        return Err(Usage(format!("there is no file {file}; `errand migrate` makes a new database there")).into());
    }
    Backend::join(config, url).await.context("the database can't be opened")
}

/// Opens it; its schema is brought up to date.
pub(crate) async fn open(config: &Config, url: &str) -> anyhow::Result<Backend> {
    Backend::open(config, url).await.context("the database can't be opened")
}
