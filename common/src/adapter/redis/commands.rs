//! Commands and scripts, each within the time-out, each on a connection that is known to be good or made anew.

use std::{fmt, sync::Arc, time::Duration};

use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind, ToRedisArgs, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};

use super::{connection::Connection, routes::Routes, topology::Topology};

/// How often one command is sent on to another node of a cluster.
const MAX_REDIRECTIONS: u32 = 3;

/// Why a command has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// There is no connection; the reason of the last attempt to make one.
    #[error("not connected: {0}")]
    Away(String),
    /// No answer in time. Whether the command was carried out is unknown.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The server has forgotten the script.
    #[error("the script is unknown")]
    UnknownScript,
    /// The server refused it, or the connection broke.
    #[error("{0}")]
    Refused(String),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Self::UnknownScript,
            _ => Self::Refused(error.to_string()),
        }
    }
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

/// See the module. Clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    routes: Arc<Routes<Connection>>,
    patience: Duration,
}

impl Commands {
    pub(super) fn new(topology: Arc<Topology>) -> Self {
        let patience = topology.limits().command;
        let connect = topology.clone();
        let routes = Routes::new(topology, move |place| Connection::new(connect.clone(), place, None));
        Self { routes: Arc::new(routes), patience }
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.routes.topology().is_cluster()
    }

    /// Sends one command to the server that has `key`, and reads its answer.
    pub(super) async fn query<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, Failure> {
        read(self.send(key, Request::Command(command)).await?)
    }

    /// Sends a pipeline to the server that has `key`. Fails if one of its commands does.
    pub(super) async fn pipeline(&self, key: &str, pipeline: &Pipeline) -> Result<(), Failure> {
        self.send(key, Request::Pipeline(pipeline)).await.map(drop)
    }

    /// Runs a script on the server that has `key`, which is `KEYS[1]`; all keys that it touches must have the hash tag of
    /// that one.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        key: &str,
        arguments: impl ToRedisArgs + Sync,
    ) -> Result<T, Failure> {
        let mut by_hash = cmd("EVALSHA");
        by_hash.arg(&script.hash).arg(1).arg(key).arg(&arguments);
        match self.send(key, Request::Command(&by_hash)).await {
            Err(Failure::UnknownScript) => {
                let mut whole = cmd("EVAL");
                whole.arg(script.code).arg(1).arg(key).arg(&arguments);
                read(self.send(key, Request::Command(&whole)).await?)
            }
            answer => read(answer?),
        }
    }

    async fn send(&self, key: &str, request: Request<'_>) -> Result<Value, Failure> {
        let mut used = None;
        let attempt = async {
            let mut redirections = 0;
            loop {
                let connection = self.routes.of(key).await.map_err(Failure::Away)?;
                let (number, mut link) = match connection.link().await {
                    Ok(found) => found,
                    Err(why) => {
                        self.routes.topology().suspect().await;
                        return Err(Failure::Away(why));
                    }
                };
                used = Some((connection.clone(), number));
                match request.perform(&mut link).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if redirections < MAX_REDIRECTIONS && self.routes.topology().redirected(&error) => {
                        redirections += 1;
                    }
                    Err(error) => {
                        if is_over(&error) {
                            connection.broke(number, &error.to_string());
                        }
                        return Err(error.into());
                    }
                }
            }
        };
        let outcome = tokio::time::timeout(self.patience, attempt).await;
        outcome.unwrap_or_else(|_| {
            let silent = Failure::Silent(self.patience);
            if let Some((connection, number)) = used {
                connection.broke(number, &silent.to_string());
            }
            Err(silent)
        })
    }
}

/// What is sent at once.
#[derive(Clone, Copy)]
enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
}

impl Request<'_> {
    async fn perform(self, link: &mut MultiplexedConnection) -> RedisResult<Value> {
        match self {
            Self::Command(command) => link.req_packed_command(command).await.and_then(Value::extract_error),
            Self::Pipeline(pipeline) => {
                let answers = link.req_packed_commands(pipeline, 0, pipeline.len()).await?;
                answers.into_iter().try_for_each(|answer| answer.extract_error().map(drop))?;
                Ok(Value::Okay)
            }
        }
    }
}

/// Whether the connection is of no use any more. A primary that was demoted under us refuses writes and keeps it open.
fn is_over(error: &RedisError) -> bool {
    let is_demoted = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
    is_demoted || error.is_io_error() || error.is_unrecoverable_error()
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, Failure> {
    redis::from_redis_value(value).map_err(|error| Failure::Refused(format!("unexpected answer: {error}")))
}
