//! What the fakes of models' servers have in common: answers that wait for the test, and a count of who hangs up.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures::{Stream, stream::BoxStream};
use tokio::sync::Semaphore;

/// Holds an answer until the test says so.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// A closed gate.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default gate would be open as likely as closed")]
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Opens it for good.
    pub fn open(&self) {
        self.0.close();
    }

    pub(crate) async fn pass(&self) {
        // Fails once the semaphore is closed: that is how it is opened.
        let _ = self.0.acquire().await;
    }
}

/// How many answers nobody stayed for.
#[derive(Clone, Debug, Default)]
pub(crate) struct HangUps(Arc<AtomicUsize>);

impl HangUps {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// The same answer; whoever leaves it before its end is counted.
    pub(crate) fn watch<T>(&self, answer: impl Stream<Item = T> + Send + 'static) -> Watched<T> {
        Watched { answer: Box::pin(answer), over: false, hang_ups: self.clone() }
    }
}

/// An answer on its way.
pub(crate) struct Watched<T> {
    answer: BoxStream<'static, T>,
    over: bool,
    hang_ups: HangUps,
}

impl<T> Stream for Watched<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let next = self.answer.as_mut().poll_next(context);
        self.over |= matches!(next, Poll::Ready(None));
        next
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        if !self.over {
            self.hang_ups.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}
