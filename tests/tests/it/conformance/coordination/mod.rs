//! What the store promises about gateways, boards and agents, and about what is left on boards.

mod agent;
mod answer;
mod broadcast;
mod memory;
mod place;
mod question;
mod race;
mod retain;
mod told;

use std::time::Duration;

use errand_common::{
    domain::{
        AgentId, BoardId, GatewayId, JobId, QuestionId, Timestamp,
        coordination::{Activity, Agent, AgentRole, Question, Told, agent as keys},
    },
    port::store::{
        CancelRequest, Claimed, NewCoordination, NewJob, Outcome, Window,
        coordination::{ActivityFilter, Answer, Answered, NewAgent, NewBoard, NewGateway, NewQuestion},
    },
    wire::coordination::{ASK_USER, MessagePayload, NUDGE, Recipient, VERSION},
};
use serde_json::{Value, json};

use super::{Fixture, LEASE, TENANT, now, plain_job};

pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// A gateway with one board and its lead.
pub(super) struct World {
    pub(super) gateway: GatewayId,
    pub(super) board: BoardId,
    pub(super) lead: AgentId,
}

pub(super) fn new_agent(gateway: GatewayId, board: Option<BoardId>, role: AgentRole) -> NewAgent {
    let id = AgentId::new();
    let session_key = match (role, board) {
        (AgentRole::Main, _) => keys::main_session(gateway),
        (AgentRole::Lead, Some(board)) => keys::lead_session(board),
        _ => keys::worker_session(id),
    };
    NewAgent {
        id,
        tenant: TENANT.to_owned(),
        gateway_id: gateway,
        board_id: board,
        name: format!("the {role}"),
        role,
        session_key,
        bound: false,
        token_hash: Some(format!("hash of {id}")),
        token_sealed: Some("sealed".to_owned()),
    }
}

pub(super) fn new_gateway() -> NewGateway {
    let id = GatewayId::new();
    NewGateway {
        id,
        tenant: TENANT.to_owned(),
        name: "near".to_owned(),
        url: "ws://127.0.0.1:1".to_owned(),
        token: Some("sealed".to_owned()),
        workspace_root: "~".to_owned(),
        disable_device_pairing: false,
        allow_insecure_tls: false,
        main: new_agent(id, None, AgentRole::Main),
    }
}

pub(super) fn new_board(gateway: Option<GatewayId>, slug: &str) -> NewBoard {
    NewBoard {
        id: BoardId::new(),
        tenant: TENANT.to_owned(),
        name: format!("Board {slug}"),
        slug: slug.to_owned(),
        gateway_id: gateway,
    }
}

pub(super) fn told(kind: &str) -> Told {
    Told {
        agent_id: None,
        board_id: None,
        trace_id: "trace".to_owned(),
        done: Some((format!("{kind}.sent"), "Sent.".to_owned())),
        failed: Some((format!("{kind}.failed"), "Failed: ".to_owned())),
    }
}

pub(super) fn coordination(told: Option<Told>, window: Option<Window>) -> NewCoordination {
    NewCoordination { told, window, question: None, broadcast: None }
}

/// Not of the kind that workers of these tests have to know: nobody runs it but the test.
pub(super) fn nudge(world: &World, window: Option<Window>) -> NewJob {
    let payload = MessagePayload {
        recipient: Recipient::Agent { agent_id: world.lead },
        board_id: Some(world.board),
        message: "hurry".to_owned(),
        deliver: true,
        question_id: None,
        trace_id: "trace".to_owned(),
        actor_id: None,
    };
    NewJob {
        kind: NUDGE.to_owned(),
        payload: serde_json::to_value(payload).unwrap(),
        payload_version: VERSION,
        coordination: Some(coordination(Some(told("agent.nudge")), window)),
        ..plain_job()
    }
}

/// A question of the board's lead.
pub(super) fn ask(world: &World) -> NewJob {
    let id = QuestionId::new();
    let payload = MessagePayload {
        recipient: Recipient::Main { gateway_id: world.gateway },
        board_id: Some(world.board),
        message: "LEAD REQUEST: which one?".to_owned(),
        deliver: true,
        question_id: Some(id),
        trace_id: "trace".to_owned(),
        actor_id: Some(world.lead),
    };
    let question = NewQuestion {
        id,
        board_id: world.board,
        agent_id: Some(world.lead),
        content: "which one?".to_owned(),
        correlation_id: Some("c-1".to_owned()),
        reply_tags: vec!["user_reply".to_owned(), "gateway_main".to_owned()],
        reply_source: "user_via_gateway_main".to_owned(),
        answer_schema: None,
        remind_at: None,
        expires_at: now().plus(DAY),
    };
    NewJob {
        kind: ASK_USER.to_owned(),
        payload: serde_json::to_value(payload).unwrap(),
        payload_version: VERSION,
        coordination: Some(NewCoordination {
            question: Some(question),
            ..coordination(Some(told("gateway.lead.ask_user")), None)
        }),
        ..plain_job()
    }
}

pub(super) fn question_in(job: &mut NewJob) -> &mut NewQuestion {
    job.coordination.as_mut().unwrap().question.as_mut().unwrap()
}

pub(super) fn cancel(id: JobId) -> CancelRequest {
    CancelRequest {
        tenant: TENANT.to_owned(),
        id,
        code: "USER_CANCEL".to_owned(),
        message: "no".to_owned(),
        now: now(),
    }
}

impl Fixture {
    pub(super) async fn gateway(&self) -> GatewayId {
        let new = new_gateway();
        let id = new.id;
        assert_eq!(self.store.create_gateway(new, None, now()).await.unwrap(), None);
        id
    }

    pub(super) async fn board(&self, gateway: GatewayId, slug: &str) -> BoardId {
        let new = new_board(Some(gateway), slug);
        let id = new.id;
        self.store.create_board(new, None, now()).await.unwrap().unwrap();
        id
    }

    pub(super) async fn agent_of(&self, gateway: GatewayId, board: BoardId, role: AgentRole) -> AgentId {
        let new = new_agent(gateway, Some(board), role);
        let id = new.id;
        self.store.create_agent(new, None, now()).await.unwrap().unwrap();
        id
    }

    pub(super) async fn world(&self) -> World {
        let gateway = self.gateway().await;
        let board = self.board(gateway, "ops").await;
        World { gateway, board, lead: self.agent_of(gateway, board, AgentRole::Lead).await }
    }

    pub(super) async fn agent(&self, id: AgentId) -> Agent {
        self.store.agent(TENANT, id).await.unwrap().unwrap()
    }

    /// Submits a question; its job and itself.
    pub(super) async fn asked(&self, job: NewJob) -> (JobId, QuestionId) {
        let question = job.coordination.as_ref().unwrap().question.as_ref().unwrap().id;
        (self.submit(job).await.unwrap().id, question)
    }

    /// Claims the job and brings its message home.
    pub(super) async fn delivered(&self, job: JobId) -> Claimed {
        let run = self.claim(job, LEASE).await;
        assert!(self.finish(&run, Outcome::AwaitingAnswer { result: json!({"ok": true}) }).await);
        run
    }

    pub(super) async fn question(&self, id: QuestionId) -> Question {
        self.store.question(TENANT, id).await.unwrap().unwrap()
    }

    pub(super) async fn answer(&self, id: QuestionId, content: Value) -> Answered {
        self.store.answer(answer(id, content, "key-1")).await.unwrap().unwrap().0
    }

    /// Types and messages of the audit, oldest first.
    pub(super) async fn audit(&self) -> Vec<(String, String)> {
        let lines = self.activities(TENANT).await;
        lines.into_iter().rev().map(|line| (line.event_type, line.message)).collect()
    }

    pub(super) async fn activities(&self, tenant: &str) -> Vec<Activity> {
        let filter = ActivityFilter {
            tenant: tenant.to_owned(),
            board_id: None,
            agent_id: None,
            before: None,
            after: None,
            limit: 1_000,
        };
        self.store.activities(&filter).await.unwrap()
    }
}

pub(super) fn answer(id: QuestionId, content: Value, by: &str) -> Answer {
    Answer { tenant: TENANT.to_owned(), id, content, answered_by: by.to_owned(), now: now() }
}

pub(super) fn far() -> Timestamp {
    now().plus(2 * DAY)
}
