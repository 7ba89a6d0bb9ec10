//! Stands in for Claude Code where it can't be installed: speaks its line protocol as recorded, asks the model's server that
//! it is given, runs the tool `Bash`, and keeps a conversation's file. A question about a call whose input says
//! `withdraw_after_ms` is withdrawn then, and the tool not used.

use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use serde_json::{Value, json};
use sse_stream::SseStream;
use tokio::sync::mpsc;

/// How often a request is made again before the program gives up streaming.
const RETRIES: u64 = 2;

/// Runs the program with the arguments of this process.
///
/// # Panics
/// If this process can't have a runtime.
#[must_use]
pub fn main() -> ExitCode {
    // A second attempt would only say that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(start()).unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

/// # Errors
/// Whatever ends it without a result.
async fn start() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--version") {
        println!("0.0.0 (Fake Claude)");
        return Ok(ExitCode::SUCCESS);
    }
    let value = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    let (sender, stdin) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let frame: Value = serde_json::from_str(&line).unwrap_or_else(|_| std::process::exit(1));
            if sender.blocking_send(frame).is_err() {
                return;
            }
        }
    });
    let resumed = value("--resume");
    let session = resumed.clone().or_else(|| value("--session-id")).context("a session")?;
    let work = std::env::current_dir()?.to_string_lossy().into_owned();
    let project: String = work.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let config = PathBuf::from(std::env::var_os("CLAUDE_CONFIG_DIR").context("CLAUDE_CONFIG_DIR")?);
    let file = config.join("projects").join(project).join(format!("{session}.jsonl"));
    let mut program = Program {
        stdin,
        session,
        asks: value("--permission-prompt-tool").is_some(),
        allowed: value("--allowedTools").unwrap_or_default().split(',').map(str::to_owned).collect(),
        max_turns: value("--max-turns").and_then(|turns| turns.parse().ok()).unwrap_or(10),
        budget: value("--max-budget-usd").map(|usd| usd.parse()).transpose()?,
        system: None,
        messages: Vec::new(),
        file,
        spent: (0, 0),
    };
    if resumed.is_some() {
        let Ok(text) = std::fs::read_to_string(&program.file) else {
            let errors = [format!("No conversation found with session ID: {}", program.session)];
            say(&json!({ "type": "result", "subtype": "error_during_execution", "is_error": true, "errors": errors }));
            return Ok(ExitCode::FAILURE);
        };
        for line in text.lines() {
            program.take_in(&serde_json::from_str(line)?);
        }
    } else if program.file.exists() {
        bail!("Session ID {} is already in use.", program.session);
    }
    program.run().await
}

struct Program {
    stdin: mpsc::Receiver<Value>,
    session: String,
    asks: bool,
    allowed: Vec<String>,
    max_turns: u64,
    /// In dollars.
    budget: Option<f64>,
    system: Option<Value>,
    messages: Vec<Value>,
    file: PathBuf,
    spent: (u64, u64),
}

/// How a request to the model went.
enum Answer {
    Whole(Vec<Value>),
    Refused(u64),
    Interrupted { partial: String },
}

fn say(frame: &Value) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{frame}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

impl Program {
    async fn run(mut self) -> Result<ExitCode> {
        let prompt = loop {
            let Some(frame) = self.stdin.recv().await else { return Ok(ExitCode::SUCCESS) };
            if frame["type"] == "control_request" {
                self.system = frame["request"].get("systemPrompt").cloned();
                acknowledge(&frame);
            } else if frame["type"] == "user" {
                break frame["message"].clone();
            }
        };
        say(
            &json!({ "type": "system", "subtype": "init", "session_id": self.session, "claude_code_version": "0.0.0" }),
        );
        self.remember("user", &prompt);
        let failed = self.turn().await?;
        // The end of its input ends it.
        while self.stdin.recv().await.is_some() {}
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// To its result; whether that is an error.
    async fn turn(&mut self) -> Result<bool> {
        let mut last = String::new();
        for _ in 0..self.max_turns {
            let blocks = match self.ask().await? {
                Answer::Whole(blocks) => blocks,
                Answer::Refused(status) => {
                    let words = format!("API Error: {status}");
                    say(&json!({
                        "type": "assistant", "error": "unknown", "api_error_status": status,
                        "message": { "model": "<synthetic>", "content": [{ "type": "text", "text": words }] },
                    }));
                    let fields = json!({ "result": words, "api_error_status": status, "terminal_reason": "api_error" });
                    return Ok(self.result("success", true, &fields));
                }
                Answer::Interrupted { partial } => return Ok(self.interrupted(&partial, "aborted_streaming")),
            };
            self.remember("assistant", &json!({ "role": "assistant", "content": blocks }));
            if self.budget.is_some_and(|budget| self.cost() >= budget) {
                return Ok(self.result("error_max_budget_usd", true, &json!({ "errors": ["Reached maximum budget"] })));
            }
            let mut results = Vec::new();
            for block in &blocks {
                if let Some(text) = block["text"].as_str() {
                    last = text.to_owned();
                } else if block["type"] == "tool_use" {
                    match self.tool(block).await? {
                        Some(result) => results.push(result),
                        None => return Ok(self.interrupted("", "aborted_tools")),
                    }
                }
            }
            if results.is_empty() {
                let fields = json!({ "result": last, "terminal_reason": "completed" });
                return Ok(self.result("success", false, &fields));
            }
            let message = json!({ "role": "user", "content": results });
            say(&json!({ "type": "user", "message": message, "parent_tool_use_id": null }));
            self.remember("user", &message);
        }
        Ok(self.result("error_max_turns", true, &json!({ "errors": ["Reached maximum number of turns"] })))
    }

    /// One answer of the model, whatever it takes.
    async fn ask(&mut self) -> Result<Answer> {
        let mut attempt = 0;
        loop {
            let answer = tokio::select! {
                answer = request(self.body(attempt <= RETRIES)) => answer,
                () = interruption(&mut self.stdin) => return Ok(Answer::Interrupted { partial: String::new() }),
            }?;
            if !answer.status().is_success() {
                let status = u64::from(answer.status().as_u16());
                let long = answer.headers().get("retry-after").is_some_and(|seconds| seconds.len() > 2);
                if matches!(status, 429 | 500..) && attempt < RETRIES && !long {
                    attempt += 1;
                    announce_retry(attempt, Some(status)).await;
                    continue;
                }
                return Ok(Answer::Refused(status));
            }
            if attempt > RETRIES {
                let whole: Value = answer.json().await?;
                self.spend(&whole["usage"]);
                let blocks = whole["content"].as_array().cloned().unwrap_or_default();
                for block in &blocks {
                    say(&assistant(block));
                }
                return Ok(Answer::Whole(blocks));
            }
            match self.stream(answer).await? {
                Some(answer) => return Ok(answer),
                None => {
                    attempt += 1;
                    announce_retry(attempt, None).await;
                }
            }
        }
    }

    /// Passes a stream on; `None`: it broke.
    async fn stream(&mut self, answer: reqwest::Response) -> Result<Option<Answer>> {
        let mut events = SseStream::from_bytes_stream(answer.bytes_stream());
        let (mut blocks, mut block, mut text) = (Vec::new(), json!({}), String::new());
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = interruption(&mut self.stdin) => return Ok(Some(Answer::Interrupted { partial: text })),
            };
            let Some(Ok(event)) = event else {
                let stop = json!({ "type": "message_stop" });
                let abandoned = json!({ "api_message_id": "a", "from_block_index": 0 });
                say(&json!({ "type": "stream_event", "event": stop, "abandoned_blocks": abandoned }));
                return Ok(None);
            };
            let event: Value = serde_json::from_str(&event.data.unwrap_or_default())?;
            say(&json!({ "type": "stream_event", "event": event, "parent_tool_use_id": null }));
            match event["type"].as_str().unwrap_or_default() {
                "message_start" => self.spend(&json!({ "input_tokens": event["message"]["usage"]["input_tokens"] })),
                "content_block_start" => {
                    block = event["content_block"].clone();
                    text.clear();
                }
                "content_block_delta" => {
                    let delta = &event["delta"];
                    let piece = ["text", "thinking", "partial_json"].iter().find_map(|name| delta[*name].as_str());
                    text.push_str(piece.unwrap_or_default());
                }
                "content_block_stop" => {
                    match block["type"].as_str() {
                        Some("tool_use") => block["input"] = serde_json::from_str(&text)?,
                        Some("thinking") => block["thinking"] = json!(text),
                        _ => block["text"] = json!(text),
                    }
                    say(&assistant(&block));
                    blocks.push(block.clone());
                }
                "message_delta" => self.spend(&json!({ "output_tokens": event["usage"]["output_tokens"] })),
                "message_stop" => return Ok(Some(Answer::Whole(blocks))),
                _ => {}
            }
        }
    }

    /// Asks whether a tool may run, and runs it; `None`: interrupted.
    async fn tool(&mut self, call: &Value) -> Result<Option<Value>> {
        let (name, command) = (&call["name"], call["input"]["command"].as_str().unwrap_or_default());
        let id = call["id"].clone();
        let hook = json!({
            "subtype": "hook_callback", "callback_id": "before_tool",
            "input": { "hook_event_name": "PreToolUse", "tool_name": name, "tool_input": call["input"] },
        });
        let Some(answer) = self.question(&hook).await else { return Ok(None) };
        let by_hook = answer["response"]["hookSpecificOutput"]["permissionDecision"] == "allow";
        let harmless = command.starts_with("echo ") && !command.contains([';', '>']);
        let mut refusal = None;
        if !by_hook && !harmless && !self.allowed.iter().any(|tool| tool == name) {
            if self.asks {
                let ask = json!({
                    "subtype": "can_use_tool", "tool_name": name, "input": call["input"], "tool_use_id": id,
                });
                let patience = call["input"]["withdraw_after_ms"].as_u64().map(Duration::from_millis);
                let Some(answer) = self.question_for(&ask, patience).await else { return Ok(None) };
                if answer["response"]["behavior"] != "allow" {
                    refusal = Some(answer["response"]["message"].as_str().unwrap_or("denied").to_owned());
                }
            } else {
                refusal = Some("this needs approval".to_owned());
            }
        }
        let (content, is_error) = match refusal {
            Some(message) => (message, true),
            None => match self.bash(command).await? {
                Some(output) => (output, false),
                None => return Ok(None),
            },
        };
        Ok(Some(json!({ "type": "tool_result", "tool_use_id": id, "content": content, "is_error": is_error })))
    }

    /// In a session of its own, as the real one does.
    async fn bash(&mut self, command: &str) -> Result<Option<String>> {
        let mut child = tokio::process::Command::new("setsid");
        let child = child.args(["sh", "-c", command]).stdin(Stdio::null()).kill_on_drop(true).output();
        tokio::select! {
            output = child => Ok(Some(String::from_utf8_lossy(&output?.stdout).trim().to_owned())),
            () = interruption(&mut self.stdin) => Ok(None),
        }
    }

    /// Asks, and waits for the answer; `None`: interrupted meanwhile.
    async fn question(&mut self, request: &Value) -> Option<Value> {
        self.question_for(request, None).await
    }

    /// The same, but asks no more after so long: then the answer is none of ours, and empty.
    async fn question_for(&mut self, request: &Value, patience: Option<Duration>) -> Option<Value> {
        let id = uuid::Uuid::new_v4().to_string();
        say(&json!({ "type": "control_request", "request_id": id, "request": request }));
        let withdraw = || say(&json!({ "type": "control_cancel_request", "request_id": id }));
        let until = patience.map(|patience| tokio::time::Instant::now() + patience);
        loop {
            let impatience = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => futures::future::pending().await,
                }
            };
            let frame = tokio::select! {
                frame = self.stdin.recv() => frame?,
                () = impatience => {
                    withdraw();
                    return Some(json!({}));
                }
            };
            if frame["request"]["subtype"] == "interrupt" {
                acknowledge(&frame);
                withdraw();
                return None;
            }
            if frame["response"]["request_id"] == json!(id) {
                return Some(frame["response"].clone());
            }
        }
    }

    fn interrupted(&mut self, partial: &str, reason: &str) -> bool {
        if !partial.is_empty() {
            let block = json!({ "type": "text", "text": partial });
            let mut frame = assistant(&block);
            frame["aborted"] = json!(true);
            say(&frame);
            self.remember("assistant", &json!({ "role": "assistant", "content": [block] }));
        }
        self.remember("user", &json!({ "role": "user", "content": "[Request interrupted by user]" }));
        self.result("error_during_execution", true, &json!({ "errors": ["[diagnostic]"], "terminal_reason": reason }))
    }

    fn result(&self, subtype: &str, is_error: bool, fields: &Value) -> bool {
        let ((input, output), cost) = (self.spent, self.cost());
        let mut frame = json!({
            "type": "result", "subtype": subtype, "is_error": is_error, "session_id": self.session,
            "total_cost_usd": cost, "usage": { "input_tokens": input, "output_tokens": output },
            "modelUsage": { "claude-opus-5-5": {
                "inputTokens": input, "outputTokens": output, "costUSD": cost, "costBasis": "list",
            } },
        });
        frame.as_object_mut().into_iter().for_each(|frame| {
            frame.extend(fields.as_object().cloned().unwrap_or_default());
        });
        say(&frame);
        is_error
    }

    /// In dollars.
    #[expect(clippy::cast_precision_loss, reason = "a few tokens")]
    fn cost(&self) -> f64 {
        let (input, output) = self.spent;
        (input * 4 + output * 20) as f64 / 1e6
    }

    fn spend(&mut self, usage: &Value) {
        self.spent.0 += usage["input_tokens"].as_u64().unwrap_or(0);
        self.spent.1 += usage["output_tokens"].as_u64().unwrap_or(0);
    }

    fn body(&self, streamed: bool) -> Value {
        let mut body = json!({ "model": "claude-opus-5-5", "max_tokens": 1_000, "messages": self.messages });
        body["stream"] = json!(streamed);
        if let Some(system) = &self.system {
            body["system"] = system.clone();
        }
        body
    }

    /// In the conversation and in its file.
    fn remember(&mut self, kind: &str, message: &Value) {
        use std::io::Write;
        let line = json!({ "type": kind, "message": message });
        let folder = self.file.parent().expect("a folder");
        std::fs::create_dir_all(folder).expect("a folder");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.file).expect("a file");
        writeln!(file, "{line}").expect("written");
        self.take_in(&line);
    }

    fn take_in(&mut self, line: &Value) {
        self.messages.push(line["message"].clone());
    }
}

fn assistant(block: &Value) -> Value {
    let message = json!({ "role": "assistant", "model": "claude-opus-5-5", "content": [block] });
    json!({ "type": "assistant", "message": message, "parent_tool_use_id": null })
}

fn acknowledge(request: &Value) {
    let response = json!({ "subtype": "success", "request_id": request["request_id"], "response": {} });
    say(&json!({ "type": "control_response", "response": response }));
}

async fn announce_retry(attempt: u64, status: Option<u64>) {
    const PAUSE: Duration = Duration::from_millis(20);
    say(&json!({
        "type": "system", "subtype": "api_retry", "attempt": attempt, "max_retries": RETRIES,
        "retry_delay_ms": PAUSE.as_millis(), "error_status": status, "error": "unknown",
    }));
    tokio::time::sleep(PAUSE).await;
}

/// Ends when we are told to stop the turn. At the end of the input the turn goes on.
async fn interruption(stdin: &mut mpsc::Receiver<Value>) {
    loop {
        match stdin.recv().await {
            Some(frame) if frame["request"]["subtype"] == "interrupt" => return acknowledge(&frame),
            Some(_) => {}
            None => futures::future::pending().await,
        }
    }
}

async fn request(body: Value) -> Result<reqwest::Response> {
    let base = std::env::var("ANTHROPIC_BASE_URL").context("ANTHROPIC_BASE_URL")?;
    Ok(reqwest::Client::new().post(format!("{base}/v1/messages?beta=true")).json(&body).send().await?)
}
