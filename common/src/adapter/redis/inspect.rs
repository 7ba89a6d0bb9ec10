//! A look at the servers, for the operator.

use redis::cmd;

use super::{Failure, Redis};
use crate::config::RedisMode;

/// What answers at `redis.url`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerInfo {
    /// Host and port; several of a cluster or of sentinels.
    pub place: String,
    /// `standalone`, `sentinel` or `cluster`.
    pub mode: &'static str,
    /// `7.0.15`
    pub version: String,
    /// What the server that answered thinks it is: `master` or `slave`.
    pub role: String,
}

impl Redis {
    /// Asks the server, or any primary of the cluster, who it is.
    ///
    /// # Errors
    /// It can't be reached, or does not answer in time; or the cluster does not serve all slots.
    pub async fn inspect(&self) -> Result<ServerInfo, Failure> {
        let commands = self.commands();
        let url = self.topology.url();
        let mode = match url.mode {
            RedisMode::Standalone => "standalone",
            RedisMode::Sentinel(_) => "sentinel",
            RedisMode::Cluster => "cluster",
        };
        // Any key does: it only decides which node of a cluster answers.
        let key = format!("{}:inspect", self.prefix);
        let info: String = commands.query(&key, &cmd("INFO")).await?;
        if mode == "cluster" {
            let state: String = commands.query(&key, cmd("CLUSTER").arg("INFO")).await?;
            if field(&state, "cluster_state") != "ok" {
                return Err(Failure::Refused("the cluster does not serve all slots".to_owned()));
            }
        }
        let (version, role) = (field(&info, "redis_version").to_owned(), field(&info, "role").to_owned());
        Ok(ServerInfo { place: url.to_string(), mode, version, role })
    }
}

fn field<'a>(info: &'a str, name: &str) -> &'a str {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or("unknown").trim()
}
