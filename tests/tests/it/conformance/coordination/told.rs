//! What the audit says of jobs, and how long their delivery may be tried.

use std::time::Duration;

use super::{Fixture, LEASE, TENANT, cancel, far, now, nudge};
use crate::conformance::{failure, on_both, plain_job};
use errand_common::{
    domain::{
        Effect, FailureClass, JobState, Timestamp,
        coordination::{Activity, NewActivity},
    },
    port::store::{Claimed, Intend, NewEffect, NewJob, Outcome, RescueScope, Window, coordination::ActivityFilter},
};

const WINDOW: Duration = Duration::from_secs(600);

fn window(from_send: bool) -> Option<Window> {
    Some(Window { length: WINDOW, from_send })
}

impl Fixture {
    async fn send(&self, run: &Claimed) -> Vec<Effect> {
        let effect = NewEffect {
            ordinal: 1,
            kind: "message".to_owned(),
            destination: "gateway".to_owned(),
            fingerprint: "f".to_owned(),
            request: None,
        };
        let entry = Intend { fence: run.fence, receipts: vec![], effect };
        self.store.intend(vec![entry], now()).await.unwrap().remove(0).unwrap();
        self.store.effects(run.job.id, 10).await.unwrap()
    }

    async fn again_at(&self, run: &Claimed, outcome: impl Fn(Timestamp) -> Outcome, at: Timestamp) -> Claimed {
        assert!(self.finish(run, outcome(at)).await);
        drop(self.store.promote(&[run.job.id], at).await.unwrap());
        self.claim(run.job.id, LEASE).await
    }
}

fn held_back(run_at: Timestamp) -> Outcome {
    Outcome::HeldBack { run_at, reason: "busy".to_owned() }
}

fn snoozed(run_at: Timestamp) -> Outcome {
    Outcome::Snoozed { run_at, reason: "later".to_owned() }
}

fn retried(run_at: Timestamp) -> Outcome {
    Outcome::Retry { failure: failure(FailureClass::Transient), run_at }
}

on_both! {
    async fn every_end_of_a_job_is_told_once(fixture: Fixture) {
        let world = fixture.world().await;
        let sent = fixture.submit(nudge(&world, None)).await.unwrap().id;
        let run = fixture.claim(sent, LEASE).await;
        assert!(fixture.complete(&run, "ok").await);
        let failed = fixture.submit(nudge(&world, None)).await.unwrap().id;
        let run = fixture.claim(failed, LEASE).await;
        let run = fixture.again_at(&run, retried, far()).await;
        assert_eq!(fixture.audit().await.len(), 1, "another attempt is no end");
        assert!(fixture.finish(&run, Outcome::Failed { failure: failure(FailureClass::Fatal) }).await);
        let (_, _) = fixture.store.cancel(cancel(fixture.submit(nudge(&world, None)).await.unwrap().id)).await.unwrap().unwrap();
        fixture.submit(NewJob { expires_at: Some(now()), ..nudge(&world, None) }).await.unwrap();
        assert_eq!(fixture.store.expire(far(), 10).await.unwrap().0, 1);
        let mut last = nudge(&world, None);
        last.retry.max_attempts = 1;
        let last = fixture.submit(last).await.unwrap().id;
        fixture.claim(last, Duration::ZERO).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        fixture.tamper("UPDATE workers SET alive_until = 0").await;
        assert_eq!(fixture.store.rescue(RescueScope::Lapsed, now(), 10).await.unwrap().0.len(), 1);
        assert_eq!(fixture.job(last).await.state, JobState::Failed);
        let told: Vec<_> = fixture.audit().await.into_iter().map(|(kind, message)| format!("{kind} {message}")).collect();
        assert_eq!(told, [
            "agent.nudge.sent Sent.",
            "agent.nudge.failed Failed: it broke",
            "agent.nudge.failed Failed: no",
            "agent.nudge.failed Failed: It was not started in time",
            "agent.nudge.failed Failed: The worker that ran it died",
        ]);
        let lines = fixture.activities(TENANT).await;
        assert_eq!(lines.last().unwrap().job_id, Some(sent));
        assert!(lines.iter().all(|line| line.trace_id.as_deref() == Some("trace")));
    }

    async fn the_audit_is_read_in_both_directions(fixture: Fixture) {
        let world = fixture.world().await;
        for number in 0..5 {
            let line = NewActivity {
                event_type: "x".to_owned(),
                message: number.to_string(),
                agent_id: (number % 2 == 0).then_some(world.lead),
                board_id: Some(world.board),
                trace_id: None,
            };
            fixture.store.tell(TENANT, line, now()).await.unwrap();
        }
        let base = ActivityFilter {
            tenant: TENANT.to_owned(), board_id: Some(world.board), agent_id: None, before: None, after: None, limit: 2,
        };
        let read = async |filter: ActivityFilter| fixture.store.activities(&filter).await.unwrap();
        let said = |lines: &[Activity]| lines.iter().map(|line| line.message.clone()).collect::<String>();
        let page = read(base.clone()).await;
        assert_eq!(said(&page), "43");
        let older = read(ActivityFilter { before: Some(page[1].id), ..base.clone() }).await;
        assert_eq!(said(&older), "21");
        let younger = read(ActivityFilter { after: Some(older[1].id), ..base.clone() }).await;
        assert_eq!(said(&younger), "23", "oldest first after a line");
        let theirs = read(ActivityFilter { agent_id: Some(world.lead), ..base.clone() }).await;
        assert_eq!(said(&theirs), "42");
    }

    async fn a_window_runs_from_the_making_or_from_the_first_send(fixture: Fixture) {
        let world = fixture.world().await;
        let made = fixture.submit(nudge(&world, window(false))).await.unwrap().id;
        let run = fixture.claim(made, LEASE).await;
        assert_eq!(run.window_ends_at, Some(run.job.created_at.plus(WINDOW)));
        let sent = fixture.submit(nudge(&world, window(true))).await.unwrap().id;
        let run = fixture.claim(sent, LEASE).await;
        assert_eq!(run.window_ends_at, None, "it was not sent yet");
        let run = fixture.again_at(&run, held_back, far()).await;
        assert_eq!(run.window_ends_at, None);
        let first = fixture.send(&run).await[0].intent_at;
        let run = fixture.again_at(&run, retried, far()).await;
        assert_eq!(run.window_ends_at, Some(first.plus(WINDOW)));
        fixture.send(&run).await;
        let run = fixture.again_at(&run, retried, far()).await;
        assert_eq!(run.window_ends_at, Some(first.plus(WINDOW)), "the first send counts");
        let plain = fixture.submit(plain_job()).await.unwrap().id;
        assert_eq!(fixture.claim(plain, LEASE).await.window_ends_at, None);
    }

    async fn what_is_put_off_is_not_tried(fixture: Fixture) {
        let world = fixture.world().await;
        let id = fixture.submit(nudge(&world, window(false))).await.unwrap().id;
        let run = fixture.claim(id, LEASE).await;
        let before = run.window_ends_at.unwrap();
        let pause = Duration::from_secs(120);
        let run = fixture.again_at(&run, held_back, now().plus(pause)).await;
        let longer = run.window_ends_at.unwrap().since(before);
        assert!(longer > pause - Duration::from_secs(30) && longer <= pause, "{longer:?}");
        let run = fixture.again_at(&run, snoozed, now().plus(pause)).await;
        let longest = run.window_ends_at.unwrap().since(before);
        assert!(longest > longer + pause - Duration::from_secs(30), "{longest:?}");
        let run = fixture.again_at(&run, retried, far()).await;
        assert_eq!(run.window_ends_at.unwrap().since(before), longest, "the wait for another attempt counts");
    }
}
