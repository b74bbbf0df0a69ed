//! Stands in for `atomic_waker::AtomicWaker`: a waker behind a lock, with the same promise. Of a
//! registration and a wake one comes first, and hands over what was written before it; a waker that
//! is registered is woken once.
//!
//! loom has one of its own, which wakes and yields where two meet: that hides a lost wake-up.

use loom::sync::Mutex;
use std::task::Waker;

#[derive(Debug)]
pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

impl Default for AtomicWaker {
    fn default() -> Self {
        Self::new()
    }
}

impl AtomicWaker {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    pub(crate) fn register(&self, waker: &Waker) {
        let old = self.0.lock().unwrap().replace(waker.clone());
        drop(old);
    }

    pub(crate) fn take(&self) -> Option<Waker> {
        self.0.lock().unwrap().take()
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }
}
