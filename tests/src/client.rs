//! A client of the REST interface, typed just enough.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::Value;

use crate::{
    sse::{Frame, Sse},
    wait,
};

/// States that never change.
pub const TERMINAL: &[&str] = &["completed", "partial", "failed", "cancelled", "expired"];

/// Talks to one server with one key.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status line's number.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub text: String,
    /// The body as JSON; null if it is none.
    pub body: Value,
}

impl Answer {
    /// A header as text; empty if it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The list's entries.
    ///
    /// # Panics
    /// If the answer is no list.
    #[must_use]
    pub fn items(&self) -> &[Value] {
        let list = self.body.as_array().or_else(|| self.body["items"].as_array());
        list.unwrap_or_else(|| panic!("a list: {self:?}"))
    }

    /// What of a problem document points at fields.
    #[must_use]
    pub fn pointers(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().filter_map(|error| error["pointer"].as_str()).collect()
    }
}

/// A submitted task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Its id, which is its job's.
    pub id: String,
    /// Its conversation.
    pub session_id: String,
}

impl Client {
    /// For the server at `base`, without a slash at the end.
    ///
    /// # Panics
    /// If no HTTP client can be made.
    #[must_use]
    pub fn new(base: &str, key: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Self { http, base: base.to_owned(), key: key.to_owned() }
    }

    /// The same server with another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// Where the server is.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The key in use.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A request with the key, to a path below `/api/v1`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.base)).bearer_auth(&self.key)
    }

    /// A request without a key, to any path of the server.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Sends a request and reads its answer.
    ///
    /// # Panics
    /// If no whole answer comes.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        Self::try_send(request).await.unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Sends a request to a server that may be away.
    ///
    /// # Errors
    /// If no whole answer comes.
    pub async fn try_send(request: RequestBuilder) -> reqwest::Result<Answer> {
        Self::try_send_within(wait::PATIENCE, request).await
    }

    /// The same, for an answer that takes longer than most.
    ///
    /// # Errors
    /// If no whole answer comes.
    ///
    /// # Panics
    /// If none has come by then.
    pub async fn try_send_within(limit: Duration, request: RequestBuilder) -> reqwest::Result<Answer> {
        let sent = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            let headers = response.headers().clone();
            let text = response.text().await?;
            let body = serde_json::from_str(&text).unwrap_or(Value::Null);
            Ok(Answer { status, headers, text, body })
        };
        let in_time = tokio::time::timeout(limit, sent).await;
        in_time.unwrap_or_else(|_| panic!("waited {limit:?} in vain for an answer"))
    }

    /// `GET` below `/api/v1`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// `GET` without a key, of any path; `None` if there is no answer.
    pub async fn get_root(&self, path: &str) -> Option<Answer> {
        Self::try_send(self.anonymous(Method::GET, path)).await.ok()
    }

    /// `POST` below `/api/v1`.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// `DELETE` below `/api/v1`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Submits a task.
    ///
    /// # Panics
    /// If it isn't accepted.
    pub async fn submit_task(&self, body: &Value) -> Task {
        let answer = self.post("/agent/tasks", body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        task_of(&answer)
    }

    /// A job as it is now.
    ///
    /// # Panics
    /// If there is none.
    pub async fn job(&self, id: &str) -> Value {
        let answer = self.get(&format!("/jobs/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// Waits until a job is in `state`.
    pub async fn wait_for_state(&self, id: &str, state: &str) -> Value {
        wait::until(format!("job {id} is {state}"), || async {
            let job = self.job(id).await;
            let seen = job["state"].as_str().unwrap_or_default();
            assert!(seen == state || !TERMINAL.contains(&seen), "waited for {state}, but it ended: {job:#}");
            (seen == state).then_some(job)
        })
        .await
    }

    /// Waits until a job has ended, one way or another.
    pub async fn wait_for_end(&self, id: &str) -> Value {
        wait::until(format!("job {id} has ended"), || async {
            let job = self.job(id).await;
            TERMINAL.contains(&job["state"].as_str().unwrap_or_default()).then_some(job)
        })
        .await
    }

    /// Waits until a job has completed.
    ///
    /// # Panics
    /// If it ends otherwise.
    pub async fn wait_for_completion(&self, id: &str) -> Value {
        let job = self.wait_for_end(id).await;
        assert_eq!(job["state"], "completed", "{job:#}");
        job
    }

    /// The transitions of a job.
    pub async fn timeline(&self, id: &str) -> Vec<Value> {
        self.get(&format!("/jobs/{id}/timeline")).await.items().to_vec()
    }

    /// What was said in a session, oldest first.
    pub async fn messages(&self, session: &str) -> Vec<Value> {
        self.get(&format!("/agent/sessions/{session}/messages")).await.items().to_vec()
    }

    /// All events of a job, to its end.
    pub async fn events(&self, id: &str) -> Vec<Frame> {
        Sse::of_job(self, id).await.rest().await
    }

    /// Waits until a running job's stream has shown `text`.
    pub async fn wait_for_text(&self, id: &str, text: &str) {
        let mut stream = Sse::of_job(self, id).await;
        let mut shown = String::new();
        while !shown.contains(text) {
            let frame = stream.next().await.unwrap_or_else(|| panic!("the stream ended without {text:?}: {shown:?}"));
            if frame.kind() == "text" {
                shown.push_str(frame.data["content"].as_str().unwrap_or_default());
            }
        }
    }
}

/// The task of a 202.
///
/// # Panics
/// If the answer is none.
#[must_use]
pub fn task_of(answer: &Answer) -> Task {
    let text = |field: &str| {
        answer.body[field].as_str().unwrap_or_else(|| panic!("{field} in the answer: {answer:?}")).to_owned()
    };
    Task { id: text("taskId"), session_id: text("sessionId") }
}
