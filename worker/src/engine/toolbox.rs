//! The operator's tools: programs that a model may ask for, run under the guard.

use std::{ffi::OsString, path::Path, sync::Arc, time::Duration};

use errand_common::{
    config::{Tool, ToolApproval},
    domain::ToolCall,
    telemetry::trace,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    Turn, TurnContext, TurnFailure,
    program::{self, Program},
    tail::{Tail, read_tail},
    text::Utf8Decoder,
};
use crate::guard::{self, Exit, Guarded, Spec, Started, Stdin};

/// Tells a tool which call it serves, so that it can recognise one that comes again.
const TOOL_USE_ID: &str = "ERRAND_TOOL_USE_ID";
/// How much of the end of a failed tool's standard error its model is told, in bytes.
const COMPLAINT: usize = 8 * 1024;
/// What a tool that is stopped has to end by itself.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// What a call came to, for the model.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ToolResult {
    /// What the tool said, or why it said nothing.
    pub(super) content: String,
    /// It failed, or did not run.
    pub(super) is_error: bool,
}

impl ToolResult {
    pub(super) fn error(content: impl Into<String>) -> Self {
        Self { content: content.into(), is_error: true }
    }
}

/// The tools of one engine.
pub(super) struct Toolbox {
    tools: Vec<Tool>,
    guard_program: Arc<Path>,
}

impl Toolbox {
    pub(super) fn new(tools: &[Tool], guard_program: Arc<Path>) -> Self {
        Self { tools: tools.to_vec(), guard_program }
    }

    fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// Whether a person is to be asked. A tool that is not there runs nothing.
    pub(super) fn asks(&self, call: &ToolCall, turn: &Turn) -> bool {
        let asks = self.tool(&call.tool).is_some_and(|tool| tool.approval == ToolApproval::Ask);
        asks && !turn.allowed_tools.contains(&call.tool)
    }

    /// A sentence for the operator if a tool's program is missing.
    pub(super) fn check(&self) -> Result<(), String> {
        for tool in &self.tools {
            program::find(program_of(tool), &environment(tool))
                .map_err(|reason| format!("its tool {:?} can't run: {reason}", tool.name))?;
        }
        Ok(())
    }

    /// Runs a call to its end; nothing of it is left then.
    ///
    /// # Errors
    /// The turn is to stop, or its lease has passed. All else is told to the model.
    pub(super) async fn run(
        &self,
        call: &ToolCall,
        turn: &Turn,
        context: &TurnContext,
    ) -> Result<ToolResult, TurnFailure> {
        let Some(tool) = self.tool(&call.tool) else {
            return Ok(ToolResult::error(format!("there is no tool named {:?}", call.tool)));
        };
        let started = match self.start(tool, call, turn, context) {
            Ok(started) => started,
            Err(reason) => {
                tracing::warn!(tool = tool.name, reason, "a tool can't run");
                return Ok(ToolResult::error(format!("the tool can't run: {reason}")));
            }
        };
        let Started { mut guarded, stdin, stdout, stderr } = started;
        let limit = Duration::from_secs(tool.timeout_seconds.into());
        let ended = tokio::select! {
            biased;
            () = context.stop.cancelled() => None,
            ended = tokio::time::timeout(limit, talk(tool, call, &mut guarded, stdin, stdout, stderr)) => Some(ended),
        };
        match ended {
            Some(Ok(Ok((Exit::Signal(_), _)))) if context.must_end_by.borrow().has_passed() => {
                Err(TurnFailure::lease_over())
            }
            Some(Ok(Ok((exit, said)))) => Ok(judge(tool, exit, said)),
            Some(Ok(Err(too_much))) => {
                guarded.stop(Duration::ZERO).await;
                Ok(too_much)
            }
            Some(Err(_)) => {
                guarded.stop(STOP_GRACE).await;
                let seconds = tool.timeout_seconds;
                Ok(ToolResult::error(format!("the tool did not end within {seconds} s and was stopped")))
            }
            None => {
                guarded.stop(STOP_GRACE).await;
                Err(TurnFailure::stopped())
            }
        }
    }

    fn start(&self, tool: &Tool, call: &ToolCall, turn: &Turn, context: &TurnContext) -> Result<Started, String> {
        let mut env = environment(tool);
        program::find(program_of(tool), &env)?;
        let mut mark: Vec<(OsString, OsString)> = vec![
            (guard::TASK_ID.into(), turn.job_id.to_string().into()),
            ("ERRAND_ATTEMPT".into(), turn.attempt.to_string().into()),
            (TOOL_USE_ID.into(), call.id.replace('\0', "").into()),
        ];
        mark.extend(turn.session_id.map(|session| ("ERRAND_SESSION_ID".into(), session.to_string().into())));
        env.extend(mark.iter().cloned());
        env.extend(trace::environment().map(|(name, value)| (name.into(), value.into())));
        let (program, args) = tool.command.split_first().ok_or("its command is empty")?;
        let spec = Spec {
            guard_program: self.guard_program.to_path_buf(),
            program: program.into(),
            args: args.iter().map(Into::into).collect(),
            env,
            mark,
            cwd: tool.cwd.clone(),
            must_end_by: context.must_end_by.clone(),
        };
        Guarded::spawn(&spec).map_err(|error| format!("its guard process could not be started ({error})"))
    }
}

/// What the program may see of our environment.
fn environment(tool: &Tool) -> Vec<(OsString, OsString)> {
    tool.env.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect()
}

/// What a program said: its output, and the end of its complaints.
struct Said {
    output: String,
    complaint: String,
}

/// To the end of the program, or until it says too much.
async fn talk(
    tool: &Tool,
    call: &ToolCall,
    guarded: &mut Guarded,
    mut stdin: Stdin,
    stdout: impl AsyncRead + Unpin,
    stderr: tokio::process::ChildStderr,
) -> Result<(Exit, Said), ToolResult> {
    let mut tail = Tail::new(COMPLAINT);
    // A program need not read its input.
    let feed = async {
        if stdin.write_all(call.input.to_string().as_bytes()).await.is_ok() {
            stdin.close().await.ok();
        }
        Ok(())
    };
    let complain = async {
        read_tail(stderr, &mut tail).await;
        Ok(())
    };
    let (_, (), output, exit) = tokio::try_join!(feed, complain, read_output(stdout, tool.output_limit_kib), async {
        Ok(guarded.wait().await)
    })?;
    Ok((exit, Said { output, complaint: tail.into_text() }))
}

async fn read_output(mut stdout: impl AsyncRead + Unpin, limit_kib: u32) -> Result<String, ToolResult> {
    let limit = u64::from(limit_kib) * 1024;
    let mut bytes = Vec::new();
    // A pipe that can't be read is at its end.
    (&mut stdout).take(limit + 1).read_to_end(&mut bytes).await.ok();
    if u64::try_from(bytes.len()).is_ok_and(|read| read > limit) {
        let words = format!("the tool wrote more than its limit of {limit_kib} KiB and was stopped; ask it for less");
        return Err(ToolResult::error(words));
    }
    let mut decoder = Utf8Decoder::default();
    Ok(decoder.push(&bytes) + &decoder.finish())
}

/// The program of a tool, as its settings name it.
fn program_of(tool: &Tool) -> Program<'_> {
    let name = tool.command.first().map_or("", String::as_str);
    Program { name, setting: "command", cwd: tool.cwd.as_deref() }
}

fn judge(tool: &Tool, exit: Exit, said: Said) -> ToolResult {
    let how = match exit {
        Exit::Code(0) => return ToolResult { content: said.output, is_error: false },
        Exit::Code(status) => format!("the tool exited with status {status}"),
        Exit::Signal(signal) => format!("the tool was killed by signal {signal}"),
        Exit::NotStarted(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            program::start_error(program_of(tool).name, &error)
        }
        Exit::GuardLost => "the tool was killed".to_owned(),
    };
    let words = [how, said.complaint, said.output];
    ToolResult::error(words.into_iter().filter(|words| !words.trim().is_empty()).collect::<Vec<_>>().join("\n"))
}
