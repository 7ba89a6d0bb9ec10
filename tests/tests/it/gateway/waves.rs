//! Waves of nudges while workers are killed and frozen: nothing doubled, and nothing lost; where the gateway does not tell repeats
//! by their key, what can't be known is ambiguous.
//!
//! `ERRAND_WAVES` says how many waves of fifty there are; a few by default.

use std::{collections::BTreeSet, time::Duration};

use errand_common::{
    backend::Backend,
    config::{Config, Secret},
    domain::{FailureClass, Job, JobState, coordination::Agent},
};
use errand_tests::{
    Errand, Mode, Setup,
    fake_gateway::{FakeGateway, Fault, Options},
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
    /// The gateway tells repeats by their key.
    deduplicates: bool,
    errand: Errand,
    backend: Backend,
    fake: FakeGateway,
    agents: Vec<Agent>,
}

impl Fleet {
    async fn start(deduplicates: bool) -> Self {
        let database = Postgres::shared().await.create_database().await.expect("a database");
        let fake = FakeGateway::with(Options { deduplicates, ..Options::default() }).await;
        let resend = if deduplicates { "same_key" } else { "never" };
        let errand = Setup::new(env!("CARGO_BIN_EXE_errand-under-test"), Mode::Cluster)
            .on_database(database.clone())
            .workers(2)
            .section("worker", &format!("lease_seconds = {LEASE}\nsweep_interval_ms = 200\npoll_interval_ms = 100"))
            .section("gateways", &format!("request_timeout_seconds = 2\nreconnect_max_ms = 100\nresend = \"{resend}\""))
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
        Self { deduplicates, errand, backend, fake, agents }
    }

    /// A wave, while the other worker than in the last one dies or freezes. Returns the keys of those that were delivered, and of
    /// those of which it is not known.
    async fn wave(&mut self, number: usize) -> (Vec<String>, Vec<String>) {
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
        let (mut delivered, mut ambiguous) = (Vec::new(), Vec::new());
        for id in ids {
            let job: Job = wait::until_within(Duration::from_secs(120), format!("the end of {id}"), || async {
                let job = self.backend.store.job(TENANT, id).await.ok()??;
                job.state.is_terminal().then_some(job)
            })
            .await;
            let class = job.failure.as_ref().map(|failure| failure.class);
            match (job.state, class) {
                (JobState::Completed, _) => delivered.push(id.to_string()),
                (JobState::Failed, Some(FailureClass::Ambiguous)) if !self.deduplicates => {
                    ambiguous.push(id.to_string());
                }
                _ => panic!("{}: {:?}", job.state, job.failure),
            }
        }
        (delivered, ambiguous)
    }

    /// The keys of all messages that agents heard, sorted.
    fn said(&self) -> Vec<String> {
        let of_agent = |agent: &Agent| self.fake.said(&agent.session_key).into_iter().map(|(key, _)| key);
        let mut keys: Vec<String> = self.agents.iter().flat_map(of_agent).collect();
        keys.sort();
        keys
    }
}

/// Waves of fifty, by the wish of whoever runs this.
fn waves() -> usize {
    std::env::var("ERRAND_WAVES").ok().and_then(|text| text.parse().ok()).unwrap_or(WAVES)
}

fn limit() -> Duration {
    Duration::from_secs(180 + 60 * waves() as u64)
}

#[test]
fn nothing_is_lost_and_nothing_said_twice() {
    run_within(limit(), async {
        let mut fleet = Fleet::start(true).await;
        for number in 0..waves() {
            fleet.wave(number).await;
        }
        let nudges = waves() * WAVE;
        let said = fleet.said();
        let apart: BTreeSet<_> = said.iter().collect();
        println!("{nudges} nudges in {} waves: {} said, {} of them apart", waves(), said.len(), apart.len());
        assert_eq!((said.len(), apart.len()), (nudges, nudges), "0 lost, 0 doubled");
        assert_eq!(fleet.fake.turns_begun(), nudges);
        fleet.errand.finish().await;
    });
}

#[test]
fn where_repeats_are_not_told_nothing_is_said_twice_and_what_is_not_known_is_called_so() {
    run_within(limit(), async {
        let mut fleet = Fleet::start(false).await;
        let (mut delivered, mut ambiguous) = (Vec::new(), Vec::new());
        for number in 0..waves() {
            let (known, unknown) = fleet.wave(number).await;
            delivered.extend(known);
            ambiguous.extend(unknown);
        }
        let nudges = waves() * WAVE;
        let said = fleet.said();
        let apart: BTreeSet<_> = said.iter().collect();
        let there = ambiguous.iter().filter(|key| apart.contains(key)).count();
        println!(
            "{nudges} nudges in {} waves, repeats not told: {} said, {} of them apart; {} delivered, {} ambiguous, {there} of \
             them there",
            waves(),
            said.len(),
            apart.len(),
            delivered.len(),
            ambiguous.len(),
        );
        assert_eq!(said.len(), apart.len(), "0 doubled");
        assert_eq!(fleet.fake.turns_begun(), said.len());
        assert_eq!(delivered.len() + ambiguous.len(), nudges, "0 lost without a word");
        assert!(delivered.iter().all(|key| apart.contains(key)), "what is called delivered is there");
        assert_eq!(said.len(), delivered.len() + there);
        assert!(!ambiguous.is_empty(), "some can't be known");
        fleet.errand.finish().await;
    });
}
