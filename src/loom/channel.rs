//! Stands in for flume's unbounded channel: a queue behind a lock, which is all that the pool makes
//! use of.

use crate::sync::Arc;
use loom::sync::Mutex;
use std::collections::VecDeque;

type Queue<M> = Arc<Mutex<VecDeque<M>>>;

pub(crate) struct Sender<M>(Queue<M>);

pub(crate) struct Receiver<M>(Queue<M>);

pub(crate) fn unbounded<M>() -> (Sender<M>, Receiver<M>) {
    let queue = Queue::default();
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

impl<M> Sender<M> {
    /// Never fails: the receiver lives as long as the sender, wherever the pool has one.
    pub(crate) fn try_send(&self, message: M) -> Result<(), M> {
        self.0.lock().unwrap().push_back(message);
        Ok(())
    }
}

impl<M> Receiver<M> {
    pub(crate) fn try_recv(&self) -> Result<M, ()> {
        self.0.lock().unwrap().pop_front().ok_or(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }
}
