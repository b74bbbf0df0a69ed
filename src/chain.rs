//! Queues of envelopes, linked through their cells: nothing is allocated. A [`Chain`] is a lane's
//! backlog; a [`Turn`] is what is cut off its front, and moves as one word from the dispatcher to a
//! worker.
//!
//! Invariant: `tail` links to the last envelope, which is reached from the first through the `next`
//! of each; it is there exactly when there is a first. A turn owns all of its envelopes, and a chain
//! is a turn that can grow.

use crate::cell::{Envelope, Link};
use crate::types::Types;

pub(crate) struct Chain<T: Types> {
    all: Turn<T>,
    tail: Option<Link<T>>,
    len: usize,
}

impl<T: Types> Default for Chain<T> {
    fn default() -> Self {
        Self { all: Turn::default(), tail: None, len: 0 }
    }
}

impl<T: Types> Chain<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push_back(&mut self, envelope: Envelope<T>) {
        let link = envelope.as_link();
        self.len += 1;
        match self.tail.replace(link) {
            None => self.all = Turn::alone(envelope),
            Some(last) => Envelope::with_next_of(last, |next| *next = Some(envelope)),
        }
    }

    fn pop_front(&mut self) -> Option<Envelope<T>> {
        let envelope = self.all.pop_front()?;
        if self.all.is_empty() {
            self.tail = None;
        }
        self.len -= 1;
        Some(envelope)
    }

    /// Splits off the first `most` envelopes.
    pub(crate) fn take_front(&mut self, most: usize) -> Turn<T> {
        if self.len <= most {
            return std::mem::take(self).all;
        }
        let mut taken = Self::default();
        for _ in 0..most {
            match self.pop_front() {
                Some(envelope) => taken.push_back(envelope),
                None => break,
            }
        }
        taken.all
    }

    /// Discards the envelopes of withdrawn commands.
    pub(crate) fn sweep(&mut self) {
        *self = self.all.parted().0;
    }
}

/// The commands of one turn.
pub(crate) struct Turn<T: Types> {
    head: Option<Envelope<T>>,
}

impl<T: Types> Default for Turn<T> {
    fn default() -> Self {
        Self { head: None }
    }
}

impl<T: Types> Turn<T> {
    /// A turn of one command.
    pub(crate) fn alone(envelope: Envelope<T>) -> Self {
        Self { head: Some(envelope) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// How many commands there are, counted one by one.
    pub(crate) fn len(&self) -> usize {
        let (mut len, mut at) = (0, self.head.as_ref().map(Envelope::as_link));
        while let Some(link) = at {
            len += 1;
            at = Envelope::with_next_of(link, |next| next.as_ref().map(Envelope::as_link));
        }
        len
    }

    pub(crate) fn front(&self) -> Option<&Envelope<T>> {
        self.head.as_ref()
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<Envelope<T>> {
        let envelope = self.head.take()?;
        self.head = envelope.with_next(Option::take);
        Some(envelope)
    }

    /// Discards the envelopes of withdrawn commands.
    pub(crate) fn sweep(&mut self) {
        drop(self.take_withdrawn());
    }

    /// Takes out the envelopes of withdrawn commands. Dropped, their tombstones are buried.
    pub(crate) fn take_withdrawn(&mut self) -> Self {
        let (kept, withdrawn) = self.parted();
        *self = kept.all;
        withdrawn.all
    }

    /// What is left without the envelopes of withdrawn commands, and those.
    fn parted(&mut self) -> (Chain<T>, Chain<T>) {
        let (mut kept, mut withdrawn) = (Chain::default(), Chain::default());
        while let Some(envelope) = self.pop_front() {
            let chain = if envelope.is_withdrawn() { &mut withdrawn } else { &mut kept };
            chain.push_back(envelope);
        }
        (kept, withdrawn)
    }
}

impl<T: Types> Drop for Turn<T> {
    #[inline]
    fn drop(&mut self) {
        // One by one: a turn or a backlog of a million that drops its head would drop the rest from
        // within, a million calls deep. Each envelope ends its command as aborted.
        while let Some(envelope) = self.pop_front() {
            drop(envelope);
        }
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::cell::Draft;
    use crate::command::tests::Touch;
    use crate::shard::front::{Entry, Front};
    use crate::sync::Arc;
    use crate::types::TypesOf;

    type Touches = TypesOf<Touch, (), ()>;

    /// Which envelopes there are, in order, by their addresses.
    fn addresses(mut turn: Turn<Touches>) -> Vec<*const ()> {
        std::iter::from_fn(|| turn.pop_front()).map(|envelope| envelope.address()).collect()
    }

    #[test]
    fn what_is_cut_off_and_swept_is_what_a_list_would_give() {
        let front = Arc::new(Front::new(100, 1));
        // Lengths, where to cut, and of how many commands the first is withdrawn.
        for (len, most, every) in [(7, 3, 9), (7, 7, 2), (7, 8, 3), (7, 6, 1), (1, 1, 9), (0, 1, 1)]
        {
            let mut chain = Chain::default();
            let mut expected = Vec::new();
            for at in 0..len {
                assert_eq!(front.try_enter(), Entry::Accepted);
                let (cell, envelope) = Draft::new(Touch, None, &front).accepted();
                if at % every == 0 && every < 9 {
                    assert!(cell.withdraw());
                }
                expected.push((envelope.address(), envelope.is_withdrawn()));
                chain.push_back(envelope);
            }
            assert_eq!((chain.len(), chain.is_empty()), (len, len == 0));

            let mut taken = chain.take_front(most);
            let rest = expected.split_off(most.min(len));
            assert_eq!((taken.len(), taken.is_empty()), (expected.len(), expected.is_empty()));
            assert_eq!((chain.len(), chain.is_empty()), (rest.len(), rest.is_empty()));
            assert_eq!(taken.front().map(Envelope::address), expected.first().map(|(at, _)| *at));
            if most % 2 == 0 {
                taken.sweep();
                expected.retain(|(_, gone)| !gone);
            }
            assert!(addresses(taken).into_iter().eq(expected.iter().map(|(at, _)| *at)));

            chain.sweep();
            let kept: Vec<_> = rest.iter().filter(|(_, gone)| !gone).map(|(at, _)| *at).collect();
            assert_eq!((chain.len(), chain.is_empty()), (kept.len(), kept.is_empty()));
            assert_eq!(addresses(chain.take_front(len)), kept);
            assert_eq!((chain.len(), chain.is_empty()), (0, true));
        }
        assert_eq!(front.queued(), 0);
    }
}
