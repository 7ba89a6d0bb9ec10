//! Speech into text, by a server that speaks OpenAI's audio transcription.
//!
//! * `upload`: reads the client's form and passes its audio on while it comes, so that no audio is in memory as a whole.
//! * `form`: the form that is sent on. `answer`: what the server says, and what the client is told of it.

mod answer;
mod form;
mod upload;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::http::StatusCode;
use bytes::Bytes;
use errand_common::{
    config::{self, Secret},
    telemetry::trace,
};
use futures::{StreamExt, stream::BoxStream};
use reqwest::{Body, Url, redirect::Policy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use upload::{AudioForm, Upload};

use self::form::Form;
use crate::{limit, problem::Problem, traced};

/// Pieces of an upload that are under way to the server.
const PIECES_AHEAD: usize = 8;

/// The way to the server, if one is configured.
pub(crate) struct Transcriber {
    server: Result<Arc<Server>, String>,
    places: Arc<Semaphore>,
    config: config::Transcription,
}

struct Server {
    http: reqwest::Client,
    url: Url,
    key: Option<Secret>,
    answer_timeout: Duration,
}

/// One transcription under way. Dropped, it is given up: its connection is cut first, so that the server never takes a part of the
/// audio for the whole.
struct Call {
    answer: AbortOnDropHandle<Result<String, Problem>>,
    pieces: mpsc::Sender<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Transcriber {
    /// The key is read from the environment here, once.
    pub(crate) fn new(config: &config::Transcription) -> Self {
        let places = Arc::new(Semaphore::new(config.concurrency as usize));
        Self { server: Server::new(config).map(Arc::new), places, config: config.clone() }
    }

    /// Refuses at once what can't be served: nothing is configured, or all places are taken.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        if let Err(why) = &self.server {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(Problem::new(status, "transcription_unavailable", why.clone()));
        }
        self.places.clone().try_acquire_owned().map_err(|_| {
            Problem::unavailable(
                "transcription_busy",
                "This process transcribes as many voices at once as transcription.concurrency allows",
            )
        })
    }

    /// Begins to send an audio. What follows comes through [`Call::pass`].
    fn begin(&self, place: OwnedSemaphorePermit, form: &Form) -> Result<Call, Problem> {
        let server = self.server.as_ref().map_err(|_| Problem::internal())?.clone();
        let (pieces, taken) = mpsc::channel(PIECES_AHEAD);
        let body = futures::stream::unfold(taken, |mut taken: mpsc::Receiver<Bytes>| async {
            Some((taken.recv().await?, taken))
        });
        let content_type = form.content_type();
        let upload_timeout = Duration::from_secs(self.config.upload_timeout_seconds.into());
        let mut span = traced::transcription(&server.url, &self.config.model);
        let answer = tokio::spawn(async move {
            let answer = span.around(server.ask(content_type, body.boxed(), upload_timeout)).await;
            if let Err(problem) = &answer {
                span.fail(problem.code);
            }
            answer
        });
        Ok(Call { pieces, answer: AbortOnDropHandle::new(answer), _place: place })
    }
}

impl Server {
    /// Or a sentence that says what to set.
    fn new(config: &config::Transcription) -> Result<Self, String> {
        let Some(base) = &config.base_url else {
            return Err("No transcription server is configured: set transcription.base_url".to_owned());
        };
        let url = Url::parse(&format!("{}/audio/transcriptions", base.trim_end_matches('/')))
            .map_err(|_| "transcription.base_url is no URL; it must go up to and including /v1".to_owned())?;
        let key = match &config.api_key_env {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() => Some(Secret::new(key)),
                _ => {
                    return Err(format!(
                        "The environment variable {name} is not set; it must hold the key (transcription.api_key_env)"
                    ));
                }
            },
        };
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(config.connect_timeout_seconds.into()))
            .redirect(Policy::none())
            .user_agent(concat!("errand/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("No HTTP client could be made: {error}"))?;
        Ok(Self { http, url, key, answer_timeout: Duration::from_secs(config.answer_timeout_seconds.into()) })
    }

    async fn ask(
        &self,
        content_type: String,
        body: BoxStream<'static, Bytes>,
        upload_timeout: Duration,
    ) -> Result<String, Problem> {
        let mut call = self
            .http
            .post(self.url.clone())
            .timeout(upload_timeout + self.answer_timeout)
            .header(reqwest::header::CONTENT_TYPE, content_type)
            .body(Body::wrap_stream(body.map(Ok::<_, Infallible>)));
        if let Some(key) = &self.key {
            call = call.bearer_auth(key.expose());
        }
        for (name, value) in trace::carried() {
            call = call.header(name, value);
        }
        let response = call.send().await.map_err(|error| answer::unreachable(&error))?;
        answer::read(response).await
    }
}

impl Call {
    /// Hands a piece on; waits while the server takes none. One that wants no more has answered: it is asked in the end.
    async fn pass(&self, piece: Bytes) {
        let _ = self.pieces.send(piece).await;
    }

    /// What the server heard, once all was handed on.
    async fn answer(self, within: Duration) -> Result<String, Problem> {
        drop(self.pieces);
        match tokio::time::timeout(within, self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::error!(%error, "a transcription was not waited for to its end");
                Err(Problem::internal())
            }
            Err(_) => Err(answer::silent(within)),
        }
    }
}

/// Most bytes beside the audio that a form may hold.
const BESIDE: usize = limit::LARGE_BODY;
