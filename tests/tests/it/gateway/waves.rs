//! Waves of nudges while workers are killed and frozen: nothing lost, nothing doubled.
//!
//! `ERRAND_WAVES` says how many waves of fifty there are; a few by default.

use std::time::Duration;

use errand_common::{
    backend::Backend,
    config::{Config, Secret},
    domain::{Job, JobState, coordination::Agent},
};
use errand_tests::{
    Errand, Mode, Setup,
    fake_gateway::{FakeGateway, Fault},
    postgres::Postgres,
    redis,
    run::run_within,
    wait,
};
use rustix::process::Signal;

use super::world::{TENANT, World, board, bound_agent, nudge, submit};

/// Nudges of one wave.
const WAVE: usize = 50;
/// Agents that are nudged.
const SESSIONS: usize = 100;
/// How long a claim holds, in seconds.
const LEASE: u32 = 2;
/// Waves without another wish: each fault point meets a kill and a freeze.
const WAVES: usize = 4;

/// Where a message can break: before it is sent; sent and no reply; the reply lost; the reply after the lease; a doubled
/// reply; and, with none of them, right after the receipt.
fn fault(number: usize) -> Option<Fault> {
    match number % 6 {
        0 => Some(Fault::CutBefore),
        1 => Some(Fault::HangAfter),
        2 => Some(Fault::CutAfter),
        3 => Some(Fault::Late(Duration::from_secs((LEASE + 1).into()))),
        4 => Some(Fault::Twice),
        _ => None,
    }
}

struct Fleet {
    errand: Errand,
    backend: Backend,
    fake: FakeGateway,
    agents: Vec<Agent>,
}

impl Fleet {
    async fn start() -> Self {
        let database = Postgres::shared().await.create_database().await.expect("a database");
        let fake = FakeGateway::start().await;
        let errand = Setup::new(env!("CARGO_BIN_EXE_errand-under-test"), Mode::Cluster)
            .on_database(database.clone())
            .workers(2)
            .section("worker", &format!("lease_seconds = {LEASE}\nsweep_interval_ms = 200\npoll_interval_ms = 100"))
            .section("gateways", "request_timeout_seconds = 2\nreconnect_max_ms = 100")
            .section("gates", "min_calls = 10000")
            .section("outbound", "allow = [\"127.0.0.0/8\"]")
            .start()
            .await;
        let mut config = Config::default();
        config.redis.url = Some(Secret::new(redis::shared_url().await));
        config.redis.key_prefix = redis::unique_prefix();
        config.database.max_connections = 4;
        let backend = Backend::join(&config, &database).await.expect("a database");
        let (gateway, _) = World::introduce(&backend, &fake.url()).await;
        let board = board(&backend, gateway, "Ops").await;
        let mut agents = Vec::with_capacity(SESSIONS);
        for number in 0..SESSIONS {
            agents.push(bound_agent(&backend, gateway, board, &format!("Agent {number}")).await);
        }
        Self { errand, backend, fake, agents }
    }

    /// A wave, while the other worker of the last one dies or freezes.
    async fn wave(&mut self, number: usize) {
        let faults: Vec<_> = (0..WAVE).filter_map(|at| fault(number + at)).collect();
        self.fake.fail("chat.send", faults);
        let jobs = (0..WAVE).map(|at| {
            let agent = &self.agents[(number * WAVE + at * 7) % SESSIONS];
            let mut job = nudge(agent, &format!("wave {number}, nudge {at}"));
            if let Some(coordination) = &mut job.coordination {
                coordination.window = coordination
                    .window
                    .map(|window| errand_common::port::store::Window { length: Duration::from_secs(120), ..window });
            }
            job
        });
        let ids = submit(&self.backend, jobs.collect()).await;
        let sent = self.fake.requests("chat.send").len();
        wait::until("the wave has begun", || async { (self.fake.requests("chat.send").len() > sent).then_some(()) })
            .await;
        let victim = number % 2;
        if (number / 2).is_multiple_of(2) {
            self.errand.kill9_worker(victim);
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.errand.restart_workers().await;
        } else {
            self.errand.signal_worker(victim, Signal::STOP);
            tokio::time::sleep(Duration::from_secs((LEASE + 2).into())).await;
            self.errand.signal_worker(victim, Signal::CONT);
        }
        for id in ids {
            let job: Job = wait::until_within(Duration::from_secs(120), format!("the end of {id}"), || async {
                let job = self.backend.store.job(TENANT, id).await.ok()??;
                job.state.is_terminal().then_some(job)
            })
            .await;
            assert_eq!(job.state, JobState::Completed, "{:?}", job.failure);
        }
    }
}

#[test]
fn nothing_is_lost_and_nothing_said_twice() {
    let waves = std::env::var("ERRAND_WAVES").ok().and_then(|text| text.parse().ok()).unwrap_or(WAVES);
    run_within(Duration::from_secs(180 + 60 * waves as u64), async {
        let mut fleet = Fleet::start().await;
        for number in 0..waves {
            fleet.wave(number).await;
        }
        let nudges = waves * WAVE;
        let mut keys: Vec<String> = Vec::new();
        for agent in &fleet.agents {
            keys.extend(fleet.fake.said(&agent.session_key).into_iter().map(|(key, _)| key));
        }
        let said = keys.len();
        keys.sort();
        keys.dedup();
        println!("{nudges} nudges in {waves} waves: {said} said, {} of them apart", keys.len());
        assert_eq!((said, keys.len()), (nudges, nudges), "0 lost, 0 doubled");
        assert_eq!(fleet.fake.turns_begun(), nudges);
        fleet.errand.finish().await;
    });
}
