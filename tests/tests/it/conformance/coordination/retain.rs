//! Retention of what is left on boards and in the audit.

use std::time::Duration;

use errand_common::{
    domain::{Stream, Timestamp, coordination::QuestionState},
    port::store::StreamState,
};
use serde_json::json;

use super::{
    Fixture, LEASE, TENANT, ask, far,
    memory::{item, leave},
    now, nudge,
};
use crate::conformance::on_both;

impl Fixture {
    async fn board_state(&self, world: &super::World) -> StreamState {
        self.store.stream(TENANT, Stream::Board(world.board)).await.unwrap().unwrap()
    }
}

on_both! {
    async fn a_boards_stream_loses_its_beginning_only(fixture: Fixture) {
        let world = fixture.world().await;
        for number in 0..6 {
            leave(&fixture, item(&world, &number.to_string(), &[])).await;
        }
        // The clock of whoever wrote the third went wrong.
        fixture.tamper("UPDATE board_events SET ts = seq").await;
        fixture.tamper("UPDATE board_events SET ts = 100 WHERE seq = 3").await;
        let before = Timestamp::from_micros(50);
        let drop = async |limit| fixture.store.drop_board_events(before, limit).await.unwrap();
        assert_eq!(drop(1).await, 1);
        assert_eq!(fixture.board_state(&world).await, StreamState { first_seq: 2, tail_seq: 6, ended: false });
        assert_eq!((drop(10).await, drop(10).await), (1, 0));
        let kept = fixture.store.events(Stream::Board(world.board), 0, 10).await.unwrap();
        assert_eq!(kept.iter().map(|event| event.seq).collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert_eq!(fixture.store.drop_board_events(far(), 10).await.unwrap(), 4);
        assert_eq!(fixture.board_state(&world).await, StreamState { first_seq: 7, tail_seq: 6, ended: false });
        leave(&fixture, item(&world, "x", &[])).await;
        assert_eq!(fixture.board_state(&world).await, StreamState { first_seq: 7, tail_seq: 7, ended: false });
    }

    async fn lines_of_the_audit_go_with_age(fixture: Fixture) {
        let world = fixture.world().await;
        for _ in 0..3 {
            let run = fixture.submit(nudge(&world, None)).await.unwrap().id;
            let run = fixture.claim(run, LEASE).await;
            fixture.complete(&run, "ok").await;
        }
        let long_ago = now().minus(Duration::from_secs(60));
        assert_eq!(fixture.store.drop_activities(long_ago, 10).await.unwrap(), 0);
        assert_eq!(fixture.store.drop_activities(far(), 2).await.unwrap(), 2);
        assert_eq!(fixture.audit().await.len(), 1);
        assert_eq!(fixture.store.drop_activities(far(), 2).await.unwrap(), 1);
    }

    async fn a_question_goes_with_its_job(fixture: Fixture) {
        let world = fixture.world().await;
        let (job, id) = fixture.asked(ask(&world)).await;
        fixture.answer(id, json!("x")).await;
        assert_eq!(fixture.question(id).await.state, QuestionState::Answered);
        fixture.store.drop_events(far(), None, 100).await.unwrap();
        fixture.store.delete_jobs(far(), None, 100, far()).await.unwrap();
        assert_eq!(fixture.store.job(TENANT, job).await.unwrap(), None);
        assert_eq!(fixture.store.question(TENANT, id).await.unwrap(), None);
    }

    async fn one_key_is_made_and_kept(fixture: Fixture) {
        assert_eq!(fixture.store.sealing_key(None).await.unwrap(), None);
        let (first, second) = tokio::join!(fixture.store.sealing_key(Some("a")), fixture.store.sealing_key(Some("b")));
        let kept = first.unwrap().unwrap();
        assert_eq!(second.unwrap().as_ref(), Some(&kept));
        assert_eq!(fixture.store.sealing_key(None).await.unwrap(), Some(kept));
    }
}
