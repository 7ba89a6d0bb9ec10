//! How to reach the servers of a URL.

use std::sync::Arc;

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
};

use super::{connection::Limits, sentinel};
use crate::config::{RedisMode, RedisUrl, Secret};

/// Most commands that wait for an answer on one connection.
const MAX_IN_FLIGHT: usize = 4_096;
/// How often the cluster's client follows a redirection or tries another node, within the time-out of the command.
const CLUSTER_RETRIES: u32 = 4;
/// Longest pause between those, in milliseconds.
const CLUSTER_RETRY_PAUSE_MS: u64 = 100;

/// Takes what the servers say unasked. Must not block.
pub(super) type Listener = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// An open connection, or one to each node of a cluster.
#[derive(Clone)]
pub(super) enum Link {
    /// To one server.
    Node(MultiplexedConnection),
    /// To all primaries; follows the slots as they move.
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) async fn command(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Node(node) => node.req_packed_command(command).await,
            Self::Cluster(cluster) => cluster.req_packed_command(command).await,
        }
        .and_then(Value::extract_error)
    }

    /// On a cluster, all keys of the pipeline must lie in one slot.
    pub(super) async fn pipeline(&mut self, pipeline: &Pipeline) -> RedisResult<()> {
        let count = pipeline.len();
        match self {
            Self::Node(node) => node.req_packed_commands(pipeline, 0, count).await,
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, 0, count).await,
        }?
        .into_iter()
        .try_for_each(|value| value.extract_error().map(drop))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Topology {
    url: RedisUrl,
}

impl Topology {
    pub(super) const fn new(url: RedisUrl) -> Self {
        Self { url }
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.url.mode == RedisMode::Cluster
    }

    pub(super) const fn url(&self) -> &RedisUrl {
        &self.url
    }

    /// Connects. A listener makes it a connection that can subscribe.
    pub(super) async fn connect(&self, limits: Limits, listener: Option<Listener>) -> RedisResult<Link> {
        match &self.url.mode {
            RedisMode::Standalone => {
                let (host, port) = &self.url.hosts[0];
                self.node(host, *port, limits, listener).await
            }
            RedisMode::Sentinel(name) => {
                let (host, port) = sentinel::find_primary(&self.url, name, limits).await?;
                let mut link = self.node(&host, port, limits, listener).await?;
                // For a while, sentinels name a primary that has just been demoted.
                sentinel::require_primary(&mut link).await?;
                Ok(link)
            }
            RedisMode::Cluster => self.cluster(limits, listener).await,
        }
    }

    async fn node(&self, host: &str, port: u16, limits: Limits, listener: Option<Listener>) -> RedisResult<Link> {
        let settings = credentials(&self.url).set_db(self.url.database.into());
        let protocol = if listener.is_some() { ProtocolVersion::RESP3 } else { ProtocolVersion::RESP2 };
        let info = address(host, port, self.url.tls)?.set_redis_settings(settings.set_protocol(protocol));
        let mut config = connection_config(limits);
        if let Some(listener) = listener {
            config = config.set_push_sender(push_sender(listener));
        }
        Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await.map(Link::Node)
    }

    async fn cluster(&self, limits: Limits, listener: Option<Listener>) -> RedisResult<Link> {
        let nodes = self
            .url
            .hosts
            .iter()
            .map(|(host, port)| Ok(address(host, *port, self.url.tls)?.set_redis_settings(credentials(&self.url))));
        let mut builder = ClusterClientBuilder::new(nodes.collect::<RedisResult<Vec<ConnectionInfo>>>()?)
            .connection_timeout(limits.connect)
            .response_timeout(limits.command)
            .retries(CLUSTER_RETRIES)
            .max_retry_wait(CLUSTER_RETRY_PAUSE_MS)
            .connection_concurrency_limit(MAX_IN_FLIGHT);
        if let Some(listener) = listener {
            builder = builder.use_protocol(ProtocolVersion::RESP3).push_sender(push_sender(listener));
        }
        builder.build()?.get_async_connection().await.map(Link::Cluster)
    }
}

/// For one server, or one sentinel. Commands have no time-out here: whoever sends one has.
pub(super) fn connection_config(limits: Limits) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limits.connect))
        .set_response_timeout(None)
        .set_concurrency_limit(MAX_IN_FLIGHT)
}

pub(super) fn address(host: &str, port: u16, tls: bool) -> RedisResult<ConnectionInfo> {
    let host = host.to_owned();
    if tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }.into_connection_info()
    } else {
        ConnectionAddr::Tcp(host, port).into_connection_info()
    }
}

pub(super) fn credentials(url: &RedisUrl) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default();
    if let Some(user) = &url.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = url.password.as_ref().map(Secret::expose) {
        settings = settings.set_password(password);
    }
    settings
}

pub(super) fn error(text: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Client, text))
}

fn push_sender(listener: Listener) -> impl Fn(PushInfo) -> Result<(), std::convert::Infallible> + Send + Sync {
    move |info| {
        listener(info);
        Ok(())
    }
}
