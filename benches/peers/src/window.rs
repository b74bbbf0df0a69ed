//! Keeps a number of futures in flight, without an allocation for each: the same for every
//! contender, and cheaper than `FuturesUnordered`.

use futures::task::AtomicWaker;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

/// Which slots are to be polled.
struct Ready {
    words: Box<[AtomicU64]>,
    caller: AtomicWaker,
}

struct SlotWaker {
    ready: Arc<Ready>,
    slot: usize,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let word = &self.ready.words[self.slot / 64];
        word.fetch_or(1 << (self.slot % 64), Ordering::Release);
        self.ready.caller.wake();
    }
}

struct Slot<F> {
    /// The place stays, futures come and go.
    future: Pin<Box<Option<F>>>,
    begun: Option<Instant>,
    waker: Waker,
}

/// Room for a number of futures in flight. All that it allocates it does when it is made.
pub struct Window<F> {
    ready: Arc<Ready>,
    slots: Vec<Slot<F>>,
}

impl<F: Future> Window<F> {
    pub fn new(size: usize) -> Self {
        let bits = |word: usize| match size - word * 64 {
            rest @ 0..64 => (1 << rest) - 1,
            _ => u64::MAX,
        };
        let words = (0..size.div_ceil(64)).map(|word| AtomicU64::new(bits(word))).collect();
        let ready = Arc::new(Ready { words, caller: AtomicWaker::new() });
        let slots = (0..size)
            .map(|slot| Slot {
                future: Box::pin(None),
                begun: None,
                waker: Arc::new(SlotWaker { ready: Arc::clone(&ready), slot }).into(),
            })
            .collect();
        Self { ready, slots }
    }

    /// Keeps it full until there are no more futures.
    ///
    /// `next` gives a future and when it began, if somebody wants to know; `done` gets its output.
    pub async fn run<S>(
        self,
        state: &mut S,
        mut next: impl FnMut(&mut S) -> Option<(F, Option<Instant>)>,
        mut done: impl FnMut(&mut S, F::Output, Option<Instant>),
    ) {
        let Self { ready, mut slots } = self;
        let mut in_flight = 0;
        poll_fn(move |cx| {
            ready.caller.register(cx.waker());
            for (index, word) in ready.words.iter().enumerate() {
                // Acquire: pairs with the waking.
                let mut set = word.swap(0, Ordering::Acquire);
                while set != 0 {
                    let slot = &mut slots[index * 64 + set.trailing_zeros() as usize];
                    set &= set - 1;
                    loop {
                        if slot.future.is_none() {
                            let Some((future, begun)) = next(state) else { break };
                            slot.future.as_mut().set(Some(future));
                            slot.begun = begun;
                            in_flight += 1;
                        }
                        let Some(future) = slot.future.as_mut().as_pin_mut() else { break };
                        match future.poll(&mut Context::from_waker(&slot.waker)) {
                            Poll::Pending => break,
                            Poll::Ready(output) => {
                                slot.future.as_mut().set(None);
                                in_flight -= 1;
                                done(state, output, slot.begun);
                            }
                        }
                    }
                }
            }
            if in_flight == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await
    }
}
