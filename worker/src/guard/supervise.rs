//! The guard process itself: one thread, one `poll` loop, no allocation that grows with the program's output.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use nix::sys::{
    signal::{SigSet, Signal as MaskedSignal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    io::Errno,
    process::{Pid, Signal, WaitStatus, getpid, set_child_subreaper},
};

use super::{
    Exit, GUARD_EXEC, MonotonicInstant, THIS_PROGRAM,
    descendants::{Children, reap, signal_descendants},
    protocol::{CONSUMED_PORTION, Frames, Order, Report},
};

/// First wait for killed processes to end before `/proc` is looked at again; doubles up to [`LAST_PAUSE`]. An ending
/// child cuts it short.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Status of a guard that could not even begin.
const FAILED: i32 = 126;

/// `guard <deadline> <program> [argument…]`, the deadline in nanoseconds of the monotonic clock.
pub(super) fn main(mut args: impl Iterator<Item = OsString>) -> i32 {
    let deadline = args.next().and_then(|arg| arg.to_str().and_then(|text| text.parse().ok()));
    let Some(deadline) = deadline.map(MonotonicInstant::from_nanos) else {
        eprintln!("guard: only workers start guards");
        return FAILED;
    };
    let command: Vec<OsString> = args.collect();
    let Ok(mut control) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else { return FAILED };
    let exit = match Supervisor::start(deadline, &command, &control) {
        Ok(supervisor) => supervisor.run(),
        Err(error) => Exit::NotStarted(error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error())),
    };
    // A worker that is gone needs no report.
    let _ = control.write_all(&Report::Ended(exit).encode());
    match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
        Exit::NotStarted(_) | Exit::GuardLost => FAILED,
    }
}

struct Supervisor<'a> {
    control: &'a UnixStream,
    orders: Frames,
    /// Readable when a child has ended.
    child_ended: SignalFd,
    program: Pid,
    status: Option<WaitStatus>,
    /// Holds the `errno` of a program that could not be started.
    start_error: PipeReader,
    /// The next stage opens the pipe through this descriptor of ours.
    _start_error_writer: PipeWriter,
    stdin: Option<ChildStdin>,
    pending: VecDeque<u8>,
    close_stdin: bool,
    /// Bytes the program took and the worker was not told of.
    consumed: usize,
    deadline: MonotonicInstant,
}

/// Whether to go on.
#[derive(PartialEq)]
enum Next {
    Continue,
    KillAll,
}

impl<'a> Supervisor<'a> {
    fn start(deadline: MonotonicInstant, command: &[OsString], control: &'a UnixStream) -> io::Result<Self> {
        let child_ended = block_signals()?;
        set_child_subreaper(Some(getpid()))?;
        // Without /proc descendants could not be found: better not to start.
        std::fs::metadata("/proc/self/stat")?;
        let (start_error, status_pipe) = io::pipe()?;
        fcntl_setfl(&start_error, OFlags::NONBLOCK)?;
        let mut child = Command::new(THIS_PROGRAM)
            .arg0("errand")
            .arg(GUARD_EXEC)
            .arg(getpid().to_string())
            .arg(status_pipe.as_raw_fd().to_string())
            .args(command)
            .stdin(Stdio::piped())
            .spawn()?;
        let program = Pid::from_child(&child);
        let stdin = child.stdin.take();
        if let Some(stdin) = &stdin {
            fcntl_setfl(stdin, OFlags::NONBLOCK)?;
        }
        Ok(Self {
            control,
            orders: Frames::default(),
            child_ended,
            program,
            status: None,
            start_error,
            _start_error_writer: status_pipe,
            stdin,
            pending: VecDeque::new(),
            close_stdin: false,
            consumed: 0,
            deadline,
        })
    }

    fn run(mut self) -> Exit {
        while self.step() == Next::Continue {}
        self.kill_all();
        self.exit()
    }

    fn step(&mut self) -> Next {
        self.reap();
        if self.status.is_some() || self.deadline.has_passed() {
            return Next::KillAll;
        }
        let ready = self.wait_for_something();
        if ready.child_ended {
            while let Ok(Some(_)) = self.child_ended.read_signal() {}
        }
        if ready.stdin {
            self.feed();
        }
        if ready.control { self.take_orders() } else { Next::Continue }
    }

    fn wait_for_something(&self) -> Ready {
        let mut waits = vec![PollFd::new(self.control, PollFlags::IN), PollFd::new(&self.child_ended, PollFlags::IN)];
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.pending.is_empty()) {
            waits.push(PollFd::new(stdin, PollFlags::OUT));
        }
        wait(&mut waits, self.deadline.remaining());
        let ready = |index: usize| waits.get(index).is_some_and(|wait| !wait.revents().is_empty());
        Ready { control: ready(0), child_ended: ready(1), stdin: ready(2) }
    }

    fn take_orders(&mut self) -> Next {
        let mut bytes = [0; 16 * 1024];
        match self.control.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Next::Continue,
            // End of file, or a reset: the worker is gone, or has let go of us.
            Ok(0) | Err(_) => return Next::KillAll,
            Ok(count) => self.orders.push(bytes.get(..count).unwrap_or_default()),
        }
        loop {
            match self.orders.next_order() {
                Ok(Some(order)) => {
                    if self.obey(order) == Next::KillAll {
                        return Next::KillAll;
                    }
                }
                Ok(None) => return Next::Continue,
                Err(_) => return Next::KillAll,
            }
        }
    }

    fn obey(&mut self, order: Order) -> Next {
        match order {
            Order::Data(data) => {
                self.pending.extend(data);
                self.feed();
            }
            Order::CloseStdin => {
                self.close_stdin = true;
                self.feed();
            }
            Order::Deadline(deadline) => self.deadline = deadline,
            Order::Stop { grace } => {
                if grace.is_zero() {
                    return Next::KillAll;
                }
                signal_descendants(getpid(), Signal::TERM);
                self.deadline = self.deadline.min(MonotonicInstant::now().plus(grace));
            }
        }
        Next::Continue
    }

    /// Hands the program as much as it takes now.
    fn feed(&mut self) {
        while !self.pending.is_empty() {
            let (front, _) = self.pending.as_slices();
            let written = match &mut self.stdin {
                Some(stdin) => stdin.write(front),
                None => Err(io::ErrorKind::BrokenPipe.into()),
            };
            match written {
                Ok(count) => {
                    self.pending.drain(..count);
                    self.consumed += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.pending.clear();
                    self.stdin = None;
                    self.report(&Report::StdinClosed);
                }
            }
        }
        if self.consumed >= CONSUMED_PORTION {
            self.report(&Report::Consumed(u32::try_from(self.consumed).unwrap_or(u32::MAX)));
            self.consumed = 0;
        }
        if self.close_stdin && self.pending.is_empty() {
            self.stdin = None;
        }
    }

    /// A worker that is gone is noticed by the next read.
    fn report(&mut self, report: &Report) {
        let _ = self.control.write_all(&report.encode());
    }

    fn reap(&mut self) -> Children {
        let (program, status) = (self.program, &mut self.status);
        reap(|pid, ended| {
            if pid == program {
                *status = Some(ended);
            }
        })
    }

    /// A killed parent's children become ours, so no children left means no descendants left.
    fn kill_all(&mut self) {
        let mut pause = FIRST_PAUSE;
        while self.reap() == Children::Some {
            signal_descendants(getpid(), Signal::KILL);
            wait(&mut [PollFd::new(&self.child_ended, PollFlags::IN)], pause);
            while let Ok(Some(_)) = self.child_ended.read_signal() {}
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn exit(mut self) -> Exit {
        let mut errno = [0; 4];
        if self.start_error.read_exact(&mut errno).is_ok() {
            return Exit::NotStarted(i32::from_le_bytes(errno));
        }
        match self.status {
            Some(status) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::GuardLost,
            },
            None => Exit::GuardLost,
        }
    }
}

struct Ready {
    control: bool,
    child_ended: bool,
    stdin: bool,
}

fn wait(waits: &mut [PollFd<'_>], limit: Duration) {
    // Rounded up, or the last fraction of a millisecond would be spent spinning; beyond a day it makes no difference.
    let limit = limit.min(Duration::from_secs(86_400)) + Duration::from_millis(1);
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    // An interrupted wait is just a short one.
    let _ = poll(waits, Some(&Timespec { tv_sec: seconds, tv_nsec: limit.subsec_nanos().into() }));
}

/// Blocks all that can be blocked, and has ended children announced on a descriptor.
fn block_signals() -> io::Result<SignalFd> {
    SigSet::all().thread_block()?;
    let mut children = SigSet::empty();
    children.add(MaskedSignal::SIGCHLD);
    Ok(SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}
