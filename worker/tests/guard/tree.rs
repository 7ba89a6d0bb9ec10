//! What a guard does with the processes below it.

use std::time::Duration;

use errand_worker::guard::{Exit, Guarded, MonotonicInstant, Started};
use libtest_mimic::Trial;
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    sync::watch,
};

use crate::{
    process::{SOON, alive, gone, running, shell, signal, unique},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("input_output_and_status_pass_through", input_output_and_status_pass_through),
        trial("a_signal_that_ended_the_program_is_told", a_signal_that_ended_the_program_is_told),
        trial("a_missing_program_is_told_apart_from_a_failing_one", a_missing_program_is_told_apart_from_a_failing_one),
        trial("a_program_that_ends_leaves_no_daemon", a_program_that_ends_leaves_no_daemon),
        trial("dropping_the_guard_kills_other_sessions_too", dropping_the_guard_kills_other_sessions_too),
        trial("children_that_are_started_again_and_again_are_killed", children_started_again_and_again_are_killed),
        trial("a_polite_stop_lets_the_program_end_itself", a_polite_stop_lets_the_program_end_itself),
        trial("a_program_that_ignores_sigterm_is_killed", a_program_that_ignores_sigterm_is_killed),
        trial("a_passed_deadline_kills_everything", a_passed_deadline_kills_everything),
        trial("signals_to_the_guard_disturb_nothing", signals_to_the_guard_disturb_nothing),
        trial("the_program_has_a_clean_signal_mask", the_program_has_a_clean_signal_mask),
        trial("a_killed_guard_leaves_nothing", a_killed_guard_leaves_nothing),
        trial("a_program_that_never_reads_can_be_stopped", a_program_that_never_reads_can_be_stopped),
        trial("a_program_that_closes_its_input_is_told", a_program_that_closes_its_input_is_told),
    ]
}

/// Starts three generations, in two further sessions, one of them a daemon whose parents are gone, all deaf to SIGTERM.
const FAMILY: &str = "trap '' TERM; setsid sleep 1001 & (setsid sh -c 'sleep 1002 & wait' &) ; sleep 1003 & wait";

async fn start_family(mark: &str) -> Started {
    start_family_until(mark, watch::channel(MonotonicInstant::now().plus(SOON * 6)).1).await
}

async fn start_family_until(mark: &str, must_end_by: watch::Receiver<MonotonicInstant>) -> Started {
    let mut spec = shell(mark, FAMILY);
    spec.must_end_by = must_end_by;
    let started = Guarded::spawn(&spec).expect("spawn");
    for child in ["sleep 1001", "sleep 1002", "sleep 1003"] {
        running(mark, child, 1).await;
    }
    started
}

async fn input_output_and_status_pass_through() {
    let mut started = Guarded::spawn(&shell(&unique(), "cat; echo oops >&2; exit 3")).expect("spawn");
    let input: Vec<u8> = (0..3_000_000_u32).map(|number| u8::try_from(number % 251).expect("small")).collect();
    let feed = async {
        started.stdin.write_all(&input).await.expect("cat reads all");
        started.stdin.close().await.expect("cat waits for the end");
    };
    let (mut output, mut errors) = (Vec::new(), String::new());
    let read_output = started.stdout.read_to_end(&mut output);
    let read_errors = started.stderr.read_to_string(&mut errors);
    let (_, read, _) = tokio::join!(feed, read_output, read_errors);
    read.expect("output");
    assert!(output == input, "the output is the input");
    assert_eq!(errors, "oops\n");
    assert_eq!(started.guarded.wait().await, Exit::Code(3));
}

async fn a_signal_that_ended_the_program_is_told() {
    let mut started = Guarded::spawn(&shell(&unique(), "kill -SEGV $$")).expect("spawn");
    assert_eq!(started.guarded.wait().await, Exit::Signal(11));
    let mut started = Guarded::spawn(&shell(&unique(), "exit 139")).expect("spawn");
    assert_eq!(started.guarded.wait().await, Exit::Code(139));
}

async fn a_missing_program_is_told_apart_from_a_failing_one() {
    let mut spec = shell(&unique(), "exit 127");
    let mut started = Guarded::spawn(&spec).expect("spawn");
    assert_eq!(started.guarded.wait().await, Exit::Code(127));
    spec.program = "no-such-program-anywhere".into();
    let mut started = Guarded::spawn(&spec).expect("spawn");
    assert_eq!(started.guarded.wait().await, Exit::NotStarted(2));
    spec.program = "/etc/passwd".into();
    let mut started = Guarded::spawn(&spec).expect("spawn");
    assert_eq!(started.guarded.wait().await, Exit::NotStarted(13));
}

async fn a_program_that_ends_leaves_no_daemon() {
    let mark = unique();
    let mut started =
        Guarded::spawn(&shell(&mark, "(setsid sh -c 'sleep 1000 & sleep 1000' &) ; read line")).expect("spawn");
    running(&mark, "sleep 1000", 2).await;
    started.stdin.write_all(b"go\n").await.expect("it reads");
    assert_eq!(started.guarded.wait().await, Exit::Code(0));
    assert_eq!(alive(&mark), [], "nothing lives once the end is told");
}

async fn dropping_the_guard_kills_other_sessions_too() {
    let mark = unique();
    let started = start_family(&mark).await;
    drop(started);
    gone(&mark).await;
}

async fn children_started_again_and_again_are_killed() {
    let mark = unique();
    let script = "for loop in 1 2 3 4; do (trap '' TERM; while :; do setsid sleep 1000; done) & done; wait";
    let mut started = Guarded::spawn(&shell(&mark, script)).expect("spawn");
    running(&mark, "sleep 1000", 4).await;
    assert_eq!(started.guarded.stop(Duration::from_millis(50)).await, Exit::Signal(15));
    assert_eq!(alive(&mark), []);
}

async fn a_polite_stop_lets_the_program_end_itself() {
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let mut started = Guarded::spawn(&shell(&unique(), script)).expect("spawn");
    let mut lines = BufReader::new(started.stdout).lines();
    assert_eq!(lines.next_line().await.expect("output").as_deref(), Some("ready"));
    assert_eq!(started.guarded.stop(Duration::from_secs(20)).await, Exit::Code(7));
}

async fn a_program_that_ignores_sigterm_is_killed() {
    let mark = unique();
    let mut started = start_family(&mark).await;
    assert_eq!(started.guarded.stop(Duration::from_millis(50)).await, Exit::Signal(9));
    assert_eq!(alive(&mark), []);
}

async fn a_passed_deadline_kills_everything() {
    let mark = unique();
    let (lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(SOON * 6));
    let mut started = start_family_until(&mark, must_end_by).await;
    lease.send_replace(MonotonicInstant::now().plus(Duration::from_millis(100)));
    assert_eq!(started.guarded.wait().await, Exit::Signal(9));
    assert_eq!(alive(&mark), []);
}

async fn signals_to_the_guard_disturb_nothing() {
    let mut started =
        Guarded::spawn(&shell(&unique(), "echo ready; read line; echo got $line; exit 5")).expect("spawn");
    let mut lines = BufReader::new(started.stdout).lines();
    assert_eq!(lines.next_line().await.expect("output").as_deref(), Some("ready"));
    let guard = started.guarded.guard_id().expect("the guard lives");
    for number in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1] {
        signal(guard, number);
    }
    started.stdin.write_all(b"this\n").await.expect("it reads");
    assert_eq!(lines.next_line().await.expect("output").as_deref(), Some("got this"));
    assert_eq!(started.guarded.wait().await, Exit::Code(5));
}

async fn the_program_has_a_clean_signal_mask() {
    let mut spec = shell(&unique(), "");
    spec.program = "grep".into();
    spec.args = ["-E", "^Sig(Blk|Ign):", "/proc/self/status"].map(Into::into).into();
    let mut started = Guarded::spawn(&spec).expect("spawn");
    let mut output = String::new();
    started.stdout.read_to_string(&mut output).await.expect("output");
    let masks = output.split_whitespace().filter(|word| !word.starts_with("Sig"));
    // The two signals beyond 31 are the C library's own.
    let classic = masks.map(|mask| u64::from_str_radix(mask, 16).expect("a mask") & 0x7fff_ffff);
    assert_eq!(classic.collect::<Vec<_>>(), [0, ignored_from_the_start()], "{output}");
    assert_eq!(started.guarded.wait().await, Exit::Code(0));
}

/// The signals that whoever started these tests had ignored (`nohup` does, a shell's `&` does): they pass to every program, as
/// they should. Rust itself ignores SIGPIPE, which must not.
fn ignored_from_the_start() -> u64 {
    const SIGPIPE: u64 = 1 << 12;
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    u64::from_str_radix(mask.trim(), 16).expect("a mask") & 0x7fff_ffff & !SIGPIPE
}

async fn a_killed_guard_leaves_nothing() {
    let mark = unique();
    let mut started = start_family(&mark).await;
    signal(started.guarded.guard_id().expect("the guard lives"), Signal::KILL);
    assert_eq!(started.guarded.wait().await, Exit::GuardLost);
    assert_eq!(alive(&mark), []);
}

async fn a_program_that_never_reads_can_be_stopped() {
    let mark = unique();
    let mut started = Guarded::spawn(&shell(&mark, "exec sleep 1000")).expect("spawn");
    running(&mark, "sleep 1000", 1).await;
    let input = vec![b'x'; 4_000_000];
    let (written, exit) = tokio::join!(started.stdin.write_all(&input), started.guarded.stop(Duration::ZERO));
    written.expect_err("nobody reads");
    assert_eq!(exit, Exit::Signal(9));
    assert_eq!(alive(&mark), []);
}

async fn a_program_that_closes_its_input_is_told() {
    let mut started = Guarded::spawn(&shell(&unique(), "exec <&-; echo closed; sleep 1000")).expect("spawn");
    let mut lines = BufReader::new(started.stdout).lines();
    assert_eq!(lines.next_line().await.expect("output").as_deref(), Some("closed"));
    let error = started.stdin.write_all(&vec![b'x'; 4_000_000]).await.expect_err("nobody reads");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    started.guarded.stop(Duration::ZERO).await;
}
