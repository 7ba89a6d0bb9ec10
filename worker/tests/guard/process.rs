//! Starting marked programs and seeing which of them live.

use std::{
    ffi::OsString,
    fs,
    time::{Duration, Instant},
};

use errand_worker::guard::{self, MonotonicInstant, Spec};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

/// Found in the environment of everything one test starts.
pub(crate) const MARK: &str = "ERRAND_TASK_ID";

/// How long what must happen may take.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A mark that no other test has.
pub(crate) fn unique() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A shell script under a guard, marked.
pub(crate) fn shell(mark: &str, script: &str) -> Spec {
    let mark: (OsString, OsString) = (MARK.into(), mark.into());
    Spec {
        guard_program: guard::default_program(),
        program: "sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("PATH".into(), std::env::var_os("PATH").unwrap_or_default()), mark.clone()],
        mark: vec![mark],
        cwd: None,
        must_end_by: watch::channel(MonotonicInstant::now().plus(Duration::from_secs(60))).1,
    }
}

/// Process numbers, with their command lines, of everything that lives and carries the mark.
pub(crate) fn alive(mark: &str) -> Vec<(i32, String)> {
    let wanted = format!("{MARK}={mark}");
    let carries = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    let numbers = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    let line = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    pids.filter(carries).map(|pid| (pid, line(pid))).collect()
}

/// Waits until nothing that carries the mark lives.
pub(crate) async fn gone(mark: &str) {
    until(|| alive(mark).is_empty(), || format!("still alive: {:?}", alive(mark))).await;
}

/// Waits until so many processes whose command line begins with `text` carry the mark.
pub(crate) async fn running(mark: &str, text: &str, count: usize) {
    let matching = || alive(mark).iter().filter(|(_, line)| line.starts_with(text)).count();
    until(|| matching() == count, || format!("{count} wanted of {text:?}: {:?}", alive(mark))).await;
}

/// Looks until `holds`, within [`SOON`].
pub(crate) async fn until(holds: impl Fn() -> bool, complaint: impl Fn() -> String) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < SOON, "{}", complaint());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("the process lives");
}
