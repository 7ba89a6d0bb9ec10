//! Broadcasts: one message a board, side by side; who can't be reached holds up nobody.

use std::time::Duration;

use errand_common::{
    domain::{
        AgentId, BoardId, JobId, JobState, TraceContext,
        coordination::{AgentRole, Told, text::LeadMessageKind},
    },
    port::store::{BroadcastMessage, JobFilter, NewBroadcast, NewCoordination, NewJob, Window, coordination::NewAgent},
    wire::coordination::{BROADCAST, BroadcastPayload, LEAD_MESSAGE},
};
use errand_tests::fake_gateway::Fault;
use serde_json::{Value, json};

use super::{
    Place, World, everywhere,
    world::{self, TENANT},
};

const BOARDS: usize = 100;
/// How long a message to a lead is tried in these tests.
const WINDOW: Duration = Duration::from_secs(20);

impl World {
    /// Boards with their leads, oldest first.
    async fn boards_with_leads(&self, count: usize) -> Vec<(BoardId, String)> {
        let mut boards = Vec::with_capacity(count);
        for number in 0..count {
            let board = self.board(&format!("Board {number}")).await;
            let session = format!("agent:main:lead-{number}");
            let lead = NewAgent {
                id: AgentId::new(),
                tenant: TENANT.to_owned(),
                gateway_id: self.gateway,
                board_id: Some(board),
                name: format!("Lead {number}"),
                role: AgentRole::Lead,
                session_key: session.clone(),
                bound: true,
                token_hash: None,
                token_sealed: None,
            };
            let made = self.backend.store.create_agent(lead, None, self.backend.clock.now()).await;
            made.expect("a store").expect("made");
            boards.push((board, session));
        }
        boards
    }

    fn broadcast(&self, content: &str) -> NewJob {
        let window = Some(Window { length: WINDOW, from_send: true });
        let mut child = world::job(LEAD_MESSAGE, &json!({}), None);
        child.coordination = Some(NewCoordination { told: None, window, question: None, broadcast: None });
        let message = BroadcastMessage {
            kind: LeadMessageKind::Question,
            content: content.to_owned(),
            actor: "Main".to_owned(),
            actor_id: None,
            correlation_id: None,
            reply_tags: vec!["gateway_main".to_owned()],
            reply_source: "lead_to_gateway_main".to_owned(),
            base_url: "https://errand.example".to_owned(),
            trace_id: "trace".to_owned(),
        };
        let payload = BroadcastPayload {
            gateway_id: self.gateway,
            kind: "question".to_owned(),
            boards: 0,
            trace_id: "trace".to_owned(),
            actor_id: None,
        };
        let told = Told {
            agent_id: None,
            board_id: None,
            trace_id: "trace".to_owned(),
            done: Some((
                "gateway.main.lead_broadcast.sent".to_owned(),
                "Broadcast question to {sent} board leads (failed: {failed}).".to_owned(),
            )),
            failed: None,
        };
        let broadcast = NewBroadcast { gateway_id: self.gateway, board_ids: vec![], limit: 1_000, message, child };
        let mut job = world::job(BROADCAST, &payload, Some(told));
        job.coordination = job.coordination.map(|given| NewCoordination {
            window: None,
            broadcast: Some(Box::new(broadcast)),
            ..given
        });
        job
    }

    async fn children(&self, parent: JobId) -> Vec<errand_common::domain::Job> {
        let filter = JobFilter { parent_id: Some(parent), limit: 200, ..JobFilter::default() };
        self.backend.store.jobs(TENANT, &filter).await.expect("a store")
    }
}

everywhere! {
    async fn its_messages_belong_to_the_trace_of_who_sent_it(place: Place) {
        let world = World::new(place).await;
        let boards = world.boards_with_leads(3).await;
        let worker = world.worker();
        let context = TraceContext::of_job(JobId::new());
        let id = world.submit(NewJob { trace: Some(context.clone()), ..world.broadcast("how far?") }).await;
        world.ended(id).await;
        let children = world.children(id).await;
        assert!(children.len() == boards.len() && children.iter().all(|child| child.trace.as_ref() == Some(&context)));
        let sent = world.fake.traces().into_iter().filter(|(method, _)| method == "chat.send");
        let mut sent: Vec<_> = sent.map(|(_, trace)| trace).collect();
        let mut expected: Vec<_> = children.iter().map(|child| context.run(child.id, 1).traceparent()).collect();
        sent.sort();
        expected.sort();
        assert_eq!(sent, expected, "each by the run that sent it");
        worker.stop().await;
    }

    async fn who_hangs_and_who_refuses_hold_up_nobody_else(place: Place) {
        let world = World::new(place).await;
        let boards = world.boards_with_leads(BOARDS).await;
        let (hangs, refuses) = (&boards[3], &boards[7]);
        world.fake.fail_session(&hangs.1, Some(Fault::Hang));
        let refusal = json!({"code": "INVALID_REQUEST", "message": "not today"});
        world.fake.fail_session(&refuses.1, Some(Fault::Refuse(refusal)));
        let worker = world.worker();
        let id = world.submit(world.broadcast("how far?")).await;
        let parent = world.ended(id).await;
        assert_eq!(parent.state, JobState::Partial, "{:?}", parent.failure);
        let result = parent.result.expect("a result");
        assert_eq!((&result["ok"], &result["sent"], &result["failed"]), (&json!(false), &json!(98), &json!(2)));
        let results = result["results"].as_array().expect("a list");
        let order: Vec<_> = results.iter().map(|result| result["board_id"].clone()).collect();
        let newest_first: Vec<Value> = boards.iter().rev().map(|(board, _)| json!(board)).collect();
        assert_eq!(order, newest_first);
        let of = |board: BoardId| results.iter().find(|result| result["board_id"] == json!(board)).expect("listed");
        assert_eq!(of(refuses.0)["error"], "Gateway lead broadcast dispatch failed: not today");
        assert!(of(hangs.0)["error"].as_str().is_some_and(|error| error.contains("timed out")), "{}", of(hangs.0));
        // The others did not wait for the one that hangs.
        let children = world.children(id).await;
        let mut took: Vec<_> = children
            .iter()
            .filter(|child| child.state == JobState::Completed)
            .map(|child| child.finished_at.expect("ended").since(child.created_at))
            .collect();
        took.sort();
        println!("98 leads heard it: the last after {:?}", took[97]);
        assert!(took.len() == 98 && took[97] < WINDOW, "{:?}", took.last());
        for (_, session) in boards.iter().filter(|board| *board != hangs && *board != refuses) {
            assert_eq!(world.fake.said(session).len(), 1);
        }
        assert_eq!(
            world.told(id).await,
            [("gateway.main.lead_broadcast.sent".to_owned(), "Broadcast question to 98 board leads (failed: 2).".to_owned())]
        );
        // Repeated, it goes to these two alone.
        world.fake.fail_session(&hangs.1, None);
        world.fake.fail_session(&refuses.1, None);
        let failed = children.into_iter().filter(|child| child.state == JobState::Failed);
        let repeats = failed.map(|child| NewJob {
            id: JobId::new(),
            payload: child.payload,
            retry_of: Some(child.id),
            coordination: None,
            ..world::job(LEAD_MESSAGE, &json!({}), None)
        });
        let repeat = NewJob {
            retry_of: Some(id),
            children: repeats.collect(),
            coordination: None,
            ..world::job(BROADCAST, &parent.payload, None)
        };
        let before = world.fake.said_in_all();
        let result = world.done(world.submit(repeat).await).await;
        assert_eq!((&result["ok"], &result["sent"]), (&json!(true), &json!(2)));
        assert_eq!(world.fake.said_in_all(), before + 2);
        assert_eq!((world.fake.said(&hangs.1).len(), world.fake.said(&refuses.1).len()), (1, 1));
        worker.stop().await;
    }
}
