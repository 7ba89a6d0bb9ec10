//! A gateway restarts, breaks off, falls silent, and is away.

use std::{sync::Arc, time::Duration};

use errand_tests::{
    fake_gateway::FakeGateway,
    proxy::{Direction, Mode, Proxy},
    run::run,
};
use tokio::time::sleep;

use super::trial::{LEASE, Trial};

/// Nudges that are under way at each blow.
const NUDGES: u64 = 20;

#[test]
fn messages_are_said_once_whatever_happens_to_their_gateway() {
    run(async {
        let mut trial = Trial::new(1, 2, 50).await;
        let fake = Arc::new(FakeGateway::start().await);
        let link = Proxy::start(fake.address()).await.expect("a proxy");
        let places = trial.gateway(&fake, &format!("ws://{}", link.address())).await;
        trial.nudges(&places, NUDGES).await;
        fake.restart();
        trial.nudges(&places, NUDGES).await;
        fake.cut();
        for mode in [Mode::Cut, Mode::HalfOpen, Mode::BlackHole(Direction::Down), Mode::BlackHole(Direction::Up)] {
            trial.nudges(&places, NUDGES).await;
            link.set(mode);
            sleep(LEASE).await;
            link.set(Mode::Pass);
        }
        trial.nudges(&places, NUDGES).await;
        fake.set_away(true);
        fake.cut();
        trial.fleet.workers[0].kill().expect("kill");
        sleep(LEASE + Duration::from_secs(1)).await;
        fake.set_away(false);
        trial.fleet.workers[0].start().expect("it starts");
        // The laws know how often each may have been said.
        let history = trial.finish_unwatched().await;
        let nudges = 7 * usize::try_from(NUDGES).expect("a few");
        assert_eq!((history.jobs.len(), fake.said_in_all()), (nudges, nudges));
    });
}
