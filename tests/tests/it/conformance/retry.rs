//! Retries in bulk.

use std::collections::BTreeSet;

use errand_common::{
    domain::{FailureClass, JobId, JobState},
    port::store::{NewJob, Outcome, Retried, UnsuccessfulFilter},
};
use serde_json::json;

use super::{Fixture, LEASE, TENANT, failure, now, on_both, plain_job, record};

fn filter() -> UnsuccessfulFilter {
    UnsuccessfulFilter { limit: 100, ..UnsuccessfulFilter::default() }
}

fn retry_of(original: JobId) -> NewJob {
    NewJob { retry_of: Some(original), ..plain_job() }
}

impl Fixture {
    async fn failed_job(&self, job: NewJob, class: FailureClass) -> JobId {
        let id = self.submit(job).await.unwrap().id;
        let run = self.claim(id, LEASE).await;
        assert!(self.finish(&run, Outcome::Failed { failure: failure(class) }).await);
        id
    }

    async fn retry(&self, originals: &[JobId]) -> BTreeSet<JobId> {
        let jobs = originals.iter().map(|id| retry_of(*id)).collect();
        let retried = self.store.submit_retries(TENANT, jobs, None, now()).await.unwrap().0;
        let Retried::Done(made) = retried else { panic!("{retried:?}") };
        made
    }
}

on_both! {
    async fn what_ended_badly_is_listed_newest_first_with_what_decides_about_a_retry(fixture: Fixture) {
        let old = fixture.failed_job(plain_job(), FailureClass::Fatal).await;
        let mut elsewhere = plain_job();
        elsewhere.queue = "elsewhere".to_owned();
        let new = fixture.failed_job(elsewhere, FailureClass::Ambiguous).await;
        let done = fixture.submit(plain_job()).await.unwrap().id;
        let run = fixture.claim(done, LEASE).await;
        assert!(fixture.complete(&run, "done").await);
        let listed = async |filter: UnsuccessfulFilter| {
            let found = fixture.store.unsuccessful(TENANT, &filter).await.unwrap();
            found.iter().map(|job| job.id).collect::<Vec<_>>()
        };
        assert_eq!(listed(filter()).await, [new, old]);
        assert_eq!(listed(UnsuccessfulFilter { before: Some(new), ..filter() }).await, [old]);
        assert_eq!(listed(UnsuccessfulFilter { queue: Some("elsewhere".to_owned()), ..filter() }).await, [new]);
        assert!(listed(UnsuccessfulFilter { states: vec![JobState::Expired], ..filter() }).await.is_empty());
        assert!(fixture.store.unsuccessful("other", &filter()).await.unwrap().is_empty());
        let found = fixture.store.unsuccessful(TENANT, &filter()).await.unwrap();
        assert_eq!((found[0].class, found[0].code.as_deref()), (Some(FailureClass::Ambiguous), Some("EXECUTION_ERROR")));
        assert!(!found[0].retried && found[0].payload_chars > 0);
        assert_eq!(fixture.retry(&[new]).await.len(), 1);
        assert!(fixture.store.unsuccessful(TENANT, &filter()).await.unwrap()[0].retried);
        let whole = fixture.store.jobs_by_id(TENANT, &[old, JobId::new()]).await.unwrap();
        assert_eq!(whole.iter().map(|job| (job.id, &job.payload)).collect::<Vec<_>>(), [(old, &json!({"prompt": "hello"}))]);
        assert!(fixture.store.jobs_by_id("other", &[old]).await.unwrap().is_empty());
    }

    async fn children_are_left_to_their_parent(fixture: Fixture) {
        fixture.failed_job(plain_job(), FailureClass::Fatal).await;
        fixture.tamper("UPDATE jobs SET parent_id = id").await;
        assert!(fixture.store.unsuccessful(TENANT, &filter()).await.unwrap().is_empty());
    }

    async fn bulk_retries_that_run_together_repeat_each_job_once(fixture: Fixture) {
        let mut originals = Vec::new();
        for _ in 0..20 {
            originals.push(fixture.failed_job(plain_job(), FailureClass::Fatal).await);
        }
        let all = futures::future::join_all((0..6).map(|_| fixture.retry(&originals))).await;
        assert_eq!(all.iter().map(BTreeSet::len).sum::<usize>(), 20, "{all:?}");
        let made = fixture.count("SELECT count(*) FROM jobs WHERE retry_of IS NOT NULL AND state = 'queued'").await;
        assert_eq!(made, 20);
    }

    async fn a_bulk_retry_under_a_key_is_done_once(fixture: Fixture) {
        let original = fixture.failed_job(plain_job(), FailureClass::Fatal).await;
        let submit = async |fingerprint: &str| {
            let key = Some(record("k", fingerprint, json!("the answer")));
            fixture.store.submit_retries(TENANT, vec![retry_of(original)], key, now()).await.unwrap().0
        };
        assert!(matches!(submit("f").await, Retried::Done(made) if made.len() == 1));
        assert!(matches!(submit("f").await, Retried::Replayed(stored) if stored.answer == json!("the answer")));
        assert_eq!(submit("other").await, Retried::Mismatch);
    }
}
