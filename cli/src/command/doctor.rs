//! `errand doctor`: one line a check, with what to do about each fault.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use errand_common::{
    backend::{Backend, Schema},
    config::{Config, Secret},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    arguments::{ClientOptions, Global},
    client::{Client, Request},
    dev, exit,
    screen::Screen,
    settings,
};

/// No check takes longer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How the check of the schema is called.
const MIGRATIONS: &str = "migrations";
/// Gateways that are looked at.
const MOST_GATEWAYS: u32 = 100;

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The database [default: ERRAND_DATABASE_URL, database.url, or the file of `errand dev`]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

/// What one check found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Check {
    name: String,
    ok: bool,
    detail: String,
    /// Neither good nor bad.
    #[serde(skip)]
    neutral: bool,
}

impl Check {
    fn new(name: impl Into<String>, result: Result<String, String>) -> Self {
        let (ok, detail) = match result {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        Self { name: name.into(), ok, detail, neutral: false }
    }

    /// What is not there and need not be.
    fn absent(name: impl Into<String>, detail: String) -> Self {
        Self { name: name.into(), ok: true, detail, neutral: true }
    }

    fn line(&self) -> String {
        let mark = match (self.neutral, self.ok) {
            (true, _) => '–',
            (false, true) => '✓',
            (false, false) => '✗',
        };
        format!("{mark} {}: {}", self.name, self.detail)
    }
}

impl Doctor {
    pub(crate) async fn run(self, global: &Global, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let mut checks = Vec::new();
        match settings::load(global) {
            Ok(config) => {
                checks.push(Check::new("configuration", Ok("valid".to_owned())));
                checks.extend(self.database(&config).await);
                checks.push(secrets(&config));
                if checks.iter().any(|check| check.name == MIGRATIONS && check.ok) {
                    checks.extend(self.gateways(&config).await);
                }
                checks.push(redis(&config).await);
                checks.push(tokens(&config).await);
                checks.extend(engines(config).await);
            }
            Err(faults) => {
                checks.extend(faults.list().iter().map(|fault| Check::new("configuration", Err(fault.to_string()))));
            }
        }
        checks.push(Check::new("server", self.server().await));
        let healthy = checks.iter().all(|check| check.ok);
        if self.client.json {
            screen.line(&json!({"ok": healthy, "checks": checks}).to_string())?;
        } else {
            for check in &checks {
                screen.line(&check.line())?;
            }
        }
        Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
    }

    /// What is looked at, and where it is. `Err`: the file that `errand dev` would make.
    fn database_url(&self, config: &Config) -> Result<(&'static str, String), PathBuf> {
        let configured = self.database_url.as_deref().or_else(|| config.database.url.as_ref().map(Secret::expose));
        if let Some(url) = configured {
            return Ok(("the configured one", url.to_owned()));
        }
        let file = self.client.data_dir.join("errand.db");
        if !file.exists() {
            return Err(file);
        }
        Ok(("the file of `errand dev`", dev::sqlite_url(&std::path::absolute(&file).unwrap_or(file))))
    }

    async fn database(&self, config: &Config) -> Vec<Check> {
        let (what, url) = match self.database_url(config) {
            Ok(found) => found,
            Err(file) => {
                let detail = format!("none yet; `errand dev` makes {}", file.display());
                return vec![Check::absent("database", detail)];
            }
        };
        // Looked at only: a doctor that migrates would hide what it was asked for.
        match tokio::time::timeout(PATIENCE, Backend::inspect(config, &url)).await {
            Ok(Ok(schema)) => schema_checks(what, &schema),
            Ok(Err(error)) => {
                let error = exit::words(&error.into());
                let detail = format!("{error}; check that it runs, and the address and password in database.url");
                vec![Check::new("database", Err(detail))]
            }
            Err(_) => {
                let detail =
                    format!("no answer within {} s; check that it runs and can be reached", PATIENCE.as_secs());
                vec![Check::new("database", Err(detail))]
            }
        }
    }

    /// One line a gateway. The store is asked as a worker asks it.
    async fn gateways(&self, config: &Config) -> Vec<Check> {
        let look = async {
            let url = self.database_url(config).map_err(|_| "there is no database".to_owned())?.1;
            let backend = Backend::join(config, &url).await.map_err(|error| exit::words(&error.into()))?;
            errand_worker::probe::gateways(&backend, config, MOST_GATEWAYS)
                .await
                .map_err(|error| exit::words(&error.into()))
        };
        match tokio::time::timeout(2 * PATIENCE, look).await {
            Ok(Ok(found)) if found.is_empty() => {
                vec![Check::absent("gateways", "none is registered".to_owned())]
            }
            Ok(Ok(found)) => {
                let gateways =
                    found.into_iter().map(|probed| Check::new(format!("gateway {}", probed.name), probed.found));
                gateways.chain(replies(config)).collect()
            }
            Ok(Err(error)) => vec![Check::new("gateways", Err(error))],
            Err(_) => vec![Check::new("gateways", Err("did not answer in time".to_owned()))],
        }
    }

    async fn server(&self) -> Result<String, String> {
        let client = Client::new(&self.client).map_err(|error| exit::words(&error))?;
        match client.send(Request::get("/livez")).await {
            Ok(_) => Ok(format!("answers at {}", client.base().as_str().trim_end_matches('/'))),
            Err(error) => Err(exit::words(&error)),
        }
    }
}

/// Where agents are told to reply, if that may be nowhere.
fn replies(config: &Config) -> Option<Check> {
    let told = config.server.base_url();
    let detail =
        format!("server.public_url is not set: agents are told to reply to {told}; set it to where they reach the api");
    config.server.public_url.is_none().then(|| Check::absent("agents' replies", detail))
}

fn secrets(config: &Config) -> Check {
    if config.secrets.keys.is_empty() {
        let detail = "no key is configured: what seals secrets lies in the database beside them; set [secrets] keys";
        return Check::absent("secrets", detail.to_owned());
    }
    Check::new("secrets", Ok(format!("{} keys are configured; the first seals", config.secrets.keys.len())))
}

fn schema_checks(what: &str, schema: &Schema) -> Vec<Check> {
    let migrations = match schema {
        Schema::NoFile(file) => {
            let detail =
                format!("there is no file {}; correct database.url, or make it with `errand migrate`", file.display());
            return vec![Check::new("database", Err(detail))];
        }
        Schema::Current => Ok("up to date".to_owned()),
        Schema::Behind(lacking) => Err(format!("{lacking} to be applied; run `errand migrate`, or start `errand dev`")),
        Schema::Newer(version) => Err(format!(
            "it holds migration {version} of a newer Errand; use that version, or restore a backup made before it"
        )),
        Schema::Broken(version) => {
            Err(format!("migration {version} is half done or was changed; restore a backup made before it"))
        }
    };
    vec![Check::new("database", Ok(format!("{what} opens"))), Check::new(MIGRATIONS, migrations)]
}

async fn redis(config: &Config) -> Check {
    if config.redis.url.is_none() {
        return Check::absent("redis", "not configured; `errand dev` needs none, a cluster does".to_owned());
    }
    let found = match tokio::time::timeout(PATIENCE, Backend::inspect_redis(config)).await {
        Ok(Ok(Some(server))) => {
            Ok(format!("version {} answers at {} ({}, {})", server.version, server.place, server.mode, server.role))
        }
        Ok(Ok(None)) => Ok("not configured".to_owned()),
        Ok(Err(error)) => {
            let error = exit::words(&error.into());
            Err(format!("{error}; check that it runs, and the address and password in redis.url"))
        }
        Err(_) => Err(format!("no answer within {} s; check that it runs and can be reached", PATIENCE.as_secs())),
    };
    Check::new("redis", found)
}

/// What tokens of users are verified with.
async fn tokens(config: &Config) -> Check {
    let Some(found) = errand_api::look_at_key_set(config).await else {
        let detail = match config.auth.jwt_secret {
            Some(_) => "tokens are verified with auth.jwt_secret",
            None => "neither auth.jwks_url nor auth.jwt_secret is set; API keys are taken, and no tokens",
        };
        return Check {
            neutral: config.auth.jwt_secret.is_none(),
            ..Check::new("users' tokens", Ok(detail.to_owned()))
        };
    };
    let found = found.map(|keys| format!("the key set at auth.jwks_url has {}", keys.join(", ")));
    Check::new(
        "users' tokens",
        found.map_err(|reason| {
            format!("no key from auth.jwks_url: {reason}; check the address, and what is published there")
        }),
    )
}

async fn engines(mut config: Config) -> Vec<Check> {
    // Only `errand dev` looks for engines; a cluster has those of its configuration.
    let in_cluster = config.redis.url.is_some();
    let absent = if in_cluster { Vec::new() } else { dev::detect(&mut config.engines, settings::variable).await };
    if config.engines.table.is_empty() {
        let detail = "none is configured here; tasks need a worker that has one under [engines]".to_owned();
        return vec![Check::absent("engines", detail)];
    }
    let table = errand_worker::engine::build(&config, errand_worker::guard::default_program());
    let engines = errand_worker::engine::describe(&table, &config.engines);
    let Ok(found) = tokio::time::timeout(PATIENCE, engines).await else {
        return vec![Check::new("engines", Err("did not say in time whether they are available".to_owned()))];
    };
    let known = found.into_iter().map(|engine| {
        let name = format!("engine {}", engine.name);
        let reason = engine.reason.unwrap_or_else(|| "not available".to_owned());
        Check::new(name, if engine.available { Ok("available".to_owned()) } else { Err(reason) })
    });
    // What nobody configured is not missed.
    let missing = absent.iter().map(|absent| {
        Check::absent(format!("engine {}", absent.name), format!("not configured and not found: {}", absent.reason))
    });
    known.chain(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line_with_its_mark() {
        assert_eq!(Check::new("database", Ok("opens".to_owned())).line(), "✓ database: opens");
        assert_eq!(Check::new("server", Err("no Errand".to_owned())).line(), "✗ server: no Errand");
        assert_eq!(Check::absent("engine x", "not found".to_owned()).line(), "– engine x: not found");
    }

    #[test]
    fn a_schema_that_does_not_fit_is_a_fault_with_what_to_do() {
        for (schema, ok, said) in [
            (Schema::Current, true, "up to date"),
            (Schema::Behind(2), false, "errand migrate"),
            (Schema::Newer(9), false, "migration 9"),
            (Schema::Broken(1), false, "restore a backup"),
            (Schema::NoFile("/a.db".into()), false, "/a.db"),
        ] {
            let checks = schema_checks("it", &schema);
            let last = checks.last().expect("a check");
            assert!(last.ok == ok && last.detail.contains(said), "{last:?}");
        }
    }
}
