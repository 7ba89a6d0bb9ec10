//! What the roles of a cluster share: PostgreSQL holds the truth, Redis passes it on quickly.

use errand_common::{
    backend::{Backend, OpenError},
    config::{Config, Secret},
};

use tokio::net::TcpListener;

use crate::{client, exit::Usage, process::Signals};

/// The URL of the database, if the configuration names all that a cluster needs.
///
/// # Errors
/// What is missing, with what to do.
pub(crate) fn database_url(config: &Config) -> anyhow::Result<String> {
    let mut faults = Vec::new();
    let url = config.database.url.as_ref().map(Secret::expose);
    match url {
        None => faults.push("it needs PostgreSQL: set ERRAND_DATABASE_URL or database.url"),
        Some(url) if url.starts_with("sqlite:") => faults.push(
            "its database is shared by many processes, which a SQLite file can't be: name a PostgreSQL in \
             ERRAND_DATABASE_URL or database.url, or run all in one process with `errand dev`",
        ),
        Some(_) => {}
    }
    if config.redis.url.is_none() {
        faults.push("its processes tell each other what is new over Redis: set ERRAND_REDIS_URL or redis.url");
    }
    match (url, faults.as_slice()) {
        (Some(url), []) => Ok(url.to_owned()),
        _ => Err(Usage(format!("this is a role of a cluster; {}", faults.join("; "))).into()),
    }
}

/// Opens the database once it answers: it may come up later than we do. While it is away, `listeners` answer that the
/// process lives and is not ready. `None`: asked to stop meanwhile.
///
/// # Errors
/// What trying again can't mend: a wrong password or name, or a schema that `errand migrate` has yet to bring up to date.
pub(crate) async fn connect(
    config: &Config,
    url: &str,
    listeners: impl IntoIterator<Item = &TcpListener>,
    signals: &mut Signals,
) -> anyhow::Result<Option<Backend>> {
    let starting = async {
        errand_api::starting(config, listeners).await;
        // Without a listener there is nobody to answer.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        opened = open(config, url) => Ok(opened.map(Some)?),
        () = starting => Ok(None),
        () = signals.next() => Ok(None),
    }
}

/// Tries again and again while the database is away, and says so once.
async fn open(config: &Config, url: &str) -> Result<Backend, OpenError> {
    let mut failures = 0;
    loop {
        match Backend::join(config, url).await {
            Ok(backend) => {
                if failures > 0 {
                    tracing::info!("the database answers");
                }
                return Ok(backend);
            }
            Err(error) if error.is_passing() => {
                if failures == 0 {
                    let error = crate::exit::words(&error.into());
                    tracing::warn!(error, "the database can't be opened yet; trying until it can");
                }
                failures += 1;
                tokio::time::sleep(client::backoff(failures)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(database: Option<&str>, redis: Option<&str>) -> Config {
        let mut config = Config::default();
        config.database.url = database.map(|url| Secret::new(url.to_owned()));
        config.redis.url = redis.map(|url| Secret::new(url.to_owned()));
        config
    }

    #[test]
    fn a_cluster_needs_a_shared_database_and_redis() {
        let redis = Some("redis://localhost");
        assert!(database_url(&config(Some("postgres://localhost/errand"), redis)).is_ok());
        for (database, redis, wanted) in [
            (None, redis, "needs PostgreSQL"),
            (Some("sqlite://errand.db"), redis, "`errand dev`"),
            (Some("postgres://localhost/errand"), None, "ERRAND_REDIS_URL"),
        ] {
            let message = database_url(&config(database, redis)).expect_err("refused").to_string();
            assert!(message.contains(wanted), "{message}");
        }
        let both = database_url(&config(None, None)).expect_err("refused").to_string();
        assert!(both.contains("ERRAND_DATABASE_URL") && both.contains("ERRAND_REDIS_URL"), "{both}");
    }
}
