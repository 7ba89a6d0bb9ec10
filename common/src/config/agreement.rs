//! Settings that are right alone and wrong together.

use std::net::IpAddr;

use url::{Host, Url};

use super::{Config, Engine};

/// The setting that is to be changed, and what is wrong.
type Disagreement = (&'static str, String);

/// What does not go together.
pub(super) fn check(config: &Config) -> Vec<Disagreement> {
    let mut found = Vec::new();
    keys_of_users(config, &mut found);
    graces(config, &mut found);
    batches(config, &mut found);
    found
}

/// A run that its worker drops while its program is still busy with its end loses what the program would have kept.
fn graces(config: &Config, found: &mut Vec<Disagreement>) {
    let workers = config.worker.stop_grace_ms;
    for (name, engine) in &config.engines.table {
        if let Engine::ClaudeCodeCli(program) | Engine::ClaudeAgentSdk(program) = engine
            && program.stop_grace_ms >= workers
        {
            let its = program.stop_grace_ms;
            let detail = format!("is {workers}; allowed: more than engines.{name}.stop_grace_ms, which is {its}");
            found.push(("worker.stop_grace_ms", detail));
        }
    }
}

/// A queue that is full before there is a batch loses what it should only delay.
fn batches(config: &Config, found: &mut Vec<Disagreement>) {
    let (queue, batch) = (config.telemetry.queue_spans, config.telemetry.batch_spans);
    if queue < batch {
        let detail = format!("is {queue}; allowed: at least telemetry.batch_spans, which is {batch}");
        found.push(("telemetry.queue_spans", detail));
    }
}

fn keys_of_users(config: &Config, found: &mut Vec<Disagreement>) {
    let auth = &config.auth;
    let Some(jwks_url) = &auth.jwks_url else { return };
    let mut wrong = |detail: &str| found.push(("auth.jwks_url", detail.to_owned()));
    if auth.jwt_secret.is_some() {
        wrong("is set beside auth.jwt_secret; allowed: one of them");
    }
    if auth.issuer.is_none() {
        wrong(
            "is set without auth.issuer; set that to the iss of the tokens: the keys of one set may sign for several issuers",
        );
    }
    match Url::parse(jwks_url) {
        Err(_) => wrong("is not a URL"),
        Ok(url) if url.scheme() == "http" && !may_be_plain(&url, config) => {
            wrong("is not encrypted; allowed: https, or http on this machine and in the networks of outbound.allow");
        }
        Ok(_) => {}
    }
}

/// Whether keys may come from there over http. What a name stands for is judged whenever it is looked up.
fn may_be_plain(url: &Url, config: &Config) -> bool {
    let near =
        |address: IpAddr| address.is_loopback() || config.outbound.allow.iter().any(|net| net.contains(&address));
    match url.host() {
        Some(Host::Ipv4(address)) => near(address.into()),
        Some(Host::Ipv6(address)) => near(address.into()),
        Some(Host::Domain(_)) => true,
        None => false,
    }
}
