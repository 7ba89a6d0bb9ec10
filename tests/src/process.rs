//! Looking for processes, to prove that they are gone.

use std::{
    fs,
    time::{Duration, Instant},
};

/// A process that lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line, spaces between the arguments.
    pub command: String,
}

/// Living processes whose environment or command line contains `marker`; zombies don't count, they have neither.
#[must_use]
pub fn having(marker: &str) -> Vec<Process> {
    let own = std::process::id().to_string();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let pid = name.parse().ok()?;
            if name == own {
                return None;
            }
            // A process that ends between the two reads is a process that is gone.
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let contains = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
            (contains(&command) || contains(&environment))
                .then(|| Process { pid, command: String::from_utf8_lossy(&command).replace('\0', " ") })
        })
        .collect()
}

/// What a task's program starts is found by the task's id, which all of it inherits.
#[must_use]
pub fn of_task(id: &str) -> Vec<Process> {
    having(&format!("ERRAND_TASK_ID={id}"))
}

/// Asserts that none of a task's processes lives `limit` after `since`.
///
/// # Panics
/// If one does.
pub async fn assert_gone(id: &str, since: Instant, limit: Duration) {
    loop {
        let alive = of_task(id);
        if alive.is_empty() {
            return;
        }
        assert!(since.elapsed() < limit, "still alive {:?} later: {alive:#?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
