//! A whole fleet before a real gateway: every operation from the API to the agent, and what may die in between.

use std::{
    fs::File,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use errand_tests::{
    Client, Errand, Mode, Setup,
    fake_openai::{FakeOpenAi, Reply},
    proxy::{self, Proxy},
    real_gateway::{RealGateway, TOKEN},
    run::run_within,
    wait,
};
use errand_worker::gateway::{DevicesInMemory, Gateway, Gateways, HistoryPage, HistoryRequest};
use serde_json::{Value, json};

use super::{LIMIT, pool, start, target, wanted};

/// An operation may have to wait for an agent to be made, and for a gateway that starts again.
const PATIENCE: Duration = Duration::from_secs(240);
const BETWEEN_LOOKS: Duration = Duration::from_millis(400);
/// How late everything is between workers and gateway where something is to happen in mid-call: long enough to see that a
/// message is there, and to act, before its sender hears of it.
const LATE: Duration = Duration::from_secs(6);

/// A fleet and a real gateway, with a proxy between them.
struct World {
    errand: Errand,
    real: RealGateway,
    proxy: Proxy,
    /// Past the proxy: what the gateway holds.
    eye: Gateway,
    _pool: Gateways,
    gateway: String,
    board: String,
    /// Ids of its agents.
    lead: String,
    worker: String,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("text: {value}"))
}

async fn made(client: &Client, path: &str, body: Value) -> Value {
    let answer = client.post(path, &body).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.body
}

impl World {
    async fn new(model: &FakeOpenAi) -> Self {
        let real = start(model, false).await;
        let address = real.url().trim_start_matches("ws://").parse().expect("an address");
        let proxy = Proxy::start(address).await.expect("a proxy");
        let errand = Setup::new(env!("CARGO_BIN_EXE_errand-under-test"), Mode::Cluster)
            .workers(2)
            .section("worker", "lease_seconds = 5\nsweep_interval_ms = 500")
            .section(
                "gateways",
                "request_timeout_seconds = 60\nhandshake_timeout_seconds = 60\nreconnect_max_ms = 1000",
            )
            .section("gates", "min_calls = 1000")
            .section("outbound", "allow = [\"127.0.0.0/8\"]")
            .start()
            .await;
        let client = errand.client();
        let gateway = json!({
            "name": "Home", "url": format!("ws://{}", proxy.address()), "token": TOKEN, "workspace_root": real.folder(),
        });
        let gateway = text(&made(client, "/gateways", gateway).await["id"]).to_owned();
        let board = made(client, "/boards", json!({"name": "Ops", "gateway_id": gateway})).await;
        let board = text(&board["id"]).to_owned();
        let agent = async |name: &str, leads: bool| {
            let body = json!({"name": name, "gateway_id": gateway, "board_id": board, "is_board_lead": leads});
            text(&made(client, "/agents", body).await["id"]).to_owned()
        };
        let (lead, worker) = (agent("Grace", true).await, agent("Ada", false).await);
        let pool = pool(&Arc::new(DevicesInMemory::default()));
        let eye = pool.gateway(&target(&real.url(), Some(TOKEN))).expect("room");
        Self { errand, real, proxy, eye, _pool: pool, gateway, board, lead, worker }
    }

    async fn submit(&self, kind: &str, mut payload: Value) -> String {
        payload["board_id"] = json!(self.board);
        self.submit_job(&json!({"kind": kind, "payload": payload})).await
    }

    async fn submit_job(&self, job: &Value) -> String {
        let taken = self.errand.client().post("/jobs", job).await;
        assert_eq!(taken.status, 202, "{taken:?}");
        text(&taken.body["job_id"]).to_owned()
    }

    async fn nudge(&self, message: &str) -> String {
        self.submit("nudge", json!({"agent_id": self.worker, "message": message})).await
    }

    async fn until(&self, job: &str, state: &str) -> Value {
        wait::until_within(PATIENCE, format!("{job} is {state}"), || async {
            let job = self.errand.client().job(job).await;
            let is_over = ["completed", "failed", "cancelled"].contains(&text(&job["state"]));
            assert!(!is_over || job["state"] == state, "{job:#}");
            (job["state"] == state).then_some(job)
        })
        .await
    }

    async fn done(&self, job: &str) -> Value {
        self.until(job, "completed").await["result"].clone()
    }

    async fn session(&self, agent: &str) -> String {
        let agent = self.errand.client().get(&format!("/agents/{agent}")).await.body;
        text(&agent["openclaw_session_id"]).to_owned()
    }

    /// The session's history, once it is as wanted. The gateway is asked seldom: it has work to do.
    ///
    /// # Panics
    /// If it never is; says how it was last.
    async fn history(&self, session: &str, what: &str, is_so: impl Fn(&HistoryPage) -> bool) -> HistoryPage {
        let request = HistoryRequest { limit: 200, offset: 0, max_chars: None };
        let started = Instant::now();
        loop {
            match self.eye.history(session, &request).await {
                Ok(page) if is_so(&page) => return page,
                last => assert!(started.elapsed() < PATIENCE, "waited in vain until {what}: {last:#?}"),
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// The session holds this message under this key, and nowhere else. What a gateway took while the agent was busy is there
    /// once its turn has come.
    async fn assert_said_once(&self, session: &str, key: &str, message: &str) {
        let is_said = |page: &HistoryPage| {
            let is_there = page.messages.iter().any(|row| row.to_string().contains(message));
            is_there && page.running().is_none() && !page.is_under_way(key)
        };
        let page = self.history(session, &format!("{message:?} is said"), is_said).await;
        let said: Vec<&Value> = page.messages.iter().filter(|row| row["role"] == "user").collect();
        // A gateway that was cut off before the agent heard it takes it under another key of the job.
        let of_job =
            |row: &&&Value| row["idempotencyKey"].as_str().is_some_and(|of| of.starts_with(&format!("{key}:")));
        let with_key = said.iter().filter(of_job).count();
        let with_text = said.iter().filter(|row| row["content"].to_string().contains(message)).count();
        assert_eq!((with_key, with_text), (1, 1), "{message:?} in {said:#?}");
    }

    /// Nudges, and lets something happen once the gateway has the message and its sender does not know it.
    async fn nudge_and(&mut self, message: &str, what_happens: impl AsyncFnOnce(&mut Self)) {
        let session = self.session(&self.worker).await;
        self.proxy.set(proxy::Mode::Delay { base: LATE, jitter: Duration::ZERO });
        let job = self.nudge(message).await;
        self.history(&session, "the gateway has the message", |page| page.has_message(&job)).await;
        // What the gateway answered is on its way, and never arrives.
        self.proxy.set(proxy::Mode::BlackHole(proxy::Direction::Down));
        let before = self.errand.client().job(&job).await;
        assert_eq!(before["state"], "running", "it is in mid-call: {before:#}");
        what_happens(self).await;
        self.proxy.set(proxy::Mode::Cut);
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.proxy.set(proxy::Mode::Pass);
        self.done(&job).await;
        self.assert_said_once(&session, &job, message).await;
        eprintln!("ok: {message}: one message");
    }
}

#[test]
fn a_fleet_is_served_by_a_real_gateway() {
    if !wanted() {
        return;
    }
    run_within(LIMIT, async {
        let model = FakeOpenAi::always(Reply::text(&["heard ", "you"])).await;
        let mut world = World::new(&model).await;
        messages(&world).await;
        souls(&world).await;
        questions(&world).await;
        a_task(&mut world).await;
        deaths(&mut world).await;
        world.errand.finish().await;
    });
}

/// Each agent is made at the gateway first, by the job that needs it.
async fn messages(world: &World) {
    let job = world.nudge("the first nudge").await;
    assert_eq!(world.done(&job).await, json!({"ok": true}));
    world.assert_said_once(&world.session(&world.worker).await, &job, "the first nudge").await;
    eprintln!("ok: nudge");

    let job = world.submit("lead_message", json!({"content": "the first word to the lead"})).await;
    assert_eq!(world.done(&job).await["lead_agent_id"], world.lead);
    let session = world.session(&world.lead).await;
    world.assert_said_once(&session, &job, "the first word to the lead").await;
    eprintln!("ok: lead_message");

    let broadcast =
        json!({"kind": "broadcast", "payload": {"gateway_id": world.gateway, "content": "a word to all leads"}});
    let job = world.submit_job(&broadcast).await;
    let result = world.done(&job).await;
    assert_eq!((&result["ok"], &result["sent"], &result["failed"]), (&json!(true), &json!(1), &json!(0)), "{result:#}");
    let children = world.errand.client().get(&format!("/jobs?parent_id={job}")).await;
    world.assert_said_once(&session, text(&children.items()[0]["id"]), "a word to all leads").await;
    eprintln!("ok: broadcast");
}

async fn souls(world: &World) {
    let soul = "# Ada\n\nBe kind.";
    let job = world.submit("soul_write", json!({"agent_id": world.worker, "content": soul})).await;
    assert_eq!(world.done(&job).await, json!({"ok": true}));
    let session = world.session(&world.worker).await;
    let key = session.split(':').nth(1).expect("the agent's id at the gateway");
    let file = world.eye.file(key, "SOUL.md").await.expect("read");
    assert_eq!(file.content.as_deref(), Some(soul));
    eprintln!("ok: soul_write");
    let job = world.submit("soul_read", json!({"agent_id": world.worker})).await;
    let read = world.done(&job).await;
    assert_eq!((&read["content"], read["hash"].as_str()), (&json!(soul), file.hash.as_deref()));
    eprintln!("ok: soul_read");
}

async fn questions(world: &World) {
    let client = world.errand.client();
    let asked = json!({"content": "which colour?", "actor_id": world.lead});
    let job = world.submit("ask_user", asked).await;
    let waiting = world.until(&job, "awaiting_answer").await;
    let main = client.get(&format!("/gateways/{}", world.gateway)).await.body;
    let session = world.session(text(&main["main_agent_id"])).await;
    world.assert_said_once(&session, &job, "which colour?").await;
    let question = text(&waiting["payload"]["question_id"]).to_owned();
    let answered = client.post(&format!("/questions/{question}/answer"), &json!({"answer": "blue"})).await;
    assert_eq!(answered.status, 200, "{answered:?}");
    world.done(&job).await;
    // Who asked is told.
    let session = world.session(&world.lead).await;
    let hears = |row: &&Value| row["role"] == "user" && row["content"].to_string().contains("blue");
    let is_told = |page: &HistoryPage| page.messages.iter().filter(hears).count() == 1;
    world.history(&session, "the lead hears of the answer", is_told).await;
    eprintln!("ok: ask_user");
}

/// An engine that is the gateway's own agent `main`.
async fn a_task(world: &mut World) {
    world.errand.sigterm().await;
    let engine = format!("[engines.agent]\ntype = \"openclaw\"\ngateway = \"{}\"\nagent = \"main\"\n", world.gateway);
    let file = world.errand.directory().join("errand.toml");
    let mut file = File::options().append(true).open(file).expect("the configuration");
    file.write_all(engine.as_bytes()).expect("written");
    world.errand.restart().await;
    let task = world.errand.client().submit_task(&json!({"prompt": "what is up?", "engineType": "agent"})).await;
    assert_eq!(world.done(&task.id).await["summary"], "heard you");
    let session = format!("agent:main:errand-{}", task.session_id);
    world.assert_said_once(&session, &task.id, "what is up?").await;
    eprintln!("ok: a task on the engine openclaw");
}

async fn deaths(world: &mut World) {
    world.nudge_and("connection cut after acceptance", async |_: &mut World| {}).await;
    world
        .nudge_and("workers killed between send and receipt", async |world: &mut World| {
            for number in 0..2 {
                world.errand.kill9_worker(number);
            }
            world.errand.restart_workers().await;
        })
        .await;
    world.nudge_and("gateway restarted in mid-call", async |world: &mut World| world.real.restart().await).await;
    world.nudge_and("gateway killed in mid-call", async |world: &mut World| world.real.crash().await).await;
}
