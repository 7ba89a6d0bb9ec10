//! The promises of the gates, run against each adapter that claims to keep them. Their time is their own, so these wait.

use std::time::Duration;

use errand_common::{
    domain::{
        Timestamp,
        gate::{Entered, Permit, Policy, Reason, Verdict},
    },
    port::Gates,
};
use errand_tests::wait;

use super::{
    now,
    place::{Place, on_each_place},
};

const HOST: &str = "x.example:443";

fn policy() -> Policy {
    Policy {
        concurrency: 3,
        rate_per_second: None,
        burst: 1,
        failure_percent: 50,
        min_calls: 4,
        window: Duration::from_secs(10),
        open: Duration::from_millis(500),
        probes: 2,
        permit: Duration::from_secs(60),
        busy: Duration::from_millis(50),
    }
}

async fn enter(gates: &dyn Gates, policy: &Policy) -> Result<Permit, Reason> {
    let at = now();
    match gates.enter(HOST, policy, at).await {
        Entered::Open(permit) => Ok(permit),
        Entered::Closed { until, reason } => {
            assert!(until > at && until <= at.plus(Duration::from_secs(60)), "closed until {until}, at {at}");
            Err(reason)
        }
    }
}

async fn leave(gates: &dyn Gates, policy: &Policy, permit: Permit, verdict: Verdict, pause_until: Option<Timestamp>) {
    gates.leave(HOST, policy, permit, verdict, pause_until, now()).await;
}

async fn call(gates: &dyn Gates, policy: &Policy, verdict: Verdict) {
    let permit = enter(gates, policy).await.unwrap();
    leave(gates, policy, permit, verdict, None).await;
}

async fn open_again(gates: &dyn Gates, policy: &Policy) -> Permit {
    wait::until("the gate is open", || async { enter(gates, policy).await.ok() }).await
}

on_each_place! {
    async fn no_more_calls_at_once_than_allowed_over_all_who_share_the_gate(place: Place) {
        let (one, other) = place.gates();
        let policy = policy();
        let first = enter(&*one, &policy).await.unwrap();
        enter(&*other, &policy).await.unwrap();
        enter(&*one, &policy).await.unwrap();
        assert_eq!(enter(&*other, &policy).await, Err(Reason::Busy));
        let elsewhere = one.enter("y.example:443", &policy, now()).await;
        assert!(matches!(elsewhere, Entered::Open(_)), "another destination has its own gate");
        leave(&*one, &policy, first, Verdict::Success, None).await;
        leave(&*one, &policy, first, Verdict::Success, None).await;
        enter(&*other, &policy).await.unwrap();
        assert_eq!(enter(&*one, &policy).await, Err(Reason::Busy), "a permit is given back once");
    }

    async fn permits_of_the_dead_come_back(place: Place) {
        let (gates, _) = place.gates();
        let policy = Policy { permit: Duration::from_millis(300), ..policy() };
        for _ in 0..3 {
            enter(&*gates, &policy).await.unwrap();
        }
        assert_eq!(enter(&*gates, &policy).await, Err(Reason::Busy));
        open_again(&*gates, &policy).await;
    }

    async fn a_rate_is_kept(place: Place) {
        let (gates, _) = place.gates();
        let policy = Policy { concurrency: 1_000, rate_per_second: Some(10), burst: 3, ..policy() };
        let began = std::time::Instant::now();
        for _ in 0..3 {
            enter(&*gates, &policy).await.unwrap();
        }
        if began.elapsed() < Duration::from_millis(50) {
            assert_eq!(enter(&*gates, &policy).await, Err(Reason::Rate));
        }
        for _ in 0..5 {
            open_again(&*gates, &policy).await;
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(450), "three at once and five more at ten a second took {took:?}");
    }

    async fn a_breaker_opens_probes_and_closes(place: Place) {
        let (gates, other) = place.gates();
        let policy = policy();
        for verdict in [Verdict::Success, Verdict::Neutral, Verdict::Neutral, Verdict::Failure, Verdict::Success] {
            call(&*gates, &policy, verdict).await;
        }
        assert!(enter(&*gates, &policy).await.map(drop).is_ok(), "one of three failed");
        call(&*gates, &policy, Verdict::Failure).await;
        assert_eq!(enter(&*other, &policy).await, Err(Reason::Open), "two of four failed, which all who share it know");
        let probe = open_again(&*gates, &policy).await;
        leave(&*gates, &policy, probe, Verdict::Failure, None).await;
        assert_eq!(enter(&*gates, &policy).await, Err(Reason::Open), "a failing probe opens it again");
        let probes = [open_again(&*gates, &policy).await, enter(&*gates, &policy).await.unwrap()];
        assert_eq!(enter(&*gates, &policy).await, Err(Reason::Open), "few are let through");
        for probe in probes {
            leave(&*gates, &policy, probe, Verdict::Success, None).await;
        }
        call(&*gates, &policy, Verdict::Failure).await;
        call(&*gates, &policy, Verdict::Success).await;
        enter(&*gates, &policy).await.expect("closed, and what was counted before is forgotten");
    }

    async fn a_pause_holds_all_back_and_never_shrinks(place: Place) {
        let (gates, other) = place.gates();
        let policy = policy();
        let (long, short) = (enter(&*gates, &policy).await.unwrap(), enter(&*gates, &policy).await.unwrap());
        leave(&*gates, &policy, long, Verdict::Success, Some(now().plus(Duration::from_millis(800)))).await;
        leave(&*gates, &policy, short, Verdict::Success, Some(now().plus(Duration::from_millis(1)))).await;
        assert_eq!(enter(&*other, &policy).await, Err(Reason::Paused));
        open_again(&*gates, &policy).await;
    }
}
