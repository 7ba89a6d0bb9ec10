//! Questions that five answer at once, each in another way, while api and worker processes are killed: one answer counts, the
//! others are told so, and the agent that asked hears it once.
//!
//! `ERRAND_QUESTIONS` says how many questions there are; a few by default.

use std::{collections::BTreeMap, time::Duration};

use errand_tests::{
    Answer, Client, Errand, Mode, Setup,
    fake_gateway::{FakeGateway, Options},
    run::run_within,
    wait,
};
use futures::future::join_all;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::rest::{ok, send, text};

/// Questions without another wish.
const QUESTIONS: usize = 60;
/// Questions that are asked at once.
const WAVE: usize = 30;
/// Who answers each.
const ANSWERS: usize = 5;
/// Boards, each with a lead that asks.
const BOARDS: usize = 6;
/// How long a claim holds, in seconds.
const LEASE: u32 = 2;

/// A board and the lead that asks.
struct Board {
    id: String,
    session: String,
    token: String,
}

struct Fleet {
    errand: Errand,
    fake: FakeGateway,
    /// One of each api.
    clients: [Client; 2],
    main: String,
    boards: Vec<Board>,
}

/// One question, and what became of its answers.
struct Asked {
    id: String,
    job: String,
    board: usize,
    accepted: Vec<String>,
    told: usize,
}

/// Sends it until one of the apis answers for good.
async fn insist(clients: &[Client; 2], token: &str, path: &str, key: &str, body: &Value) -> Answer {
    let mut turn = key.len() + usize::from(key.as_bytes()[key.len() - 1]);
    wait::until_within(Duration::from_secs(90), format!("an answer to {key}"), || {
        turn += 1;
        let client = clients[turn % 2].with_key(token);
        let request =
            client.request(Method::POST, path).header("idempotency-key", key).timeout(Duration::from_secs(20));
        let request = request.json(body);
        async move {
            let answer = Client::try_send(request).await.ok()?;
            let is_for_good = answer.status < 500 && answer.body["code"] != "idempotency_in_flight";
            is_for_good.then_some(answer)
        }
    })
    .await
}

impl Fleet {
    async fn start() -> Self {
        let fake = FakeGateway::start().await;
        let errand = Setup::new(env!("CARGO_BIN_EXE_errand-under-test"), Mode::Cluster)
            .apis(2)
            .workers(2)
            .section("worker", &format!("lease_seconds = {LEASE}\nsweep_interval_ms = 200\npoll_interval_ms = 100"))
            .section("gateways", "request_timeout_seconds = 2\nreconnect_max_ms = 100")
            .section("gates", "min_calls = 10000")
            .section("outbound", "allow = [\"127.0.0.0/8\"]")
            .start()
            .await;
        let client = errand.client();
        let gateway = json!({"name": "Home", "url": fake.url(), "token": Options::default().token});
        let gateway = ok(client.post("/gateways", &gateway).await);
        let provision = format!("/agents/{}/provision", text(&gateway["main_agent_id"]));
        ok(send(client, Method::POST, &provision, &json!({})).await);
        let mut boards = Vec::new();
        for number in 0..BOARDS {
            let board = json!({"name": format!("Board {number}"), "gateway_id": gateway["id"]});
            let id = text(&ok(client.post("/boards", &board).await)["id"]);
            let session = format!("agent:main:asker-{number}");
            let lead = json!({
                "name": format!("Lead {number}"), "gateway_id": gateway["id"], "board_id": id, "is_board_lead": true,
                "openclaw_session_id": session,
            });
            let token = text(&ok(client.post("/agents", &lead).await)["token"]);
            boards.push(Board { id, session, token });
        }
        let clients = [errand.client_of(0), errand.client_of(1)];
        Self { errand, fake, clients, main: text(&gateway["main_agent_token"]), boards }
    }

    async fn ask(&self, number: usize) -> Asked {
        let board = &self.boards[number % BOARDS];
        let path = format!("/agent/boards/{}/gateway/main/ask-user", board.id);
        let body = json!({"content": format!("question {number}?")});
        let answer = insist(&self.clients, &board.token, &path, &format!("ask-{number}"), &body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        Asked {
            id: text(&answer.body["question_id"]),
            job: text(&answer.body["job_id"]),
            board: number % BOARDS,
            accepted: Vec::new(),
            told: 0,
        }
    }

    /// One answer, in the `racer`th way. Whether it counts, and what it says.
    async fn answer(&self, asked: &Asked, racer: usize) -> (bool, String) {
        let admin = self.errand.client().key();
        let said = format!("answer {racer} to {}", asked.id);
        let board = &self.boards[asked.board].id;
        let on_board = format!("/agent/boards/{board}/memory");
        let (token, path, body) = match racer {
            0 => (self.main.as_str(), on_board, json!({"content": said, "question_id": asked.id})),
            1 => (self.main.as_str(), on_board, json!({"content": said, "tags": ["user_reply", asked.id]})),
            2 => (admin, format!("/boards/{board}/memory"), json!({"content": said, "question_id": asked.id})),
            _ => (admin, format!("/questions/{}/answer", asked.id), json!({"answer": said})),
        };
        let answer = insist(&self.clients, token, &path, &format!("{}-{racer}", asked.id), &body).await;
        let counts = match (answer.status, &answer.body["reply"]["accepted"], &answer.body["code"]) {
            (200, Value::Bool(accepted), _) => *accepted,
            (200, ..) if racer > 2 => true,
            (409, _, code) if code == "already_answered" => false,
            _ => panic!("neither accepted nor told: {answer:?}"),
        };
        (counts, said)
    }

    /// Waits until those who are asked have been.
    async fn delivered(&self) {
        let path = "/jobs?kind=ask_user&state=queued,running,retrying,scheduled&limit=1";
        wait::until_within(Duration::from_secs(180), "all questions are delivered", || async {
            self.clients[0].get(path).await.items().is_empty().then_some(())
        })
        .await;
    }

    async fn wave(&mut self, number: usize, size: usize) -> Vec<Asked> {
        let fleet = &*self;
        let mut asked = join_all((0..size).map(|at| fleet.ask(number * WAVE + at))).await;
        // Every other wave is answered while it is still being delivered.
        if number % 2 == 1 {
            self.delivered().await;
        }
        let fleet = &*self;
        let racing = async {
            let races = asked.iter().enumerate().flat_map(|(at, asked)| {
                (0..ANSWERS).map(move |racer| async move { (at, fleet.answer(asked, racer).await) })
            });
            join_all(races).await
        };
        let killing = async {
            tokio::time::sleep(Duration::from_millis(40 * (1 + number as u64 % 5))).await;
            fleet.errand.signal_api(number % 2, Signal::KILL);
            tokio::time::sleep(Duration::from_millis(60)).await;
            fleet.errand.signal_worker(number % 2, Signal::KILL);
        };
        // The other api serves on meanwhile, and the other worker works.
        let (answers, ()) = tokio::join!(racing, killing);
        for (at, (counts, said)) in answers {
            if counts {
                asked[at].accepted.push(said);
            } else {
                asked[at].told += 1;
            }
        }
        // What was killed is known to be gone before it is started again, where it was.
        self.errand.wait_for_api_exit(number % 2).await;
        self.errand.wait_for_worker_exit(number % 2).await;
        self.errand.restart_in_place().await;
        asked
    }

    /// All nudges there are.
    async fn nudges(&self) -> usize {
        let (mut count, mut cursor) = (0, String::new());
        loop {
            let page = self.errand.client().get(&format!("/jobs?kind=nudge&limit=200{cursor}")).await;
            count += page.items().len();
            match page.body["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return count,
            }
        }
    }

    /// What those who asked were told: how often by question, and the answer.
    fn heard(&self) -> BTreeMap<String, Vec<String>> {
        let mut heard: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for board in &self.boards {
            for (_, message) in self.fake.said(&board.session) {
                assert!(message.starts_with("USER ANSWER\n"), "{message}");
                let question =
                    message.lines().find_map(|line| line.strip_prefix("Question ID: ")).expect("it names one");
                let answer = message.lines().last().expect("a line");
                heard.entry(question.to_owned()).or_default().push(answer.to_owned());
            }
        }
        heard
    }
}

#[test]
fn of_five_answers_at_once_one_counts_whoever_is_killed() {
    let questions = std::env::var("ERRAND_QUESTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(QUESTIONS);
    run_within(Duration::from_secs(180 + 2 * questions as u64), async {
        let mut fleet = Fleet::start().await;
        let mut asked = Vec::new();
        for number in 0..questions.div_ceil(WAVE) {
            asked.extend(fleet.wave(number, WAVE.min(questions - asked.len())).await);
        }
        let client = fleet.errand.client().clone();
        wait::until_within(Duration::from_secs(120), "all askers are told", || async {
            client.get("/jobs?state=live&limit=1").await.items().is_empty().then_some(())
        })
        .await;
        let (heard, mut accepted, mut told) = (fleet.heard(), 0, 0);
        for asked in &asked {
            assert_eq!((asked.accepted.len(), asked.told), (1, ANSWERS - 1), "{}: {:?}", asked.id, asked.accepted);
            let question = ok(client.get(&format!("/questions/{}", asked.id)).await);
            assert_eq!((&question["state"], &question["answer"]), (&json!("answered"), &json!(asked.accepted[0])));
            let job = client.job(&asked.job).await;
            assert_eq!((&job["state"], &job["result"]["answer"]), (&json!("completed"), &json!(asked.accepted[0])));
            assert_eq!(heard.get(&asked.id), Some(&asked.accepted), "the asker hears it, once");
            accepted += asked.accepted.len();
            told += asked.told;
        }
        let nudges = fleet.nudges().await;
        println!("{questions} questions: {accepted} answers accepted, {told} told, {nudges} askers resumed");
        assert_eq!((accepted, told, nudges), (questions, questions * (ANSWERS - 1), questions));
        fleet.errand.finish().await;
    });
}
