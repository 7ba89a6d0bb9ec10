//! Watchers: what each received is the log, event by event.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Breaches, Law};
use crate::chaos::history::{Event, History, Seen, Watched};

pub(super) fn check(history: &History, breaches: &mut Breaches) {
    let logs = Logs::of(history);
    for watched in &history.watched {
        if let Err(what) = compare(watched, logs.get(&watched.stream)) {
            breaches.add(Law::WatchersWrong, format!("{}: {what}", watched.stream));
        }
    }
}

/// The database's streams by their names.
struct Logs<'a>(BTreeMap<String, Vec<(i64, Uuid, &'a Event)>>);

impl<'a> Logs<'a> {
    fn of(history: &'a History) -> Self {
        let mut logs: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (id, job) in &history.jobs {
            for event in &job.events {
                logs.entry(format!("job:{id}")).or_default().push((event.seq, *id, event));
                if let (Some(session), Some(seq)) = (job.session, event.session_seq) {
                    logs.entry(format!("session:{session}")).or_default().push((seq, *id, event));
                }
            }
        }
        for log in logs.values_mut() {
            log.sort_by_key(|(seq, ..)| *seq);
        }
        Self(logs)
    }

    fn get(&self, stream: &str) -> &[(i64, Uuid, &'a Event)] {
        self.0.get(stream).map(Vec::as_slice).unwrap_or_default()
    }
}

fn compare(watched: &Watched, log: &[(i64, Uuid, &Event)]) -> Result<(), String> {
    let mut epoch: Option<&str> = None;
    for (place, seen) in watched.events.iter().enumerate() {
        let Some((seq, job, event)) = log.get(place) else {
            return Err(format!("received {seen:?}, which the log does not have"));
        };
        let Seen { epoch: now, seq: number, job: of, kind, ts } = seen;
        if (number, of, kind.as_str(), ts) != (seq, job, event.kind.as_str(), &event.ts) {
            return Err(format!("received {seen:?} where the log has {seq}, {} of {job} at {}", event.kind, event.ts));
        }
        if epoch.is_some_and(|epoch| epoch != now) {
            return Err(format!("the epoch changed to {now}"));
        }
        epoch = Some(now);
    }
    if watched.to_the_end && watched.events.len() < log.len() {
        return Err(format!("received {} of {} events", watched.events.len(), log.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::sample::assert_found, *};

    type Plant<'a> = &'a dyn Fn(&mut Vec<Seen>);

    #[test]
    fn what_was_missed_doubled_swapped_or_never_written_is_found() {
        for stream in [0, 1] {
            let events = |history: &mut History, change: Plant| change(&mut history.watched[stream].events);
            let plants: [Plant; 7] = [
                &|events| drop(events.remove(1)),
                &|events| drop(events.pop()),
                &|events| events.clear(),
                &|events| events.insert(1, events[1].clone()),
                &|events| events.swap(1, 2),
                &|events| events[2].ts += 1,
                &|events| events[2].epoch.push('x'),
            ];
            for plant in plants {
                assert_found(Law::WatchersWrong, |history| events(history, plant));
            }
            assert_found(Law::WatchersWrong, |history| {
                let mut more = history.watched[stream].events.last().expect("events").clone();
                more.seq += 1;
                history.watched[stream].events.push(more);
            });
        }
    }
}
