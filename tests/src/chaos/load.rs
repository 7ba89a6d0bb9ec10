//! The load: clients that submit at a steady rate and don't give up.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use uuid::Uuid;

use super::{
    gateway::Places,
    history::{Answers, Submission, Work},
    truth::SUBMISSION,
};
use crate::Client;

/// Sessions that tasks share; each is replaced now and then.
const SESSIONS: usize = 48;

/// One session in so many is one where tasks push each other aside.
const INTERRUPTIBLE_EVERY: usize = 8;

/// Submissions on their way at one time; beyond it the load waits.
const IN_FLIGHT: usize = 256;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What is to be submitted, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The mix follows from it.
    pub seed: u64,
    /// How many submissions.
    pub jobs: u64,
    /// Over how long.
    pub over: Duration,
    /// A submission without an answer after so long is given up.
    pub patience: Duration,
    /// A program task that outlasts a lease prints so many lines.
    pub long_lines: u32,
}

/// A job that was acknowledged.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// Its submission's number.
    pub number: u64,
    /// The job.
    pub job: Uuid,
    /// Its session.
    pub session: Option<Uuid>,
}

/// What was submitted so far.
#[derive(Default, Debug)]
pub struct Ledger {
    submissions: Mutex<BTreeMap<u64, Submission>>,
    answers: Mutex<BTreeMap<u64, Answers>>,
    refusals: Mutex<Vec<String>>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Submission>> {
        self.submissions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the submissions out.
    #[must_use]
    pub fn take(&self) -> BTreeMap<u64, Submission> {
        std::mem::take(&mut self.lock())
    }

    /// What became of the answers to questions so far.
    #[must_use]
    pub fn answers(&self) -> BTreeMap<u64, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answered(&self, number: u64, change: impl FnOnce(&mut Answers)) {
        change(self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default());
    }

    /// Answers that no retry could change, in words.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The clients.
pub struct Load {
    /// One for each api.
    pub clients: Vec<Client>,
    /// Where `http` jobs go.
    pub destination: String,
    /// Whom messages go to.
    pub places: Places,
    /// What to do.
    pub plan: Plan,
    /// Where it is written down.
    pub ledger: Arc<Ledger>,
    /// Who wants to know of jobs; whoever does not keep up misses some.
    pub acknowledged: mpsc::Sender<Acknowledged>,
    sessions: Mutex<Vec<Option<Uuid>>>,
}

/// A request made of a submission.
struct Request {
    path: &'static str,
    body: Value,
    key: String,
    /// The shared session it belongs to.
    slot: Option<usize>,
}

impl Load {
    /// Clients that have submitted nothing yet.
    #[must_use]
    pub fn new(
        clients: Vec<Client>,
        destination: String,
        places: Places,
        plan: Plan,
        ledger: Arc<Ledger>,
        acknowledged: mpsc::Sender<Acknowledged>,
    ) -> Self {
        Self { clients, destination, places, plan, ledger, acknowledged, sessions: Mutex::new(vec![None; SESSIONS]) }
    }

    /// Submits everything, and returns when each has its answer or was given up.
    pub async fn run(self) {
        let load = Arc::new(self);
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut submissions = JoinSet::new();
        let count = u32::try_from(load.plan.jobs.max(1)).unwrap_or(u32::MAX);
        let mut pace = interval((load.plan.over / count).max(Duration::from_micros(100)));
        // What could not be sent during an outage is sent after it.
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..load.plan.jobs {
            pace.tick().await;
            let Ok(permit) = in_flight.clone().acquire_owned().await else { break };
            let load = load.clone();
            submissions.spawn(async move {
                load.submit(number, Instant::now() + load.plan.patience).await;
                drop(permit);
            });
            while submissions.try_join_next().is_some() {}
        }
        while submissions.join_next().await.is_some() {}
    }

    async fn submit(&self, number: u64, deadline: Instant) {
        let mut dice = StdRng::seed_from_u64(self.plan.seed.wrapping_mul(1_000_003).wrapping_add(number));
        let cancel = dice.random_ratio(3, 100);
        let (work, request) = self.draw(number, &mut dice);
        let interruptible = request.slot.is_some_and(|slot| slot.is_multiple_of(INTERRUPTIBLE_EVERY));
        let is_question = work == Work::Question;
        let may_be_cancelled = (cancel || interruptible) && !is_question;
        let submission = Submission { work, job: None, may_be_cancelled };
        self.ledger.lock().insert(number, submission);
        let Some((job, session)) = self.until_answered(&request, &mut dice, deadline).await else { return };
        if let Some(submission) = self.ledger.lock().get_mut(&number) {
            submission.job = Some(job);
        }
        if let (Some(slot), Some(_)) = (request.slot, session) {
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner)[slot] = session;
        }
        let _ = self.acknowledged.try_send(Acknowledged { number, job, session });
        if is_question {
            self.answer(number, job, deadline).await;
        } else if cancel {
            sleep(Duration::from_millis(dice.random_range(0..600))).await;
            self.cancel(job, &mut dice).await;
        }
    }

    fn draw(&self, number: u64, dice: &mut StdRng) -> (Work, Request) {
        let key = format!("chaos-{number}");
        let metadata = json!({SUBMISSION: number});
        let later = dice.random_ratio(8, 100).then(|| {
            let delay = chrono::TimeDelta::milliseconds(dice.random_range(500..5_000));
            (chrono::Utc::now() + delay).to_rfc3339()
        });
        let share = dice.random_range(0..100);
        if share < 8 {
            let (work, mut body) = match share {
                0..6 => (Work::Nudge, self.places.nudge(number)),
                _ => (Work::Question, self.places.question(number)),
            };
            body["metadata"] = metadata;
            return (work, Request { path: "/jobs", body, key, slot: None });
        }
        if share < 60 {
            let mut body = json!({
                "kind": "http",
                "payload": {"method": "POST", "url": format!("{}/{number}", self.destination), "body": {SUBMISSION: number}},
                "retry": {"max_attempts": 100, "base_ms": 200, "cap_ms": 2_000},
                "metadata": metadata,
            });
            if let Some(later) = later {
                body["run_at"] = json!(later);
            }
            return (Work::Http, Request { path: "/jobs", body, key, slot: None });
        }
        let (work, prompt, engine) = if share < 92 {
            let words: Vec<String> = (0..dice.random_range(3..12)).map(|word| format!("{number}.{word}")).collect();
            let prompt = words.join(" ");
            (Work::Echo(prompt.clone()), prompt, "echo")
        } else {
            let lines = if dice.random_ratio(1, 12) { self.plan.long_lines } else { dice.random_range(1..6) };
            (Work::Program(lines), lines.to_string(), "program")
        };
        let mut body = json!({"prompt": prompt, "engineType": engine, "maxAttempts": 100, "metadata": metadata});
        let slot = dice.random_range(0..SESSIONS);
        // A session that was never opened or is due to be replaced: this task opens one.
        let session = self.sessions.lock().unwrap_or_else(PoisonError::into_inner)[slot];
        if let Some(session) = session.filter(|_| dice.random_ratio(9, 10)) {
            body["sessionId"] = json!(session);
        }
        let interrupts = slot.is_multiple_of(INTERRUPTIBLE_EVERY) && dice.random();
        body["onBusy"] = json!(if interrupts { "interrupt" } else { "enqueue" });
        if let Some(later) = later {
            body["runAt"] = json!(later);
        }
        (work, Request { path: "/agent/tasks", body, key, slot: Some(slot) })
    }

    /// Sends the same request again and again, to one api after the other, until one answers it.
    async fn until_answered(
        &self,
        request: &Request,
        dice: &mut StdRng,
        deadline: Instant,
    ) -> Option<(Uuid, Option<Uuid>)> {
        while Instant::now() < deadline {
            let client = &self.clients[dice.random_range(0..self.clients.len())];
            let sent = client
                .request(Method::POST, request.path)
                .header("idempotency-key", &request.key)
                .json(&request.body)
                .timeout(ANSWER)
                .send()
                .await;
            if let Ok(response) = sent {
                let status = response.status().as_u16();
                let text = response.text().await;
                match (status, text) {
                    (202, Ok(text)) => return ids_of(&text),
                    // Busy, away, or the same request is still being worked on.
                    (409 | 429 | 500..=599, _) | (_, Err(_)) => {}
                    (status, Ok(text)) => {
                        let mut refusals = self.ledger.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                        refusals.push(format!("{} was refused with {status}: {text}", request.body));
                        return None;
                    }
                }
            }
            sleep(Duration::from_millis(dice.random_range(50..500))).await;
        }
        None
    }

    /// Two answer the question that a job asks, at once.
    async fn answer(&self, number: u64, job: Uuid, deadline: Instant) {
        let mut question = None;
        while question.is_none() && Instant::now() < deadline {
            let client = &self.clients[usize::try_from(number).unwrap_or_default() % self.clients.len()];
            let shown = Client::try_send(client.request(Method::GET, &format!("/jobs/{job}")).timeout(ANSWER)).await;
            question = shown.ok().and_then(|answer| Some(answer.body["payload"]["question_id"].as_str()?.to_owned()));
            sleep(Duration::from_millis(100)).await;
        }
        let Some(question) = question else { return };
        self.ledger.answered(number, |answers| answers.question.clone_from(&question));
        let answer = |racer: usize| self.answer_once(number, &question, racer, deadline);
        tokio::join!(answer(0), answer(1));
    }

    async fn answer_once(&self, number: u64, question: &str, racer: usize, deadline: Instant) {
        let (path, mut turn) = (format!("/questions/{question}/answer"), racer);
        while Instant::now() < deadline {
            turn += 1;
            let request = self.clients[turn % self.clients.len()]
                .request(Method::POST, &path)
                .header("idempotency-key", format!("chaos-{number}-answer-{racer}"))
                .json(&json!({"answer": format!("answer {racer}")}))
                .timeout(ANSWER);
            match Client::try_send(request).await.map(|answer| (answer.status, answer.body)) {
                Ok((200, _)) => return self.ledger.answered(number, |answers| answers.accepted += 1),
                Ok((409, body)) if body["code"] == "already_answered" => {
                    return self.ledger.answered(number, |answers| answers.told += 1);
                }
                _ => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    async fn cancel(&self, job: Uuid, dice: &mut StdRng) {
        const TRIES: u32 = 20;
        for _ in 0..TRIES {
            let client = &self.clients[dice.random_range(0..self.clients.len())];
            let request = client.request(Method::POST, &format!("/jobs/{job}/cancel")).timeout(ANSWER);
            // 409: it had ended by then.
            if request.send().await.is_ok_and(|answer| matches!(answer.status().as_u16(), 200 | 409)) {
                return;
            }
            sleep(Duration::from_millis(dice.random_range(50..500))).await;
        }
    }
}

/// The job and its session in a 202 of either route.
fn ids_of(text: &str) -> Option<(Uuid, Option<Uuid>)> {
    let body: Value = serde_json::from_str(text).ok()?;
    let id = |field: &str| body[field].as_str().and_then(|id| id.parse().ok());
    Some((id("job_id").or_else(|| id("taskId"))?, id("sessionId")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_routes_name_their_job() {
        let id = Uuid::new_v4();
        assert_eq!(ids_of(&json!({"job_id": id, "state": "queued"}).to_string()), Some((id, None)));
        assert_eq!(ids_of(&json!({"taskId": id, "sessionId": id}).to_string()), Some((id, Some(id))));
        assert_eq!(ids_of("{}"), None);
    }
}
