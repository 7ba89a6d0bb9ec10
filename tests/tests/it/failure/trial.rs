//! A fleet with jobs in it, held against the laws of the chaos checker at the end.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use errand_tests::{
    Client,
    chaos::{
        check::check,
        gateway::{self, Places},
        history::{History, Job, Submission, Work},
        measure::{COUNTERS, Counts},
        stamp,
        truth::{self, SUBMISSION},
    },
    fake_gateway::FakeGateway,
    fleet::{Fleet, Member, Plan},
    wait,
};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

/// How long a claim holds in these tests.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// How long all jobs of a test may take to end, recovery included.
const QUIET: Duration = Duration::from_secs(120);

pub(super) struct Trial {
    pub(super) fleet: Fleet,
    submissions: BTreeMap<u64, Submission>,
    /// Where nudges go, if there are any.
    gateway: Option<Arc<FakeGateway>>,
}

impl Trial {
    pub(super) async fn new(apis: usize, workers: usize, concurrency: u32) -> Self {
        Self::with_lease(LEASE, apis, workers, concurrency).await
    }

    pub(super) async fn with_lease(lease: Duration, apis: usize, workers: usize, concurrency: u32) -> Self {
        let fleet = Fleet::boot(&Plan {
            program: PathBuf::from(env!("CARGO_BIN_EXE_errand-under-test")),
            stamper: PathBuf::from(env!("CARGO_BIN_EXE_errand-chaos")),
            apis,
            workers,
            concurrency,
            lease_seconds: u32::try_from(lease.as_secs()).expect("a short lease"),
            word_delay_ms: 100,
        })
        .await
        .expect("a fleet");
        Self { fleet, submissions: BTreeMap::new(), gateway: None }
    }

    /// A client of the api with this number.
    pub(super) fn client(&self, api: usize) -> Client {
        self.fleet.clients().swap_remove(api)
    }

    /// Submits a task that says so many words, one every 100 ms.
    pub(super) async fn echo(&mut self, api: usize, words: usize) -> String {
        let prompt = vec!["word"; words].join(" ");
        let number = self.next();
        let body = json!({"prompt": prompt, "engineType": "echo", "metadata": {SUBMISSION: number}});
        let task = self.client(api).submit_task(&body).await;
        self.acknowledge(number, Work::Echo(prompt), &task.id);
        task.id
    }

    /// Submits so many tasks of so many words in one request, so that all of them are due at once.
    pub(super) async fn echoes(&mut self, count: u64, words: usize) {
        let prompt = vec!["word"; words].join(" ");
        let payload = json!({"prompt": prompt, "engineType": "echo"});
        self.batch(count, &payload, &Work::Echo(prompt)).await;
    }

    /// The same with programs of so many lines.
    pub(super) async fn programs(&mut self, count: u64, lines: u32) -> Vec<String> {
        let payload = json!({"prompt": lines.to_string(), "engineType": "program"});
        self.batch(count, &payload, &Work::Program(lines)).await
    }

    /// A gateway with its agents, which is reached at this address.
    pub(super) async fn gateway(&mut self, fake: &Arc<FakeGateway>, url: &str) -> Places {
        self.gateway = Some(fake.clone());
        Places::introduce(&self.client(0), url).await.expect("a gateway")
    }

    /// Submits so many nudges of its agents.
    pub(super) async fn nudges(&mut self, places: &Places, count: u64) {
        let first = self.next();
        let nudge = |number| {
            let mut job = places.nudge(number);
            job["metadata"] = json!({SUBMISSION: number});
            job
        };
        let jobs: Vec<_> = (first..first + count).map(nudge).collect();
        self.submit(first, jobs, &Work::Nudge).await;
    }

    async fn batch(&mut self, count: u64, payload: &Value, work: &Work) -> Vec<String> {
        let first = self.next();
        let job = |number| json!({"kind": "task", "payload": payload, "metadata": {SUBMISSION: number}});
        let jobs: Vec<_> = (first..first + count).map(job).collect();
        self.submit(first, jobs, work).await
    }

    async fn submit(&mut self, first: u64, jobs: Vec<Value>, work: &Work) -> Vec<String> {
        let answer = self.client(0).post("/jobs/batch", &json!({"jobs": jobs})).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let ids =
            answer.items().iter().map(|item| item["id"].as_str().unwrap_or_else(|| panic!("an id: {item}")).to_owned());
        let ids: Vec<_> = ids.collect();
        for (number, id) in (first..).zip(&ids) {
            self.acknowledge(number, work.clone(), id);
        }
        ids
    }

    fn next(&self) -> u64 {
        self.submissions.last_key_value().map_or(0, |(last, _)| last + 1)
    }

    fn acknowledge(&mut self, number: u64, work: Work, id: &str) {
        let job = Some(id.parse().expect("a job's id"));
        self.submissions.insert(number, Submission { work, job, may_be_cancelled: false });
    }

    /// Waits until so many jobs run.
    pub(super) async fn until_running(&self, count: i64) {
        const RUNNING: &str = "SELECT count(*) FROM jobs WHERE state = 'running'";
        wait::until(format!("{count} jobs run"), || async {
            let mut database = self.fleet.database().await.ok()?;
            let running: i64 = sqlx::query_scalar(RUNNING).fetch_one(&mut database).await.ok()?;
            (running >= count).then_some(())
        })
        .await;
    }

    /// The worker that runs most jobs now.
    pub(super) async fn busier_worker(&self) -> Arc<Member> {
        let mut found = Vec::new();
        for worker in &self.fleet.workers {
            let id = worker.worker_id().expect("the worker has said its name");
            found.push((self.held_by(id).await.len(), worker.clone()));
        }
        found.into_iter().max_by_key(|(held, _)| *held).expect("a worker").1
    }

    /// The jobs that a worker holds, or held when it died.
    pub(super) async fn held_by(&self, worker: Uuid) -> Vec<String> {
        const HELD: &str = "SELECT id::text FROM jobs WHERE state = 'running' AND worker_id = $1";
        let mut database = self.fleet.database().await.expect("a connection");
        sqlx::query_scalar(HELD).bind(worker).fetch_all(&mut database).await.expect("ids")
    }

    /// What the processes have counted by now: refused stale writes and lost leases.
    pub(super) async fn refusals(&self) -> f64 {
        let counts = Counts::default();
        let members: Vec<_> = self.fleet.members().cloned().collect();
        counts.read(&members, &reqwest::Client::new()).await;
        COUNTERS.iter().map(|name| counts.total(name)).sum()
    }

    /// Waits until all jobs have ended, and asserts that no law was broken.
    pub(super) async fn finish(
        &mut self,
        watched: impl AsyncFnOnce(&History) -> Vec<errand_tests::chaos::history::Watched>,
    ) -> History {
        let mut database: PgConnection =
            wait::until("the database is there", || async { self.fleet.database().await.ok() }).await;
        let started = std::time::Instant::now();
        loop {
            let unfinished = truth::unfinished(&mut database).await.expect("a count");
            if unfinished == 0 {
                break;
            }
            assert!(started.elapsed() < QUIET, "{unfinished} jobs are unfinished after {QUIET:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut history = History { submissions: std::mem::take(&mut self.submissions), ..History::default() };
        truth::read(&mut database, &mut history).await.expect("the truth");
        if let Some(fake) = &self.gateway {
            gateway::read(fake, &mut history);
        }
        history.stamps = stamp::read(&self.fleet.stamps()).expect("stamps");
        history.watched = watched(&history).await;
        let breaches = check(&history);
        assert!(breaches.is_empty(), "{breaches:#?}");
        for job in history.jobs.values() {
            assert_eq!(job.state, "completed", "{job:#?}");
        }
        history
    }

    /// The same, with nobody watching.
    pub(super) async fn finish_unwatched(&mut self) -> History {
        self.finish(async |_| Vec::new()).await
    }
}

/// How many events of a type jobs have.
pub(super) fn count(job: &Job, kind: &str) -> usize {
    job.events.iter().filter(|event| event.kind == kind).count()
}

/// Asserts that no attempt of any job was spent on anything but success.
pub(super) fn assert_no_attempt_spent(history: &History) {
    for job in history.jobs.values() {
        assert_eq!(count(job, "retrying"), 0, "{job:#?}");
    }
}
