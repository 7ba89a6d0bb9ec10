//! What becomes of processes when their worker is killed or stopped.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use errand_worker::guard::{Guarded, MonotonicInstant};
use libtest_mimic::Trial;
use rustix::process::Signal;
use tokio::sync::watch;

use crate::{
    process::{alive, gone, running, shell, signal, unique, until},
    trial,
};

/// First argument of this program when it plays a worker.
pub(crate) const FAKE_WORKER: &str = "fake-worker";

/// The lease that the fake worker renews.
const LEASE: Duration = Duration::from_millis(600);
const RENEWAL: Duration = Duration::from_millis(100);

const PROGRAM: &str = "trap '' TERM HUP INT; setsid sleep 1000 & (setsid sleep 1000 &) ; sleep 1000";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_killed_worker_leaves_nothing", a_killed_worker_leaves_nothing),
        trial("a_killed_guard_takes_its_program_along", a_killed_guard_takes_its_program_along),
        trial("a_stopped_worker_leaves_nothing_past_its_deadline", a_stopped_worker_leaves_nothing_past_its_deadline),
    ]
}

/// Runs [`PROGRAM`] under a guard and renews its deadline for ever, a line for each renewal.
pub(crate) fn be_a_worker(args: &[String]) {
    let [mark] = args else { panic!("a fake worker takes a mark") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut spec = shell(mark, PROGRAM);
        let (lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(LEASE));
        spec.must_end_by = must_end_by;
        let _started = Guarded::spawn(&spec).expect("spawn");
        let mut renewals = tokio::time::interval(RENEWAL);
        loop {
            renewals.tick().await;
            lease.send_replace(MonotonicInstant::now().plus(LEASE));
            if writeln!(std::io::stdout(), "renewed").is_err() {
                return; // the test has ended
            }
        }
    });
}

struct Worker {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Worker {
    async fn start(mark: &str) -> Self {
        let this = std::env::current_exe().expect("this program");
        let mut process =
            Command::new(this).args([FAKE_WORKER, mark]).stdout(Stdio::piped()).spawn().expect("a fake worker");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        running(mark, "sleep 1000", 3).await;
        Self { process, lines }
    }

    /// Lets it renew for longer than one lease.
    fn watch_it_renew(&mut self) {
        let times = LEASE.as_millis() / RENEWAL.as_millis() * 2;
        for _ in 0..times {
            let line = self.lines.next().expect("it goes on").expect("readable");
            assert_eq!(line, "renewed");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

async fn a_killed_worker_leaves_nothing() {
    let mark = unique();
    let mut worker = Worker::start(&mark).await;
    worker.watch_it_renew();
    assert!(!alive(&mark).is_empty(), "renewals keep it alive beyond the first lease");
    signal(worker.process.id(), Signal::KILL);
    gone(&mark).await;
}

async fn a_stopped_worker_leaves_nothing_past_its_deadline() {
    let mark = unique();
    let mut worker = Worker::start(&mark).await;
    worker.watch_it_renew();
    signal(worker.process.id(), Signal::STOP);
    gone(&mark).await;
    let state = std::fs::read_to_string(format!("/proc/{}/stat", worker.process.id())).expect("it is still there");
    assert!(state.contains(") T "), "the worker itself was stopped all the while: {state}");
}

async fn a_killed_guard_takes_its_program_along() {
    let mark = unique();
    let worker = Worker::start(&mark).await;
    // Or the worker would kill the program.
    signal(worker.process.id(), Signal::STOP);
    let with = |text: &str| alive(&mark).into_iter().find(|(_, line)| line.starts_with(text)).map(|(pid, _)| pid);
    let guard = with("errand guard ").expect("the guard lives");
    assert!(with("sh -c trap").is_some(), "the program lives");
    signal(guard.unsigned_abs(), Signal::KILL);
    until(|| with("sh -c trap").is_none(), || "the program outlived its guard".to_owned()).await;
    // Its children are the living worker's to kill; this one is not told to.
    for (pid, _) in alive(&mark) {
        signal(pid.unsigned_abs(), Signal::KILL);
    }
    gone(&mark).await;
}
