//! The guard's child, in the moment before it becomes the program.
//!
//! The parent-death signal is not inherited over a fork, so it must be set by the process itself; this stage does that,
//! leaves the worker's session and signal mask behind, and then becomes the program.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::unix::process::CommandExt,
    process::Command,
};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, setsid};

/// Status of a stage that failed before it could say why; the guard reads the reason from its own pipe.
const FAILED: i32 = 127;

/// `guard-exec <guard's pid> <number of the guard's status pipe> <program> [argument…]`; returns only if it failed.
pub(super) fn main(mut args: impl Iterator<Item = OsString>) -> i32 {
    let mut number = || args.next().and_then(|arg| arg.to_str().and_then(|text| text.parse::<i32>().ok()));
    let (Some(guard), Some(pipe)) = (number().and_then(Pid::from_raw), number()) else { return FAILED };
    let Some(program) = args.next() else { return FAILED };
    // Opened by path because a number alone can't be turned into a file safely; closed by the kernel on success.
    let Ok(mut status) = File::options().write(true).open(format!("/proc/{guard}/fd/{pipe}")) else { return FAILED };
    let error = become_program(guard, &program, args);
    let errno = error.raw_os_error().unwrap_or(rustix::io::Errno::INVAL.raw_os_error());
    // If this can't be written the guard is gone, and nobody is left to be told.
    let _ = status.write_all(&errno.to_le_bytes());
    FAILED
}

fn become_program(guard: Pid, program: &OsString, args: impl Iterator<Item = OsString>) -> io::Error {
    if let Err(errno) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return errno.into();
    }
    // The guard may have died before the line above took effect: then nobody would kill us.
    if getppid() != Some(guard) {
        return io::ErrorKind::BrokenPipe.into();
    }
    // A session of its own: no terminal, and `kill 0` of the program does not reach the guard.
    if let Err(errno) = setsid() {
        return errno.into();
    }
    if let Err(errno) = SigSet::empty().thread_set_mask() {
        return errno.into();
    }
    Command::new(program).args(args).exec()
}
