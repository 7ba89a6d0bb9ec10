//! Follows a job to its end over lost connections.

mod approval;
mod position;
mod render;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use futures::StreamExt;
use serde_json::Value;
use sse_stream::SseStream;

use crate::{
    arguments::ClientOptions,
    client::{self, Client, Request},
    exit,
    screen::Screen,
    settings,
};
use approval::Desk;
use position::{Frame, Position};
use render::Renderer;

/// So many attempts to come back, one after another without an event between them: about five minutes.
const RECONNECTS: u32 = 60;
const TICK: Duration = Duration::from_millis(100);
/// How long the stream may take to end after the job has.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Where events go.
enum View {
    /// To a person.
    Rendered(Renderer),
    /// To a program: one event a line, as it came.
    Raw(Screen),
}

impl View {
    fn event(&mut self, raw: &str, event: &Value) -> std::io::Result<()> {
        match self {
            Self::Rendered(renderer) => renderer.event(event),
            Self::Raw(screen) => screen.line(raw),
        }
    }

    fn note(&mut self, note: &str) -> std::io::Result<()> {
        match self {
            Self::Rendered(renderer) => renderer.note(note),
            Self::Raw(_) => Ok(()),
        }
    }

    fn tick(&mut self) -> std::io::Result<()> {
        match self {
            Self::Rendered(renderer) => renderer.tick(),
            Self::Raw(_) => Ok(()),
        }
    }

    fn finish(&mut self) -> std::io::Result<()> {
        match self {
            Self::Rendered(renderer) => renderer.finish(),
            Self::Raw(_) => Ok(()),
        }
    }
}

/// How one connection came to its end.
enum Cut {
    /// The stream says that no more will come, or the job has ended.
    Ended,
    /// The connection was lost.
    Lost,
}

struct Follower<'a> {
    client: &'a Client,
    job_id: &'a str,
    path: String,
    view: View,
    desk: Desk,
    /// The command that goes on where this one was left.
    again: String,
    position: Position,
    /// The state the job ended in.
    outcome: Option<&'static str>,
    failures: u32,
}

/// Shows what a job does until it ends; its outcome is the exit status. Ctrl-C leaves the job running.
///
/// # Errors
/// The server refused, or stayed away for minutes.
pub(crate) async fn follow(
    client: &Client,
    job_id: &str,
    options: &ClientOptions,
    screen: Screen,
) -> anyhow::Result<ExitCode> {
    let desk = if options.json { Desk::empty() } else { Desk::of_process() };
    follow_with(client, job_id, options, screen, desk).await
}

async fn follow_with(
    client: &Client,
    job_id: &str,
    options: &ClientOptions,
    screen: Screen,
    desk: Desk,
) -> anyhow::Result<ExitCode> {
    let view = if options.json { View::Raw(screen) } else { View::Rendered(Renderer::new(screen)) };
    let path = format!("/api/v1/jobs/{job_id}/events");
    let again = settings::command(&format!("jobs follow {job_id}"), options);
    let mut follower =
        Follower { client, job_id, path, view, desk, again, position: Position::default(), outcome: None, failures: 0 };
    let done = tokio::select! {
        done = follower.run() => done,
        _ = tokio::signal::ctrl_c() => {
            let cancel = settings::command(&format!("jobs cancel {job_id}"), options);
            let again = &follower.again;
            follower.view.note(&format!("the job goes on\n  see it again: {again}\n  stop it:      {cancel}"))?;
            Ok(ExitCode::from(exit::INTERRUPTED))
        }
    };
    follower.view.finish()?;
    done
}

impl Follower<'_> {
    async fn run(&mut self) -> anyhow::Result<ExitCode> {
        loop {
            match self.connection().await? {
                Cut::Ended => break,
                Cut::Lost if self.outcome.is_some() => break,
                Cut::Lost => self.pause().await?,
            }
        }
        let state = match self.outcome {
            Some(state) => state.to_owned(),
            None => self.ask_for_state().await?,
        };
        exit::of_state(&state).with_context(|| format!("the stream ended, but the job is {state}"))
    }

    /// Follows one connection to its end.
    async fn connection(&mut self) -> anyhow::Result<Cut> {
        let last = self.position.last_event_id();
        let opening = self.client.open_stream(&self.path, last.as_deref());
        let response = match ticking(&mut self.view, opening).await? {
            Ok(response) => response,
            Err(error) => return self.judge(error),
        };
        let mut frames = SseStream::from_bytes_stream(response.bytes_stream());
        loop {
            self.ask()?;
            let next = frames.next();
            let frame = if self.outcome.is_some() {
                tokio::time::timeout(LAST_WORDS, next).await.ok().flatten()
            } else if self.desk.is_asking() {
                // A decision may come from elsewhere while the question is on the screen.
                tokio::select! {
                    frame = next => frame,
                    line = self.desk.line() => {
                        self.decide(&line).await?;
                        continue;
                    }
                }
            } else {
                ticking(&mut self.view, next).await?
            };
            match frame {
                Some(Ok(frame)) => {
                    if matches!(self.show(frame)?, Frame::End) {
                        return Ok(Cut::Ended);
                    }
                }
                Some(Err(_)) | None => return Ok(Cut::Lost),
            }
        }
    }

    /// Puts the next question on the screen.
    fn ask(&mut self) -> anyhow::Result<()> {
        let (again, job_id) = (&self.again, self.job_id);
        let elsewhere = |approval: &str| {
            format!(
                "  decide at a terminal: {again}\n  or send: POST /api/v1/agent/tasks/{job_id}/approve \
                 {{\"approved\": true, \"approvalId\": \"{approval}\"}}"
            )
        };
        if let (View::Rendered(renderer), Some(question)) = (&mut self.view, self.desk.question(elsewhere)) {
            renderer.note(&question)?;
        }
        Ok(())
    }

    /// Sends what was typed, if it means something. One that is refused is asked again, unless it waits no more.
    async fn decide(&mut self, line: &str) -> anyhow::Result<()> {
        let Some(decision) = self.desk.decide(line) else { return Ok(()) };
        let path = format!("/api/v1/agent/tasks/{}/approve", self.job_id);
        match self.client.send(Request::post(&path, Some(decision.body))).await {
            Ok(_) => {
                self.desk.decided();
                self.view.note(decision.said)?;
            }
            Err(error) => {
                if matches!(client::trouble(&error), client::Trouble::Problem { passing: false, .. }) {
                    self.desk.decided();
                }
                self.view.note(&format!("not decided: {}", self.client.explain(error)))?;
            }
        }
        Ok(())
    }

    fn show(&mut self, frame: sse_stream::Sse) -> anyhow::Result<Frame> {
        let frame = self.position.accept(frame);
        match &frame {
            Frame::Event { raw, event } => {
                self.failures = 0;
                self.view.event(raw, event)?;
                self.desk.event(event);
                self.outcome = self.outcome.or_else(|| outcome(event));
            }
            Frame::Snapshot if self.failures > 0 => {
                self.view.note("the server does not know where we were; its events follow from the first one kept")?;
            }
            _ => {}
        }
        Ok(frame)
    }

    /// A refusal is final unless it may pass; so is a server that was never there.
    fn judge(&self, error: anyhow::Error) -> anyhow::Result<Cut> {
        let passing = match client::trouble(&error) {
            client::Trouble::Refused | client::Trouble::Unreachable => {
                self.position.last_event_id().is_some() || self.failures > 0
            }
            client::Trouble::Lost => true,
            client::Trouble::Problem { passing, .. } => passing,
            client::Trouble::Final => false,
        };
        if passing && self.failures < RECONNECTS { Ok(Cut::Lost) } else { Err(self.client.explain(error)) }
    }

    async fn pause(&mut self) -> anyhow::Result<()> {
        self.failures += 1;
        if self.failures > RECONNECTS {
            bail!("the connection was lost and does not come back; go on later: {}", self.again);
        }
        let wait = client::backoff(self.failures);
        if self.failures == 1 {
            self.view.note("the connection was lost; trying again")?;
        }
        ticking(&mut self.view, tokio::time::sleep(wait)).await?;
        Ok(())
    }

    async fn ask_for_state(&self) -> anyhow::Result<String> {
        let path = format!("/api/v1/jobs/{}", self.job_id);
        let job: Value = self.client.send(Request::get(&path)).await?.read()?;
        Ok(job.get("state").and_then(Value::as_str).unwrap_or_default().to_owned())
    }
}

/// Waits for `future` while the waiting line moves.
async fn ticking<F: Future>(view: &mut View, future: F) -> std::io::Result<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut interval = tokio::time::interval(TICK);
    interval.tick().await;
    loop {
        tokio::select! {
            biased;
            output = &mut future => return Ok(output),
            _ = interval.tick() => view.tick()?,
        }
    }
}

/// The state a job ended in by this event.
fn outcome(event: &Value) -> Option<&'static str> {
    exit::state_after(event.get("type").and_then(Value::as_str)?)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::screen::tests::screen;

    const KEY: &str = "errand_0123456789abcdef0123456789abcdef";

    fn event(seq: u32, fields: &str) -> String {
        format!("id: e:{seq}\ndata: {{\"seq\":{seq},{fields}}}\n\n")
    }

    /// Gives each connection its answer and closes it; returns the heads of the requests.
    async fn serve(listener: TcpListener, answers: Vec<String>) -> Vec<String> {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().await.expect("a caller");
            let mut head = vec![0; 4096];
            let length = socket.read(&mut head).await.expect("a request");
            heads.push(String::from_utf8_lossy(&head[..length]).to_lowercase());
            socket.write_all(answer.as_bytes()).await.expect("answered");
        }
        heads
    }

    fn stream(frames: &[String]) -> String {
        // Without a length, so that the end of the connection is the end of the stream.
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{}", frames.concat())
    }

    fn json(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    /// Follows a job on a server that gives these answers: the exit status, what was written, and what was asked.
    async fn followed(answers: Vec<String>, as_json: bool) -> (ExitCode, String, String, Vec<String>) {
        followed_by(answers, as_json, Desk::empty()).await
    }

    async fn followed_by(answers: Vec<String>, as_json: bool, desk: Desk) -> (ExitCode, String, String, Vec<String>) {
        // The client needs a TLS provider even where it speaks none.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let options = ClientOptions {
            url: Some(format!("http://{}", listener.local_addr().expect("an address"))),
            key: Some(KEY.to_owned()),
            data_dir: PathBuf::from("/nowhere"),
            json: as_json,
        };
        let server = tokio::spawn(serve(listener, answers));
        let client = Client::new(&options).expect("a client");
        let (screen, written, notes) = screen(false);
        let code = follow_with(&client, "01", &options, screen, desk).await.expect("followed");
        (code, written.text(), notes.text(), server.await.expect("served"))
    }

    #[tokio::test]
    async fn a_lost_connection_loses_and_repeats_nothing() {
        let first = stream(&[event(1, r#""type":"started""#), event(2, r#""type":"text","content":"Hello, ""#)]);
        let second = stream(&[
            event(2, r#""type":"text","content":"Hello, ""#),
            event(3, r#""type":"text","content":"world""#),
            event(4, r#""type":"completed","summary":"Hello, world""#),
            "event: end\ndata: {}\n\n".to_owned(),
        ]);
        let (code, answer, notes, heads) = followed(vec![first, second], false).await;
        assert_eq!(answer, "Hello, world");
        assert_eq!(notes, "started\nthe connection was lost; trying again\ncompleted\n");
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(!heads[0].contains("last-event-id"), "{heads:?}");
        assert!(heads[1].contains("last-event-id: e:2\r\n"), "{heads:?}");
        assert!(heads.iter().all(|head| head.contains(&format!("authorization: bearer {KEY}"))), "{heads:?}");
    }

    #[tokio::test]
    async fn the_outcome_is_the_exit_status() {
        for (kind, code) in [("error", 1), ("cancelled", 3), ("expired", 4)] {
            let end = stream(&[event(1, &format!(r#""type":"{kind}""#)), "event: end\ndata: {}\n\n".to_owned()]);
            let (found, ..) = followed(vec![end], false).await;
            assert_eq!(found, ExitCode::from(code), "{kind}");
        }
    }

    #[tokio::test]
    async fn an_end_without_an_outcome_asks_the_job() {
        let end = stream(&["event: end\ndata: {}\n\n".to_owned()]);
        let (code, _, _, heads) = followed(vec![end, json(r#"{"state":"cancelled"}"#)], false).await;
        assert_eq!(code, ExitCode::from(3));
        assert!(heads[1].starts_with("get /api/v1/jobs/01 "), "{heads:?}");
    }

    #[tokio::test]
    async fn a_program_gets_one_event_a_line_as_it_came() {
        let frames = [event(1, r#""type":"text","content":"a\nb""#), event(2, r#""type":"completed""#)];
        let (_, lines, notes, _) = followed(vec![stream(&frames)], true).await;
        assert_eq!(lines, "{\"seq\":1,\"type\":\"text\",\"content\":\"a\\nb\"}\n{\"seq\":2,\"type\":\"completed\"}\n");
        assert_eq!(notes, "");
    }

    #[tokio::test]
    async fn a_call_that_waits_is_asked_about_on_the_terminal() {
        let asked = r#""type":"approval_required","approvalId":"a1","toolName":"Bash","toolInput":{"command":"ls"}"#;
        let first = stream(&[event(1, asked)]);
        // Decided elsewhere, while the question was on the screen.
        let second = stream(&[event(2, r#""type":"completed""#), "event: end\ndata: {}\n\n".to_owned()]);
        let (_keep, lines) = tokio::sync::mpsc::channel(1);
        let desk = Desk::answered_by(lines);
        let (code, _, notes, heads) = followed_by(vec![first, second], false, desk).await;
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(notes.contains("may it use Bash? {\"command\":\"ls\"}"), "{notes}");
        assert_eq!(heads.len(), 2);
    }

    #[tokio::test]
    async fn without_a_terminal_it_says_how_to_decide_elsewhere() {
        let asked = r#""type":"approval_required","approvalId":"a1","toolName":"Bash","toolInput":{"command":"ls"}"#;
        let frames = [event(1, asked), event(2, r#""type":"completed""#), "event: end\ndata: {}\n\n".to_owned()];
        let (_, _, notes, _) = followed(vec![stream(&frames)], false).await;
        assert!(notes.contains("waits for an approval: Bash {\"command\":\"ls\"}"), "{notes}");
        assert!(notes.contains("POST /api/v1/agent/tasks/01/approve"), "{notes}");
    }
}
