//! Jobs on their way into the store.

use errand_common::port::{
    Clock, Store, StoreError,
    store::{Consequences, Submission, Submitted},
};

use crate::{
    batch::{Batcher, Entry},
    limit,
    problem::Problem,
    traced,
};

/// The way to a commit of submissions.
pub(crate) type Submitter = Batcher<Submission>;

impl Submitter {
    /// Makes the jobs durable. If the client goes away meanwhile, they are made all the same.
    pub(crate) async fn submit(&self, mut submission: Submission) -> Result<Submitted, Problem> {
        let mut span = traced::submission(&mut submission.jobs);
        let done = self.enter(submission).await;
        if let (Some(span), Err(problem)) = (&mut span, &done) {
            span.fail(problem.status.as_str());
        }
        done
    }
}

impl Entry for Submission {
    type Answer = Submitted;

    const NAME: &'static str = "submissions";
    const WAITING: usize = limit::SUBMISSIONS_WAITING;
    const PER_COMMIT: usize = limit::SUBMISSIONS_PER_COMMIT;
    const ROWS_PER_COMMIT: usize = limit::JOBS_PER_COMMIT;

    fn rows(&self) -> usize {
        Self::rows(self)
    }

    async fn commit(
        batch: Vec<Self>,
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> (Vec<Result<Submitted, StoreError>>, Consequences) {
        store.submit(batch, clock.now()).await
    }
}
