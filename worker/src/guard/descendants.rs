//! Finding and killing everything that descends from a process.

use std::{
    collections::{HashMap, HashSet},
    fs,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal, wait},
};

/// A process as `/proc` shows it. The start time tells it from a later one with the same number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Process {
    pid: i32,
    parent: i32,
    started: u64,
}

/// What is left after reaping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Children {
    /// At least one child lives.
    Some,
    /// None: and, for a child subreaper, no descendant either.
    None,
}

/// Reaps every child that has ended.
pub(super) fn reap(mut reaped: impl FnMut(Pid, WaitStatus)) -> Children {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => reaped(pid, status),
            Ok(None) => return Children::Some,
            Err(Errno::INTR) => {}
            Err(_) => return Children::None,
        }
    }
}

/// Signals every descendant of `ancestor` found in one look at `/proc`. New ones may be born meanwhile: repeat until
/// [`reap`] says that there are none.
pub(super) fn signal_descendants(ancestor: Pid, signal: Signal) {
    for process in descendants(ancestor.as_raw_pid(), &snapshot()) {
        send(process, signal);
    }
}

/// Kills every process of this machine whose environment, as it was started, is `marked`: what is left of a program whose
/// guard was killed. Tells how many it found.
pub(super) fn kill_by_environment(marked: impl Fn(&HashSet<&[u8]>) -> bool) -> usize {
    let own = std::process::id();
    let is_marked = |process: &Process| {
        let Ok(environment) = fs::read(format!("/proc/{}/environ", process.pid)) else { return false };
        marked(&environment.split(|byte| *byte == 0).collect())
    };
    let others = |process: &Process| u32::try_from(process.pid) != Ok(own);
    let found: Vec<Process> = snapshot().into_iter().filter(|process| others(process) && is_marked(process)).collect();
    for process in &found {
        send(*process, Signal::KILL);
    }
    found.len()
}

/// Sends through a process descriptor, after a second look: the number may have passed to a stranger since the first.
fn send(process: Process, signal: Signal) {
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if read_process(process.pid).is_some_and(|now| now.started == process.started) {
        // A process that ended meanwhile, or that we may not signal, is met again in the next round if it matters.
        let _ = pidfd_send_signal(&descriptor, signal);
    }
}

fn descendants(ancestor: i32, processes: &[Process]) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(*process);
    }
    let mut found = children.remove(&ancestor).unwrap_or_default();
    let mut looked_at = 0;
    while let Some(next) = found.get(looked_at).map(|process| process.pid) {
        found.extend(children.remove(&next).unwrap_or_default());
        looked_at += 1;
    }
    found
}

fn snapshot() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(read_process).collect()
}

fn read_process(pid: i32) -> Option<Process> {
    parse_stat(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything, parentheses included: fields are counted from the last one.
fn parse_stat(pid: i32, stat: &[u8]) -> Option<Process> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Process { pid, parent, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse() {
        let stat = b"42 (a) b) (c) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(parse_stat(42, stat), Some(Process { pid: 42, parent: 7, started: 987_654 }));
        assert_eq!(parse_stat(42, b"42 (x"), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_strangers_are_not() {
        let process = |pid, parent| Process { pid, parent, started: 0 };
        let all = [process(5, 4), process(4, 3), process(3, 2), process(9, 1), process(2, 1), process(6, 3)];
        let mut found: Vec<i32> = descendants(3, &all).iter().map(|process| process.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [4, 5, 6]);
    }

    #[test]
    fn this_process_is_seen_with_its_parent() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let parent = rustix::process::getppid().expect("a parent").as_raw_pid();
        assert!(snapshot().iter().any(|process| process.pid == own && process.parent == parent));
    }
}
