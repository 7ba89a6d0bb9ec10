//! The submission batcher: what arrives while one commit runs shares the next.

use std::sync::Arc;

use errand_common::{
    backend::Backend,
    port::store::{Consequences, Submission, Submitted},
    port::{Clock, Store, StoreError},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{limit, problem::Problem, traced};

type Answer = Result<Submitted, StoreError>;

struct Pending {
    submission: Submission,
    reply: oneshot::Sender<Answer>,
}

/// The way to a commit.
#[derive(Clone)]
pub(crate) struct Submitter {
    pending: mpsc::Sender<Pending>,
}

impl Submitter {
    /// Starts the batcher. When `stop` is cancelled it commits what waits, then ends.
    pub(crate) fn start(backend: &Backend, tracker: &TaskTracker, stop: CancellationToken) -> Self {
        let (told, to_tell) = mpsc::channel(16);
        let teller = backend.clone();
        tracker.spawn(tell(teller, to_tell));
        Self::over(backend.store.clone(), backend.clock.clone(), told, tracker, stop)
    }

    fn over(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        told: mpsc::Sender<Consequences>,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (pending, arrived) = mpsc::channel(limit::SUBMISSIONS_WAITING);
        tracker.spawn(commit(store, clock, arrived, told, stop));
        Self { pending }
    }

    /// Makes the jobs durable. If the client goes away meanwhile, they are made all the same.
    pub(crate) async fn submit(&self, mut submission: Submission) -> Result<Submitted, Problem> {
        let mut span = traced::submission(&mut submission.jobs);
        let done = self.enter(submission).await;
        if let (Some(span), Err(problem)) = (&mut span, &done) {
            span.fail(problem.status.as_str());
        }
        done
    }

    async fn enter(&self, submission: Submission) -> Result<Submitted, Problem> {
        let (reply, answer) = oneshot::channel();
        self.pending.try_send(Pending { submission, reply }).map_err(|_| {
            Problem::unavailable("overloaded", "Too many submissions wait for the database; this one was not taken")
        })?;
        match answer.await {
            Ok(answer) => answer.map_err(Problem::from),
            Err(_) => {
                tracing::error!("the submission batcher ended before it answered");
                Err(Problem::internal())
            }
        }
    }
}

async fn commit(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    mut arrived: mpsc::Receiver<Pending>,
    told: mpsc::Sender<Consequences>,
    stop: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            biased;
            first = arrived.recv() => first,
            () = stop.cancelled(), if !arrived.is_closed() => {
                arrived.close();
                continue;
            }
        };
        let Some(first) = first else { return };
        let (batch, replies) = collect(first, &mut arrived);
        let (answers, consequences) = store.submit(batch, clock.now()).await;
        debug_assert_eq!(answers.len(), replies.len(), "one answer per submission");
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Nobody there: the client went away.
            let _ = reply.send(answer);
        }
        if told.send(consequences).await.is_err() {
            tracing::warn!("nobody tells the fleet what is due; the sweep will");
        }
    }
}

/// All that waits, up to the size of one commit.
fn collect(first: Pending, arrived: &mut mpsc::Receiver<Pending>) -> (Vec<Submission>, Vec<oneshot::Sender<Answer>>) {
    let mut jobs = first.submission.rows();
    let mut batch = vec![first.submission];
    let mut replies = vec![first.reply];
    while batch.len() < limit::SUBMISSIONS_PER_COMMIT && jobs < limit::JOBS_PER_COMMIT {
        let Ok(next) = arrived.try_recv() else { break };
        jobs += next.submission.rows();
        batch.push(next.submission);
        replies.push(next.reply);
    }
    (batch, replies)
}

/// Tells the fleet in a task of its own, so that a slow queue does not hold up the next commit.
pub(crate) async fn tell(backend: Backend, mut to_tell: mpsc::Receiver<Consequences>) {
    while let Some(mut consequences) = to_tell.recv().await {
        while let Ok(more) = to_tell.try_recv() {
            consequences.extend(more);
        }
        backend.dispatch(consequences).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(jobs: usize) -> (Pending, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        let job = crate::task::tests::any_job();
        (Pending { submission: Submission { jobs: vec![job; jobs], idempotency: None }, reply }, answer)
    }

    #[test]
    fn what_waits_shares_one_commit_up_to_its_size() {
        let (sender, mut arrived) = mpsc::channel(8);
        let mut answers = Vec::new();
        for jobs in [1, limit::JOBS_PER_COMMIT, 1] {
            let (entry, answer) = pending(jobs);
            answers.push(answer);
            assert!(sender.try_send(entry).is_ok());
        }
        let (first, _answer) = pending(1);
        let (batch, _) = collect(first, &mut arrived);
        let sizes: Vec<_> = batch.iter().map(|submission| submission.jobs.len()).collect();
        assert_eq!(sizes, [1, 1, limit::JOBS_PER_COMMIT], "the one that fills the commit is the last to join it");
        assert!(arrived.try_recv().is_ok(), "the rest waits for the next");
    }
}
