//! What engines must find again.

use errand_common::{
    domain::OnBusy,
    port::store::{CancelRequest, EngineState, Finish, Outcome, Release, RescueScope},
};
use serde_json::json;

use super::{Fixture, LEASE, TENANT, now, on_both, task};

fn state() -> EngineState {
    EngineState { engine: "echo".to_owned(), engine_session: "s".to_owned(), content: "so far".to_owned() }
}

on_both! {
    async fn a_finish_with_an_engine_state_is_found_by_the_next_run(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let session = created.session_id.unwrap();
        assert_eq!(fixture.store.engine_state(session, "echo").await.unwrap(), None);
        let early = EngineState { content: String::new(), ..state() };
        fixture.store.keep_engine_state(run.fence, early.clone()).await.unwrap().unwrap();
        assert_eq!(fixture.store.engine_state(session, "echo").await.unwrap(), Some(early));
        let outcome = Outcome::Completed { result: json!({"summary": "x"}), message: None };
        let entry = Finish { engine_state: Some(state()), ..Finish::new(run.fence, outcome) };
        assert_eq!(fixture.store.finish(vec![entry.clone()], now()).await.unwrap().0, [Ok(())]);
        assert_eq!(fixture.store.engine_state(session, "echo").await.unwrap(), Some(state()));
        assert_eq!(fixture.store.engine_state(session, "other").await.unwrap(), None);
        let stale = EngineState { content: "stale".to_owned(), ..state() };
        assert!(fixture.store.keep_engine_state(run.fence, stale.clone()).await.unwrap().is_err());
        let entry = Finish { engine_state: Some(stale), ..entry };
        assert!(fixture.store.finish(vec![entry], now()).await.unwrap().0[0].is_err());
        assert_eq!(fixture.store.engine_state(session, "echo").await.unwrap(), Some(state()), "a stale write is none");
    }

    async fn a_cancelled_run_leaves_its_state_with_its_release_and_not_after_it(fixture: Fixture) {
        let created = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        let session = created.session_id.unwrap();
        let run = fixture.claim(created.id, LEASE).await;
        let cancel = CancelRequest {
            tenant: TENANT.to_owned(),
            id: created.id,
            code: "USER_CANCEL".to_owned(),
            message: "Task cancelled by user".to_owned(),
            now: now(),
        };
        let _ = fixture.store.cancel(cancel).await.unwrap().unwrap();
        assert!(fixture.store.keep_engine_state(run.fence, state()).await.unwrap().is_err());
        let release = |content: &str| Release {
            engine_state: Some(EngineState { content: content.to_owned(), ..state() }),
            ..Release::from(run.fence)
        };
        fixture.store.release(release("first"), now()).await.unwrap().0.unwrap();
        assert!(fixture.store.release(release("second"), now()).await.unwrap().0.is_err());
        assert_eq!(fixture.store.engine_state(session, "echo").await.unwrap().unwrap().content, "first");
    }

    async fn a_release_that_comes_after_its_lease_ended_overwrites_nothing(fixture: Fixture) {
        let created = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        let run = fixture.claim(created.id, LEASE).await;
        let next = fixture.submit(task(created.session_id, "next", OnBusy::Interrupt)).await.unwrap();
        assert_eq!(fixture.store.rescue(RescueScope::All, now(), 10).await.unwrap().0.len(), 1);
        let newer = fixture.claim(next.id, LEASE).await;
        fixture.store.keep_engine_state(newer.fence, state()).await.unwrap().unwrap();
        let old = EngineState { content: "old".to_owned(), ..state() };
        let late = Release { engine_state: Some(old), ..Release::from(run.fence) };
        assert!(fixture.store.release(late, now()).await.unwrap().0.is_err());
        assert_eq!(fixture.store.engine_state(created.session_id.unwrap(), "echo").await.unwrap(), Some(state()));
    }
}
