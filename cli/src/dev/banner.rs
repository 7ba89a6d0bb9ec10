//! What `errand dev` prints when it serves.

use std::{io, net::SocketAddr};

use errand_common::wire::engine::EngineInfo;
use ipnet::IpNet;
use serde_json::json;

use super::Absent;
use crate::screen::Screen;

/// The facts.
pub(crate) struct Banner<'a> {
    pub(crate) url: String,
    pub(crate) key: &'a str,
    /// What `[auth]` lets in beside that key.
    pub(crate) also_taken: &'a [&'static str],
    pub(crate) program: String,
    /// Options that the client commands need to find this server: none in the usual case.
    pub(crate) client_options: String,
    pub(crate) database: String,
    pub(crate) engines: &'a [EngineInfo],
    pub(crate) absent: &'a [Absent],
    pub(crate) default_engine: &'a str,
    /// Networks that what clients name may be in, beside public addresses.
    pub(crate) allowed: &'a [IpNet],
}

impl Banner<'_> {
    /// A line of curl that submits a task and waits for it.
    fn curl(&self) -> String {
        format!(
            "curl -sS {}/api/v1/agent/tasks -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \
             -H 'Prefer: wait=30' -d '{{\"prompt\":\"Hello, Errand\",\"engineType\":\"echo\"}}'",
            self.url, self.key
        )
    }

    /// For people.
    pub(crate) fn print(&self, screen: &mut Screen) -> io::Result<()> {
        screen.heading(&format!("Errand is at {}", self.url))?;
        screen.line(&format!("  API key   {}", self.key))?;
        for credential in self.also_taken {
            screen.line(&format!("            also taken: {credential}"))?;
        }
        screen.line(&format!("  database  {}", self.database))?;
        for (index, engine) in self.engines.iter().enumerate() {
            let label = if index == 0 { "engines" } else { "" };
            let state = match (&engine.reason, engine.available) {
                (_, true) => "available".to_owned(),
                (Some(reason), false) => format!("not available: {reason}"),
                (None, false) => "not available".to_owned(),
            };
            let kind =
                if engine.name == engine.engine_type { String::new() } else { format!(" ({})", engine.engine_type) };
            let default = if engine.name == self.default_engine { ", the default" } else { "" };
            screen.line(&format!("  {label:<9} {}{kind}: {state}{default}", engine.name))?;
        }
        for absent in self.absent {
            screen.line(&format!("            {}: not found: {}", absent.name, absent.reason))?;
        }
        if !self.allowed.is_empty() {
            let networks: Vec<_> = self.allowed.iter().map(ToString::to_string).collect();
            screen.line(&format!(
                "  http jobs, webhooks and gateways may be at {} and public https addresses",
                networks.join(", ")
            ))?;
        }
        screen.line("\nSubmit a task and wait for its answer:")?;
        screen.line(&format!("  {}", self.curl()))?;
        screen.line("\nOr watch one live:")?;
        screen.line(&format!("  {} submit task \"Hello, Errand\" --follow{}", self.program, self.client_options))?;
        screen.line("\nCtrl-C stops it; unfinished work goes on at the next start.\n")
    }

    /// For programs: one line.
    pub(crate) fn print_json(&self, screen: &mut Screen) -> io::Result<()> {
        let absent: Vec<_> =
            self.absent.iter().map(|absent| json!({"name": absent.name, "reason": absent.reason})).collect();
        let line = json!({
            "url": self.url,
            "api_key": self.key,
            "also_taken": self.also_taken,
            "database": self.database,
            "engines": self.engines,
            "absent": absent,
            "outbound_allow": self.allowed,
            "default_engine": self.default_engine,
        });
        screen.line(&line.to_string())
    }
}

/// A database's URL as it may be shown: without user and password, and without its parameters, which may hold one too.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "as configured".to_owned() };
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    format!("{scheme}://{place}")
}

/// The URL under which this machine reaches a listener.
pub(crate) fn local_url(address: SocketAddr) -> String {
    let port = address.port();
    match address {
        _ if !address.ip().is_unspecified() => format!("http://{address}"),
        SocketAddr::V4(_) => format!("http://127.0.0.1:{port}"),
        SocketAddr::V6(_) => format!("http://[::1]:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::tests::screen;

    fn engine(name: &str, available: bool, reason: Option<&str>) -> EngineInfo {
        EngineInfo {
            name: name.to_owned(),
            engine_type: name.to_owned(),
            available,
            reason: reason.map(str::to_owned),
            queue: "default".to_owned(),
            capabilities: json!({}),
        }
    }

    #[test]
    fn the_banner_has_all_that_a_newcomer_needs() {
        let engines = [engine("command", false, Some("no such program")), engine("echo", true, None)];
        let absent = [Absent { name: "openai_compatible", reason: "nothing answers".to_owned() }];
        let banner = Banner {
            url: "http://127.0.0.1:8080".to_owned(),
            key: "errand_k",
            also_taken: &["users' tokens, verified with the keys at auth.jwks_url"],
            program: "target/release/errand".to_owned(),
            client_options: String::new(),
            database: "sqlite:///d/errand.db".to_owned(),
            engines: &engines,
            absent: &absent,
            default_engine: "echo",
            allowed: &crate::dev::this_machine(),
        };
        let (mut screen, answers, _) = screen(false);
        banner.print(&mut screen).expect("written");
        let text = answers.text();
        for line in [
            "Errand is at http://127.0.0.1:8080\n",
            "  API key   errand_k\n            also taken: users' tokens, verified with the keys at auth.jwks_url\n",
            "  engines   command: not available: no such program\n",
            "            echo: available, the default\n",
            "  http jobs, webhooks and gateways may be at 127.0.0.0/8, ::1/128 and public https addresses\n",
            "            openai_compatible: not found: nothing answers\n",
            "  curl -sS http://127.0.0.1:8080/api/v1/agent/tasks -H 'Authorization: Bearer errand_k' \
             -H 'Content-Type: application/json' -H 'Prefer: wait=30' -d '{\"prompt\":\"Hello, Errand\",\"engineType\":\"echo\"}'\n",
            "  target/release/errand submit task \"Hello, Errand\" --follow\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_database_is_shown_without_what_is_secret() {
        for (url, shown) in [
            ("postgres://errand:p@ss@db:5432/errand?password=x", "postgres://db:5432/errand"),
            ("postgres://db/errand", "postgres://db/errand"),
            ("sqlite:///d/errand.db?mode=rwc", "sqlite:///d/errand.db"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn a_listener_on_every_address_is_reached_on_this_machine() {
        for (address, url) in [
            ("127.0.0.1:1", "http://127.0.0.1:1"),
            ("0.0.0.0:2", "http://127.0.0.1:2"),
            ("[::]:3", "http://[::1]:3"),
            ("10.0.0.1:4", "http://10.0.0.1:4"),
        ] {
            assert_eq!(local_url(address.parse().expect("an address")), url);
        }
    }
}
