//! One run, from an empty machine to the report.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    check::check,
    fleet::{self, Blueprint, Member, Role},
    history::{Call, History},
    inject::{Victims, inject, local},
    load::{Ledger, Load, Plan},
    measure::{COUNTERS, Counts, recoveries},
    options::Options,
    report::{Counted, Report},
    schedule::{self, schedule},
    stamp, truth,
    watch::Tails,
};
use crate::{
    Client,
    destination::{Destination, Reply},
    postgres::{Durability, Postgres},
    proxy::Proxy,
    redis::Redis,
};

/// The fleet's first key.
const KEY: &str = "errand_chaos_0123456789abcdefghijklmnopqrstuv";

/// How long the fleet may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// How long the fleet may take to end every job once the faults are over.
const QUIET: Duration = Duration::from_secs(180);

/// Acknowledged jobs that wait for a watcher.
const ANNOUNCED: usize = 1_024;

/// Runs and reports. `own` is this program.
///
/// # Errors
/// If something that the run itself needs fails: that says nothing about Errand.
pub async fn run(options: &Options, own: &Path) -> Result<Report> {
    let directory = tempfile::Builder::new().prefix("errand-chaos-").tempdir()?;
    let destination = Destination::ruled(destination_rule(options.seed)).await;
    let (victims, database_url) = boot(options, own, &directory, &destination).await?;
    let members: Vec<_> = victims.members().cloned().collect();

    // Dropped with this function, and with it whoever is still at work.
    let mut attendants = JoinSet::new();
    let counts = Arc::new(Counts::default());
    attendants.spawn(counts.clone().follow(members.clone()));
    let supervised = members.clone();
    attendants.spawn(async move { fleet::supervise(&supervised).await });

    let clients: Vec<_> = victims.apis.iter().map(|api| Client::new(&api.url(), KEY)).collect();
    let (announce, announced) = mpsc::channel(ANNOUNCED);
    let (tell_tails, tails) = watch::channel(None);
    let watchers = tokio::spawn(super::watch::watch(clients.clone(), announced, tails));

    let window = options.window();
    let ledger = Arc::new(Ledger::default());
    let line = u32::try_from(stamp::line_time().as_millis()).unwrap_or(u32::MAX);
    let plan = Plan {
        seed: options.seed,
        jobs: options.jobs,
        over: window,
        patience: window + QUIET,
        long_lines: options.lease_seconds * 1_500 / line,
    };
    let url = format!("http://{}", victims.destination.address());
    let started = Instant::now();
    let load = tokio::spawn(Load::new(clients, url, plan, ledger.clone(), announce).run());
    let faults = schedule(&schedule::Plan {
        seed: options.seed,
        window,
        gap: Duration::from_secs_f64(options.gap_seconds),
        lease: options.lease(),
        workers: options.workers.into(),
        apis: options.apis.into(),
    });
    let injected = inject(victims.clone(), faults, options.verbose).await;
    load.await?;
    let mut connection = PgConnection::connect(&database_url).await?;
    until_quiet(&mut connection).await?;
    let took = started.elapsed();

    let mut history = History { submissions: ledger.take(), ..History::default() };
    truth::read(&mut connection, &mut history).await?;
    tell_tails.send_replace(Some(tails_of(&history)));
    history.watched = watchers.await?;
    history.calls = calls(&destination);
    history.stamps = stamp::read(&stamps(&directory))?;
    counts.read(&members, &reqwest::Client::new()).await;
    attendants.shutdown().await;

    let mut troubles = ledger.refusals();
    troubles.extend(injected.troubles.iter().cloned());
    for member in &members {
        let log = member.log();
        let panics = log.lines().filter(|line| line.contains("panicked at"));
        troubles.extend(panics.map(|line| format!("{}: {line}", member.name())));
    }
    let report = Report {
        command: command(options),
        took,
        breaches: check(&history),
        troubles,
        restarts: members.iter().map(|member| member.ended_by_itself()).sum(),
        refused: counts.total(COUNTERS[0]),
        leases_lost: counts.total(COUNTERS[1]),
        unanswered: history.submissions.values().filter(|submission| submission.job.is_none()).count(),
        recoveries: recoveries(&history, &injected.kills),
        counted: Counted::of(&history),
        injected,
    };
    if let Some(kept) = &options.keep {
        keep(&members, kept)?;
    }
    Ok(report)
}

async fn boot(
    options: &Options,
    own: &Path,
    directory: &TempDir,
    destination: &Destination,
) -> Result<(Arc<Victims>, String)> {
    let postgres = Postgres::boot(Durability::Crashes).await?;
    let redis = Redis::boot().await?;
    let database_url = postgres.create_database().await?;
    let database = database_url.rsplit('/').next().unwrap_or_default().to_owned();
    let program = options.program.clone().unwrap_or_else(|| own.to_owned());
    fleet::migrate(&program, &database_url)?;
    let blueprint = Blueprint {
        program,
        directory: directory.path().to_owned(),
        postgres: local(postgres.port()),
        database,
        redis: local(redis.port()),
        settings: settings(options, own, directory),
    };
    let mut members = [Vec::new(), Vec::new()];
    for (role, count) in [(Role::Api, options.apis), (Role::Worker, options.workers)] {
        for number in 0..usize::from(count) {
            let member = Arc::new(Member::new(role, number, &blueprint).await?);
            member.start()?;
            members[usize::from(role == Role::Worker)].push(member);
        }
    }
    let [apis, workers] = members;
    let destination = Proxy::start(destination.address()).await?;
    let victims = Victims { workers, apis, postgres: Mutex::new(postgres), redis: Mutex::new(redis), destination };
    until_ready(&victims).await?;
    Ok((Arc::new(victims), database_url))
}

fn settings(options: &Options, own: &Path, directory: &TempDir) -> String {
    let stamps = stamps(directory);
    let lease = options.lease_seconds;
    format!(
        "[worker]\nlease_seconds = {lease}\nconcurrency = 16\ndrain_seconds = {lease}\n\n\
         [auth]\nbootstrap_key = \"{KEY}\"\n\n\
         [outbound]\nallow = [\"127.0.0.0/8\"]\n\n\
         [engines]\ndefault = \"echo\"\n\n\
         [engines.echo]\ntype = \"echo\"\nword_delay_ms = 5\n\n\
         [engines.program]\ntype = \"command\"\ncommand = [{:?}, \"stamp\", {:?}]\n",
        own.display().to_string(),
        stamps.display().to_string(),
    )
}

fn stamps(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("stamps")
}

/// A destination as they are: mostly quick, now and then slow, overloaded, or silent about what it did.
fn destination_rule(seed: u64) -> impl Fn(&crate::destination::Call) -> Reply + Send + Sync + 'static {
    let dice = std::sync::Mutex::new(StdRng::seed_from_u64(seed));
    move |_| {
        let mut dice = dice.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match dice.random_range(0..100) {
            0 => Reply::status(503),
            1 => Reply::lost(),
            2 => Reply::broken(),
            3..6 => Reply::ok().after(Duration::from_millis(dice.random_range(200..1_500))),
            _ => Reply::ok().after(Duration::from_millis(dice.random_range(1..20))),
        }
    }
}

async fn until_ready(victims: &Victims) -> Result<()> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let started = Instant::now();
    for member in victims.members() {
        while !member.is_ready(&http).await {
            if started.elapsed() > READY {
                bail!("{} is not ready after {READY:?}; its log:\n{}", member.name(), member.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Waits until no job is unfinished. Reaching the limit is no error: the checker finds what has not ended.
async fn until_quiet(connection: &mut PgConnection) -> Result<()> {
    let started = Instant::now();
    while truth::unfinished(connection).await? > 0 && started.elapsed() < QUIET {
        sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

fn tails_of(history: &History) -> Tails {
    let jobs = history.jobs.iter().map(|(id, job)| (format!("job:{id}"), job.tail_seq));
    let sessions = history.sessions.iter().map(|(id, tail)| (format!("session:{id}"), *tail));
    jobs.chain(sessions).collect()
}

fn calls(destination: &Destination) -> Vec<Call> {
    let calls = destination.calls();
    let named = calls.into_iter().map(|call| Call {
        submission: call.body[truth::SUBMISSION].as_u64().unwrap_or(u64::MAX),
        key: call.key.unwrap_or_default(),
    });
    named.collect()
}

fn keep(members: &[Arc<Member>], directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    for member in members {
        std::fs::write(directory.join(format!("{}.log", member.name())), member.log())?;
    }
    Ok(())
}

fn command(options: &Options) -> String {
    let Options { minutes, seed, workers, apis, jobs, lease_seconds, gap_seconds, .. } = options;
    format!(
        "errand-chaos --minutes {minutes} --seed {seed} --workers {workers} --apis {apis} --jobs {jobs} \
         --lease-seconds {lease_seconds} --gap-seconds {gap_seconds}"
    )
}
