//! One message, whatever goes wrong on the way: nothing lost, nothing doubled.

use std::time::Duration;

use errand_common::{
    config::Resend,
    domain::{FailureClass, JobState},
};
use errand_tests::{
    fake_gateway::{Fault, Options},
    wait,
};

use super::{Place, World, everywhere, world};

/// Before it is sent; sent and no reply; the reply lost; the reply after the lease; a doubled reply.
fn faults() -> Vec<Fault> {
    vec![
        Fault::CutBefore,
        Fault::HangAfter,
        Fault::CutAfter,
        Fault::Late(Duration::from_secs(3)),
        Fault::Twice,
        Fault::Hang,
        Fault::Restart,
        Fault::Close(1012, "service restart"),
        Fault::DoneLate(Duration::from_secs(1)),
    ]
}

everywhere! {
    async fn a_message_is_said_once(place: Place) {
        let world = World::new(place).await;
        let board = world.board("Ops").await;
        let worker = world.worker();
        for fault in faults() {
            let ada = world.agent(board, &format!("{fault:?}")).await;
            world.fake.fail("chat.send", [fault.clone()]);
            let id = world.nudge(&ada, "hello").await;
            world.done(id).await;
            assert_eq!(world.fake.said(&ada.session_key), [(id.to_string(), "hello".to_owned())], "{fault:?}");
        }
        assert_eq!(world.fake.turns_begun(), faults().len());
        worker.stop().await;
    }

    async fn a_message_is_said_once_though_its_worker_dies(place: Place) {
        let world = World::new(place).await;
        let board = world.board("Ops").await;
        let mut worker = world.worker();
        for fault in [Fault::CutBefore, Fault::HangAfter, Fault::Hang, Fault::Late(Duration::from_secs(3))] {
            let ada = world.agent(board, &format!("{fault:?}")).await;
            world.fake.fail("chat.send", [fault.clone()]);
            let before = world.count("chat.send");
            let id = world.nudge(&ada, "hello").await;
            wait::until("the message is sent", || async { (world.count("chat.send") > before).then_some(()) }).await;
            worker.kill().await;
            worker = world.worker();
            world.done(id).await;
            assert_eq!(world.fake.said(&ada.session_key), [(id.to_string(), "hello".to_owned())], "{fault:?}");
        }
        worker.stop().await;
    }

    async fn what_a_gateway_took_and_never_said_goes_under_another_key(place: Place) {
        for resend in [Resend::SameKey, Resend::Never] {
            let options = Options { queues: true, turn: Duration::from_secs(600), ..Options::default() };
            let world = World::with(place, options, |config| config.gateways.resend = resend).await;
            let board = world.board("Ops").await;
            let ada = world.agent(board, "Ada").await;
            let worker = world.worker();
            world.fake.overhear(&ada.session_key, "me first");
            world.fake.fail("chat.send", [Fault::HangAfter]);
            let before = world.count("chat.send");
            let id = world.nudge(&ada, "hello").await;
            wait::until("the message is sent", || async { (world.count("chat.send") > before).then_some(()) }).await;
            // It waits for the end of the turn that goes on, which never comes.
            world.fake.crash();
            world.done(id).await;
            let said = world.fake.said(&ada.session_key);
            assert_eq!(said[1..], [(format!("{id}:2"), "hello".to_owned())], "{resend:?}");
            worker.stop().await;
        }
    }

    async fn a_gateway_that_does_not_tell_repeats_hears_nothing_twice(place: Place) {
        let options = Options { deduplicates: false, ..Options::default() };
        let world = World::with(place, options, |config| config.gateways.resend = Resend::Never).await;
        let board = world.board("Ops").await;
        let worker = world.worker();
        let (mut unknown, mut lost) = (0, 0);
        for fault in faults() {
            let ada = world.agent(board, &format!("{fault:?}")).await;
            world.fake.fail("chat.send", [fault.clone()]);
            let id = world.submit(world::within(5, world::nudge(&ada, "hello"))).await;
            let job = world.ended(id).await;
            let said = world.fake.said(&ada.session_key).len();
            match job.state {
                JobState::Completed => assert_eq!(said, 1, "{fault:?}"),
                JobState::Failed => {
                    let failure = job.failure.expect("a reason");
                    assert_eq!(failure.class, FailureClass::Ambiguous, "{fault:?}: {}", failure.message);
                    assert!(said <= 1, "{fault:?}");
                    unknown += 1;
                    lost += usize::from(said == 0);
                }
                other => panic!("{fault:?}: {other}"),
            }
        }
        assert!(unknown > 0 && lost == unknown, "only what never came is unknown: {unknown}, {lost}");
        worker.stop().await;
    }
}
