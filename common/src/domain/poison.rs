//! Jobs that take their worker along when they run.
//!
//! Whether a job killed its worker or only ran beside the one that did can't be seen from a crash. So a job with a few
//! crashes is a suspect, which runs alone: the innocent complete, and the poisonous one is found out.

use super::{Timestamp, WorkerId};

/// A job with so many crashes is claimed alone on its worker.
pub const SUSPECT_CRASHES: i64 = 2;
/// A job with so many crashes is given up, whatever its retry policy allows.
pub const QUARANTINE_CRASHES: i64 = 3;

/// One worker that was lost while it ran the job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Who.
    pub worker_id: Option<WorkerId>,
    /// Where; unknown if its registration is long gone.
    pub host: Option<String>,
    /// When the loss was found.
    pub at: Timestamp,
}

/// Why a job is quarantined, for people.
#[must_use]
pub fn evidence(losses: &[Loss]) -> String {
    let lost: Vec<_> = losses
        .iter()
        .map(|loss| {
            let worker = loss.worker_id.map_or_else(|| "an unknown worker".to_owned(), |id| format!("worker {id}"));
            let host = loss.host.as_deref().unwrap_or("an unknown host");
            format!("{worker} on {host} at {}", loss.at)
        })
        .collect();
    format!("Every worker that ran it died, at last one that ran nothing else: {}", lost.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_evidence_names_every_worker_with_its_host_and_time() {
        let worker = WorkerId::new();
        let at = Timestamp::from_micros(1_700_000_000_000_000);
        let known = Loss { worker_id: Some(worker), host: Some("node-7".into()), at };
        let text = evidence(&[known, Loss { worker_id: None, host: None, at }]);
        assert!(text.contains(&format!("worker {worker} on node-7 at {at}")), "{text}");
        assert!(text.contains("an unknown worker on an unknown host"), "{text}");
    }
}
