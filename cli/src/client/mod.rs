//! The REST client: one request at a time, repeated where that is safe.

mod problem;
mod retry;

use std::{fmt, path::Path, time::Duration};

use anyhow::{Context, bail};
use errand_common::wire::credential;
use reqwest::{Method, StatusCode, Url, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use problem::Problem;
pub(crate) use retry::{Trouble, backoff};

use crate::{arguments::ClientOptions, dev::DataDir};
use retry::Step;

/// Where `errand dev` listens unless told otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Streams carry a comment every 15 s: three missed ones mean that the connection is dead.
const STREAM_SILENCE: Duration = Duration::from_secs(45);

/// A server and a key.
pub(crate) struct Client {
    http: reqwest::Client,
    streams: reqwest::Client,
    base: Url,
    key: Option<String>,
}

/// What the server said.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The body, exactly.
    pub(crate) body: String,
}

impl Answer {
    /// The body, read.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_str(&self.body)
            .context("the server's answer can't be read; is it an Errand of another version?")
    }
}

impl Answer {
    /// The id of the job that a submission made, or fell to.
    pub(crate) fn job_id(&self) -> anyhow::Result<String> {
        let answer: Value = self.read()?;
        let id = ["job_id", "taskId", "id"].into_iter().find_map(|name| answer.get(name)?.as_str().map(str::to_owned));
        id.context("the server's answer names no job")
    }
}

/// What to ask.
pub(crate) struct Request<'a> {
    method: Method,
    path: &'a str,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    idempotency_key: Option<String>,
}

impl<'a> Request<'a> {
    /// Reads.
    pub(crate) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, query: Vec::new(), body: None, idempotency_key: None }
    }

    /// Writes, under a key of its own, so that repeating it does nothing twice.
    pub(crate) fn post(path: &'a str, body: Option<Value>) -> Self {
        let idempotency_key = Some(uuid::Uuid::new_v4().to_string());
        Self { method: Method::POST, path, query: Vec::new(), body, idempotency_key }
    }

    /// A change of one thing.
    pub(crate) fn patch(path: &'a str, body: Value) -> Self {
        Self { method: Method::PATCH, path, query: Vec::new(), body: Some(body), idempotency_key: None }
    }

    /// Removes; the same twice is the same once.
    pub(crate) fn delete(path: &'a str) -> Self {
        Self { method: Method::DELETE, path, query: Vec::new(), body: None, idempotency_key: None }
    }

    /// Adds a parameter.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }
}

/// Nothing listens there.
#[derive(Debug)]
pub(crate) struct NotRunning(pub(crate) Url);

impl fmt::Display for NotRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.0.as_str().trim_end_matches('/');
        write!(f, "no Errand at {url}; start one with `errand dev`, or name another with --url")
    }
}

impl std::error::Error for NotRunning {}

impl Client {
    /// A client as the options say. The key of `errand dev` is given to servers of this machine only.
    pub(crate) fn new(options: &ClientOptions) -> anyhow::Result<Self> {
        let text = options.url.as_deref().unwrap_or(DEFAULT_URL);
        let base = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .with_context(|| format!("{text:?} is not a URL of a server; write it like {DEFAULT_URL}"))?;
        let key = match &options.key {
            Some(key) => Some(key.clone()),
            None if is_local(&base) => DataDir::read_key(&options.data_dir)?,
            None => None,
        };
        if let Some(key) = &key
            && !credential::is_key(key)
        {
            bail!("the API key does not have the form of one: errand_ followed by 32 or more of A-Z a-z 0-9 _ -");
        }
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .user_agent(concat!("errand/", env!("CARGO_PKG_VERSION")));
            // A proxy would look for the server on its own machine.
            if is_local(&base) { builder.no_proxy() } else { builder }
        };
        let http = builder().timeout(ANSWER_TIMEOUT).build()?;
        let streams = builder().read_timeout(STREAM_SILENCE).build()?;
        Ok(Self { http, streams, base, key })
    }

    /// Where the server is.
    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    /// The key it shows.
    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    fn url(&self, path: &str) -> anyhow::Result<Url> {
        let base = self.base.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}{path}")).with_context(|| format!("{base}{path} is not a URL"))
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Asks, and asks again after a lost connection or a busy server.
    ///
    /// # Errors
    /// [`NotRunning`], a [`Problem`] that the server named, or a lost connection.
    pub(crate) async fn send(&self, request: Request<'_>) -> anyhow::Result<Answer> {
        let mut url = self.url(request.path)?;
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        for attempt in 1.. {
            let mut call = self.http.request(request.method.clone(), url.clone());
            if let Some(body) = &request.body {
                call = call.json(body);
            }
            if let Some(key) = &request.idempotency_key {
                call = call.header("Idempotency-Key", key);
            }
            let error = match self.authorized(call).send().await {
                Ok(response) => match take(response).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                },
                Err(error) => error.into(),
            };
            match retry::after(&trouble(&error), attempt) {
                Step::Wait(wait) => tokio::time::sleep(wait).await,
                Step::GiveUp => return Err(self.explain(error)),
            }
        }
        bail!("gave up")
    }

    /// Opens a stream of events after `last_event_id`.
    ///
    /// # Errors
    /// As [`Client::send`]; nothing is repeated here.
    pub(crate) async fn open_stream(
        &self,
        path: &str,
        last_event_id: Option<&str>,
    ) -> anyhow::Result<reqwest::Response> {
        let mut call = self.streams.get(self.url(path)?).header(header::ACCEPT, "text/event-stream");
        if let Some(id) = last_event_id {
            call = call.header("Last-Event-ID", id);
        }
        let response = self.authorized(call).send().await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        take(response).await?;
        bail!("the server did not answer with a stream of events")
    }

    /// Puts a bare network error into words.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match trouble(&error) {
            Trouble::Refused => NotRunning(self.base.clone()).into(),
            Trouble::Unreachable => error.context(format!("{} can't be reached", self.base)),
            Trouble::Lost => error.context(format!("the connection to {} was lost", self.base)),
            _ => error,
        }
    }
}

async fn take(response: reqwest::Response) -> anyhow::Result<Answer> {
    let status = response.status();
    let retry_after = problem::retry_after(response.headers());
    let body = response.text().await?;
    if status.is_success() { Ok(Answer { body }) } else { Err(Problem::read(status, retry_after, &body).into()) }
}

/// What kind of trouble an error is.
pub(crate) fn trouble(error: &anyhow::Error) -> Trouble {
    if let Some(problem) = error.downcast_ref::<Problem>() {
        return Trouble::Problem { passing: problem.may_pass(), retry_after: problem.retry_after };
    }
    let refused = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    match error.downcast_ref::<reqwest::Error>() {
        Some(_) if error.chain().any(refused) => Trouble::Refused,
        Some(network) if network.is_connect() => Trouble::Unreachable,
        Some(network) if network.is_builder() || network.is_redirect() => Trouble::Final,
        Some(_) => Trouble::Lost,
        None => Trouble::Final,
    }
}

/// Whether the server is on this machine.
fn is_local(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A text from the command line; `-` reads standard input.
///
/// # Errors
/// Standard input can't be read.
pub(crate) fn read_text(argument: &str) -> anyhow::Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    std::io::read_to_string(std::io::stdin()).context("standard input can't be read")
}

/// As [`read_text`]; `@FILE` reads a file.
///
/// # Errors
/// The file or standard input can't be read.
pub(crate) fn read_text_or_file(argument: &str) -> anyhow::Result<String> {
    match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(Path::new(path)).with_context(|| format!("{path} can't be read")),
        None => read_text(argument),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_dev_run_is_for_this_machine_only() {
        for (url, local) in [
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost", true),
            ("https://errand.example.com", false),
            ("http://127.0.0.1.example.com", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_local(&Url::parse(url).expect("a URL")), local, "{url}");
        }
    }
}
