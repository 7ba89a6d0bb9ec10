//! The worker's side of a guard.

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as BlockingSocket},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, ChildStderr, ChildStdout, Command},
    sync::{Semaphore, mpsc, watch},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Exit, GUARD, MonotonicInstant, leftover,
    protocol::{BODY_LIMIT, Frames, Order, Report, STDIN_WINDOW},
};

/// Orders under way to the guard; more wait with their senders.
const ORDER_QUEUE: usize = 16;

/// What to run under a guard.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The program that becomes the guard: an absolute path; [`super::default_program`] as a rule.
    pub guard_program: PathBuf,
    /// The engine's program: looked up in the `PATH` of `env` if it has no slash.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Those of `env` that no other run has: by them the program's descendants are found and killed should the guard
    /// itself be killed. Empty: then only the program itself dies with its guard.
    pub mark: Vec<(OsString, OsString)>,
    /// Its working directory; ours if unset. Must exist.
    pub cwd: Option<PathBuf>,
    /// Everything is killed then. Renewals are passed on to the guard as they are sent; when the sender is gone, the
    /// last one stands.
    pub must_end_by: watch::Receiver<MonotonicInstant>,
}

/// A program that was started under a guard.
pub struct Started {
    /// The guard: dropping it kills everything.
    pub guarded: Guarded,
    /// The program's standard input.
    pub stdin: Stdin,
    /// The program's standard output. Ends when nothing of the program is left.
    pub stdout: ChildStdout,
    /// The program's standard error. Ends when nothing of the program is left.
    pub stderr: ChildStderr,
}

/// A guard in the hands of a worker. Dropping it closes its socket, upon which the guard kills everything.
pub struct Guarded {
    orders: mpsc::Sender<Order>,
    exit: watch::Receiver<Option<Exit>>,
    guard: Child,
    mark: Vec<Vec<u8>>,
    _socket: AbortOnDropHandle<()>,
}

/// The standard input of a guarded program. Dropping it does not close the program's; [`Stdin::close`] does.
pub struct Stdin {
    orders: mpsc::Sender<Order>,
    window: Arc<Semaphore>,
}

impl Guarded {
    /// Starts a program under a guard. Whether the program itself could be started is told by [`Guarded::wait`].
    ///
    /// # Errors
    /// The guard could not be started: its program or the working directory is missing, or the machine is out of
    /// processes or descriptors.
    pub fn spawn(spec: &Spec) -> io::Result<Started> {
        let (ours, guards) = BlockingSocket::pair()?;
        ours.set_nonblocking(true)?;
        let socket = UnixStream::from_std(ours)?;
        let mut guard = start_guard(spec, guards)?;
        let (Some(stdout), Some(stderr)) = (guard.stdout.take(), guard.stderr.take()) else {
            return Err(io::Error::other("the guard was started without its pipes"));
        };
        let (orders, queue) = mpsc::channel(ORDER_QUEUE);
        let (ended, exit) = watch::channel(None);
        let window = Arc::new(Semaphore::new(STDIN_WINDOW));
        let (reader, writer) = socket.into_split();
        let reports = read_reports(reader, Arc::clone(&window), ended);
        let renewals = pass_on_renewals(spec.must_end_by.clone(), orders.clone());
        let socket = tokio::spawn(async move {
            tokio::join!(reports, write_orders(writer, queue), renewals);
        });
        let mark =
            spec.mark.iter().map(|(name, value)| [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat());
        Ok(Started {
            guarded: Self {
                orders: orders.clone(),
                exit,
                guard,
                mark: mark.collect(),
                _socket: AbortOnDropHandle::new(socket),
            },
            stdin: Stdin { orders, window },
            stdout,
            stderr,
        })
    }

    /// The guard's process number, as long as it lives.
    #[must_use]
    pub fn guard_id(&self) -> Option<u32> {
        self.guard.id()
    }

    /// Asks everything to end (SIGTERM), kills what is left after `grace`, and returns when nothing is left.
    pub async fn stop(&mut self, grace: Duration) -> Exit {
        self.order(Order::Stop { grace }).await;
        self.wait().await
    }

    /// Waits until the program has ended and nothing of it is left. Cancel-safe.
    pub async fn wait(&mut self) -> Exit {
        let exit = self.exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::GuardLost);
        if exit == Exit::GuardLost {
            self.kill_what_the_guard_left().await;
        }
        if let Err(error) = self.guard.wait().await {
            tracing::warn!(%error, "could not wait for a guard to end");
        }
        exit
    }

    /// A guard that is gone can't be told anything, and its end is reported by `wait`.
    async fn order(&self, order: Order) {
        let _ = self.orders.send(order).await;
    }

    async fn kill_what_the_guard_left(&self) {
        tracing::error!("a guard was killed; killing what its program left");
        let mark = self.mark.clone();
        leftover::kill(move |environment| {
            !mark.is_empty() && mark.iter().all(|entry| environment.contains(entry.as_slice()))
        })
        .await;
    }
}

impl Stdin {
    /// Hands the program all of `data`, as fast as it reads. Not cancel-safe: after a cancelled call it is not known
    /// how much was written.
    ///
    /// # Errors
    /// `BrokenPipe`: the program has closed its standard input, or has ended. Many programs don't read all.
    pub async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        for chunk in data.chunks(BODY_LIMIT) {
            let permits = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let room = self.window.acquire_many(permits).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            // The guard gives the room back when the program has read.
            room.forget();
            self.orders.send(Order::Data(chunk.to_vec())).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        Ok(())
    }

    /// Closes the program's standard input once it has read everything.
    ///
    /// # Errors
    /// `BrokenPipe`: the program has ended.
    pub async fn close(self) -> io::Result<()> {
        self.orders.send(Order::CloseStdin).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn start_guard(spec: &Spec, socket: BlockingSocket) -> io::Result<Child> {
    let mut command = Command::new(&spec.guard_program);
    command
        .arg0("errand")
        .arg(GUARD)
        .arg(spec.must_end_by.borrow().nanos().to_string())
        .arg(&spec.program)
        .args(&spec.args)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C on our terminal is ours to act on.
        .process_group(0);
    if let Some(cwd) = &spec.cwd {
        command.current_dir(cwd);
    }
    command.spawn()
}

/// Ends with the socket. The window is closed then, so that no writer waits for room that nobody gives back.
async fn read_reports(mut socket: OwnedReadHalf, window: Arc<Semaphore>, ended: watch::Sender<Option<Exit>>) {
    let mut frames = Frames::default();
    let mut bytes = [0; 256];
    let exit = loop {
        match frames.next_report() {
            Ok(Some(Report::Consumed(count))) => window.add_permits(usize::try_from(count).unwrap_or(0)),
            Ok(Some(Report::StdinClosed)) => window.close(),
            Ok(Some(Report::Ended(exit))) => break exit,
            Ok(None) => match socket.read(&mut bytes).await {
                Ok(0) | Err(_) => break Exit::GuardLost,
                Ok(count) => frames.push(bytes.get(..count).unwrap_or_default()),
            },
            Err(_) => break Exit::GuardLost,
        }
    };
    window.close();
    // Nobody waits any more: then nobody needs to know.
    let _ = ended.send(Some(exit));
}

async fn write_orders(mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Order>) {
    while let Some(order) = queue.recv().await {
        if socket.write_all(&order.encode()).await.is_err() {
            return;
        }
    }
}

async fn pass_on_renewals(mut must_end_by: watch::Receiver<MonotonicInstant>, orders: mpsc::Sender<Order>) {
    // What was sent between the guard's start and now must not be missed.
    must_end_by.mark_changed();
    while must_end_by.changed().await.is_ok() {
        let until = *must_end_by.borrow_and_update();
        if orders.send(Order::Deadline(until)).await.is_err() {
            return;
        }
    }
}
