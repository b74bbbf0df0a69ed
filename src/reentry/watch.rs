//! A wait of the pool's, as its future sees it.
//!
//! Who may touch what, and why no circle is missed and none invented, is at the top of `mod.rs`.

use super::board::{Guard, publish};
use super::frame::{Key, in_handler, with_current};
use super::graph::Verdict;
use super::judge::{Judged, ask_for_reviews, can_end_anyway, judge};
use super::target::{Origin, Target};
use crate::command::Command;
use crate::contain::{Panic, contain};
use crate::shard::front::Front;
use crate::sync::{Arc, Ordering, fence};
use std::task::Context;

/// What a future of the pool's keeps for a wait: nothing, outside of handlers.
#[derive(Default)]
pub(crate) struct Watch(Option<Box<Watched>>);

#[derive(Default)]
struct Watched {
    /// Of a submission that was made inside a handler.
    origin: Option<Origin>,
    /// Of a wait that a handler has polled.
    guard: Option<Guard>,
    /// How often it gave way to others.
    gave_way: u32,
}

impl Watch {
    /// For a command that is submitted inside a handler. Calls the id's `Clone`, which may panic.
    pub(crate) fn of<C: Command>(front: &Arc<Front>, command: &C) -> Result<Self, Panic> {
        let id = contain(|| Key::to_shared(command.aggregate_id()))?;
        let origin = Some(Origin { front: Arc::clone(front), id });
        Ok(Self(Some(Box::new(Watched { origin, ..Watched::default() }))))
    }

    /// Called at each poll of a wait: whether it could never end. While that can't be told, it is polled again.
    #[inline]
    pub(crate) fn is_stuck(
        &mut self,
        cx: &mut Context<'_>,
        target: impl FnOnce(Option<&Origin>) -> Option<Target>,
    ) -> bool {
        let verdict = self.judge(target);
        if verdict == Verdict::Unknown {
            // A command that is still in its channel needs no more than one run of the dispatcher, which is awake.
            cx.waker().wake_by_ref();
        }
        verdict == Verdict::Stuck
    }

    /// Inside a handler, publishes the wait, once, and tells whether it can end. `target` may answer that there
    /// is nothing to publish.
    #[inline]
    pub(crate) fn judge(
        &mut self,
        target: impl FnOnce(Option<&Origin>) -> Option<Target>,
    ) -> Verdict {
        if self.0.is_none() && !in_handler() {
            return Verdict::Fine;
        }
        let Watched { origin, guard, gave_way } = &mut **self.0.get_or_insert_default();
        watch(guard, gave_way, || target(origin.as_ref()))
    }

    /// Says more exactly what is waited for, if the wait is published.
    pub(crate) fn refine(&self, target: impl FnOnce(Option<&Origin>) -> Target) {
        if let Some(watched) = &self.0
            && let Some(guard) = &watched.guard
        {
            guard.refine(&target(watched.origin.as_ref()));
        }
    }

    /// A submission whose outcome is waited for, and which might have been accepted, has come to a lobby. What it depends
    /// on has changed; so those judge anew who have done so before.
    pub(crate) fn came_to_a_lobby(&self, target: impl FnOnce(Option<&Origin>) -> Target) {
        if let Some(watched) = &self.0
            && watched.guard.is_some()
        {
            fence(Ordering::SeqCst);
            ask_for_reviews(&target(watched.origin.as_ref()));
        }
    }

    /// A submission was granted room. If it was made outside, and polled by a handler since, it was that
    /// which was published; what it waits for next is published and judged anew.
    pub(crate) fn granted(&mut self) {
        if let Some(watched) = &mut self.0
            && watched.origin.is_none()
        {
            watched.guard = None;
        }
    }

    /// Takes the wait off the board.
    #[inline]
    pub(crate) fn take_off(&mut self) {
        if let Some(watched) = &mut self.0 {
            watched.guard = None;
        }
    }
}

/// So often a wait gives way to others that may yet be refused. Then it is refused itself.
const GIVE_WAY: u32 = if cfg!(shardpool_loom) { 1 } else { 64 };

#[cold]
fn watch(
    guard: &mut Option<Guard>,
    gave_way: &mut u32,
    target: impl FnOnce() -> Option<Target>,
) -> Verdict {
    let verdict = with_current(|frame| {
        if let Some(published) = guard.as_ref()
            && published.is_of(frame)
            && published.is_settled()
        {
            return Verdict::Fine;
        }
        // Polled by another handler than before, or not settled yet: publish anew.
        *guard = None;
        let Some(target) = target() else { return Verdict::Fine };
        // A wait that can't be published can't be told from one that never ends.
        let Ok(published) = publish(frame, target.clone()) else { return Verdict::Stuck };
        fence(Ordering::SeqCst);
        let verdict = match judge(frame, &target) {
            Judged::ByUnsettled if *gave_way < GIVE_WAY => {
                *gave_way += 1;
                Verdict::Unknown
            }
            Judged::ByUnsettled => Verdict::Stuck,
            Judged::As(verdict) => verdict,
        };
        if verdict != Verdict::Unknown {
            *gave_way = 0;
        }
        if verdict == Verdict::Stuck {
            // Off the board before anything else: nobody is to be judged by a wait that is refused.
            drop(published);
            return verdict;
        }
        if verdict == Verdict::Fine {
            published.settle();
            // From here on dispatchers count it. This may have been the last handler that could have made room
            // in any shard on which it depends by now. A wake alone would be lost on a dispatcher that has looked
            // at the boards and is about to sleep.
            fence(Ordering::SeqCst);
            if !can_end_anyway(&target) {
                ask_for_reviews(&target);
            }
        }
        *guard = Some(published);
        verdict
    });
    verdict.unwrap_or_else(|| {
        // Moved out of the handler that it was first polled in.
        *guard = None;
        Verdict::Fine
    })
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::reentry::Peers;
    use crate::reentry::tests::{as_handler, command};

    #[test]
    fn g09_a_wait_gives_way_to_one_that_may_yet_be_refused_but_not_for_ever() {
        let peers = Arc::new(Peers::new(Box::new([Arc::new(Front::new(4, 3))]), 3));
        // One has said what it waits for, and does not know yet whether that can end.
        let other = as_handler(&peers, 0, || {
            with_current(|frame| publish(frame, command(&peers, 0, 1)).ok()).flatten()
        })
        .expect("the clone of a number does not panic");
        let mut watch = Watch::default();
        let mut poll = || as_handler(&peers, 1, || watch.judge(|_| Some(command(&peers, 0, 0))));
        for _ in 0..2 {
            for _ in 0..GIVE_WAY {
                assert_eq!(poll(), Verdict::Unknown);
            }
            assert_eq!(poll(), Verdict::Stuck);
        }
        // Now it goes on waiting.
        other.settle();
        assert_eq!(poll(), Verdict::Stuck);
    }
}
