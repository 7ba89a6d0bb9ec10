//! Tool calls that wait for a person.

use std::{sync::Arc, time::Duration};

use errand_common::{
    domain::{
        ApprovalId, ApprovalScope, ApprovalState, Decision, Fence, JobId, JobState, OnBusy, Stream, Timestamp,
        ToolCall, event::EventType,
    },
    port::store::{Append, Ask, Asked, Claimed, Consequences, Created, Outcome, Park, Parked, Ruled, Ruling, Verdict},
};
use serde_json::json;

use super::{Fixture, LEASE, MARKER, TENANT, failure, now, on_both, task, text};

pub(super) fn call(tool: &str, command: &str) -> Ask {
    let call = ToolCall { id: format!("call-{command}"), tool: tool.to_owned(), input: json!({"command": command}) };
    Ask { id: ApprovalId::new(), call }
}

fn later() -> Timestamp {
    now().plus(Duration::from_secs(3600))
}

pub(super) fn denied(message: &str) -> Option<Decision> {
    Some(Decision::Deny { message: message.to_owned() })
}

pub(super) fn park(fence: Fence) -> Park {
    Park { fence, events: vec![], usage: None, engine_state: None }
}

impl Fixture {
    pub(super) async fn running_task(&self) -> (Created, Claimed) {
        let created = self.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        let claimed = self.claim(created.id, LEASE).await;
        (created, claimed)
    }

    pub(super) async fn ask(&self, fence: Fence, asks: &[Ask]) -> Asked {
        self.store.ask(fence, asks.to_vec(), later(), now()).await.unwrap().0.unwrap()
    }

    pub(super) async fn rule(&self, job: JobId, approval: Option<ApprovalId>, ruling: Ruling) -> (Ruled, Consequences) {
        let verdict = Verdict {
            tenant: TENANT.to_owned(),
            job_id: job,
            approval_id: approval,
            ruling,
            decided_by: "key-1".to_owned(),
            now: now(),
        };
        self.store.rule(verdict).await.unwrap().unwrap()
    }

    pub(super) async fn approve(&self, job: JobId) -> Consequences {
        let (ruled, consequences) = self.rule(job, None, Ruling::Approve(ApprovalScope::Once)).await;
        assert!(matches!(ruled, Ruled::Done(_)), "{ruled:?}");
        consequences
    }

    pub(super) async fn states(&self, job: JobId) -> Vec<ApprovalState> {
        self.store.approvals(TENANT, job).await.unwrap().iter().map(|approval| approval.state).collect()
    }
}

on_both! {
    async fn what_is_asked_waits_and_what_is_decided_goes_on_warm(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let ask = call("Bash", "ls");
        let (asked, consequences) = fixture.store.ask(run.fence, vec![ask.clone()], later(), now()).await.unwrap();
        assert_eq!(asked.unwrap().decisions, [(ask.id, None)]);
        let event = &consequences.events[0];
        assert_eq!(event.kind, EventType::ApprovalRequired);
        assert_eq!(event.data["approvalId"], json!(ask.id));
        assert_eq!((&event.data["toolName"], &event.data["toolUseId"]), (&json!("Bash"), &json!("call-ls")));
        assert_eq!(event.data["toolInput"], json!({"command": "ls"}));
        assert!(event.data["expiresAt"].is_string());
        assert_eq!(fixture.job(created.id).await.state, JobState::AwaitingApproval);
        assert_eq!(fixture.store.decisions(run.fence, &[ask.id]).await.unwrap(), [None]);

        // The holder goes on holding: it may write and renew.
        assert!(fixture.store.renew(LEASE, &[run.fence]).await.unwrap()[0].is_ok());
        let entry = Append { fence: run.fence, events: vec![text("waiting")] };
        assert_eq!(fixture.store.append(vec![entry], now()).await.unwrap().0, [Ok(())]);

        let consequences = fixture.approve(created.id).await;
        assert_eq!(consequences.decided.len(), 1);
        assert_eq!((consequences.decided[0].job_id, consequences.decided[0].claim), (created.id, 1));
        assert!(consequences.ready.is_empty());
        assert_eq!(fixture.job(created.id).await.state, JobState::Running);
        assert_eq!(fixture.store.decisions(run.fence, &[ask.id]).await.unwrap(), [Some(Decision::Allow)]);
        let shown = &fixture.store.approvals(TENANT, created.id).await.unwrap()[0];
        assert_eq!((shown.state, shown.decided_by.as_deref()), (ApprovalState::Approved, Some("key-1")));
        assert_eq!((&shown.call, shown.session_id), (&ask.call, created.session_id));
        assert!(shown.decided_at.is_some());
        assert!(fixture.store.approvals("other", created.id).await.unwrap().is_empty());
        assert!(fixture.complete(&run, "done").await);
        use EventType::{ApprovalRequired, ApprovalResolved, Completed, Queued, Started, Text};
        let expected = [Queued, Started, ApprovalRequired, Text, ApprovalResolved, Completed];
        assert_eq!(fixture.events(Stream::Job(created.id)).await, expected);
        assert_eq!(fixture.events(Stream::Session(created.session_id.unwrap())).await, expected);
    }

    async fn asking_again_under_the_same_ids_changes_nothing(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let asks = [call("Bash", "ls")];
        fixture.ask(run.fence, &asks).await;
        let (asked, consequences) = fixture.store.ask(run.fence, asks.to_vec(), later(), now()).await.unwrap();
        assert_eq!(asked.unwrap().decisions, [(asks[0].id, None)]);
        assert!(consequences.events.is_empty());
        let _ = fixture.approve(created.id).await;
        assert_eq!(fixture.ask(run.fence, &asks).await.decisions, [(asks[0].id, Some(Decision::Allow))]);
        assert_eq!(fixture.job(created.id).await.state, JobState::Running);
        // The same call once more is another question: one decision answers one call.
        let again = fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        assert_eq!(again.decisions[0].1, None);
        assert_eq!(fixture.states(created.id).await, [ApprovalState::Approved, ApprovalState::Pending]);
    }

    async fn a_denial_reaches_the_engine_and_the_turn_goes_on(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let ask = call("Bash", "rm");
        fixture.ask(run.fence, std::slice::from_ref(&ask)).await;
        let _ = fixture.rule(created.id, Some(ask.id), Ruling::Deny { message: "not that".to_owned() }).await;
        assert_eq!(fixture.store.decisions(run.fence, &[ask.id]).await.unwrap(), [denied("not that")]);
        assert_eq!(fixture.job(created.id).await.state, JobState::Running);
    }

    async fn several_that_wait_are_named_and_the_last_decision_resumes(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let asks = [call("Bash", "ls"), call("Write", "x")];
        fixture.ask(run.fence, &asks).await;
        let (ruled, _) = fixture.rule(created.id, None, Ruling::Approve(ApprovalScope::Once)).await;
        let Ruled::Several(waiting) = ruled else { panic!("{ruled:?}") };
        assert_eq!(waiting.iter().map(|approval| approval.id).collect::<Vec<_>>(), [asks[0].id, asks[1].id]);
        let unknown = fixture.rule(created.id, Some(ApprovalId::new()), Ruling::Reject).await.0;
        assert_eq!(unknown, Ruled::NotPending);

        let (ruled, consequences) = fixture.rule(created.id, Some(asks[1].id), Ruling::Approve(ApprovalScope::Once)).await;
        assert!(matches!(ruled, Ruled::Done(job) if job.state == JobState::AwaitingApproval));
        assert_eq!(consequences.decided.len(), 1, "the holder may go on with that one");
        assert_eq!(fixture.rule(created.id, Some(asks[1].id), Ruling::Reject).await.0, Ruled::NotPending, "decided is final");
        let (ruled, _) = fixture.rule(created.id, None, Ruling::Approve(ApprovalScope::Once)).await;
        assert!(matches!(ruled, Ruled::Done(job) if job.state == JobState::Running));
        let late = fixture.rule(created.id, Some(asks[0].id), Ruling::Reject).await.0;
        assert!(matches!(late, Ruled::NotAwaiting(job) if job.state == JobState::Running));
    }

    async fn a_rejection_denies_the_call_and_cancels_the_task(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let next = fixture.submit(task(created.session_id, "next", OnBusy::Enqueue)).await.unwrap();
        let entry = Append { fence: run.fence, events: vec![text("I will run")] };
        fixture.store.append(vec![entry], now()).await.unwrap().0[0].unwrap();
        let asks = [call("Bash", "ls"), call("Bash", "rm")];
        fixture.ask(run.fence, &asks).await;
        let (ruled, consequences) = fixture.rule(created.id, Some(asks[1].id), Ruling::Reject).await;
        let Ruled::Done(job) = ruled else { panic!("{ruled:?}") };
        let failure = job.failure.unwrap();
        assert_eq!((job.state, failure.code.as_str()), (JobState::Cancelled, "USER_REJECT"));
        assert_eq!(failure.message, "Command rejected by user");
        assert_eq!(consequences.stops.len(), 1);
        assert_eq!(fixture.states(created.id).await, [ApprovalState::Withdrawn, ApprovalState::Denied]);
        use EventType::{ApprovalRequired, ApprovalResolved, Cancelled, Queued, Started, Text};
        let expected =
            [Queued, Started, Text, ApprovalRequired, ApprovalRequired, ApprovalResolved, ApprovalResolved, Cancelled];
        assert_eq!(fixture.events(Stream::Job(created.id)).await, expected);
        assert_eq!(fixture.said(created.session_id.unwrap()).await, ["hi".to_owned(), format!("I will run{MARKER}")]);
        assert_eq!(fixture.job(next.id).await.state, JobState::Blocked, "until the process is gone");
        fixture.store.release(run.fence.into(), now()).await.unwrap().0.unwrap();
        assert_eq!(fixture.job(next.id).await.state, JobState::Queued);
    }

    async fn a_rejected_task_that_nobody_holds_frees_its_session_at_once(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let next = fixture.submit(task(created.session_id, "next", OnBusy::Enqueue)).await.unwrap();
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        assert_eq!(fixture.store.park(park(run.fence), now()).await.unwrap().0, Parked::Done);
        assert_eq!(fixture.job(next.id).await.state, JobState::Blocked, "who waits is active");
        let (_, consequences) = fixture.rule(created.id, None, Ruling::Reject).await;
        assert!(consequences.stops.is_empty());
        assert_eq!(fixture.job(next.id).await.state, JobState::Queued);
    }

    async fn what_is_approved_for_the_session_is_asked_no_more_in_it(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let asks = [call("Bash", "ls"), call("Bash", "pwd"), call("Write", "x")];
        fixture.ask(run.fence, &asks).await;
        let (ruled, _) = fixture.rule(created.id, Some(asks[0].id), Ruling::Approve(ApprovalScope::Session)).await;
        assert!(matches!(ruled, Ruled::Done(job) if job.state == JobState::AwaitingApproval));
        let expected = [Some(Decision::Allow), Some(Decision::Allow), None];
        let ids = asks.each_ref().map(|ask| ask.id);
        assert_eq!(fixture.store.decisions(run.fence, &ids).await.unwrap(), expected, "that which waits already too");
        let _ = fixture.approve(created.id).await;
        assert!(fixture.complete(&run, "ok").await);

        let next = fixture.submit(task(created.session_id, "next", OnBusy::Enqueue)).await.unwrap();
        let run = fixture.claim(next.id, LEASE).await;
        let asked = fixture.ask(run.fence, &[call("Bash", "rm"), call("Write", "x")]).await;
        assert_eq!(asked.decisions[0].1, Some(Decision::Allow));
        assert_eq!(asked.decisions[1].1, None, "that was approved once");
        assert_eq!(fixture.states(next.id).await, [ApprovalState::Pending]);

        let (_, other) = fixture.running_task().await;
        assert_eq!(fixture.ask(other.fence, &[call("Bash", "rm")]).await.decisions[0].1, None, "another session");
    }

    async fn a_waiting_run_that_ends_otherwise_asks_no_more(fixture: Fixture) {
        use errand_common::domain::FailureClass::{Fatal, Transient};
        let ends = [
            (Outcome::Failed { failure: failure(Fatal) }, JobState::Failed),
            (Outcome::Retry { failure: failure(Transient), run_at: now() }, JobState::Retrying),
            (Outcome::Completed { result: json!({"summary": "x"}), message: None }, JobState::Completed),
            (Outcome::Snoozed { run_at: now(), reason: "busy".to_owned() }, JobState::Scheduled),
        ];
        for (outcome, state) in ends {
            let (created, run) = fixture.running_task().await;
            fixture.ask(run.fence, &[call("Bash", "ls")]).await;
            assert!(fixture.finish(&run, outcome).await);
            assert_eq!(fixture.job(created.id).await.state, state);
            assert_eq!(fixture.states(created.id).await, [ApprovalState::Withdrawn]);
            let events = fixture.events(Stream::Job(created.id)).await;
            assert_eq!(events[events.len() - 2], EventType::ApprovalResolved, "before the end");
        }
    }

    async fn whoever_ends_a_job_closes_what_it_asks(fixture: Fixture) {
        let (interrupted, run) = fixture.running_task().await;
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        fixture.submit(task(interrupted.session_id, "now", OnBusy::Interrupt)).await.unwrap();
        assert_eq!(fixture.states(interrupted.id).await, [ApprovalState::Withdrawn]);

        let mut late = task(None, "hi", OnBusy::default());
        late.deadline = Some(later());
        let late = fixture.submit(late).await.unwrap();
        let run = fixture.claim(late.id, LEASE).await;
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        let (ended, consequences) = fixture.store.expire(later(), 10).await.unwrap();
        assert_eq!((ended, consequences.stops.len()), (1, 1));
        let job = fixture.job(late.id).await;
        assert_eq!((job.state, job.failure.unwrap().code.as_str()), (JobState::Failed, "TIMEOUT"));
        assert_eq!(fixture.states(late.id).await, [ApprovalState::Withdrawn]);
        assert!(matches!(fixture.rule(late.id, None, Ruling::Reject).await.0, Ruled::NotAwaiting(_)));
        assert_eq!(fixture.store.expire_approvals(later().plus(LEASE), 10).await.unwrap().0, 0);
    }

    async fn what_nobody_decides_in_time_is_denied(fixture: Fixture) {
        let (warm, run) = fixture.running_task().await;
        let (parked, gone) = fixture.running_task().await;
        let ask = call("Bash", "ls");
        fixture.ask(run.fence, std::slice::from_ref(&ask)).await;
        fixture.ask(gone.fence, &[call("Bash", "ls")]).await;
        let _ = fixture.store.park(park(gone.fence), now()).await.unwrap();
        assert_eq!(fixture.store.expire_approvals(now(), 10).await.unwrap().0, 0);
        let (count, consequences) = fixture.store.expire_approvals(later(), 10).await.unwrap();
        assert_eq!((count, consequences.decided.len(), consequences.ready.len()), (2, 1, 1));
        assert_eq!(fixture.states(warm.id).await, [ApprovalState::Expired]);
        assert_eq!(fixture.job(warm.id).await.state, JobState::Running);
        assert_eq!(fixture.job(parked.id).await.state, JobState::Queued);
        let expected = denied("Nobody decided about this tool call in time");
        assert_eq!(fixture.store.decisions(run.fence, &[ask.id]).await.unwrap(), std::slice::from_ref(&expected));
        let run = fixture.claim(parked.id, LEASE).await;
        assert_eq!(fixture.ask(run.fence, &[call("Bash", "ls")]).await.decisions[0].1, expected);
    }

    async fn what_expires_is_bounded(fixture: Fixture) {
        for _ in 0..3 {
            let (_, run) = fixture.running_task().await;
            fixture.ask(run.fence, &[call("Bash", "ls"), call("Bash", "pwd")]).await;
        }
        let mut counts = Vec::new();
        for _ in 0..4 {
            counts.push(fixture.store.expire_approvals(later(), 2).await.unwrap().0);
        }
        assert_eq!(counts, [2, 2, 2, 0]);
    }

    async fn an_engine_may_ask_no_more(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let asks = [call("Bash", "ls"), call("Bash", "pwd")];
        fixture.ask(run.fence, &asks).await;
        let withdraw = async |ask: &Ask| fixture.store.withdraw(run.fence, &[ask.id], now()).await.unwrap();
        assert!(withdraw(&asks[0]).await.0.is_ok());
        assert_eq!(fixture.job(created.id).await.state, JobState::AwaitingApproval);
        let (done, consequences) = withdraw(&asks[1]).await;
        assert!(done.is_ok());
        assert_eq!(consequences.events[0].data["state"], json!("withdrawn"));
        assert_eq!(fixture.job(created.id).await.state, JobState::Running);
        assert!(withdraw(&asks[1]).await.1.events.is_empty(), "nothing is left to withdraw");
        assert!(fixture.complete(&run, "ok").await);
        assert!(withdraw(&asks[1]).await.0.is_err());
    }

    async fn only_the_holder_asks_and_only_the_tenant_decides(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let stranger = Fence { claim: 2, ..run.fence };
        assert!(fixture.store.ask(stranger, vec![call("Bash", "ls")], later(), now()).await.unwrap().0.is_err());
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        let verdict = Verdict {
            tenant: "other".to_owned(),
            job_id: created.id,
            approval_id: None,
            ruling: Ruling::Reject,
            decided_by: "x".to_owned(),
            now: now(),
        };
        assert!(fixture.store.rule(verdict).await.unwrap().is_none());
        assert_eq!(fixture.states(created.id).await, [ApprovalState::Pending]);
        assert_eq!(fixture.store.park(park(stranger), now()).await.unwrap().0, Parked::Stale);
    }

    async fn of_many_who_decide_at_once_one_is_heard(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        for warm in [true, false] {
            let (created, run) = fixture.running_task().await;
            fixture.ask(run.fence, &[call("Bash", "ls")]).await;
            if !warm {
                assert_eq!(fixture.store.park(park(run.fence), now()).await.unwrap().0, Parked::Done);
            }
            let racers = (0..20).map(|index| {
                let fixture = fixture.clone();
                let ruling = match index % 3 {
                    0 => Ruling::Approve(ApprovalScope::Once),
                    1 => Ruling::Deny { message: "no".to_owned() },
                    _ => Ruling::Reject,
                };
                tokio::spawn(async move { fixture.rule(created.id, None, ruling).await })
            });
            let mut told = 0;
            let mut heard = 0;
            for racer in futures::future::join_all(racers).await {
                let (ruled, consequences) = racer.unwrap();
                told += consequences.decided.len() + consequences.ready.len() + consequences.ended.len();
                match ruled {
                    Ruled::Done(_) => heard += 1,
                    Ruled::NotAwaiting(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((heard, told), (1, 1));
            let events = fixture.events(Stream::Job(created.id)).await;
            assert_eq!(events.iter().filter(|kind| **kind == EventType::ApprovalResolved).count(), 1);
        }
    }

    async fn questions_of_one_run_that_come_at_once_are_all_kept(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let (created, run) = fixture.running_task().await;
        let racers = (0..10).map(|index| {
            let fixture = fixture.clone();
            tokio::spawn(async move { fixture.ask(run.fence, &[call("Bash", &index.to_string())]).await })
        });
        for racer in futures::future::join_all(racers).await {
            assert_eq!(racer.unwrap().decisions[0].1, None);
        }
        let waiting = fixture.store.approvals(TENANT, created.id).await.unwrap();
        assert_eq!(waiting.len(), 10);
        let racers = waiting.into_iter().map(|approval| {
            let fixture = fixture.clone();
            let ruling = Ruling::Approve(ApprovalScope::Once);
            tokio::spawn(async move { fixture.rule(created.id, Some(approval.id), ruling).await.0 })
        });
        for racer in futures::future::join_all(racers).await {
            assert!(matches!(racer.unwrap(), Ruled::Done(_)));
        }
        assert_eq!(fixture.job(created.id).await.state, JobState::Running);
        fixture.events(Stream::Session(created.session_id.unwrap())).await;
    }
}
