//! The guard: owns an engine's processes, so that a worker which is stopped, killed or cut off leaves nothing running.
//!
//! The guard is this very program, run again as `guard …` between the worker and the engine's program:
//!
//! ```text
//! worker ── socket ── guard (child subreaper, own process group) ── program (own session) ── its children
//! ```
//!
//! * The socket is the guard's standard input: orders come down ([`protocol::Order`]), reports go up. Standard output
//!   and error are the program's own and pass the guard by.
//! * The guard kills every descendant, in whatever session or process group, when the socket closes (the worker is
//!   gone or has dropped it), when the deadline has passed without renewal, when it is told to stop, and when the
//!   program has ended by itself: a program must not leave daemons behind.
//! * If the guard itself is killed, the kernel kills the program (`PR_SET_PDEATHSIG`), and a worker that lives sees to
//!   the program's descendants. If worker and guard are killed at the same instant, the next start on that machine that
//!   knows itself to be alone does.
//! * It takes orders from its socket only. Signals that can be blocked are: a Ctrl-C or a service manager's SIGTERM that
//!   reaches the whole group is the worker's to act on, which may want its runs to finish.
//!
//! Linux only: it reads `/proc` and is a child subreaper.

mod client;
mod descendants;
mod exec;
pub(crate) mod leftover;
pub mod protocol;
mod supervise;

use std::{path::PathBuf, process, time::Duration};

pub use client::{Guarded, Spec, Started, Stdin};
pub use protocol::Exit;

/// The environment variable that marks all processes of a task's program.
pub(crate) const TASK_ID: &str = "ERRAND_TASK_ID";
/// First argument of the guard.
const GUARD: &str = "guard";
/// First argument of the guard's child before it becomes the program.
const GUARD_EXEC: &str = "guard-exec";
/// This very program, even if its file was replaced since it was started.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Becomes the guard, and never returns, if that is what this process was started for. Must be the first thing a
/// program's `main` does: the guard is single-threaded and starts nothing else.
pub fn run_if_guard() {
    let mut args = std::env::args_os().skip(1);
    let Some(stage) = args.next() else { return };
    if stage == GUARD {
        process::exit(supervise::main(args));
    } else if stage == GUARD_EXEC {
        process::exit(exec::main(args));
    }
}

/// The program that guards are made of: this one, if its `main` calls [`run_if_guard`].
#[must_use]
pub fn default_program() -> PathBuf {
    PathBuf::from(THIS_PROGRAM)
}

/// A reading of the machine's monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds: the same for all processes of the
/// machine, so that a worker and its guards mean the same instant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MonotonicInstant(u64);

impl MonotonicInstant {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
        Self(seconds * 1_000_000_000 + nanos)
    }

    /// Later by `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long it is until then, as of now; zero if it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(Self::now().0))
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        Self::now() >= self
    }

    /// The reading itself, to hand to another process of this machine.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// From another process's reading.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
}
