//! What runs spent.

use std::{sync::Arc, time::Duration};

use errand_common::{
    domain::{
        FailureClass, JobId, OnBusy, SessionId, Stream, Timestamp, Usage, UsageRecord, UsageReport, WorkerId,
        event::EventType,
    },
    port::store::{
        CancelRequest, Claimed, Created, Finish, NewJob, Outcome, Park, Parked, Release, RescueScope, Spent,
        UsageFilter, UsageGroup, UsageSum,
    },
};
use serde_json::json;

use super::{Fixture, LEASE, TENANT, approval, failure, now, on_both, task};

fn usage(input: u64, output: u64, cost: Option<u64>) -> Usage {
    Usage {
        input_tokens: input,
        output_tokens: output,
        cache_read_tokens: 1,
        cache_write_tokens: 2,
        cost_nano_usd: cost,
        cost_basis: cost.map(|_| "engine".to_owned()),
        model: Some("qwen3".to_owned()),
    }
}

fn report(input: u64, output: u64, cost: Option<u64>) -> UsageReport {
    UsageReport { usage: usage(input, output, cost), incomplete: false }
}

fn metered(session: Option<SessionId>) -> NewJob {
    let mut job = task(session, "hi", OnBusy::Enqueue);
    job.task.as_mut().unwrap().metered = true;
    job
}

fn completed() -> Outcome {
    Outcome::Completed { result: json!({"summary": "x"}), message: None }
}

fn cancel(id: JobId) -> CancelRequest {
    CancelRequest {
        tenant: TENANT.to_owned(),
        id,
        code: "USER_CANCEL".to_owned(),
        message: "Task cancelled by user".to_owned(),
        now: now(),
    }
}

impl Fixture {
    async fn run_metered(&self) -> (Created, Claimed) {
        let created = self.submit(metered(None)).await.unwrap();
        let run = self.claim_as(WorkerId::new(), created.id, LEASE).await;
        (created, run)
    }

    async fn spend(&self, run: &Claimed, outcome: Outcome, report: UsageReport, now: Timestamp) -> bool {
        let entry = Finish { usage: Some(report), ..Finish::new(run.fence, outcome) };
        self.store.finish(vec![entry], now).await.unwrap().0.remove(0).is_ok()
    }

    async fn usage_of(&self, job: JobId) -> Vec<UsageRecord> {
        self.store.usage_of(TENANT, job).await.unwrap()
    }

    async fn sums(&self, filter: UsageFilter, groups: &[UsageGroup]) -> Vec<UsageSum> {
        let filter = UsageFilter { tenant: TENANT.to_owned(), ..filter };
        self.store.usage_sums(&filter, groups, 100).await.unwrap()
    }
}

on_both! {
    async fn a_run_leaves_one_record_and_an_event_before_its_end(fixture: Fixture) {
        let (created, run) = fixture.run_metered().await;
        assert!(fixture.spend(&run, completed(), report(10, 5, Some(7_000_000)), now()).await);
        assert!(!fixture.spend(&run, completed(), report(10, 5, Some(7_000_000)), now()).await, "once");
        let records = fixture.usage_of(created.id).await;
        assert_eq!(records.len(), 1);
        let record = &records[0];
        assert_eq!((&record.usage, record.unknown), (&usage(10, 5, Some(7_000_000)), false));
        assert_eq!((record.engine.as_str(), record.attempt, record.claim), ("echo", 1, 1));
        assert_eq!((record.session_id, record.tenant.as_str()), (created.session_id, TENANT));
        use EventType::{Completed, Queued, Started};
        assert_eq!(fixture.events(Stream::Job(created.id)).await, [Queued, Started, EventType::Usage, Completed]);
        let events = fixture.store.events(Stream::Job(created.id), 2, 1).await.unwrap();
        assert_eq!(events[0].data, json!({
            "inputTokens": 10, "outputTokens": 5, "cacheReadTokens": 1, "cacheWriteTokens": 2, "totalTokens": 15,
            "costUsd": 0.007, "costBasis": "engine", "model": "qwen3", "engineType": "echo", "unknown": false,
        }));
        assert!(fixture.store.usage_of("other", created.id).await.unwrap().is_empty());
    }

    async fn who_asked_nobody_leaves_no_record(fixture: Fixture) {
        let (created, run) = fixture.run_metered().await;
        assert!(fixture.spend(&run, completed(), UsageReport::default(), now()).await);
        assert!(fixture.usage_of(created.id).await.is_empty());
        assert!(!fixture.events(Stream::Job(created.id)).await.contains(&EventType::Usage));
    }

    async fn each_claim_counts_once_over_retries(fixture: Fixture) {
        let (created, run) = fixture.run_metered().await;
        let retry = Outcome::Retry { failure: failure(FailureClass::Transient), run_at: now() };
        assert!(fixture.spend(&run, retry, report(1, 1, Some(1)), now()).await);
        let _ = fixture.store.promote(&[created.id], now()).await.unwrap();
        let again = fixture.claim(created.id, LEASE).await;
        assert!(!fixture.spend(&run, completed(), report(100, 100, Some(100)), now()).await, "stale");
        assert!(fixture.spend(&again, completed(), report(2, 2, Some(2)), now()).await);
        let records = fixture.usage_of(created.id).await;
        let claims: Vec<_> = records.iter().map(|record| (record.claim, record.attempt, record.usage.input_tokens)).collect();
        assert_eq!(claims, [(1, 1, 1), (2, 2, 2)]);
    }

    async fn of_many_finishes_of_one_run_one_counts(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let (created, run) = fixture.run_metered().await;
        let run = Arc::new(run);
        let racers = (0..8).map(|index| {
            let (fixture, run) = (fixture.clone(), run.clone());
            tokio::spawn(async move { fixture.spend(&run, completed(), report(index + 1, 0, None), now()).await })
        });
        let accepted = futures::future::join_all(racers).await.into_iter().filter(|done| *done.as_ref().unwrap()).count();
        assert_eq!((accepted, fixture.usage_of(created.id).await.len()), (1, 1));
    }

    async fn one_batch_may_hold_two_ends_of_one_run(fixture: Fixture) {
        let (created, run) = fixture.run_metered().await;
        let entry = || Finish { usage: Some(report(1, 1, None)), ..Finish::new(run.fence, completed()) };
        let (results, _) = fixture.store.finish(vec![entry(), entry()], now()).await.unwrap();
        assert_eq!((results[0].is_ok(), results[1].is_ok()), (true, false));
        assert_eq!(fixture.usage_of(created.id).await.len(), 1);
        let events = fixture.events(Stream::Job(created.id)).await;
        assert_eq!(events.iter().filter(|kind| **kind == EventType::Usage).count(), 1);
    }

    async fn a_parked_run_and_the_one_after_it_each_leave_theirs(fixture: Fixture) {
        let (created, run) = fixture.run_metered().await;
        fixture.ask(run.fence, &[approval::call("Bash", "ls")]).await;
        let park = Park { usage: Some(report(3, 1, None)), ..approval::park(run.fence) };
        assert_eq!(fixture.store.park(park, now()).await.unwrap().0, Parked::Done);
        let approve = errand_common::port::store::Ruling::Approve(errand_common::domain::ApprovalScope::Once);
        let _ = fixture.rule(created.id, None, approve).await;
        let run = fixture.claim(created.id, LEASE).await;
        assert!(fixture.spend(&run, completed(), report(4, 1, None), now()).await);
        let tokens: Vec<_> = fixture.usage_of(created.id).await.iter().map(|record| record.usage.input_tokens).collect();
        assert_eq!(tokens, [3, 4]);
    }

    async fn a_cancelled_run_leaves_its_record_with_its_release_once(fixture: Fixture) {
        let (created, run) = fixture.run_metered().await;
        let _ = fixture.store.cancel(cancel(created.id)).await.unwrap().unwrap();
        assert!(!fixture.spend(&run, completed(), report(1, 1, None), now()).await);
        assert!(fixture.usage_of(created.id).await.is_empty());
        let release = || Release { usage: Some(UsageReport { incomplete: true, ..report(1, 1, None) }), ..Release::from(run.fence) };
        let (released, consequences) = fixture.store.release(release(), now()).await.unwrap();
        assert!(released.is_ok());
        assert_eq!(consequences.events[0].data["unknown"], json!(true));
        assert!(fixture.store.release(release(), now()).await.unwrap().0.is_err());
        let records = fixture.usage_of(created.id).await;
        assert_eq!((records.len(), records[0].unknown, records[0].usage.input_tokens), (1, true, 1));
        assert_eq!(fixture.events(Stream::Job(created.id)).await.last(), Some(&EventType::Usage));
    }

    async fn a_run_that_died_leaves_a_record_that_says_so(fixture: Fixture) {
        let (crashed, late) = fixture.run_metered().await;
        let (cancelled, _) = fixture.run_metered().await;
        let _ = fixture.store.cancel(cancel(cancelled.id)).await.unwrap().unwrap();
        let (waiting, asking) = fixture.run_metered().await;
        fixture.ask(asking.fence, &[approval::call("Bash", "ls")]).await;
        let plain = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        fixture.claim(plain.id, LEASE).await;
        assert_eq!(fixture.store.rescue(RescueScope::All, now(), 10).await.unwrap().0.len(), 4);
        for id in [crashed.id, cancelled.id, waiting.id] {
            let records = fixture.usage_of(id).await;
            assert_eq!((records.len(), records[0].unknown, records[0].claim), (1, true, 1));
            assert_eq!((records[0].usage.total_tokens(), records[0].engine.as_str()), (0, "echo"));
            assert!(fixture.events(Stream::Job(id)).await.contains(&EventType::Usage));
        }
        assert!(fixture.usage_of(plain.id).await.is_empty(), "it spends nothing");
        assert!(!fixture.spend(&late, completed(), report(9, 9, None), now()).await);
        assert_eq!(fixture.usage_of(crashed.id).await.len(), 1, "whoever comes first");
    }

    async fn a_lease_lost_by_a_living_worker_leaves_a_record_too(fixture: Fixture) {
        let created = fixture.submit(metered(None)).await.unwrap();
        fixture.claim(created.id, Duration::from_millis(1)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(fixture.store.rescue(RescueScope::Lapsed, now(), 10).await.unwrap().0.len(), 1);
        assert!(fixture.usage_of(created.id).await[0].unknown);
    }

    async fn sums_are_grouped_as_asked(fixture: Fixture) {
        let day = |day: &str| Timestamp::from(format!("{day}T23:59:59Z").parse::<chrono::DateTime<chrono::Utc>>().unwrap());
        let spend = async |user: Option<&str>, engine: &str, report, at| -> Created {
            let mut job = NewJob { user_id: user.map(str::to_owned), ..metered(None) };
            job.task.as_mut().unwrap().engine = engine.to_owned();
            let created = fixture.submit(job).await.unwrap();
            let run = fixture.claim(created.id, LEASE).await;
            assert!(fixture.spend(&run, completed(), report, at).await);
            created
        };
        let first = spend(Some("ann"), "claude_api", report(10, 1, Some(100)), day("2026-11-20")).await;
        spend(Some("ann"), "openai", report(20, 2, None), day("2026-11-20")).await;
        spend(None, "claude_api", UsageReport { incomplete: true, ..report(40, 4, Some(400)) }, day("2026-11-21")).await;

        let all = fixture.sums(UsageFilter::default(), &[]).await;
        let expected = UsageSum {
            group: vec![], records: 3, unknown: 1, input_tokens: 70, output_tokens: 7, cache_read_tokens: 3,
            cache_write_tokens: 6, cost_nano_usd: 500, unpriced: 1,
        };
        assert_eq!(all, [expected]);
        let shape = |sums: Vec<UsageSum>| -> Vec<(String, u64)> {
            sums.into_iter().map(|sum| (sum.group.join(" "), sum.input_tokens)).collect()
        };
        let expect = |rows: &[(&str, u64)]| -> Vec<_> { rows.iter().map(|(key, tokens)| ((*key).to_owned(), *tokens)).collect() };
        let by = async |filter, groups: &[UsageGroup]| shape(fixture.sums(filter, groups).await);
        let any = UsageFilter::default;
        assert_eq!(by(any(), &[UsageGroup::Day]).await, expect(&[("2026-11-20", 30), ("2026-11-21", 40)]));
        assert_eq!(by(any(), &[UsageGroup::Engine]).await, expect(&[("claude_api", 50), ("openai", 20)]));
        assert_eq!(by(any(), &[UsageGroup::User, UsageGroup::Model]).await, expect(&[(" qwen3", 40), ("ann qwen3", 30)]));
        let by_day_and_engine = [("claude_api 2026-11-20", 10), ("claude_api 2026-11-21", 40), ("openai 2026-11-20", 20)];
        assert_eq!(by(any(), &[UsageGroup::Engine, UsageGroup::Day]).await, expect(&by_day_and_engine));
        let session_id = first.session_id;
        let of_session = expect(&[(&session_id.unwrap().to_string(), 10)]);
        assert_eq!(by(UsageFilter { session_id, ..any() }, &[UsageGroup::Session]).await, of_session);
        let ann = UsageFilter { user_id: Some("ann".to_owned()), ..any() };
        assert_eq!(by(ann, &[]).await, expect(&[("", 30)]));
        let midnight = Timestamp::from_micros(day("2026-11-20").micros() + 1_000_000);
        assert_eq!(by(UsageFilter { from: Some(midnight), ..any() }, &[]).await, expect(&[("", 40)]));
        assert_eq!(by(UsageFilter { to: Some(midnight), ..any() }, &[]).await, expect(&[("", 30)]));
        assert_eq!(by(UsageFilter { to: Some(midnight), session_id, ..any() }, &[]).await, expect(&[("", 10)]));
        assert_eq!(by(UsageFilter { from: Some(day("2026-11-22")), ..any() }, &[]).await, expect(&[]));
        let foreign = UsageFilter { tenant: "other".to_owned(), session_id, ..any() };
        assert!(fixture.store.usage_sums(&foreign, &[], 10).await.unwrap().is_empty());
        let own = UsageFilter { tenant: TENANT.to_owned(), ..any() };
        assert_eq!(fixture.store.usage_sums(&own, &[UsageGroup::Session], 2).await.unwrap().len(), 2, "bounded");
    }

    async fn nonsense_from_an_engine_breaks_no_sum(fixture: Fixture) {
        for _ in 0..3 {
            let (_, run) = fixture.run_metered().await;
            assert!(fixture.spend(&run, completed(), report(u64::MAX, u64::MAX, Some(u64::MAX)), now()).await);
        }
        assert_eq!(fixture.sums(UsageFilter::default(), &[]).await[0].records, 3);
    }

    async fn budgets_see_the_job_its_session_and_the_tenants_day(fixture: Fixture) {
        let (created, run) = fixture.run_metered().await;
        assert!(fixture.spend(&run, completed(), report(1, 1, Some(1)), now().minus(LEASE)).await);
        let next = fixture.submit(metered(created.session_id)).await.unwrap();
        let run = fixture.claim(next.id, LEASE).await;
        assert!(fixture.spend(&run, completed(), report(10, 10, None), now()).await);
        let (other, run) = fixture.run_metered().await;
        assert!(fixture.spend(&run, completed(), report(100, 100, Some(100)), now()).await);
        let since = now().minus(Duration::from_secs(10));
        let spent = fixture.store.spent(TENANT, next.id, created.session_id, since).await.unwrap();
        let spent_of = |tokens, cost_nano_usd| Spent { tokens, cost_nano_usd };
        assert_eq!((spent.job, spent.session, spent.tenant), (spent_of(20, 0), spent_of(22, 1), spent_of(220, 100)));
        let spent = fixture.store.spent(TENANT, other.id, None, since).await.unwrap();
        assert_eq!((spent.job, spent.session), (spent_of(200, 100), spent_of(0, 0)));
        let spent = fixture.store.spent("other", JobId::new(), None, since).await.unwrap();
        assert_eq!(spent.tenant, spent_of(0, 0));
    }
}
