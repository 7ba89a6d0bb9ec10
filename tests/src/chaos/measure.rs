//! What is counted while faults happen: refusals by the processes' own metrics, and how soon killed workers' jobs ran again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use super::history::History;
use crate::fleet::{Kill, Member};

/// Counters that prove that the faults bit.
pub const COUNTERS: &[&str] = &["errand_stale_writes_rejected_total", "errand_leases_lost_total"];

/// Time between two looks: what a killed process counted since the last one is not known.
const PERIOD: Duration = Duration::from_millis(500);

/// The last value of each counter, by process, life and name.
#[derive(Default, Debug)]
pub struct Counts(Mutex<BTreeMap<(String, u32, &'static str), f64>>);

impl Counts {
    /// Reads all counters of all processes, again and again.
    pub async fn follow(self: Arc<Self>, members: Vec<Arc<Member>>) {
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        loop {
            self.read(&members, &http).await;
            sleep(PERIOD).await;
        }
    }

    /// Reads all counters once.
    pub async fn read(&self, members: &[Arc<Member>], http: &reqwest::Client) {
        futures::future::join_all(members.iter().map(|member| async {
            let life = member.life();
            let Some(text) = member.metrics(http).await else { return };
            let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for name in COUNTERS {
                counts.insert((member.name().to_owned(), life, name), sum(&text, name));
            }
        }))
        .await;
    }

    /// What all processes in all their lives have counted.
    #[must_use]
    pub fn total(&self, name: &str) -> f64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().filter(|((_, _, counted), _)| *counted == name).map(|(_, value)| value).sum()
    }
}

/// All series of a metric, added up.
fn sum(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = rest
            .strip_prefix(' ')
            .or_else(|| rest.starts_with('{').then(|| rest.rsplit_once(' '))?.map(|(_, value)| value))?;
        value.parse::<f64>().ok()
    });
    values.sum()
}

/// How soon each job of a killed worker was started again, in order. Jobs that were not (cancelled meanwhile, or out of
/// attempts) are left out.
#[must_use]
pub fn recoveries(history: &History, kills: &[Kill]) -> Vec<Duration> {
    let mut killed_at = BTreeMap::new();
    for kill in kills {
        if let Some(worker) = kill.worker {
            killed_at.insert(worker.to_string(), kill.at);
        }
    }
    let mut recoveries = Vec::new();
    for job in history.jobs.values() {
        for (place, event) in job.events.iter().enumerate().filter(|(_, event)| event.kind == "started") {
            let Some(killed) = event.data["worker_id"].as_str().and_then(|worker| killed_at.get(worker)) else {
                continue;
            };
            // What this run wrote stands before whatever ended it.
            let mut later =
                job.events[place + 1..].iter().skip_while(|later| later.claim == event.claim && later.kind == "text");
            // A run that had ended before the kill was ended by something else.
            let cut_off = later.next().filter(|end| end.ts > *killed).is_some_and(|end| {
                end.kind == "retrying" && end.data["class"] == "crash"
                    || end.kind == "queued" && end.data["reason"] == "lease_lost"
            });
            if let Some(again) = later.find(|later| later.kind == "started").filter(|_| cut_off) {
                recoveries.push(Duration::from_micros(u64::try_from(again.ts - killed).unwrap_or_default()));
            }
        }
    }
    recoveries.sort_unstable();
    recoveries
}

/// The value that a share of the sorted values does not exceed.
#[must_use]
pub fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::chaos::history::{Event, Job};

    #[test]
    fn series_of_one_name_are_added_and_those_of_a_longer_name_are_not() {
        let text = "# HELP a_total x\na_total 3\na_total{kind=\"x y\"} 4\na_total_more 5\n";
        assert!((sum(text, "a_total") - 7.0).abs() < f64::EPSILON);
    }

    #[test]
    fn recovery_counts_from_the_kill_to_the_next_start() {
        let worker = Uuid::new_v4();
        let event = |seq, ts, claim, kind: &str, data| Event {
            seq,
            session_seq: None,
            ts,
            attempt: 1,
            claim,
            kind: kind.to_owned(),
            data,
        };
        let events = vec![
            event(1, 10, 0, "queued", json!({})),
            event(2, 20, 1, "started", json!({"worker_id": worker})),
            event(3, 30, 1, "text", json!({"content": "x"})),
            event(4, 500, 1, "retrying", json!({"class": "crash"})),
            event(5, 540, 2, "text_retracted", json!({"from_seq": 3})),
            event(6, 540, 2, "started", json!({"worker_id": Uuid::new_v4()})),
        ];
        let job = Job { submission: None, state: String::new(), tail_seq: 6, failure: None, session: None, events };
        let history = History { jobs: [(Uuid::new_v4(), job)].into(), ..History::default() };
        let kills = [Kill { worker: Some(worker), at: 40 }];
        assert_eq!(recoveries(&history, &kills), [Duration::from_micros(500)]);
        assert_eq!(recoveries(&history, &[Kill { worker: Some(Uuid::new_v4()), at: 40 }]), []);
        assert_eq!(recoveries(&history, &[Kill { worker: Some(worker), at: 600 }]), [], "it had ended before");
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 50), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&values, 99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&values, 100), Some(Duration::from_millis(200)));
        assert_eq!(percentile(&[], 99), None);
    }
}
