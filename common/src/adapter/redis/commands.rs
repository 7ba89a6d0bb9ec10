//! Commands and scripts, each within the time-out, each on a connection that is known to be good or made anew.

use std::{fmt, time::Duration};

use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind, ToRedisArgs, cmd};

use super::connection::{Connection, Limits};

/// Why a command has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// There is no connection; the reason of the last attempt to make one.
    #[error("not connected: {0}")]
    Away(String),
    /// No answer in time. Whether the command was carried out is unknown.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The server refused it, or the connection broke.
    #[error("{0}")]
    Refused(String),
}

/// A Lua script. Redis may forget it at any time.
pub(super) struct Script {
    code: &'static str,
    hash: String,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script({})", self.hash)
    }
}

impl Script {
    pub(super) fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }
}

/// See the module. Clones share the connection.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    connection: Connection,
    limits: Limits,
}

impl Commands {
    pub(super) const fn new(connection: Connection, limits: Limits) -> Self {
        Self { connection, limits }
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.connection.is_cluster()
    }

    /// Sends one command and reads its answer.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Failure> {
        let value = self.within(async |link| link.command(command).await).await?;
        read(value)
    }

    /// Sends a pipeline; on a cluster all its keys must lie in one slot. Fails if one of the commands does.
    pub(super) async fn pipeline(&self, pipeline: &Pipeline) -> Result<(), Failure> {
        self.within(async |link| link.pipeline(pipeline).await).await
    }

    /// Runs a script on the server that has `key`; all keys that it touches must have the hash tag of that one.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        key: &str,
        arguments: impl ToRedisArgs + Sync,
    ) -> Result<T, Failure> {
        let call = |name: &str, body: &str| {
            let mut call = cmd(name);
            call.arg(body).arg(1).arg(key).arg(&arguments);
            call
        };
        let by_hash = call("EVALSHA", &script.hash);
        let value = self
            .within(async |link| match link.command(&by_hash).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    link.command(&call("EVAL", script.code)).await
                }
                answer => answer,
            })
            .await?;
        read(value)
    }

    async fn within<T>(
        &self,
        work: impl AsyncFnOnce(&mut super::topology::Link) -> Result<T, RedisError>,
    ) -> Result<T, Failure> {
        let mut used = None;
        let attempt = async {
            let (number, mut link) = self.connection.link().await.map_err(Failure::Away)?;
            used = Some(number);
            work(&mut link).await.map_err(|error| self.judge(number, &error))
        };
        match tokio::time::timeout(self.limits.command, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let silent = Failure::Silent(self.limits.command);
                // A cluster's client looks after the connections to its nodes; one silent node must not cost the others theirs.
                if let Some(number) = used.filter(|_| !self.is_cluster()) {
                    self.connection.broke(number, &silent.to_string());
                }
                Err(silent)
            }
        }
    }

    fn judge(&self, number: u64, error: &RedisError) -> Failure {
        // A primary that was demoted under us refuses writes and keeps the connection.
        let is_demoted = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        let is_lost = error.is_io_error() || error.is_unrecoverable_error();
        let is_over = if self.is_cluster() {
            error.kind() == ErrorKind::ClusterConnectionNotFound
        } else {
            is_demoted || is_lost
        };
        if is_over {
            self.connection.broke(number, &error.to_string());
        }
        Failure::Refused(error.to_string())
    }
}

fn read<T: FromRedisValue>(value: redis::Value) -> Result<T, Failure> {
    redis::from_redis_value(value).map_err(|error| Failure::Refused(format!("unexpected answer: {error}")))
}
