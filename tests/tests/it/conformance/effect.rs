//! Intents and receipts.

use std::time::Duration;

use errand_common::{
    domain::{EventType, FailureClass, Fence, JobId, Receipt, Stream},
    port::store::{CancelRequest, Claimed, EffectReceipt, Finish, Intend, Intended, NewEffect, Outcome, Stale},
};
use serde_json::{Value, json};

use super::{Fixture, LEASE, TENANT, failure, now, on_both, plain_job};

fn effect(ordinal: u32, fingerprint: &str) -> NewEffect {
    NewEffect {
        ordinal,
        kind: "http".to_owned(),
        destination: "x.example:443".to_owned(),
        fingerprint: fingerprint.to_owned(),
        request: None,
    }
}

fn done(ordinal: u32) -> EffectReceipt {
    EffectReceipt { ordinal, receipt: Receipt::Done(json!({"status": 200})) }
}

impl Fixture {
    async fn intend_with(
        &self,
        fence: Fence,
        receipts: Vec<EffectReceipt>,
        effect: NewEffect,
    ) -> Result<Intended, Stale> {
        let mut answers = self.store.intend(vec![Intend { fence, receipts, effect }], now()).await.unwrap();
        answers.remove(0)
    }

    pub(super) async fn intend(&self, fence: Fence, ordinal: u32) -> Result<Intended, Stale> {
        self.intend_with(fence, vec![], effect(ordinal, "f")).await
    }

    pub(super) async fn finish_with(&self, claimed: &Claimed, receipts: Vec<EffectReceipt>, outcome: Outcome) -> bool {
        let entry = Finish { receipts, ..Finish::new(claimed.fence, outcome) };
        self.store.finish(vec![entry], now()).await.unwrap().0.remove(0).is_ok()
    }

    async fn fail_and_retry(&self, claimed: &Claimed, receipts: Vec<EffectReceipt>) -> Claimed {
        let outcome = Outcome::Retry { failure: failure(FailureClass::Transient), run_at: now() };
        assert!(self.finish_with(claimed, receipts, outcome).await);
        let id = claimed.job.id;
        drop(self.store.promote(&[id], now()).await.unwrap());
        self.claim(id, LEASE).await
    }

    async fn new_claim(&self) -> Claimed {
        let id = self.submit(plain_job()).await.unwrap().id;
        self.claim(id, LEASE).await
    }
}

fn key(id: JobId) -> String {
    id.to_string()
}

on_both! {
    async fn an_intent_without_a_receipt_is_in_doubt_for_the_next_claim(fixture: Fixture) {
        let first = fixture.new_claim().await;
        let id = first.job.id;
        assert_eq!(fixture.intend(first.fence, 1).await, Ok(Intended::Fresh { key: key(id) }));
        assert_eq!(
            fixture.intend(first.fence, 1).await,
            Ok(Intended::Fresh { key: key(id) }),
            "the same run asks again because it got no answer"
        );
        assert_eq!(fixture.intend(first.fence, 2).await, Ok(Intended::Fresh { key: format!("{id}:2") }));

        let second = fixture.fail_and_retry(&first, vec![]).await;
        assert_eq!(fixture.intend(second.fence, 1).await, Ok(Intended::InDoubt { key: key(id) }));
        assert_eq!(fixture.intend(first.fence, 1).await, Err(Stale), "the old claim may not send any more");
        let kept = fixture.store.effects(id, 10).await.unwrap();
        assert_eq!(kept.iter().map(|effect| effect.ordinal).collect::<Vec<_>>(), [1, 2]);
        assert!(kept.iter().all(|effect| effect.receipt.is_none() && effect.claim == first.fence.claim));
    }

    async fn what_is_done_is_not_done_again_and_what_failed_may_be(fixture: Fixture) {
        let first = fixture.new_claim().await;
        let id = first.job.id;
        fixture.intend(first.fence, 1).await.unwrap();
        // The receipt of the first rides with the intent of the second.
        let second = fixture.intend_with(first.fence, vec![done(1)], effect(2, "f")).await;
        assert_eq!(second, Ok(Intended::Fresh { key: format!("{id}:2") }));
        let failed = EffectReceipt { ordinal: 2, receipt: Receipt::Failed(json!({"status": 503})) };
        let next = fixture.fail_and_retry(&first, vec![failed]).await;
        assert_eq!(fixture.intend(next.fence, 1).await, Ok(Intended::Done { answer: json!({"status": 200}) }));
        assert_eq!(fixture.intend(next.fence, 2).await, Ok(Intended::Fresh { key: format!("{id}:2") }));
        let kept = fixture.store.effects(id, 10).await.unwrap();
        assert_eq!(kept[1].receipt, None, "sent again, it is in doubt again");
        assert_eq!((kept[1].claim, kept[1].attempt), (next.fence.claim, 2));
        let last = fixture.fail_and_retry(&next, vec![done(2)]).await;
        assert!(matches!(fixture.intend(last.fence, 2).await, Ok(Intended::Done { .. })));
    }

    async fn a_key_never_stands_for_two_calls(fixture: Fixture) {
        let first = fixture.new_claim().await;
        fixture.intend(first.fence, 1).await.unwrap();
        let next = fixture.fail_and_retry(&first, vec![]).await;
        let changed = fixture.intend_with(next.fence, vec![], effect(1, "another")).await;
        assert_eq!(changed, Ok(Intended::Changed));
    }

    async fn receipts_of_a_stale_claim_are_refused_with_all_else(fixture: Fixture) {
        let first = fixture.new_claim().await;
        let id = first.job.id;
        fixture.intend(first.fence, 1).await.unwrap();
        let next = fixture.fail_and_retry(&first, vec![]).await;
        let late = Outcome::Completed { result: json!({}), message: None };
        assert!(!fixture.finish_with(&first, vec![done(1)], late).await);
        assert_eq!(fixture.intend_with(first.fence, vec![done(1)], effect(2, "f")).await, Err(Stale));
        assert_eq!(fixture.intend(next.fence, 1).await, Ok(Intended::InDoubt { key: key(id) }));
    }

    async fn a_batch_of_intents_answers_each(fixture: Fixture) {
        let mut claims = Vec::new();
        for _ in 0..20 {
            claims.push(fixture.new_claim().await);
        }
        let gone = claims[7].clone();
        fixture.fail_and_retry(&gone, vec![]).await;
        let batch = claims.iter().map(|claimed| Intend { fence: claimed.fence, receipts: vec![], effect: effect(1, "f") });
        let answers = fixture.store.intend(batch.collect(), now()).await.unwrap();
        for (number, (claimed, answer)) in claims.iter().zip(answers).enumerate() {
            let expected = if number == 7 { Err(Stale) } else { Ok(Intended::Fresh { key: key(claimed.job.id) }) };
            assert_eq!(answer, expected, "{number}");
        }
    }

    async fn a_cancellation_says_whether_something_was_under_way(fixture: Fixture) {
        for (receipts, unknown) in [(vec![], Value::Bool(true)), (vec![done(1)], Value::Null)] {
            let claimed = fixture.new_claim().await;
            fixture.intend(claimed.fence, 1).await.unwrap();
            let next = fixture.fail_and_retry(&claimed, receipts).await;
            let request = CancelRequest {
                tenant: TENANT.to_owned(),
                id: next.job.id,
                code: "USER_CANCEL".to_owned(),
                message: "Cancelled".to_owned(),
                now: now(),
            };
            drop(fixture.store.cancel(request).await.unwrap());
            let events = fixture.store.events(Stream::Job(next.job.id), 0, 100).await.unwrap();
            let cancelled = events.iter().find(|event| event.kind == EventType::Cancelled).unwrap();
            assert_eq!(cancelled.data["effect_unknown"], unknown);
            assert_eq!(fixture.intend(next.fence, 2).await, Err(Stale), "a cancelled run sends nothing more");
        }
    }

    async fn a_repeated_job_inherits_what_is_done_and_nothing_else(fixture: Fixture) {
        let first = fixture.new_claim().await;
        let old = first.job.id;
        for ordinal in 1..=3 {
            fixture.intend(first.fence, ordinal).await.unwrap();
        }
        let receipts = vec![done(1), EffectReceipt { ordinal: 2, receipt: Receipt::Failed(json!({"status": 500})) }];
        let outcome = Outcome::Failed { failure: failure(FailureClass::Fatal) };
        assert!(fixture.finish_with(&first, receipts, outcome).await);

        let mut repeated = plain_job();
        repeated.retry_of = Some(old);
        let id = fixture.submit(repeated).await.unwrap().id;
        let kept = fixture.store.effects(id, 10).await.unwrap();
        assert_eq!(kept.len(), 1, "{kept:#?}");
        assert_eq!(kept[0].key, key(old), "the key it was done under");
        let claimed = fixture.claim(id, LEASE).await;
        assert!(matches!(fixture.intend(claimed.fence, 1).await, Ok(Intended::Done { .. })));
        assert_eq!(fixture.intend(claimed.fence, 2).await, Ok(Intended::Fresh { key: format!("{id}:2") }));
        assert_eq!(fixture.intend(claimed.fence, 3).await, Ok(Intended::Fresh { key: format!("{id}:3") }));
    }

    async fn waiting_for_a_destination_is_neither_a_start_nor_waiting_for_a_worker(fixture: Fixture) {
        let claimed = fixture.new_claim().await;
        let until = now();
        let put_off = Outcome::Snoozed { run_at: until, reason: "unknown_kind".to_owned() };
        assert!(fixture.finish(&claimed, put_off).await);
        drop(fixture.store.promote(&[claimed.job.id], now()).await.unwrap());
        let again = fixture.claim(claimed.job.id, LEASE).await;
        assert!(again.snoozed_since.is_some());
        let later = now().plus(Duration::from_secs(5));
        let held_back = Outcome::HeldBack { run_at: later, reason: "destination_busy".to_owned() };
        assert!(fixture.finish(&again, held_back).await);
        let job = fixture.job(claimed.job.id).await;
        assert_eq!((job.state.as_str(), job.attempt, job.started_at, job.run_at), ("scheduled", 1, None, later));
        drop(fixture.store.promote(&[job.id], later).await.unwrap());
        let last = fixture.claim(job.id, LEASE).await;
        assert_eq!(last.snoozed_since, None, "its patience begins anew");
    }
}
