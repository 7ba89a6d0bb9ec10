//! Broadcasts: a message to each board of a gateway, newest first, chosen in the transaction that makes them.

use errand_common::{
    domain::{
        AgentId, BoardId, FailureClass, GatewayId, JobId, JobState, coordination::text::LeadMessageKind,
        event::EventType,
    },
    port::store::{BroadcastMessage, JobFilter, NewBroadcast, NewCoordination, NewJob, Outcome, Refused, Window},
    wire::coordination::{BROADCAST, BroadcastPayload, LEAD_MESSAGE, MessagePayload, Recipient, VERSION},
};
use serde_json::json;

use super::{Fixture, LEASE, TENANT, cancel, coordination, new_board, now, told};
use crate::conformance::{failure, on_both, plain_job};

fn broadcast(gateway: GatewayId, board_ids: Vec<BoardId>, limit: usize) -> NewJob {
    let message = BroadcastMessage {
        kind: LeadMessageKind::Question,
        content: "how far?".to_owned(),
        actor: "Main".to_owned(),
        actor_id: Some(AgentId::new()),
        correlation_id: None,
        reply_tags: vec!["gateway_main".to_owned()],
        reply_source: "lead_to_gateway_main".to_owned(),
        base_url: "http://localhost".to_owned(),
        trace_id: "trace".to_owned(),
    };
    let window = Some(Window { length: std::time::Duration::from_secs(45), from_send: false });
    let child = NewJob {
        kind: LEAD_MESSAGE.to_owned(),
        payload_version: VERSION,
        coordination: Some(coordination(None, window)),
        ..plain_job()
    };
    let payload = BroadcastPayload {
        gateway_id: gateway,
        kind: "question".to_owned(),
        boards: 0,
        trace_id: "trace".to_owned(),
        actor_id: None,
    };
    let mut line = told("gateway.main.lead_broadcast");
    line.done.as_mut().unwrap().1 = "Broadcast question to {sent} board leads (failed: {failed}).".to_owned();
    line.failed = None;
    NewJob {
        kind: BROADCAST.to_owned(),
        payload: serde_json::to_value(payload).unwrap(),
        payload_version: VERSION,
        coordination: Some(NewCoordination {
            broadcast: Some(Box::new(NewBroadcast { gateway_id: gateway, board_ids, limit, message, child })),
            ..coordination(Some(line), None)
        }),
        ..plain_job()
    }
}

impl Fixture {
    /// The messages of a broadcast with their boards, in the order of their making.
    async fn messages_of(&self, parent: JobId) -> Vec<(JobId, BoardId)> {
        let filter = JobFilter { parent_id: Some(parent), limit: 100, ..JobFilter::default() };
        let mut children = self.store.jobs(TENANT, &filter).await.unwrap();
        children.reverse();
        let board = |job: &errand_common::domain::Job| {
            let payload: MessagePayload = serde_json::from_value(job.payload.clone()).unwrap();
            let Recipient::Lead { board_id, .. } = payload.recipient else { panic!("{payload:?}") };
            assert_eq!(payload.board_id, Some(board_id));
            assert!(payload.message.contains(&format!("Board ID: {board_id}\n")) && !payload.deliver);
            board_id
        };
        children.iter().map(|job| (job.id, board(job))).collect()
    }

    async fn sent(&self, job: JobId, lead: AgentId) {
        let run = self.claim(job, LEASE).await;
        assert!(run.window_ends_at.is_some());
        let result = json!({"ok": true, "lead_agent_id": lead, "lead_agent_name": "Ada", "lead_created": false});
        assert!(self.finish(&run, Outcome::Completed { result, message: None }).await);
    }

    async fn refused(&self, job: JobId) {
        let run = self.claim(job, LEASE).await;
        assert!(self.finish(&run, Outcome::Failed { failure: failure(FailureClass::Auth) }).await);
    }

    async fn boards_of(&self, gateway: GatewayId, count: usize) -> Vec<BoardId> {
        let mut boards = Vec::new();
        for number in 0..count {
            boards.push(self.board(gateway, &format!("b{number}")).await);
        }
        boards
    }
}

on_both! {
    async fn it_goes_to_every_board_newest_first_and_says_what_became_of_each(fixture: Fixture) {
        let gateway = fixture.gateway().await;
        let boards = fixture.boards_of(gateway, 3).await;
        let elsewhere = fixture.gateway().await;
        fixture.board(elsewhere, "not ours").await;
        let mut foreign = new_board(None, "theirs");
        foreign.tenant = "other".to_owned();
        fixture.store.create_board(foreign, None, now()).await.unwrap().unwrap();

        let created = fixture.submit(broadcast(gateway, vec![], 10)).await.unwrap();
        assert_eq!(created.state, JobState::AwaitingChildren);
        assert_eq!(fixture.job(created.id).await.payload["boards"], 3);
        let messages = fixture.messages_of(created.id).await;
        let newest_first: Vec<_> = boards.iter().rev().copied().collect();
        assert_eq!(messages.iter().map(|(_, board)| *board).collect::<Vec<_>>(), newest_first);
        let lead = AgentId::new();
        fixture.sent(messages[2].0, lead).await;
        fixture.refused(messages[1].0).await;
        fixture.sent(messages[0].0, lead).await;
        let job = fixture.job(created.id).await;
        assert_eq!(job.state, JobState::Partial);
        let ok = |board: BoardId| json!({
            "board_id": board, "lead_agent_id": lead, "lead_agent_name": "Ada", "ok": true, "error": null,
        });
        assert_eq!(job.result.unwrap(), json!({"ok": false, "sent": 2, "failed": 1, "results": [
            ok(boards[2]),
            {"board_id": boards[1], "lead_agent_id": null, "lead_agent_name": null, "ok": false,
             "error": "Gateway lead broadcast dispatch failed: it broke"},
            ok(boards[0]),
        ]}));
        let told = fixture.audit().await;
        let (last, each) = told.split_last().unwrap();
        assert_eq!(last, &(
            "gateway.main.lead_broadcast.sent".to_owned(),
            "Broadcast question to 2 board leads (failed: 1).".to_owned(),
        ));
        let each: Vec<_> = each.iter().map(|(_, message)| message.as_str()).collect();
        assert_eq!(each, [
            "Sent question to lead for board: Board b0.",
            "Lead message failed for Board b1: it broke",
            "Sent question to lead for board: Board b2.",
        ]);
    }

    async fn boards_that_are_named_and_not_there_are_left_out(fixture: Fixture) {
        let gateway = fixture.gateway().await;
        let boards = fixture.boards_of(gateway, 3).await;
        let elsewhere = fixture.gateway().await;
        let foreign = fixture.board(elsewhere, "not ours").await;
        let named = vec![boards[0], BoardId::new(), foreign, boards[2], boards[0]];
        let created = fixture.submit(broadcast(gateway, named, 10)).await.unwrap();
        let messages = fixture.messages_of(created.id).await;
        assert_eq!(messages.iter().map(|(_, board)| *board).collect::<Vec<_>>(), [boards[2], boards[0]]);
    }

    async fn without_boards_it_is_done_at_once(fixture: Fixture) {
        let gateway = fixture.gateway().await;
        let id = fixture.submit(broadcast(gateway, vec![], 10)).await.unwrap().id;
        let job = fixture.job(id).await;
        assert_eq!(job.state, JobState::Completed);
        assert_eq!(job.result.unwrap(), json!({"ok": true, "sent": 0, "failed": 0, "results": []}));
        let stream = errand_common::domain::Stream::Job(id);
        assert_eq!(fixture.events(stream).await, [EventType::Queued, EventType::Completed]);
        let told = "Broadcast question to 0 board leads (failed: 0).";
        assert_eq!(fixture.audit().await[0].1, told);
    }

    async fn too_many_boards_make_nothing(fixture: Fixture) {
        let gateway = fixture.gateway().await;
        let boards = fixture.boards_of(gateway, 4).await;
        let refused = fixture.submit(broadcast(gateway, vec![], 2)).await.unwrap_err();
        assert_eq!(refused, Refused::TooManyBoards { found: 4, limit: 2 });
        let refused = fixture.submit(broadcast(gateway, boards[1..].to_vec(), 2)).await.unwrap_err();
        assert_eq!(refused, Refused::TooManyBoards { found: 3, limit: 2 });
        assert_eq!(fixture.count("SELECT count(*) FROM jobs").await, 0);
        fixture.submit(broadcast(gateway, boards[2..].to_vec(), 2)).await.unwrap();
    }

    async fn a_cancelled_one_tells_how_far_it_came(fixture: Fixture) {
        let gateway = fixture.gateway().await;
        fixture.boards_of(gateway, 3).await;
        let id = fixture.submit(broadcast(gateway, vec![], 10)).await.unwrap().id;
        let first = fixture.messages_of(id).await[0].0;
        fixture.sent(first, AgentId::new()).await;
        let (_, _) = fixture.store.cancel(cancel(id)).await.unwrap().unwrap();
        let told = fixture.audit().await;
        assert!(told.iter().any(|(_, message)| message == "Broadcast question to 1 board leads (failed: 2)."), "{told:?}");
    }

    async fn a_retry_speaks_to_the_failed_boards_alone(fixture: Fixture) {
        let gateway = fixture.gateway().await;
        let boards = fixture.boards_of(gateway, 3).await;
        let id = fixture.submit(broadcast(gateway, vec![], 10)).await.unwrap().id;
        let messages = fixture.messages_of(id).await;
        fixture.refused(messages[0].0).await;
        fixture.sent(messages[1].0, AgentId::new()).await;
        fixture.refused(messages[2].0).await;
        let of = async |id| {
            let job = fixture.job(id).await;
            NewJob { kind: job.kind, payload: job.payload, retry_of: Some(id), ..plain_job() }
        };
        let children = vec![of(messages[0].0).await, of(messages[2].0).await];
        let again = fixture.submit(NewJob { children, ..of(id).await }).await.unwrap().id;
        let repeated = fixture.messages_of(again).await;
        assert_eq!(repeated.iter().map(|(_, board)| *board).collect::<Vec<_>>(), [boards[2], boards[0]]);
        for (job, _) in repeated {
            fixture.sent(job, AgentId::new()).await;
        }
        let job = fixture.job(again).await;
        assert_eq!((job.state, &job.result.unwrap()["sent"]), (JobState::Completed, &json!(2)));
        let told = fixture.audit().await;
        assert_eq!(told.last().unwrap().1, "Broadcast question to 2 board leads (failed: 0).");
        assert_eq!(told.iter().filter(|(_, message)| message == "Sent question to lead for board: Board b2.").count(), 1);
    }
}
