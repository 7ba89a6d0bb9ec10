//! `claude_code_cli` and `claude_agent_sdk`: Claude Code, a program that the operator brings.
//!
//! Both run it once a turn and speak its control protocol over its standard input and output. They differ in who decides
//! about tools that are neither harmless nor allowed: the first has the program refuse them, the second asks.
//! What the program keeps of a conversation is kept in the store between runs, so that any worker can go on.

mod conversation;
mod folders;
mod frames;
mod process;
mod request;
mod speech;
mod transcript;
mod verdict;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use errand_common::{
    config::ClaudeCodeEngine,
    domain::{FailureClass, usd_text},
    telemetry::trace,
};
use tokio::sync::{Mutex, watch};

use self::{
    conversation::{Conversation, End},
    folders::Folders,
    process::Process,
    transcript::Beginning,
};
use super::{
    Availability, Capabilities, Engine, Turn, TurnContext, TurnEnd, TurnFailure, code,
    program::{self, Program},
};
use crate::guard::{self, Exit, MonotonicInstant, Spec};

/// How long the program may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a program that did not tell its version is not asked again.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// What keeps the program from calling anyone but the model's server.
const QUIET: [&str; 4] =
    ["DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING", "DISABLE_AUTOUPDATER", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"];

/// Who decides about tools that are neither harmless nor allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asking {
    /// Nobody: they are refused.
    Never,
    /// Whoever watches the task.
    Approvals,
}

/// Claude Code.
pub(super) struct ClaudeCode {
    name: String,
    config: ClaudeCodeEngine,
    asking: Asking,
    guard_program: Arc<Path>,
    /// What it said when it was asked for its version last.
    version: Mutex<Option<(Instant, Result<String, String>)>>,
}

/// Why a run did not end well.
enum Broken {
    /// The program failed, or could not run.
    Program(TurnFailure),
    /// The conversation that was to be resumed is not there.
    UnknownConversation,
    /// We must not go on.
    Halted(TurnFailure),
}

impl ClaudeCode {
    pub(super) fn new(name: &str, config: &ClaudeCodeEngine, asking: Asking, guard_program: Arc<Path>) -> Self {
        Self { name: name.to_owned(), config: config.clone(), asking, guard_program, version: Mutex::new(None) }
    }

    /// What the program may see of our environment.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let named = self.config.env.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
        named.chain(QUIET.map(|name| (name.into(), "1".into()))).collect()
    }

    /// The program's file.
    fn binary(&self) -> Result<PathBuf, String> {
        let wanted = Program { name: &self.config.binary, setting: "binary", cwd: None };
        let file = program::find(wanted, &self.environment())?;
        std::path::absolute(file).map_err(|error| format!("{}: {error}", self.config.binary))
    }

    fn unavailable(&self, class: FailureClass, reason: &str) -> TurnFailure {
        let message = format!("engine {:?} can't run: {reason}", self.name);
        TurnFailure::new(class, code::ENGINE_UNAVAILABLE, message)
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.config.stop_grace_ms.into())
    }

    fn arguments(&self, turn: &Turn, beginning: &Beginning) -> Vec<OsString> {
        let mut args: Vec<String> = [
            "--print",
            "--output-format=stream-json",
            "--input-format=stream-json",
            "--verbose",
            "--include-partial-messages",
            // The machine's settings and the working directory's have no say.
            "--setting-sources=",
            "--strict-mcp-config",
            "--disable-slash-commands",
            "--permission-mode=default",
            // Each task brings its own; the program would go on with the session's first.
            "--system-prompt-snapshot=off",
            // Nobody is there to be asked but about tools.
            "--disallowedTools=AskUserQuestion",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("--max-turns={}", turn.max_turns));
        // By its own prices, and judged after each answer; ours judge before each request that follows a tool.
        args.extend(turn.remaining.cost_nano_usd.map(|left| format!("--max-budget-usd={}", usd_text(left))));
        if !turn.allowed_tools.is_empty() {
            args.push(format!("--allowedTools={}", turn.allowed_tools.join(",")));
        }
        args.extend(self.config.model.iter().map(|model| format!("--model={model}")));
        if self.asking == Asking::Approvals {
            args.push("--permission-prompt-tool=stdio".to_owned());
        }
        let session = if beginning.transcript.is_some() { "--resume" } else { "--session-id" };
        args.push(format!("{session}={}", beginning.engine_session));
        args.extend(self.config.args.iter().cloned());
        args.into_iter().map(Into::into).collect()
    }

    fn spec(
        &self,
        turn: &Turn,
        beginning: &Beginning,
        folders: &Folders,
        context: &TurnContext,
    ) -> Result<Spec, String> {
        let mut mark: Vec<(OsString, OsString)> = vec![
            (guard::TASK_ID.into(), turn.job_id.to_string().into()),
            ("ERRAND_ATTEMPT".into(), turn.attempt.to_string().into()),
        ];
        mark.extend(turn.session_id.map(|session| ("ERRAND_SESSION_ID".into(), session.to_string().into())));
        let mut env = self.environment();
        env.push(("HOME".into(), folders.home.clone().into()));
        env.push(("CLAUDE_CONFIG_DIR".into(), folders.config.clone().into()));
        env.extend(mark.iter().cloned());
        env.extend(trace::environment().map(|(name, value)| (name.into(), value.into())));
        Ok(Spec {
            guard_program: self.guard_program.to_path_buf(),
            program: self.binary()?.into(),
            args: self.arguments(turn, beginning),
            env,
            mark,
            cwd: Some(folders.work.clone()),
            must_end_by: context.must_end_by.clone(),
        })
    }

    /// One run of the program.
    async fn converse(
        &self,
        turn: &Turn,
        beginning: &Beginning,
        folders: &Folders,
        context: &TurnContext,
    ) -> Result<TurnEnd, Broken> {
        let failed = |class, reason: &str| Broken::Program(self.unavailable(class, reason));
        let prompt = request::prompt(turn, beginning).map_err(Broken::Program)?;
        let spec =
            self.spec(turn, beginning, folders, context).map_err(|reason| failed(FailureClass::Fatal, &reason))?;
        let transcript = folders.transcript(&beginning.engine_session);
        beginning.restore(&transcript).await.map_err(|error| failed(FailureClass::Transient, &home_fault(&error)))?;
        if beginning.transcript.is_none() {
            // Before anything is done under it.
            let announced = transcript::announced(&self.name, &beginning.engine_session);
            context.link.keep_state(announced).await.map_err(Broken::Halted)?;
        }
        let (line_limit, tail_limit) = (bytes(self.config.line_limit_kib), bytes(self.config.stderr_limit_kib));
        let mut process = Process::start(&spec, line_limit, tail_limit).map_err(|error| {
            failed(program::start_failure(&error), &format!("its guard process could not be started ({error})"))
        })?;
        let mut conversation = Conversation::new(turn, context, bytes(self.config.output_limit_kib));
        let talk = async {
            if let Some(said) = beginning.interrupted_after.clone() {
                conversation.go_on_from(said).await?;
            }
            process.say(&request::initialize(turn.system_prompt.as_deref()))?;
            process.say(&prompt)?;
            conversation.talk(&mut process).await
        };
        let end = tokio::select! {
            biased;
            () = context.stop.cancelled() => Err(TurnFailure::stopped()),
            end = talk => end,
        };
        let keep = async |said: Option<&str>| {
            let limit = u64::from(self.config.state_limit_kib) * 1024;
            let kept = transcript::keep(&transcript, &self.name, &beginning.engine_session, turn, said, limit).await;
            context.link.checkpoint(kept);
        };
        match end {
            Ok(End::Result(outcome)) => {
                process.end(&context.stop, self.grace()).await;
                if beginning.transcript.is_some() && verdict::is_unknown_conversation(&outcome) {
                    conversation.nothing_told();
                    return Err(Broken::UnknownConversation);
                }
                let end = conversation.conclude(&outcome).await.map_err(Broken::Program)?;
                keep(None).await;
                Ok(end)
            }
            Ok(End::Silence) => {
                let (exit, complaints) = process.exit(&context.stop, self.grace()).await;
                conversation.nothing_told();
                let lease_over = context.must_end_by.borrow().has_passed();
                Err(Broken::Program(self.judge(exit, &complaints, conversation.is_untouched(), lease_over)))
            }
            Err(failure) if failure.code == code::OUTPUT_LIMIT => {
                process.kill().await;
                Err(Broken::Program(failure))
            }
            Err(failure) => {
                if conversation.overhear(process.interrupt(self.grace()).await) {
                    keep(Some(conversation.said())).await;
                }
                Err(Broken::Halted(failure))
            }
        }
    }

    /// It ended without a result.
    fn judge(&self, exit: Exit, complaints: &str, untouched: bool, lease_over: bool) -> TurnFailure {
        let how = match exit {
            Exit::Code(status) => format!("exited with status {status}"),
            Exit::Signal(_) if lease_over => return TurnFailure::lease_over(),
            Exit::Signal(signal) => format!("was killed by signal {signal}"),
            Exit::NotStarted(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                let reason = program::start_error(&self.config.binary, &error);
                return self.unavailable(program::start_failure(&error), &reason);
            }
            Exit::GuardLost => {
                let message = format!("engine {:?}: its guard process was killed", self.name);
                return TurnFailure::new(FailureClass::Crash, code::EXECUTION_ERROR, message);
            }
        };
        let message = if complaints.is_empty() { how } else { format!("{how}: {complaints}") };
        // Before its first word it refuses what it was started with; after that it has died.
        let class = if untouched && matches!(exit, Exit::Code(_)) { FailureClass::Fatal } else { FailureClass::Crash };
        TurnFailure::new(class, code::EXECUTION_ERROR, message)
    }

    /// What the program said of its version; asked once, or again a while after it could not be asked.
    async fn told_version(&self) -> Result<String, String> {
        let binary = self.binary()?;
        let mut version = self.version.lock().await;
        if let Some((asked, told)) = version.as_ref()
            && (told.is_ok() || asked.elapsed() < ASK_AGAIN)
        {
            return told.clone();
        }
        let (_renewal, must_end_by) = watch::channel(MonotonicInstant::now().plus(VERSION_TIMEOUT));
        let spec = Spec {
            guard_program: self.guard_program.to_path_buf(),
            program: binary.clone().into(),
            args: Vec::new(),
            env: self.environment(),
            mark: Vec::new(),
            cwd: None,
            must_end_by,
        };
        let told = process::version(spec, &binary).await;
        if let Ok(told) = &told {
            tracing::info!(engine = %self.name, version = %told, "found the program");
        }
        *version = Some((Instant::now(), told.clone()));
        told
    }
}

#[async_trait]
impl Engine for ClaudeCode {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            streaming: true,
            steer: false,
            resume: true,
            approvals: self.asking == Asking::Approvals,
            attachments: true,
            history: true,
            metered: true,
        }
    }

    async fn availability(&self) -> Availability {
        match self.told_version().await {
            Ok(_) => Availability::Available,
            Err(reason) => Availability::Unavailable(reason),
        }
    }

    async fn run(&self, turn: Turn, context: TurnContext) -> Result<TurnEnd, TurnFailure> {
        let folders = Folders::make(&self.config.home, &turn)
            .await
            .map_err(|error| self.unavailable(FailureClass::Transient, &home_fault(&error)))?;
        let mut end = self.converse(&turn, &Beginning::of(&turn), &folders, &context).await;
        if matches!(end, Err(Broken::UnknownConversation)) {
            tracing::warn!(task = %turn.job_id, "the program does not know its conversation; it begins anew");
            end = self.converse(&turn, &Beginning::anew(&turn), &folders, &context).await;
        }
        folders.leave().await;
        end.map_err(|broken| match broken {
            Broken::Program(failure) | Broken::Halted(failure) => failure,
            Broken::UnknownConversation => TurnFailure::new(
                FailureClass::Fatal,
                code::EXECUTION_ERROR,
                "the program does not know its conversation",
            ),
        })
    }
}

fn home_fault(error: &io::Error) -> String {
    format!("its `home` can't be used: {error}")
}

fn bytes(kib: u32) -> usize {
    usize::try_from(kib).unwrap_or(usize::MAX).saturating_mul(1024)
}
