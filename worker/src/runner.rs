//! The apalis worker: the only file that knows it.
//!
//! apalis brings the worker loop and its tower layers. Leases, attempts and retries are the store's, so its backend is a
//! channel of jobs already claimed, that cannot fail: no error of ours can end the loop and drop what runs.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, ready},
};

use apalis::{layers::tracing::MakeSpan, layers::tracing::TraceLayer, prelude::WorkerBuilderExt};
use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    error::{BoxDynError, WorkerError},
    task::{Task, builder::TaskBuilder, data::Data, task_id::TaskId},
    worker::{builder::WorkerBuilder, context::WorkerContext, event::Event, ext::event_listener::EventListenerExt},
};
use errand_common::domain::{JobId, WorkerId};
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tower::{Layer, Service, layer::util::Identity, limit::ConcurrencyLimitLayer};

use crate::execute::{Assignment, Executor};

/// Runs assignments until their channel is closed and all of them have ended.
///
/// # Errors
/// The loop ended otherwise: a defect, after which the worker must stop.
pub(crate) async fn run(
    id: WorkerId,
    concurrency: usize,
    assignments: mpsc::Receiver<Assignment>,
    executor: Arc<Executor>,
) -> Result<(), BoxDynError> {
    let tracker = TaskTracker::new();
    let ended = work(id, concurrency, assignments, executor, tracker.clone()).await;
    tracker.close();
    tracker.wait().await;
    ended.map_err(Into::into)
}

/// The worker's loop. Boxed here, outside of any `async`, where the compiler can still see that it is `Send`.
fn work(
    id: WorkerId,
    concurrency: usize,
    assignments: mpsc::Receiver<Assignment>,
    executor: Arc<Executor>,
    tracker: TaskTracker,
) -> BoxFuture<'static, Result<(), WorkerError>> {
    let worker = WorkerBuilder::new(id.to_string())
        .backend(Claims { assignments })
        .layer(ConcurrencyLimitLayer::new(concurrency))
        .layer(Spawn { tracker })
        .catch_panic()
        .layer(TraceLayer::new().make_span_with(ClaimSpan))
        .data(executor)
        .on_event(|_, event| {
            if let Event::Error(error) = event {
                tracing::error!(%error, "a run ended outside its attempt; its lease will pass");
            }
        })
        .build(attempt);
    Box::pin(worker.run())
}

async fn attempt(assignment: Assignment, executor: Data<Arc<Executor>>) {
    executor.execute(assignment).await;
}

/// Claimed jobs as an apalis backend.
struct Claims {
    assignments: mpsc::Receiver<Assignment>,
}

impl Backend for Claims {
    type Task = Task<Assignment>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// The end of the channel ends the worker, after what is in it.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Assignment>, Infallible>>> {
        let Some(assignment) = ready!(self.assignments.poll_recv(cx)) else { return Poll::Ready(None) };
        let id = TaskId::from_string(assignment.claimed.job.id.to_string());
        Poll::Ready(Some(Ok(TaskBuilder::new(assignment).task_id(id).build())))
    }

    /// Comes when nothing runs any more. The loop goes on to its end only if the worker was told to stop.
    fn poll_close(&mut self, _: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        if let Err(error) = worker.stop() {
            tracing::debug!(%error, "the worker had stopped already");
        }
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Claims {
    type Args = Assignment;
    type Id = JobId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// Gives each run a task of its own, so that runs use all cores. The task ends with its run's future.
#[derive(Clone)]
struct Spawn {
    tracker: TaskTracker,
}

impl<S> Layer<S> for Spawn {
    type Service = Spawned<S>;

    fn layer(&self, inner: S) -> Spawned<S> {
        Spawned { inner, tracker: self.tracker.clone() }
    }
}

#[derive(Clone)]
struct Spawned<S> {
    inner: S,
    tracker: TaskTracker,
}

impl<S> Service<Task<Assignment>> for Spawned<S>
where
    S: Service<Task<Assignment>>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Into<BoxDynError> + Send + 'static,
{
    type Response = S::Response;
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<S::Response, BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, task: Task<Assignment>) -> Self::Future {
        let run = AbortOnDropHandle::new(self.tracker.spawn(self.inner.call(task)));
        Box::pin(async move { run.await?.map_err(Into::into) })
    }
}

/// The span around everything about one claim.
#[derive(Clone, Copy)]
struct ClaimSpan;

impl MakeSpan<Assignment> for ClaimSpan {
    fn make_span(&mut self, task: &Task<Assignment>) -> tracing::Span {
        tracing::debug_span!("claim", claim = task.args.claimed.fence.claim)
    }
}
