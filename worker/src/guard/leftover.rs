//! What is left of a program whose guard was killed: found by the environment that all of it inherited.

use std::{collections::HashSet, time::Duration};

use errand_common::domain::JobId;

use super::{TASK_ID, descendants};

/// How often, and how far apart, it is looked for until none is found.
const ROUNDS: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Kills every process whose environment is `marked`, until none is left.
pub(super) async fn kill(marked: impl Fn(&HashSet<&[u8]>) -> bool + Clone + Send + 'static) {
    for _ in 0..ROUNDS {
        let marked = marked.clone();
        match tokio::task::spawn_blocking(move || descendants::kill_by_environment(marked)).await {
            Ok(0) => return,
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(error) => return tracing::error!(%error, "could not look for what a killed guard's program left"),
        }
    }
    tracing::error!("processes of a killed guard's program can't be killed");
}

/// Kills what runs of these jobs left on this machine. Only for who knows that none of them runs: worker and guard were
/// killed at the same instant, and nobody was left to see to it.
pub(crate) async fn kill_of_jobs(jobs: impl IntoIterator<Item = JobId>) {
    let marks: HashSet<Vec<u8>> = jobs.into_iter().map(|job| format!("{TASK_ID}={job}").into_bytes()).collect();
    if !marks.is_empty() {
        kill(move |environment| marks.iter().any(|mark| environment.contains(mark.as_slice()))).await;
    }
}
