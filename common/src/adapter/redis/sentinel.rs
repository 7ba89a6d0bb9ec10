//! Asking sentinels who the primary is.

use redis::{Client, RedisResult, Value, cmd};

use super::{
    connection::Limits,
    topology::{Link, address, connection_config, credentials, error},
};
use crate::config::RedisUrl;

/// The primary's address, by the first sentinel that knows one. Each has a share of the time for connecting.
pub(super) async fn find_primary(url: &RedisUrl, name: &str, limits: Limits) -> RedisResult<(String, u16)> {
    let share = limits.connect / u32::try_from(url.hosts.len()).unwrap_or(u32::MAX).max(1);
    let mut last = error("no sentinel is configured");
    for (host, port) in &url.hosts {
        match tokio::time::timeout(share, ask(url, host, *port, name, limits)).await {
            Ok(Ok(Some(primary))) => return Ok(primary),
            Ok(Ok(None)) => last = error("the sentinels know no primary of that name"),
            Ok(Err(fault)) => last = fault,
            Err(_) => last = error("a sentinel does not answer"),
        }
    }
    Err(last)
}

async fn ask(url: &RedisUrl, host: &str, port: u16, name: &str, limits: Limits) -> RedisResult<Option<(String, u16)>> {
    let bare = address(host, port, url.tls)?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let config = connection_config(limits);
    let mut sentinel = Client::open(bare.clone())?.get_multiplexed_async_connection_with_config(&config).await?;
    match question.query_async(&mut sentinel).await {
        Err(refused) if url.password.is_some() && matches!(refused.code(), Some("NOAUTH" | "NOPERM")) => {
            let known = bare.set_redis_settings(credentials(url));
            let mut sentinel = Client::open(known)?.get_multiplexed_async_connection_with_config(&config).await?;
            question.query_async(&mut sentinel).await
        }
        answer => answer,
    }
}

/// Refuses a server that is no primary.
pub(super) async fn require_primary(link: &mut Link) -> RedisResult<()> {
    let is_primary = match link.command(&cmd("ROLE")).await? {
        Value::Array(parts) => matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master"),
        _ => false,
    };
    if is_primary { Ok(()) } else { Err(error("the server that the sentinels name is no primary")) }
}
