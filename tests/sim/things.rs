//! Small things with a mind of their own: ids that panic, values that are counted while they live, and
//! callers that give up.

use std::future::Future;
use std::hash::{Hash, Hasher};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// Panics, but past the panic hook, which would print.
pub(crate) fn quiet_panic(message: &str) -> ! {
    resume_unwind(Box::new(message.to_owned()))
}

/// What an id panics in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poison {
    None,
    Hash,
    Eq,
    Clone,
}

/// An aggregate's id. Equal by number; the poison is on top.
#[derive(Debug)]
pub(crate) struct Id {
    pub(crate) number: u32,
    pub(crate) poison: Poison,
}

impl Id {
    pub(crate) fn new(number: u32) -> Self {
        Self { number, poison: Poison::None }
    }
}

impl Clone for Id {
    fn clone(&self) -> Self {
        if self.poison == Poison::Clone {
            quiet_panic("in Clone");
        }
        Self { ..*self }
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        if self.poison == Poison::Eq || other.poison == Poison::Eq {
            quiet_panic("in Eq");
        }
        self.number == other.number
    }
}

impl Eq for Id {}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if self.poison == Poison::Hash {
            quiet_panic("in Hash");
        }
        self.number.hash(state);
    }
}

/// Counts things that live.
#[derive(Clone, Default)]
pub(crate) struct Live(Arc<AtomicUsize>);

pub(crate) struct Alive(Arc<AtomicUsize>);

impl Live {
    pub(crate) fn one(&self) -> Alive {
        self.0.fetch_add(1, Ordering::Relaxed);
        Alive(Arc::clone(&self.0))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Panics when it is dropped, unless that happens while its thread panics.
pub(crate) struct Bomb(pub(crate) &'static str);

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            quiet_panic(self.0);
        }
    }
}

/// Polls a future so many times at most, then drops it: `None`.
pub(crate) fn polls_at_most<F: Future + Unpin>(polls: u64, future: F) -> Impatient<F> {
    Impatient { future: Some(future), left: polls }
}

pub(crate) struct Impatient<F> {
    future: Option<F>,
    left: u64,
}

impl<F: Future + Unpin> Future for Impatient<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.left > 0
            && let Some(future) = &mut this.future
        {
            this.left -= 1;
            if let Poll::Ready(output) = Pin::new(future).poll(cx) {
                return Poll::Ready(Some(output));
            }
            if this.left > 0 {
                return Poll::Pending;
            }
        }
        this.future = None;
        Poll::Ready(None)
    }
}
