//! `command`: a program of the operator's. The prompt is its standard input; its standard output is the answer.

mod output;

use std::{ffi::OsString, io, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::{config::CommandEngine, domain::FailureClass, telemetry::trace};
use futures::FutureExt;

use self::output::read_answer;
use super::{
    Availability, Capabilities, Engine, Turn, TurnContext, TurnEnd, TurnFailure, code,
    program::{self, Program},
    tail::{Tail, read_tail},
};
use crate::guard::{self, Exit, Guarded, Spec, Started, Stdin};

/// A program of the operator's.
pub(super) struct Command {
    name: String,
    config: CommandEngine,
    guard_program: Arc<Path>,
}

impl Command {
    pub(super) fn new(name: &str, config: &CommandEngine, guard_program: Arc<Path>) -> Self {
        Self { name: name.to_owned(), config: config.clone(), guard_program }
    }

    fn program(&self) -> Program<'_> {
        let name = self.config.command.first().map_or("", String::as_str);
        Program { name, setting: "command", cwd: self.config.cwd.as_deref() }
    }

    /// What the program may see of our environment.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let named = self.config.env.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
        named.collect()
    }

    fn spec(&self, turn: &Turn, context: &TurnContext) -> Result<Spec, TurnFailure> {
        let mut env = self.environment();
        program::find(self.program(), &env).map_err(|reason| self.unavailable(FailureClass::Fatal, &reason))?;
        let mut mark: Vec<(OsString, OsString)> = vec![
            (guard::TASK_ID.into(), turn.job_id.to_string().into()),
            ("ERRAND_ATTEMPT".into(), turn.attempt.to_string().into()),
        ];
        mark.extend(turn.session_id.map(|session| ("ERRAND_SESSION_ID".into(), session.to_string().into())));
        env.extend(mark.iter().cloned());
        env.extend(trace::environment().map(|(name, value)| (name.into(), value.into())));
        let (program, args) = self.config.command.split_first().unwrap_or((&self.name, &[]));
        Ok(Spec {
            guard_program: self.guard_program.to_path_buf(),
            program: program.into(),
            args: args.iter().map(Into::into).collect(),
            env,
            mark,
            cwd: self.config.cwd.clone(),
            must_end_by: context.must_end_by.clone(),
        })
    }

    fn unavailable(&self, class: FailureClass, reason: &str) -> TurnFailure {
        let message = format!("engine {:?} can't run: {reason}", self.name);
        TurnFailure::new(class, code::ENGINE_UNAVAILABLE, message)
    }

    fn no_guard(&self, error: &io::Error) -> TurnFailure {
        self.unavailable(program::start_failure(error), &format!("its guard process could not be started ({error})"))
    }

    /// The whole turn, but for being told to stop. Everything that the program wrote is read before its end is judged.
    async fn talk(&self, guarded: &mut Guarded, pipes: Pipes, context: &TurnContext) -> Result<TurnEnd, TurnFailure> {
        let Pipes { stdin, prompt, stdout, stderr } = pipes;
        let tail_limit = usize::try_from(self.config.stderr_limit_kib).unwrap_or(usize::MAX).saturating_mul(1024);
        let mut tail = Tail::new(tail_limit);
        // The first failure ends the conversation; the others need not have come to their end.
        let ((), (), text, exit) = tokio::try_join!(
            feed(stdin, &prompt).map(Ok),
            read_tail(stderr, &mut tail).map(Ok),
            read_answer(stdout, self.config.output_limit_kib, context),
            guarded.wait().map(Ok),
        )?;
        self.judge(exit, text, tail, context.must_end_by.borrow().has_passed())
    }

    fn judge(&self, exit: Exit, text: String, stderr: Tail, lease_over: bool) -> Result<TurnEnd, TurnFailure> {
        let how = match exit {
            Exit::Code(0) => return Ok(TurnEnd { text, model: None }),
            Exit::Code(status) => format!("exited with status {status}"),
            Exit::Signal(_) if lease_over => return Err(TurnFailure::lease_over()),
            Exit::Signal(signal) => format!("was killed by signal {signal}"),
            Exit::NotStarted(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                let reason = program::start_error(self.program().name, &error);
                return Err(self.unavailable(program::start_failure(&error), &reason));
            }
            Exit::GuardLost => {
                let message = format!("engine {:?}: its guard process was killed", self.name);
                return Err(TurnFailure::new(FailureClass::Crash, code::EXECUTION_ERROR, message));
            }
        };
        let said = stderr.into_text();
        let message = if said.is_empty() { how } else { format!("{how}: {said}") };
        Err(TurnFailure::new(FailureClass::Fatal, code::EXECUTION_ERROR, message))
    }
}

#[async_trait]
impl Engine for Command {
    fn capabilities(&self) -> Capabilities {
        Capabilities { streaming: true, ..Capabilities::default() }
    }

    async fn availability(&self) -> Availability {
        match program::find(self.program(), &self.environment()) {
            Ok(_) => Availability::Available,
            Err(reason) => Availability::Unavailable(reason),
        }
    }

    async fn run(&self, turn: Turn, context: TurnContext) -> Result<TurnEnd, TurnFailure> {
        let spec = self.spec(&turn, &context)?;
        let started = Guarded::spawn(&spec).map_err(|error| self.no_guard(&error))?;
        let Started { mut guarded, stdin, stdout, stderr } = started;
        let pipes = Pipes { stdin, prompt: turn.prompt, stdout, stderr };
        let end = tokio::select! {
            biased;
            () = context.stop.cancelled() => None,
            end = self.talk(&mut guarded, pipes, &context) => Some(end),
        };
        match end {
            Some(Ok(end)) => Ok(end),
            Some(Err(failure)) => {
                // Over its limit, or nobody listens: it may still run.
                guarded.stop(Duration::ZERO).await;
                Err(failure)
            }
            None => {
                guarded.stop(Duration::from_millis(self.config.stop_grace_ms.into())).await;
                Err(TurnFailure::stopped())
            }
        }
    }
}

struct Pipes {
    stdin: Stdin,
    prompt: String,
    stdout: tokio::process::ChildStdout,
    stderr: tokio::process::ChildStderr,
}

/// A program need not read its prompt.
async fn feed(mut stdin: Stdin, prompt: &str) {
    if stdin.write_all(prompt.as_bytes()).await.is_ok() {
        stdin.close().await.ok();
    }
}
