//! A queue of envelopes, linked through their cells: nothing is allocated, and it moves as four
//! words from the dispatcher to a worker.
//!
//! Invariant: `tail` links to the last envelope, which is reached from `head` through the `next`
//! of each; it is there exactly when `head` is. The chain owns all of them.

use crate::cell::{Envelope, Link};
use crate::types::Types;

pub(crate) struct Chain<T: Types> {
    head: Option<Envelope<T>>,
    tail: Option<Link<T>>,
    len: usize,
}

impl<T: Types> Default for Chain<T> {
    fn default() -> Self {
        Self { head: None, tail: None, len: 0 }
    }
}

impl<T: Types> Chain<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn front(&self) -> Option<&Envelope<T>> {
        self.head.as_ref()
    }

    pub(crate) fn push_back(&mut self, envelope: Envelope<T>) {
        let link = envelope.as_link();
        self.len += 1;
        match self.tail.replace(link) {
            None => self.head = Some(envelope),
            Some(last) => Envelope::with_next_of(last, |next| *next = Some(envelope)),
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<Envelope<T>> {
        let envelope = self.head.take()?;
        self.head = envelope.with_next(Option::take);
        if self.head.is_none() {
            self.tail = None;
        }
        self.len -= 1;
        Some(envelope)
    }

    /// Splits off the first `most` envelopes.
    pub(crate) fn take_front(&mut self, most: usize) -> Self {
        if self.len <= most {
            return std::mem::take(self);
        }
        let mut taken = Self::default();
        for _ in 0..most {
            match self.pop_front() {
                Some(envelope) => taken.push_back(envelope),
                None => break,
            }
        }
        taken
    }

    /// Discards the envelopes of withdrawn commands.
    pub(crate) fn sweep(&mut self) {
        let mut kept = Self::default();
        while let Some(envelope) = self.pop_front() {
            if envelope.is_withdrawn() {
                // Nothing to claim: this buries the tombstone.
                drop(envelope);
            } else {
                kept.push_back(envelope);
            }
        }
        *self = kept;
    }
}

impl<T: Types> Drop for Chain<T> {
    fn drop(&mut self) {
        // One by one: a chain of a million that drops its head would drop the rest from within,
        // a million calls deep. Each envelope ends its command as aborted.
        while let Some(envelope) = self.pop_front() {
            drop(envelope);
        }
    }
}
