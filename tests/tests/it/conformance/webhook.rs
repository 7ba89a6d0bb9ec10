//! Webhooks: whoever ends a job also makes the deliveries that tell of it.

use std::time::Duration;

use errand_common::{
    domain::{
        Failure, FailureClass, Job, JobId, JobState, Usage, UsageReport, WebhookEvent, WebhookEventId, WebhookId,
        webhook::{WebhookFormat, WebhookState},
    },
    port::store::{
        Claimed, Delivery, DeliveryFilter, Finish, NewJob, NewWebhook, Outcome, WebhookChange, coordination::Answered,
    },
    wire::webhook::{FAILING_TOO_LONG, GONE, KIND, WebhookPayload},
};
use serde_json::json;

use super::{
    Fixture, LEASE, TENANT,
    coordination::{ask, cancel},
    failure, now, on_both, plain_job,
};

fn new_webhook(events: &[&str]) -> NewWebhook {
    NewWebhook {
        id: WebhookId::new(),
        url: "https://hooks.example.com/".to_owned(),
        description: "the test's".to_owned(),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        format: WebhookFormat::Standard,
        secrets: Some("sealed".to_owned()),
    }
}

impl Fixture {
    async fn listening(&self, events: &[&str]) -> WebhookId {
        let new = new_webhook(events);
        assert!(self.store.create_webhook(TENANT, &new, 100, now()).await.unwrap());
        new.id
    }

    /// What an endpoint was told, oldest first.
    async fn told(&self, id: WebhookId) -> Vec<Delivery> {
        let filter = DeliveryFilter { limit: 1_000, ..DeliveryFilter::default() };
        let mut deliveries = self.store.deliveries(TENANT, id, &filter).await.unwrap();
        deliveries.reverse();
        deliveries
    }

    async fn types(&self, id: WebhookId) -> Vec<String> {
        self.told(id).await.into_iter().map(|delivery| delivery.event_type).collect()
    }

    async fn failing(&self, id: WebhookId) -> (WebhookState, bool) {
        let endpoint = self.store.webhook(TENANT, id).await.unwrap().unwrap();
        (endpoint.state, endpoint.failing_since.is_some())
    }

    async fn begun(&self, job: NewJob) -> Claimed {
        let id = self.submit(job).await.unwrap().id;
        self.claim(id, LEASE).await
    }

    /// Ends a run of the newest delivery to an endpoint.
    async fn attempt(&self, id: WebhookId, outcome: Outcome) {
        let delivery = self.told(id).await.pop().unwrap();
        let run = self.claim(delivery.id, LEASE).await;
        assert!(self.finish(&run, outcome).await);
    }
}

fn delivered() -> Outcome {
    Outcome::Completed { result: json!({"status": 204}), message: None }
}

fn failed(code: &str) -> Outcome {
    Outcome::Failed { failure: Failure { code: code.to_owned(), ..failure(FailureClass::Invalid) } }
}

on_both! {
    async fn every_way_of_ending_is_told_once_to_those_who_want_it(fixture: Fixture) {
        let all = fixture.listening(&[]).await;
        let failures = fixture.listening(&["job.failed", "job.expired"]).await;
        let none = fixture.listening(&["question.*"]).await;
        let run = fixture.begun(plain_job()).await;
        assert!(fixture.complete(&run, "done").await);
        let run = fixture.begun(plain_job()).await;
        assert!(fixture.finish(&run, failed("BROKEN")).await);
        let cancelled = fixture.submit(plain_job()).await.unwrap().id;
        let _ = fixture.store.cancel(cancel(cancelled)).await.unwrap();
        let soon = now().plus(Duration::from_millis(50));
        let expiring = NewJob { expires_at: Some(soon), ..plain_job() };
        fixture.submit(expiring).await.unwrap();
        let later = now().plus(Duration::from_secs(5));
        let (expired, _) = fixture.store.expire(later, 10).await.unwrap();
        assert_eq!(expired, 1);
        let run = fixture.begun(plain_job()).await;
        let retried = Outcome::Retry { failure: failure(FailureClass::Transient), run_at: now() };
        assert!(fixture.finish(&run, retried).await);
        assert_eq!(fixture.types(all).await, ["job.completed", "job.failed", "job.cancelled", "job.expired"]);
        assert_eq!(fixture.types(failures).await, ["job.failed", "job.expired"]);
        assert!(fixture.types(none).await.is_empty());

        // The delivery is a job whose payload says all of it.
        let delivery = &fixture.told(failures).await[0];
        let job = fixture.job(delivery.id).await;
        assert_eq!((job.kind.as_str(), job.state, job.retry.max_attempts), (KIND, JobState::Queued, 8));
        let payload: WebhookPayload = serde_json::from_value(job.payload).unwrap();
        assert_eq!((payload.endpoint_id, payload.event.id), (failures, delivery.event_id));
        assert_eq!(payload.event.data["failure"]["code"], "BROKEN");
        assert_eq!(payload.event.data["job_id"], json!(delivery.job_id));
        // One event, whoever hears of it.
        assert_eq!(delivery.event_id, fixture.told(all).await[1].event_id);
    }

    async fn where_nobody_listens_nothing_is_made(fixture: Fixture) {
        let run = fixture.begun(plain_job()).await;
        assert!(fixture.complete(&run, "done").await);
        let elsewhere = new_webhook(&[]);
        assert!(fixture.store.create_webhook("other", &elsewhere, 1, now()).await.unwrap());
        assert!(!fixture.store.create_webhook("other", &new_webhook(&[]), 1, now()).await.unwrap(), "one is the limit");
        let disabled = fixture.listening(&[]).await;
        let change = WebhookChange { state: Some(WebhookState::Disabled), ..WebhookChange::default() };
        assert!(fixture.store.change_webhook(TENANT, disabled, change, now()).await.unwrap().is_some());
        let run = fixture.begun(plain_job()).await;
        assert!(fixture.complete(&run, "done").await);
        assert_eq!(fixture.count("SELECT count(*) FROM jobs WHERE kind = 'webhook'").await, 0);
        assert!(fixture.store.webhook(TENANT, elsewhere.id).await.unwrap().is_none(), "another tenant's");
        assert!(!fixture.store.remove_webhook(TENANT, elsewhere.id).await.unwrap());
        assert!(fixture.store.remove_webhook("other", elsewhere.id).await.unwrap());
    }

    async fn usage_and_questions_are_told(fixture: Fixture) {
        let endpoint = fixture.listening(&["usage.*", "question.*"]).await;
        let run = fixture.begun(plain_job()).await;
        let usage = Usage { input_tokens: 10, output_tokens: 5, ..Usage::default() };
        let report = UsageReport { usage, incomplete: false };
        let entry = Finish { usage: Some(report), ..Finish::new(run.fence, delivered()) };
        assert!(fixture.store.finish(vec![entry], now()).await.unwrap().0.remove(0).is_ok());
        let world = fixture.world().await;
        let (answered, question) = fixture.asked(ask(&world)).await;
        fixture.delivered(answered).await;
        assert!(matches!(fixture.answer(question, json!("this one")).await, Answered::Won(_)));
        let (withdrawn, _) = fixture.asked(ask(&world)).await;
        let _ = fixture.store.cancel(cancel(withdrawn)).await.unwrap();
        let types = fixture.types(endpoint).await;
        let expected = ["usage.recorded", "question.opened", "question.answered", "question.opened", "question.cancelled"];
        assert_eq!(types, expected);
        let told = fixture.told(endpoint).await;
        let event = |job: Job| serde_json::from_value::<WebhookPayload>(job.payload).unwrap().event;
        let recorded = event(fixture.job(told[0].id).await);
        assert_eq!((&recorded.data["totalTokens"], &recorded.data["taskId"]), (&json!(15), &json!(run.job.id)));
        let answered_event = event(fixture.job(told[2].id).await);
        assert_eq!((&answered_event.data["answer"], answered_event.job_id), (&json!("this one"), Some(answered)));
    }

    async fn a_jobs_own_endpoint_hears_of_it_and_of_those_that_repeat_it(fixture: Fixture) {
        let target = new_webhook(&[]);
        let job = NewJob { webhook: Some(target.clone()), ..plain_job() };
        let run = fixture.begun(job).await;
        assert!(fixture.finish(&run, failed("BROKEN")).await);
        let other = fixture.begun(plain_job()).await;
        assert!(fixture.complete(&other, "done").await);
        let again = fixture.begun(NewJob { retry_of: Some(run.job.id), ..plain_job() }).await;
        assert!(fixture.complete(&again, "done").await);
        let told: Vec<_> = fixture.told(target.id).await.iter().map(|delivery| delivery.job_id).collect();
        assert_eq!(told, [Some(run.job.id), Some(again.job.id)]);
        assert!(fixture.store.webhooks(TENANT, None, 10).await.unwrap().is_empty());
        assert!(fixture.store.webhook(TENANT, target.id).await.unwrap().unwrap().for_jobs);
    }

    async fn attempts_say_how_an_endpoint_does(fixture: Fixture) {
        let (endpoint, other) = (fixture.listening(&["job.*"]).await, fixture.listening(&["webhook.*"]).await);
        let tell = || async {
            let run = fixture.begun(plain_job()).await;
            assert!(fixture.complete(&run, "done").await);
        };
        tell().await;
        let retry = Outcome::Retry { failure: failure(FailureClass::Transient), run_at: now() };
        fixture.attempt(endpoint, retry).await;
        assert_eq!(fixture.failing(endpoint).await, (WebhookState::Enabled, true));
        tell().await;
        fixture.attempt(endpoint, delivered()).await;
        assert_eq!(fixture.failing(endpoint).await, (WebhookState::Enabled, false), "a success ends it");
        let delivery = fixture.told(endpoint).await.pop().unwrap();
        assert_eq!((delivery.state, delivery.status), (JobState::Completed, Some(204)));
        tell().await;
        fixture.attempt(endpoint, failed(GONE)).await;
        assert_eq!(fixture.failing(endpoint).await.0, WebhookState::Disabled);
        assert_eq!(fixture.types(other).await, ["webhook.disabled"]);
        assert!(fixture.audit().await.iter().any(|(event, _)| event == "webhook.disabled"));
        let before = fixture.told(endpoint).await.len();
        tell().await;
        assert_eq!(fixture.told(endpoint).await.len(), before, "told nothing more");
        let change = WebhookChange { state: Some(WebhookState::Enabled), ..WebhookChange::default() };
        let enabled = fixture.store.change_webhook(TENANT, endpoint, change, now()).await.unwrap().unwrap();
        assert_eq!((enabled.disabled_why, enabled.failing_since), (None, None));
        tell().await;
        fixture.attempt(endpoint, failed(FAILING_TOO_LONG)).await;
        assert_eq!(fixture.failing(endpoint).await.0, WebhookState::Disabled);
        assert_eq!(fixture.types(other).await.len(), 2);
    }

    async fn a_delivery_can_be_made_again_and_secrets_are_replaced_by_one(fixture: Fixture) {
        let endpoint = fixture.listening(&["job.*"]).await;
        let event = WebhookEvent {
            id: WebhookEventId::new(),
            r#type: "webhook.test".to_owned(),
            timestamp: now(),
            job_id: None,
            data: json!({}),
        };
        let (first, consequences) = fixture.store.deliver(TENANT, endpoint, event.clone(), now()).await.unwrap().unwrap();
        assert_eq!(consequences.ready.len(), 1, "workers are told");
        let run = fixture.claim(first, LEASE).await;
        assert!(fixture.finish(&run, delivered()).await);
        let (second, _) = fixture.store.redeliver(TENANT, endpoint, first, now()).await.unwrap().unwrap();
        let told = fixture.told(endpoint).await;
        assert_eq!(told.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), [first, second]);
        assert!(told.iter().all(|delivery| delivery.event_id == event.id));
        assert!(fixture.store.redeliver("other", endpoint, first, now()).await.unwrap().is_none());
        assert!(fixture.store.redeliver(TENANT, endpoint, JobId::new(), now()).await.unwrap().is_none());
        let store = &fixture.store;
        assert!(store.replace_webhook_secrets(TENANT, endpoint, Some("sealed"), "new", now()).await.unwrap());
        assert!(!store.replace_webhook_secrets(TENANT, endpoint, Some("sealed"), "newer", now()).await.unwrap(), "too late");
        assert!(!store.replace_webhook_secrets("other", endpoint, Some("new"), "theirs", now()).await.unwrap());
    }

    async fn what_is_old_is_forgotten_with_its_jobs(fixture: Fixture) {
        let (endpoint, target) = (fixture.listening(&["job.*"]).await, new_webhook(&[]));
        let run = fixture.begun(NewJob { webhook: Some(target.clone()), ..plain_job() }).await;
        assert!(fixture.complete(&run, "done").await);
        fixture.attempt(endpoint, delivered()).await;
        fixture.attempt(target.id, delivered()).await;
        let later = now().plus(Duration::from_secs(60));
        while fixture.store.drop_events(later, None, 100).await.unwrap().removed > 0 {}
        let mut after = None;
        loop {
            let step = fixture.store.delete_jobs(later, after, 100, later).await.unwrap();
            after = step.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(fixture.count("SELECT count(*) FROM jobs").await, 0);
        assert_eq!(fixture.count("SELECT count(*) FROM webhook_deliveries").await, 0);
        assert_eq!(fixture.count("SELECT count(*) FROM job_webhooks").await, 0);
        assert!(fixture.store.webhook(TENANT, target.id).await.unwrap().is_none(), "nobody names it any more");
        assert!(fixture.store.webhook(TENANT, endpoint).await.unwrap().is_some());
    }
}
