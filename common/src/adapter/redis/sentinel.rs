//! Asking sentinels who the primary is.

use redis::{Client, RedisResult, aio::MultiplexedConnection, cmd};

use super::topology::{Topology, error};

/// The primary's address, by the first sentinel that knows one. Each has a share of the time for connecting.
pub(super) async fn find_primary(topology: &Topology, name: &str) -> RedisResult<(String, u16)> {
    let hosts = &topology.url().hosts;
    // The last share is for the primary itself.
    let share = topology.limits().connect / (u32::try_from(hosts.len()).unwrap_or(u32::MAX - 1) + 1);
    let mut last = error("no sentinel is configured");
    for (host, port) in hosts {
        match tokio::time::timeout(share, ask(topology, host, *port, name)).await {
            Ok(Ok(Some(primary))) => return Ok(primary),
            Ok(Ok(None)) => last = error("the sentinels know no primary of that name"),
            Ok(Err(fault)) => last = fault,
            Err(_) => last = error("a sentinel does not answer"),
        }
    }
    Err(last)
}

async fn ask(topology: &Topology, host: &str, port: u16, name: &str) -> RedisResult<Option<(String, u16)>> {
    let bare = topology.address(host, port)?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let config = topology.connection_config();
    let mut sentinel = Client::open(bare.clone())?.get_multiplexed_async_connection_with_config(&config).await?;
    match question.query_async(&mut sentinel).await {
        // Most sentinels want no password; those that do are taken to have that of the servers.
        Err(refused) if refused.code() == Some("NOAUTH") && topology.url().password.is_some() => {
            let known = bare.set_redis_settings(topology.credentials());
            let mut sentinel = Client::open(known)?.get_multiplexed_async_connection_with_config(&config).await?;
            question.query_async(&mut sentinel).await
        }
        answer => answer,
    }
}

/// Refuses a server that is no primary.
pub(super) async fn require_primary(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let role: Vec<redis::Value> = cmd("ROLE").query_async(connection).await?;
    match role.first() {
        Some(redis::Value::BulkString(role)) if role == b"master" => Ok(()),
        _ => Err(error("the server that the sentinels name is no primary")),
    }
}
