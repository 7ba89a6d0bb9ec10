//! One run, from an empty machine to the report.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::PgConnection;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    check::check,
    gateway::{self, Places},
    history::{Call, History},
    inject::{Victims, inject},
    load::{Ledger, Load, Plan},
    measure::{COUNTERS, Counts, recoveries},
    options::Options,
    report::{Counted, Report},
    schedule::{self, schedule},
    stamp, truth,
    watch::Tails,
};
use crate::{
    destination::{Destination, Reply},
    fake_gateway::FakeGateway,
    fleet::{self, Fleet, Member},
    proxy::Proxy,
};

/// How long the fleet may take to end every job once the faults are over.
const QUIET: Duration = Duration::from_secs(180);

/// Acknowledged jobs that wait for a watcher.
const ANNOUNCED: usize = 1_024;

/// Runs and reports. `own` is this program.
///
/// # Errors
/// If something that the run itself needs fails: that says nothing about Errand.
pub async fn run(options: &Options, own: &Path) -> Result<Report> {
    let destination = Destination::ruled(destination_rule(options.seed)).await;
    let fleet = Fleet::boot(&fleet::Plan {
        program: options.program.clone().unwrap_or_else(|| own.to_owned()),
        stamper: own.to_owned(),
        apis: options.apis.into(),
        workers: options.workers.into(),
        concurrency: 16,
        lease_seconds: options.lease_seconds,
        word_delay_ms: 30,
    })
    .await?;
    let victims = Arc::new(Victims { fleet, destination: Proxy::start(destination.address()).await? });
    let (fleet, seed) = (&victims.fleet, options.seed);
    let members: Vec<_> = fleet.members().cloned().collect();

    // Dropped with this function, and with it whoever is still at work.
    let mut attendants = JoinSet::new();
    let counts = Arc::new(Counts::default());
    attendants.spawn(counts.clone().follow(members.clone()));
    let supervised = members.clone();
    attendants.spawn(async move { fleet::supervise(&supervised).await });

    let clients = fleet.clients();
    let agents = Arc::new(FakeGateway::start().await);
    let places = Places::introduce(&clients[0], &agents.url()).await?;
    let misbehaving = agents.clone();
    let misbehaving = attendants.spawn(async move { gateway::misbehave(&misbehaving, seed).await });
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
        patience: QUIET,
        long_lines: options.lease_seconds * 1_500 / line,
    };
    let url = format!("http://{}", victims.destination.address());
    let started = Instant::now();
    let load = tokio::spawn(Load::new(clients, url, places, plan, ledger.clone(), announce).run());
    let faults = schedule(&schedule::Plan {
        seed: options.seed,
        window,
        gap: Duration::from_secs_f64(options.gap_seconds),
        lease: options.lease(),
        workers: options.workers.into(),
        apis: options.apis.into(),
    });
    let injected = inject(victims.clone(), faults, options.verbose).await;
    misbehaving.abort();
    load.await?;
    let mut connection = fleet.database().await?;
    until_quiet(&mut connection).await?;
    let took = started.elapsed();

    let mut history = History { submissions: ledger.take(), answers: ledger.answers(), ..History::default() };
    truth::read(&mut connection, &mut history).await?;
    tell_tails.send_replace(Some(tails_of(&history)));
    history.watched = watchers.await?;
    history.calls = calls(&destination);
    gateway::read(&agents, &mut history);
    history.stamps = stamp::read(&fleet.stamps())?;
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

/// A destination as they are: mostly quick, now and then slow, overloaded, or silent about what it did.
fn destination_rule(seed: u64) -> impl Fn(&crate::destination::Call) -> Reply + Send + Sync + 'static {
    let dice = std::sync::Mutex::new(StdRng::seed_from_u64(seed));
    move |_| {
        let mut dice = dice.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match dice.random_range(0..100) {
            0 => Reply::status(503),
            1 => Reply::lost(),
            2 => Reply::broken(),
            3..6 => Reply::ok().after(Duration::from_millis(dice.random_range(500..2_000))),
            _ => Reply::ok().after(Duration::from_millis(dice.random_range(20..400))),
        }
    }
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
