//! Which server has a key, and how to connect to it.

use std::{fmt, sync::Arc};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisConnectionInfo, RedisError, RedisResult, aio::MultiplexedConnection,
};

use super::{connection::Limits, sentinel, slots::Slots};
use crate::config::{RedisMode, RedisUrl, Secret};

/// Most commands that wait for an answer on one connection.
const MAX_IN_FLIGHT: usize = 4_096;

/// Takes what a server says unasked. Must not block.
pub(super) type Listener = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A server.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Place {
    /// The one with this address.
    Node {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Whichever the sentinels name now.
    Primary,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { host, port } => write!(f, "{host}:{port}"),
            Self::Primary => f.write_str("the primary"),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Topology {
    url: RedisUrl,
    limits: Limits,
    /// Of a cluster.
    slots: Option<Slots>,
}

impl Topology {
    pub(super) fn new(url: RedisUrl, limits: Limits) -> Self {
        let slots = (url.mode == RedisMode::Cluster).then(Slots::default);
        Self { url, limits, slots }
    }

    pub(super) const fn is_cluster(&self) -> bool {
        self.slots.is_some()
    }

    pub(super) const fn url(&self) -> &RedisUrl {
        &self.url
    }

    pub(super) const fn limits(&self) -> Limits {
        self.limits
    }

    /// Who has a key. A cluster that is not known yet is asked: callers bound that.
    pub(super) async fn place_of(&self, key: &str) -> Result<Place, String> {
        match (&self.url.mode, &self.slots) {
            (RedisMode::Sentinel(_), _) => Ok(Place::Primary),
            (_, Some(slots)) => slots.place_of(key, self).await,
            (_, None) => {
                let (host, port) = self.url.hosts[0].clone();
                Ok(Place::Node { host, port })
            }
        }
    }

    /// Whether `place` may still have keys.
    pub(super) fn knows(&self, place: &Place) -> bool {
        self.slots.as_ref().is_none_or(|slots| slots.knows(place))
    }

    /// Takes note of a redirection; whether it was one. Slots on their way count as unavailable until they have arrived:
    /// scripts that touch several keys must not find them on two servers.
    pub(super) fn redirected(&self, error: &RedisError) -> bool {
        let Some(slots) = &self.slots else { return false };
        let is_moved = error.kind() == ErrorKind::Server(redis::ServerErrorKind::Moved);
        is_moved && error.redirect_node().is_some_and(|(address, slot)| slots.moved(slot, address))
    }

    /// A server does not answer: another may have taken its slots.
    pub(super) async fn suspect(&self) {
        if let Some(slots) = &self.slots {
            slots.refresh(self).await;
        }
    }

    /// Connects. A listener makes it a connection that can subscribe.
    pub(super) async fn connect(
        &self,
        place: &Place,
        listener: Option<Listener>,
    ) -> RedisResult<MultiplexedConnection> {
        match (place, &self.url.mode) {
            (Place::Node { host, port }, _) => self.node(host, *port, listener).await,
            (Place::Primary, RedisMode::Sentinel(name)) => {
                let (host, port) = sentinel::find_primary(self, name).await?;
                let mut connection = self.node(&host, port, listener).await?;
                // For a while, sentinels name a primary that has just been demoted.
                sentinel::require_primary(&mut connection).await?;
                Ok(connection)
            }
            (Place::Primary, _) => Err(error("there are no sentinels to name a primary")),
        }
    }

    async fn node(&self, host: &str, port: u16, listener: Option<Listener>) -> RedisResult<MultiplexedConnection> {
        let protocol = if listener.is_some() { ProtocolVersion::RESP3 } else { ProtocolVersion::RESP2 };
        let settings = self.credentials().set_db(self.url.database.into()).set_protocol(protocol);
        let mut config = self.connection_config();
        if let Some(listener) = listener {
            config = config.set_push_sender(move |info| -> Result<(), std::convert::Infallible> {
                listener(info);
                Ok(())
            });
        }
        let info = self.address(host, port)?.set_redis_settings(settings);
        Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Commands have no time-out in there: whoever sends one has.
    pub(super) fn connection_config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limits.connect))
            .set_response_timeout(None)
            .set_concurrency_limit(MAX_IN_FLIGHT)
    }

    pub(super) fn address(&self, host: &str, port: u16) -> RedisResult<ConnectionInfo> {
        let host = host.to_owned();
        if self.url.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }.into_connection_info()
        } else {
            ConnectionAddr::Tcp(host, port).into_connection_info()
        }
    }

    pub(super) fn credentials(&self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default();
        if let Some(user) = &self.url.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = self.url.password.as_ref().map(Secret::expose) {
            settings = settings.set_password(password);
        }
        settings
    }
}

pub(super) fn error(text: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Client, text))
}
