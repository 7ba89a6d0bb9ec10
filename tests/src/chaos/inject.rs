//! Does to the fleet what the schedule says.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::schedule::{Class, Fault, Target};
use crate::{
    fleet::{Fleet, Kill, Member, Service},
    postgres::Shutdown,
    proxy::{Mode, Proxy},
};

/// All that faults happen to.
#[derive(Debug)]
pub struct Victims {
    /// Its processes and servers.
    pub fleet: Fleet,
    /// The link of all workers to the destination.
    pub destination: Proxy,
}

/// What was done.
#[derive(Clone, Default, Debug)]
pub struct Injected {
    /// How many faults of each class.
    pub faults: BTreeMap<Class, usize>,
    /// The workers that were killed.
    pub kills: Vec<Kill>,
    /// What should not have happened meanwhile: a process that did not stop when it was asked to, say.
    pub troubles: Vec<String>,
}

/// Injects all faults at their times, and returns when the last has healed.
pub async fn inject(victims: Arc<Victims>, faults: Vec<Fault>, verbose: bool) -> Injected {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for fault in faults {
        let victims = victims.clone();
        running.spawn(async move {
            sleep_until(started + fault.at).await;
            if verbose {
                eprintln!(
                    "{:>6.1} s  {} on {:?} for {:.1?}",
                    fault.at.as_secs_f64(),
                    fault.class,
                    fault.target,
                    fault.lasts
                );
            }
            (fault, victims.suffer(&fault).await)
        });
    }
    let mut injected = Injected::default();
    while let Some(done) = running.join_next().await {
        let (fault, outcome) = done.expect("an injection does not panic");
        *injected.faults.entry(fault.class).or_default() += 1;
        match outcome {
            Ok(kill) => injected.kills.extend(kill),
            Err(error) => injected.troubles.push(format!("{} at {:.1?}: {error:#}", fault.class, fault.at)),
        }
    }
    injected
}

impl Victims {
    async fn suffer(&self, fault: &Fault) -> Result<Option<Kill>> {
        match fault.class {
            Class::WorkerKilled | Class::ApiKilled => {
                let member = self.member(fault.target)?;
                let kill = member.kill()?;
                sleep(fault.lasts).await;
                member.start()?;
                return Ok((fault.class == Class::WorkerKilled).then_some(kill));
            }
            Class::WorkerFrozen => {
                let member = self.member(fault.target)?;
                member.signal(Signal::STOP);
                sleep(fault.lasts).await;
                member.signal(Signal::CONT);
            }
            Class::WorkerStopped | Class::ApiStopped => {
                let member = self.member(fault.target)?;
                let stopped = member.stop().await;
                sleep(fault.lasts).await;
                member.start()?;
                stopped?;
            }
            Class::CutOffPostgres | Class::CutOffRedis | Class::SlowLink => {
                let member = self.member(fault.target)?;
                let (service, mode) = fault.link.context("a fault of a link names it")?;
                member.link(service, mode);
                sleep(fault.lasts).await;
                member.link(service, Mode::Pass);
            }
            Class::RedisUnreachable => {
                let (_, mode) = fault.link.context("a fault of a link names it")?;
                self.fleet.link_all(Service::Redis, mode);
                sleep(fault.lasts).await;
                self.fleet.link_all(Service::Redis, Mode::Pass);
            }
            Class::RedisKilled => {
                let mut redis = self.fleet.redis.lock().await;
                redis.kill9();
                sleep(fault.lasts).await;
                redis.start().await?;
            }
            Class::RedisFlushed => self.fleet.redis.lock().await.flushall().await?,
            Class::RedisFrozen => {
                let redis = self.fleet.redis.lock().await;
                redis.sigstop();
                sleep(fault.lasts).await;
                redis.sigcont();
            }
            Class::PostgresRestarted => self.restart_postgres(Shutdown::Fast, fault).await?,
            Class::PostgresCrashed | Class::PostgresAway => {
                self.restart_postgres(Shutdown::Immediate, fault).await?;
            }
            Class::DestinationBroken => {
                let (_, mode) = fault.link.context("a fault of a link names it")?;
                self.destination.set(mode);
                sleep(fault.lasts).await;
                self.destination.set(Mode::Pass);
            }
        }
        Ok(None)
    }

    async fn restart_postgres(&self, how: Shutdown, fault: &Fault) -> Result<()> {
        let mut postgres = self.fleet.postgres.lock().await;
        postgres.stop(how).await?;
        sleep(fault.lasts).await;
        postgres.start().await
    }

    fn member(&self, target: Target) -> Result<&Member> {
        let member = match target {
            Target::Worker(number) => self.fleet.workers.get(number),
            Target::Api(number) => self.fleet.apis.get(number),
            Target::Postgres | Target::Redis | Target::Destination => None,
        };
        member.map(Arc::as_ref).with_context(|| format!("{target:?} is no process of this fleet"))
    }
}
