//! Waits inside handlers that could never end are refused (G9).
//!
//! While a worker polls a handler, a thread-local points to a [`Frame`]: which aggregate, shard and
//! worker the code on this thread works for. A wait of the pool's that finds a frame publishes what
//! it waits for on the [`Board`] of the handler's shard, and then looks whether the wait could end:
//!
//! * a handler can end if each of its published waits can;
//! * a wait for a command can end if the command is over, or if the handler that its aggregate is
//!   busy with can end and, unless it has started, some worker of its shard is free or can end;
//! * a wait for room can end if some worker of the shard is free or can end, unless every queued
//!   command is behind a handler that can't ([`jammed`], which only dispatchers can tell);
//! * a wait for a drain can end if every handler of the pool can.
//!
//! What is not published counts as able to end. The answer is the least fixed point of these rules:
//! handlers that wait for each other in a circle are not in it.
//!
//! **No circle is missed.** Each party publishes first, then has a sequentially consistent fence,
//! then reads the boards. Of the parties of a circle, the one whose fence comes last sees all.
//! (Two that close it at the same moment may both be refused.)
//!
//! **None is invented.** What a judgement counts on was there at one moment: it looks twice at each slot that
//! matters. And a wait is *settled* when it was found able to end; until then it may be refused. A handler that could
//! go on but for waits that are not settled has its own polled again. Dispatchers, whose judgement is for good, count
//! settled ones alone, also of a handler that has others: who settles has a fence, and then asks the dispatchers that
//! it finds to judge again; a dispatcher has one before it looks. So one of the two sees the other. Who settles need
//! not ask if it waits for a command that still can end, whatever those wait for that wait by then: if that changes, it
//! is by somebody whose fence comes later, who sees this wait settled, and who asks; or because the command comes to a
//! lobby, and then its submitter asks.
//!
//! **A jam** is a circle that goes through full shards. A dispatcher that has no room, nothing ready,
//! nothing in the ring and somebody waiting reports on its board how much waits behind each lane that is out, and judges by
//! all reports. A dispatcher retracts its report before it makes any of it untrue (it hands a lane out,
//! grants room, sweeps), and who judges looks last whether the reports that it counted on still stand.
//! It goes on without those that don't. The handler that makes a jam complete, by a wait or by coming to a lobby, asks
//! all its dispatchers. Of these the one that reports last sees all, and need not have the others look again: its report
//! matters to them only if a handler waits for room in its own shard, and that wait it refuses itself. (If its own
//! judgement does not reach that handler, what it does reach is a jam without it, in which another has reported last.)
//!
//! # Who may touch what, and when
//!
//! | field | who writes |
//! | --- | --- |
//! | `slots` of a board | who polls the handler adds a wait or refines it, who drops the wait takes it off, the worker clears all |
//! | `behind` of a board | the worker |
//! | `report` of a board | the dispatcher |
//! | `settled` of a wait | who judges the wait, once |
//! | `blocked` of the peers | whoever blocks a thread inside a handler, before and after |
//!
//! Only waits inside handlers come here: a command that waits for nothing pays for setting the
//! thread-local. The boards are read without blocking through `arc_swap`.

mod blocked;
mod board;
mod frame;
mod graph;
mod judge;
mod target;
mod waits;
mod watch;

pub(crate) use blocked::may_block;
pub(crate) use board::Board;
pub(crate) use frame::{Frame, Key, Peers, in_handler};
pub(crate) use judge::{has_worker, jammed, tell_of_loss};
pub(crate) use target::{Origin, Target};
pub(crate) use watch::Watch;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sync::Arc;
    use std::cell::Cell;

    #[cfg(shardpool_loom)]
    pub(crate) use super::graph::Verdict;

    /// Acts as the handler of an aggregate of the first shard, which has the worker of the same number.
    pub(crate) fn as_handler<R>(peers: &Arc<Peers>, id: u8, act: impl FnOnce() -> R) -> R {
        as_handler_at(peers, 0, usize::from(id), id, act)
    }

    /// Acts as the handler of an aggregate that some worker of some shard has.
    pub(crate) fn as_handler_at<R>(
        peers: &Arc<Peers>,
        shard: usize,
        worker: usize,
        id: u8,
        act: impl FnOnce() -> R,
    ) -> R {
        let published = Cell::new(0);
        let frame = Frame {
            peers,
            shard,
            worker,
            id: &id,
            lane: u64::from(id) + 1,
            run: 1,
            behind: &|| 0,
            published: &published,
        };
        frame.scope(act)
    }

    /// A command of an aggregate of this shard.
    pub(crate) fn command(peers: &Peers, shard: usize, id: u8) -> Target {
        let front = Arc::clone(&peers.fronts[shard]);
        Target::Command { front, id: Some(Arc::new(id)), cell: None }
    }
}
