//! One shard: a command channel, one dispatcher, several workers.
//!
//! ```text
//!  submitters ──▶ front (room, gate) ──▶ commands ─┐
//!             └─▶ lobby (no room: wait) ───────────┤
//!                                                  ▼
//!                                   dispatcher: schedule (version map, lanes)
//!                                                  │ ▲
//!                                       ring       ▼ │  returned
//!                                            workers: handler
//! ```

pub(crate) mod crew;
mod dispatcher;
mod duty;
mod floor;
pub(crate) mod front;
mod hints;
mod idle;
mod lane;
#[cfg(all(test, shardpool_loom))]
mod models;
mod ring;
mod schedule;
mod woken;
mod worker;

use crate::cell::Envelope;
use crate::command::{CommandHandler, Source};
use crate::executors::{Clock, Task};
use crate::lifecycle::Lifecycle;
use crate::reentry::Peers;
use crate::sync::{Arc, Receiver, Sender, unbounded};
use crate::types::{HandlerTypes, IdOf, Types};
use dispatcher::Dispatcher;
use duty::Duty;
use front::Front;
use hints::Hints;

pub(crate) use dispatcher::Hook;

/// What submitters and the dispatcher share.
pub(crate) struct Shard<T: Types> {
    commands: Channel<T>,
    lobby: Channel<T>,
    hints: Hints,
    // Last: envelopes that are dropped with the channels still need it.
    pub(crate) front: Arc<Front>,
}

/// What travels through a channel. The hash goes with the command, not in it: the dispatcher looks
/// up many lanes together before it touches the first command.
struct Sent<T: Types> {
    hash: u64,
    envelope: Envelope<T>,
}

/// A flume channel whose both ends live as long as the shard: it never disconnects, and whoever
/// finds the dispatcher gone can empty it. Only non-blocking calls are made.
struct Channel<T: Types> {
    sender: Sender<Sent<T>>,
    receiver: Receiver<Sent<T>>,
}

impl<T: Types> Channel<T> {
    fn new() -> Self {
        let (sender, receiver) = unbounded();
        Self { sender, receiver }
    }

    #[inline]
    fn push(&self, hash: u64, envelope: Envelope<T>) {
        if let Err(error) = self.sender.try_send(Sent { hash, envelope }) {
            // An unbounded channel is never full, and this one holds its own receiver. Should it
            // be otherwise, the dropped envelope ends its command.
            debug_assert!(false, "flume refused an envelope");
            drop(error);
        }
    }

    #[inline]
    fn pop(&self) -> Option<Sent<T>> {
        self.receiver.try_recv().ok()
    }

    fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

impl<T: Types> Shard<T> {
    pub(crate) fn new(front: Arc<Front>) -> Self {
        Self { commands: Channel::new(), lobby: Channel::new(), hints: Hints::default(), front }
    }

    /// Hands an accepted command to the dispatcher.
    #[inline]
    pub(crate) fn push_accepted(&self, hash: u64, envelope: Envelope<T>) {
        self.commands.push(hash, envelope);
        if self.front.is_away() {
            self.hints.prefetch(hash);
            self.look_again(Front::wake_after_push);
        }
    }

    /// Puts a submission that waits for room in the lobby.
    pub(crate) fn push_waiting(&self, hash: u64, envelope: Envelope<T>) {
        self.lobby.push(hash, envelope);
        // Not only by the channel does the dispatcher know of the lobby: it looks at the count of waiting
        // submissions first.
        self.look_again(Front::wake);
    }

    /// After a push: the dispatcher may sleep; or it may have gone before it, and then nobody else will
    /// take what was pushed.
    #[cold]
    fn look_again(&self, wake: impl FnOnce(&Front)) {
        if self.front.is_dead() {
            self.clear();
        } else {
            wake(&self.front);
        }
    }

    /// Ends everything in the channels: accepted commands are aborted, waiting ones refused.
    fn clear(&self) {
        while let Some(sent) = self.commands.pop() {
            drop(sent);
        }
        while let Some(sent) = self.lobby.pop() {
            drop(sent);
        }
    }
}

/// How the futures of one shard are to work.
pub(crate) struct Plan<H: CommandHandler, L> {
    pub(crate) handler: Arc<(H, L)>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) max_turn: usize,
    pub(crate) max_resident: Option<usize>,
    pub(crate) hook: Option<Hook>,
}

/// The futures of one shard, to be spawned: the dispatcher and the workers.
pub(crate) fn futures<H, L>(
    shard: &Arc<Shard<HandlerTypes<H>>>,
    index: usize,
    plan: &Plan<H, L>,
) -> Vec<Task>
where
    H: CommandHandler,
    L: Source<IdOf<HandlerTypes<H>>, H::State, H::Error>,
{
    let floor = Arc::new(floor::Floor::<HandlerTypes<H>, H::State>::new(&shard.front));
    let dispatcher = Dispatcher::new(Arc::clone(shard), Arc::clone(&floor), index, plan);
    let duty = Arc::new(Duty::new(dispatcher));
    let mut tasks: Vec<Task> = Vec::with_capacity(1 + shard.front.workers());
    tasks.push(Box::pin(dispatcher::Own::new(Arc::clone(&duty), &shard.front)));
    for worker in 0..shard.front.workers() {
        let post = worker::Post::new(Arc::clone(&floor), Arc::clone(&duty), index, worker, plan);
        tasks.push(Box::pin(woken::Polls(worker::work(post))));
    }
    tasks
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::cell::{Draft, Refused};
    use crate::command::tests::Touch;
    use crate::error::CommandError;
    use crate::types::TypesOf;
    use front::Entry;
    use std::task::{Context, Poll, Waker};

    /// A shard with room for one command. Its dispatcher goes between a submitter's two steps.
    fn shard() -> Shard<TypesOf<Touch, (), ()>> {
        Shard::new(Arc::new(Front::new(1, 1)))
    }

    fn go(shard: &Shard<TypesOf<Touch, (), ()>>) {
        shard.front.die();
        shard.clear();
    }

    #[test]
    fn g05_what_was_accepted_and_is_pushed_after_the_dispatcher_has_gone_ends() {
        let shard = shard();
        assert_eq!(shard.front.try_enter(), Entry::Accepted);
        go(&shard);
        let (cell, envelope) = Draft::new(Touch, None, &shard.front).accepted();
        shard.push_accepted(0, envelope);
        let cx = &mut Context::from_waker(Waker::noop());
        let aborted = CommandError::Aborted { started: false };
        assert_eq!(cell.poll_outcome(cx), Poll::Ready(Err(aborted)));
    }

    #[test]
    fn g05_who_goes_to_the_lobby_after_the_dispatcher_has_gone_is_refused() {
        let shard = shard();
        assert_eq!(shard.front.try_enter(), Entry::Accepted);
        assert_eq!(shard.front.enter_or_wait(), Entry::Full);
        go(&shard);
        let (cell, envelope) = Draft::new(Touch, None, &shard.front).waiting();
        shard.push_waiting(0, envelope);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(matches!(cell.poll_granted(cx), Poll::Ready(Err(Refused::Closed(Touch)))));
    }
}
