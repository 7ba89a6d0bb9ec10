//! The schedule of faults: all of it follows from a seed.

use std::{collections::BTreeMap, fmt, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    fleet::Service,
    proxy::{Direction, Mode},
};

/// What a fault is about. One thing suffers one fault at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Target {
    /// A worker, by number.
    Worker(usize),
    /// An api, by number.
    Api(usize),
    /// The database.
    Postgres,
    /// The index.
    Redis,
    /// Where `http` jobs go.
    Destination,
}

/// A kind of fault; the table counts them by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Class {
    /// A worker gets SIGKILL and is started again.
    WorkerKilled,
    /// A worker gets SIGSTOP, and SIGCONT when its lease has passed.
    WorkerFrozen,
    /// A worker gets SIGTERM and is started again.
    WorkerStopped,
    /// An api gets SIGKILL and is started again.
    ApiKilled,
    /// An api gets SIGTERM and is started again.
    ApiStopped,
    /// One process can't reach the database.
    CutOffPostgres,
    /// One process can't reach Redis.
    CutOffRedis,
    /// A link of one process is slow.
    SlowLink,
    /// No process can reach Redis.
    RedisUnreachable,
    /// Redis gets SIGKILL and starts empty.
    RedisKilled,
    /// Redis forgets everything.
    RedisFlushed,
    /// Redis gets SIGSTOP, then SIGCONT.
    RedisFrozen,
    /// PostgreSQL is stopped (`fast`: sessions are ended, nothing has to be recovered) and started again.
    PostgresRestarted,
    /// PostgreSQL is stopped without a checkpoint (`immediate`), recovers from its log and goes on.
    PostgresCrashed,
    /// PostgreSQL is away for twice the lease.
    PostgresAway,
    /// Calls to the destination break or hang.
    DestinationBroken,
}

impl Class {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::WorkerKilled,
        Self::WorkerFrozen,
        Self::WorkerStopped,
        Self::ApiKilled,
        Self::ApiStopped,
        Self::CutOffPostgres,
        Self::CutOffRedis,
        Self::SlowLink,
        Self::RedisUnreachable,
        Self::RedisKilled,
        Self::RedisFlushed,
        Self::RedisFrozen,
        Self::PostgresRestarted,
        Self::PostgresCrashed,
        Self::PostgresAway,
        Self::DestinationBroken,
    ];

    /// As the table says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker SIGKILL",
            Self::WorkerFrozen => "worker SIGSTOP past its lease, SIGCONT",
            Self::WorkerStopped => "worker SIGTERM",
            Self::ApiKilled => "api SIGKILL",
            Self::ApiStopped => "api SIGTERM",
            Self::CutOffPostgres => "one process cut off from PostgreSQL",
            Self::CutOffRedis => "one process cut off from Redis",
            Self::SlowLink => "one slow link",
            Self::RedisUnreachable => "Redis unreachable for all",
            Self::RedisKilled => "Redis SIGKILL, back empty",
            Self::RedisFlushed => "Redis FLUSHALL",
            Self::RedisFrozen => "Redis SIGSTOP, SIGCONT",
            Self::PostgresRestarted => "PostgreSQL restart",
            Self::PostgresCrashed => "PostgreSQL crash and recovery",
            Self::PostgresAway => "PostgreSQL away for twice the lease",
            Self::DestinationBroken => "destination unreachable",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Its kind.
    pub class: Class,
    /// Who suffers it.
    pub target: Target,
    /// When it begins, from the start of the run.
    pub at: Duration,
    /// How long it lasts: until what was stopped is started again, or what was broken heals.
    pub lasts: Duration,
    /// What a link does meanwhile, where the fault is one of a link.
    pub link: Option<(Service, Mode)>,
}

impl Fault {
    /// When it is over.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.at + self.lasts
    }
}

/// What a schedule is made for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// Faults begin and end within this time.
    pub window: Duration,
    /// Mean time between the beginnings of two faults.
    pub gap: Duration,
    /// How long a claim holds.
    pub lease: Duration,
    /// How many workers there are.
    pub workers: usize,
    /// How many apis there are.
    pub apis: usize,
}

/// The first fault, at the earliest: the load must have begun.
const LEAD: Duration = Duration::from_secs(2);

/// Faults that fences are for: once every class has occurred, they come twice as often as the others.
const OFTEN: &[Class] = &[Class::WorkerKilled, Class::WorkerFrozen, Class::CutOffPostgres];

/// All faults of a run, by their beginning. Each class occurs once before any occurs twice; what does not fit into the
/// window is left out.
#[must_use]
pub fn schedule(plan: &Plan) -> Vec<Fault> {
    let mut dice = StdRng::seed_from_u64(plan.seed);
    let mut faults: Vec<Fault> = Vec::new();
    let mut free_at: BTreeMap<Target, Duration> = BTreeMap::new();
    let mut deck: Vec<Class> = Vec::new();
    let mut at = LEAD;
    while at < plan.window {
        if deck.is_empty() {
            deck = Class::ALL.to_vec();
            if !faults.is_empty() {
                deck.extend(OFTEN);
            }
            deck.shuffle(&mut dice);
        }
        let Some(class) = deck.pop() else { break };
        let mut fault = draw(class, plan, &mut dice);
        let free = free_at.get(&fault.target).copied().unwrap_or_default();
        fault.at = at.max(free);
        if fault.end() <= plan.window {
            // A breath in between, so that what comes back is not struck down at the same instant again.
            free_at.insert(fault.target, fault.end() + plan.lease / 2);
            faults.push(fault);
        }
        at += plan.gap.mul_f64(dice.random_range(0.5..1.5));
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

fn draw(class: Class, plan: &Plan, dice: &mut StdRng) -> Fault {
    let worker = Target::Worker(dice.random_range(0..plan.workers));
    let api = Target::Api(dice.random_range(0..plan.apis));
    let process = if dice.random_ratio(3, 4) { worker } else { api };
    let past_lease = plan.lease.mul_f64(dice.random_range(1.2..1.8));
    let moment = Duration::from_millis(dice.random_range(300..2_000));
    let mode = broken_link(dice);
    let slow = slow_link(dice);
    let service = if dice.random() { Service::Postgres } else { Service::Redis };
    let (target, lasts, link) = match class {
        Class::WorkerKilled | Class::WorkerStopped => (worker, moment, None),
        Class::WorkerFrozen => (worker, past_lease, None),
        Class::ApiKilled | Class::ApiStopped => (api, moment, None),
        Class::CutOffPostgres => (process, past_lease, Some((Service::Postgres, mode))),
        Class::CutOffRedis => (process, past_lease, Some((Service::Redis, mode))),
        Class::SlowLink => (process, past_lease, Some((service, slow))),
        Class::RedisUnreachable => (Target::Redis, past_lease, Some((Service::Redis, mode))),
        Class::RedisKilled | Class::RedisFrozen => (Target::Redis, moment * 2, None),
        Class::RedisFlushed => (Target::Redis, Duration::ZERO, None),
        Class::PostgresRestarted | Class::PostgresCrashed => (Target::Postgres, moment, None),
        Class::PostgresAway => (Target::Postgres, plan.lease * 2, None),
        Class::DestinationBroken => (Target::Destination, past_lease, Some((service, mode))),
    };
    Fault { class, target, at: Duration::ZERO, lasts, link }
}

fn broken_link(dice: &mut StdRng) -> Mode {
    match dice.random_range(0..4) {
        0 => Mode::Cut,
        1 => Mode::HalfOpen,
        2 => Mode::BlackHole(Direction::Up),
        _ => Mode::BlackHole(Direction::Down),
    }
}

fn slow_link(dice: &mut StdRng) -> Mode {
    if dice.random() {
        let millis = |range| Duration::from_millis(range);
        Mode::Delay { base: millis(dice.random_range(5..40)), jitter: millis(dice.random_range(5..80)) }
    } else {
        Mode::Throttle { bytes_per_second: dice.random_range(20_000..200_000) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64, seconds: u64) -> Plan {
        Plan {
            seed,
            window: Duration::from_secs(seconds),
            gap: Duration::from_secs(3),
            lease: Duration::from_secs(4),
            workers: 4,
            apis: 2,
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_one_another() {
        assert_eq!(schedule(&plan(42, 600)), schedule(&plan(42, 600)));
        assert_ne!(schedule(&plan(42, 600)), schedule(&plan(43, 600)));
    }

    #[test]
    fn a_short_run_has_every_class() {
        for seed in 0..200 {
            let faults = schedule(&Plan { gap: Duration::from_millis(2_500), ..plan(seed, 75) });
            for class in Class::ALL {
                assert!(faults.iter().any(|fault| fault.class == *class), "seed {seed} has no {class}: {faults:#?}");
            }
        }
    }

    #[test]
    fn nothing_suffers_two_faults_at_once_and_all_heal_within_the_window() {
        for seed in 0..50 {
            let plan = plan(seed, 300);
            let faults = schedule(&plan);
            assert!(faults.is_sorted_by_key(|fault| fault.at));
            for (place, fault) in faults.iter().enumerate() {
                assert!(fault.end() <= plan.window, "{fault:?}");
                let later = faults[place + 1..].iter().find(|later| later.target == fault.target);
                assert!(later.is_none_or(|later| later.at >= fault.end()), "{fault:?} and {later:?}");
            }
        }
    }

    #[test]
    fn a_freeze_outlasts_the_lease() {
        let plan = plan(7, 600);
        let frozen = schedule(&plan).into_iter().filter(|fault| fault.class == Class::WorkerFrozen);
        assert!(frozen.inspect(|fault| assert!(fault.lasts > plan.lease, "{fault:?}")).count() > 3);
    }
}
