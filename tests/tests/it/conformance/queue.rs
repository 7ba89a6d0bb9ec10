//! The promises of the queue, run against each adapter that claims to keep them.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use errand_common::{
    domain::{JobId, Priority, Timestamp},
    port::{Popped, Queue, Ready},
};

use super::place::{Place, on_each_place};

const DEFAULT: &str = "default";

fn entry(tenant: &str, priority: u8, due_at: Option<i64>) -> Ready {
    Ready {
        id: JobId::new(),
        tenant: tenant.to_owned(),
        queue: DEFAULT.to_owned(),
        priority: Priority::try_from(priority).unwrap(),
        due_at: due_at.map(Timestamp::from_micros),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

async fn pop(queue: &dyn Queue, limit: usize, now: i64) -> Popped {
    queue.pop(&names(&[DEFAULT]), limit, Timestamp::from_micros(now)).await.unwrap()
}

fn ids(entries: &[Ready]) -> Vec<JobId> {
    entries.iter().map(|entry| entry.id).collect()
}

on_each_place! {
    async fn ids_of_one_tenant_come_out_in_the_order_they_came(place: Place) {
        let queue = place.queue();
        let entries: Vec<_> = (0..600).map(|_| entry("t", 2, None)).collect();
        queue.push(&entries).await.unwrap();
        let mut ready = pop(&*queue, 299, 0).await.ready;
        assert_eq!(ready.len(), 299);
        ready.extend(pop(&*queue, 1_000, 0).await.ready);
        assert_eq!(ready, ids(&entries));
        assert_eq!(pop(&*queue, 10, 0).await.ready, []);
    }

    async fn tenants_take_turns_within_a_priority(place: Place) {
        let queue = place.queue();
        let flood: Vec<_> = (0..1_000).map(|_| entry("loud", 2, None)).collect();
        let quiet = [entry("quiet", 2, None), entry("quiet", 2, None)];
        queue.push(&flood).await.unwrap();
        queue.push(&quiet).await.unwrap();
        let ready = pop(&*queue, 4, 0).await.ready;
        assert_eq!(ready, [flood[0].id, quiet[0].id, flood[1].id, quiet[1].id]);
    }

    async fn the_urgent_go_first_and_the_low_are_not_starved(place: Place) {
        let queue = place.queue();
        let urgent: Vec<_> = (0..100).map(|_| entry("t", 0, None)).collect();
        let low = [entry("t", 3, None), entry("t", 3, None)];
        queue.push(&[low.to_vec(), urgent.clone()].concat()).await.unwrap();
        let ready = pop(&*queue, 16, 0).await.ready;
        assert_eq!(ready[..7], ids(&urgent[..7]));
        assert_eq!(ready[7], low[0].id);
        assert_eq!(ready[8..15], ids(&urgent[7..14]));
        assert_eq!(ready[15], low[1].id);
    }

    async fn a_flooded_queue_does_not_starve_another(place: Place) {
        let queue = place.queue();
        let flood: Vec<_> = (0..100).map(|_| entry("t", 2, None)).collect();
        let other = Ready { queue: "other".to_owned(), ..entry("t", 2, None) };
        queue.push(&[flood, vec![other.clone()]].concat()).await.unwrap();
        let mut ready = Vec::new();
        for _ in 0..2 {
            ready.extend(queue.pop(&names(&[DEFAULT, "other"]), 4, Timestamp::default()).await.unwrap().ready);
        }
        assert!(ready.contains(&other.id));
    }

    async fn an_id_waits_once_and_a_delayed_one_until_its_time(place: Place) {
        let queue = place.queue();
        let (now, later) = (entry("t", 2, None), entry("t", 2, Some(1_763_700_000_000_001)));
        queue.push(&[now.clone(), now.clone(), later.clone()]).await.unwrap();
        let first = pop(&*queue, 10, 1_763_700_000_000_000).await;
        assert_eq!((first.ready, first.due), (vec![now.id], vec![]));
        assert_eq!(first.next_due, later.due_at);
        let second = pop(&*queue, 10, 1_763_700_000_000_001).await;
        assert_eq!((second.ready, second.due, second.next_due), (vec![], vec![later.id], None));
    }

    async fn a_delayed_id_that_is_pushed_again_has_its_last_time_only(place: Place) {
        let queue = place.queue();
        let later = entry("t", 2, Some(5_000));
        let sooner = Ready { due_at: Some(Timestamp::from_micros(3_000)), ..later.clone() };
        queue.push(&[later.clone(), sooner]).await.unwrap();
        assert_eq!(pop(&*queue, 10, 3_000).await.due, [later.id]);
        let now = Ready { due_at: None, ..later.clone() };
        queue.push(std::slice::from_ref(&later)).await.unwrap();
        queue.push(&[now]).await.unwrap();
        let popped = pop(&*queue, 10, 9_000).await;
        assert_eq!((popped.ready, popped.due), (vec![later.id], vec![]));
    }

    async fn no_more_than_the_limit_is_handed_out(place: Place) {
        let queue = place.queue();
        let due: Vec<_> = (0..700).map(|number| entry("t", 1, Some(number))).collect();
        let ready: Vec<_> = (0..700).map(|number| entry(["a", "b", "c"][number % 3], 1, None)).collect();
        queue.push(&due).await.unwrap();
        queue.push(&ready).await.unwrap();
        for (limit, expected) in [(0, 0), (300, 300), (300, 300), (300, 100), (300, 0)] {
            let popped = pop(&*queue, limit, 1_000).await;
            assert_eq!((popped.ready.len(), popped.due.len()), (expected, expected));
        }
    }

    async fn a_queue_is_incomplete_until_it_was_refilled_without_a_loss_in_between(place: Place) {
        let queue = place.queue();
        let default = names(&[DEFAULT]);
        assert_eq!(pop(&*queue, 1, 0).await.incomplete, default);
        let first = queue.begin_refill(DEFAULT).await.unwrap();
        queue.declare_incomplete(&default).await.unwrap();
        assert!(!queue.end_refill(&first).await.unwrap(), "it lost its content since");
        let second = queue.begin_refill(DEFAULT).await.unwrap();
        assert_eq!(queue.incomplete(&names(&[DEFAULT, "other"])).await.unwrap(), names(&[DEFAULT, "other"]));
        assert!(queue.end_refill(&second).await.unwrap());
        assert!(!queue.end_refill(&second).await.unwrap(), "that one is over");
        assert_eq!(pop(&*queue, 1, 0).await.incomplete, names(&[]));
        assert_eq!(queue.incomplete(&names(&[DEFAULT, "other"])).await.unwrap(), names(&["other"]));
        queue.declare_incomplete(&default).await.unwrap();
        assert_eq!(queue.incomplete(&default).await.unwrap(), default);
    }

    async fn twenty_thousand_ids_come_out_once_each_whoever_takes_them(place: Place) {
        let queue = place.queue();
        let entries: Vec<_> = (0..20_000)
            .map(|number: usize| entry(&format!("t{}", number % 7), u8::try_from(number % 4).unwrap(), None))
            .collect();
        let mut tasks = tokio::task::JoinSet::new();
        for part in entries.chunks(5_000) {
            let (queue, part) = (queue.clone(), part.to_vec());
            tasks.spawn(async move {
                queue.push(&part).await.unwrap();
                Vec::new()
            });
        }
        let until = Instant::now() + Duration::from_secs(60);
        let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(entries.len()));
        for _ in 0..8 {
            let (queue, left) = (queue.clone(), left.clone());
            tasks.spawn(async move {
                let mut mine = Vec::new();
                while left.load(std::sync::atomic::Ordering::Relaxed) > 0 && Instant::now() < until {
                    let ready = pop(&*queue, 100, 0).await.ready;
                    left.fetch_sub(ready.len(), std::sync::atomic::Ordering::Relaxed);
                    mine.extend(ready);
                }
                mine
            });
        }
        let taken: Vec<_> = tasks.join_all().await.concat();
        assert_eq!(taken.len(), entries.len());
        assert_eq!(taken.into_iter().collect::<HashSet<_>>(), ids(&entries).into_iter().collect());
    }

    async fn a_push_wakes_who_waits(place: Place) {
        let queue = place.queue();
        let default = names(&[DEFAULT]);
        // The first wait may return because it has only begun to listen.
        queue.wait(&default, Duration::from_millis(500)).await;
        for _ in 0..20 {
            assert_eq!(pop(&*queue, 10, 0).await.ready, []);
            let waiting = {
                let (queue, default) = (queue.clone(), default.clone());
                tokio::spawn(async move {
                    let began = Instant::now();
                    queue.wait(&default, Duration::from_secs(60)).await;
                    began.elapsed()
                })
            };
            tokio::time::sleep(Duration::from_millis(20)).await;
            let pushed = entry("t", 2, None);
            queue.push(std::slice::from_ref(&pushed)).await.unwrap();
            assert!(waiting.await.unwrap() < Duration::from_secs(10));
            assert_eq!(pop(&*queue, 10, 0).await.ready, [pushed.id]);
        }
    }

    async fn a_push_between_the_last_pop_and_the_wait_wakes_it(place: Place) {
        let queue = place.queue();
        let default = names(&[DEFAULT]);
        for _ in 0..20 {
            assert_eq!(pop(&*queue, 10, 0).await.ready, []);
            let pushed = entry("t", 2, None);
            queue.push(std::slice::from_ref(&pushed)).await.unwrap();
            let began = Instant::now();
            queue.wait(&default, Duration::from_secs(60)).await;
            assert!(began.elapsed() < Duration::from_secs(10));
            assert_eq!(pop(&*queue, 10, 0).await.ready, [pushed.id]);
        }
    }

    async fn an_earlier_delayed_id_wakes_who_waits_for_a_later_one(place: Place) {
        let queue = place.queue();
        let default = names(&[DEFAULT]);
        queue.push(&[entry("t", 2, Some(9_000))]).await.unwrap();
        queue.wait(&default, Duration::from_millis(500)).await;
        assert_eq!(pop(&*queue, 10, 0).await.next_due, Some(Timestamp::from_micros(9_000)));
        queue.push(&[entry("t", 2, Some(5_000))]).await.unwrap();
        let began = Instant::now();
        queue.wait(&default, Duration::from_secs(60)).await;
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(pop(&*queue, 10, 0).await.next_due, Some(Timestamp::from_micros(5_000)));
    }
}
