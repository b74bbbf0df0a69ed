//! What bears on a wait, and what of it can end.
//!
//! Why no circle is missed, and none invented, is at the top of `mod.rs`.

use super::board::{Backlogs, Wait, Waiting};
use super::frame::Frame;
use super::target::Target;
use crate::cell::Stage;
use crate::contain::contain;
use crate::shard::front::Front;
use crate::sync::{Arc, Ordering, fence};
use std::ops::Range;

/// Whether a wait may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It can end, or this is not inside a handler.
    Fine,
    /// It could never end.
    Stuck,
    /// The aggregate of the awaited command is not known yet, or it depends on waits that may yet be refused: have
    /// it polled again.
    Unknown,
}

/// A handler that waits.
pub(super) struct Node {
    front: usize,
    worker: usize,
    waiting: Arc<Waiting>,
    /// What was known of each of its waits at first sight.
    seen: Vec<Seen>,
    /// They all count, settled or not.
    all_count: bool,
    can_end: bool,
}

#[derive(Clone, Copy)]
struct Seen {
    /// Of the command that is waited for, 0 if it was not known.
    lane: u64,
    settled: bool,
}

impl Node {
    /// The waits that count.
    fn counted(&self) -> impl Iterator<Item = (u64, &Arc<Wait>, Seen)> {
        let waits = self.waiting.waits.iter().zip(&self.seen);
        let waits = waits.map(|((number, wait), &seen)| (number, wait, seen));
        waits.filter(|(.., seen)| self.all_count || seen.settled)
    }
}

/// A shard that handlers wait for.
struct Reached {
    front: Arc<Front>,
    /// Of its dispatcher, if that can tell that no room will come.
    report: Option<Arc<Backlogs>>,
    /// Every queued command is behind a handler that can't end.
    full: bool,
}

/// Who judges.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A handler, of its own wait: all that is published counts.
    Handler,
    /// A dispatcher that has lost a worker. It counts settled waits alone.
    Bereft,
    /// A dispatcher that has no room. It counts settled waits alone as well, and reports.
    Jammed,
}

/// What a judgement looks at: the boards that can be reached from the wait in question.
#[derive(Default)]
pub(super) struct Graph {
    fronts: Vec<Reached>,
    nodes: Vec<Node>,
}

impl Graph {
    /// All that bears on a wait, with what can end marked.
    pub(super) fn around(target: &Target, by: By) -> Self {
        loop {
            let mut graph = Self::see(target, by);
            // What was counted on is looked at last.
            while graph.mark_nodes() || graph.mark_fronts() || graph.mark_stale() {}
            // The slots were read one after the other. If those that matter are the same still, there was a moment
            // at which all of them were so; and if not, somebody has gone on.
            if graph.nodes.iter().all(|node| node.can_end || graph.is_still_there(node)) {
                return graph;
            }
        }
    }

    fn is_still_there(&self, node: &Node) -> bool {
        let now = self.fronts[node.front].front.board.slots[node.worker].load();
        now.as_ref().is_some_and(|now| {
            let is_there =
                |number, wait| now.waits.get(number).is_some_and(|other| Arc::ptr_eq(other, wait));
            Arc::ptr_eq(now, &node.waiting)
                || node.counted().all(|(number, wait, _)| is_there(number, wait))
        })
    }

    /// What a wait depends on at first hand: the shards that it is for, and the handlers that wait there, taken for
    /// such as can't end. Most waits can end all the same, and need no look at what those wait for.
    pub(super) fn at(target: &Target) -> Self {
        let mut graph = Self::default();
        graph.reach(target);
        for at in 0..graph.fronts.len() {
            graph.look_at(at);
        }
        graph
    }

    /// Adds the handlers that wait in a shard.
    fn look_at(&mut self, at: usize) -> Range<usize> {
        let first = self.nodes.len();
        for (worker, slot) in self.fronts[at].front.board.slots.iter().enumerate() {
            let Some(waiting) = slot.load_full() else { continue };
            let (seen, all_count, can_end) = (Vec::new(), true, false);
            self.nodes.push(Node { front: at, worker, waiting, seen, all_count, can_end });
        }
        first..self.nodes.len()
    }

    /// All that bears on a wait.
    fn see(target: &Target, by: By) -> Self {
        let mut graph = Self::default();
        graph.reach(target);
        let mut at = 0;
        while at < graph.fronts.len() {
            let nodes = graph.look_at(at);
            for n in nodes {
                let waiting = Arc::clone(&graph.nodes[n].waiting);
                for (_, wait) in waiting.waits.iter() {
                    graph.reach(&wait.target);
                    // Relaxed: the fences of who settles and of who judges decide.
                    let settled = wait.settled.load(Ordering::Relaxed);
                    graph.nodes[n].seen.push(Seen { lane: wait.target.lane(), settled });
                }
                graph.nodes[n].all_count = by == By::Handler;
            }
            if by == By::Jammed {
                let report = graph.fronts[at].front.board.report.load_full();
                graph.fronts[at].full = report.is_some();
                graph.fronts[at].report = report;
            }
            at += 1;
        }
        graph
    }

    /// Of a wait that can't end: whether that is so without waits of other handlers that may yet be refused.
    pub(super) fn is_stuck_by_settled(
        &mut self,
        frame: &Frame<'_>,
        target: &Target,
        lane: u64,
    ) -> bool {
        for node in &mut self.nodes {
            node.all_count = node.worker == frame.worker
                && Arc::ptr_eq(&self.fronts[node.front].front, frame.front());
            node.can_end = false;
        }
        while self.mark_nodes() {}
        self.can_end(target, lane) == Verdict::Stuck
    }

    /// Marks the handlers that can end by what is known; true if there are more than before.
    fn mark_nodes(&mut self) -> bool {
        let ends: Vec<usize> = (0..self.nodes.len())
            .filter(|&n| {
                let node = &self.nodes[n];
                let can_end =
                    |wait: &Wait, lane| self.can_end(&wait.target, lane) != Verdict::Stuck;
                !node.can_end && node.counted().all(|(_, wait, seen)| can_end(wait, seen.lane))
            })
            .collect();
        for &n in &ends {
            self.nodes[n].can_end = true;
        }
        !ends.is_empty()
    }

    /// Marks the shards in which room will come by what is known; true if there are more than before.
    fn mark_fronts(&mut self) -> bool {
        let opens: Vec<usize> = (0..self.fronts.len())
            .filter(|&at| {
                let Reached { front, report: Some(report), full: true } = &self.fronts[at] else {
                    return false;
                };
                let backlog = |lane| {
                    report.binary_search_by_key(&lane, |&(lane, _)| lane).map_or(0, |i| report[i].1)
                };
                let stuck = self.nodes.iter().filter(|node| node.front == at && !node.can_end);
                let behind: usize = stuck
                    .map(|node| {
                        let turn = front.board.behind[node.worker].load(Ordering::Relaxed);
                        turn + backlog(node.waiting.lane)
                    })
                    .sum();
                // While somebody waits, only the dispatcher adds to the queue, and it retracts its
                // report first: the queue can but have become less.
                (behind as u64) < front.queued()
            })
            .collect();
        for &at in &opens {
            self.fronts[at].full = false;
        }
        !opens.is_empty()
    }

    /// Marks the shards whose reports are not true any more; true if there are any.
    fn mark_stale(&mut self) -> bool {
        let mut found = false;
        for Reached { front, report, full } in self.fronts.iter_mut().filter(|r| r.full) {
            if !stands(front, report.as_ref()) {
                *full = false;
                found = true;
            }
        }
        found
    }

    pub(super) fn is_full(&self, front: &Arc<Front>) -> bool {
        self.fronts.iter().any(|reached| reached.full && Arc::ptr_eq(&reached.front, front))
    }

    /// The waits of the handlers that can't end.
    pub(super) fn stuck(&self) -> impl Iterator<Item = &Wait> {
        let stuck = self.nodes.iter().filter(|node| !node.can_end);
        stuck.flat_map(|node| node.waiting.waits.iter().map(|(_, wait)| &**wait))
    }

    fn reach(&mut self, target: &Target) {
        for front in target.fronts() {
            if !self.fronts.iter().any(|reached| Arc::ptr_eq(&reached.front, front)) {
                self.fronts.push(Reached { front: Arc::clone(front), report: None, full: false });
            }
        }
    }

    fn nodes_of<'a>(&'a self, front: &'a Arc<Front>) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(|node| Arc::ptr_eq(&self.fronts[node.front].front, front))
    }

    /// Some worker of the shard is free, or busy with a handler that can end.
    pub(super) fn has_worker(&self, front: &Arc<Front>) -> bool {
        let mut waiting = 0;
        for node in self.nodes_of(front) {
            if node.can_end {
                return true;
            }
            waiting += 1;
        }
        waiting < front.workers_left()
    }

    /// By what is known so far: `can_end` of the nodes only ever turns from false to true.
    pub(super) fn can_end(&self, target: &Target, lane: u64) -> Verdict {
        let fine = |yes: bool| if yes { Verdict::Fine } else { Verdict::Stuck };
        match target {
            Target::Room { front, cell } => {
                let stage = cell.as_ref().map_or(Stage::Waiting, |cell| cell.stage());
                fine(stage != Stage::Waiting || (!self.is_full(front) && self.has_worker(front)))
            }
            Target::Drain(peers) => {
                fine(peers.fronts.iter().all(|front| self.nodes_of(front).all(|node| node.can_end)))
            }
            Target::Command { front, id, cell } => {
                let stage = cell.as_ref().map_or(Stage::Waiting, |cell| cell.stage());
                if stage == Stage::Over {
                    return Verdict::Fine;
                }
                if stage == Stage::Waiting && cell.is_some() && self.is_full(front) {
                    return Verdict::Stuck;
                }
                if id.is_none() && lane == 0 {
                    return fine_or_unknown(self.has_worker(front));
                }
                // Not the first alone: what a lost worker had leaked may be there as well.
                let mut busy = self.nodes_of(front).filter(|node| match id {
                    // The user's `Eq`: if it panics, they are not known to be the same.
                    Some(id) => contain(|| id.same(&***node.waiting.id)).unwrap_or(false),
                    None => node.waiting.lane == lane,
                });
                fine(
                    busy.all(|node| node.can_end)
                        && (stage == Stage::Started || self.has_worker(front)),
                )
            }
        }
    }
}

/// Whether a shard's report is still true.
fn stands(front: &Front, report: Option<&Arc<Backlogs>>) -> bool {
    if front.has_tombstones() {
        // Counted as commands, maybe. Its dispatcher must have looked at them before it counts.
        front.ask_for_sweep();
        return false;
    }
    if front.has_room() || front.is_closed() {
        return false;
    }
    // After the look at the room: who has seen a grant sees that the report was retracted.
    fence(Ordering::SeqCst);
    let now = front.board.report.load();
    now.as_ref().zip(report).is_some_and(|(now, then)| Arc::ptr_eq(now, then))
}

fn fine_or_unknown(has_worker: bool) -> Verdict {
    if has_worker { Verdict::Unknown } else { Verdict::Stuck }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::shard::front::Entry;

    #[test]
    fn g09_a_report_stands_until_there_is_room_or_the_end_or_it_is_taken_back() {
        let stands_after = |change: fn(&Front)| {
            let front = Front::new(1, 1);
            assert_eq!(front.try_enter(), Entry::Accepted);
            front.board.report(Vec::new());
            let report = front.board.report.load_full();
            change(&front);
            stands(&front, report.as_ref())
        };
        assert!(stands_after(|_| {}));
        assert!(!stands_after(|front| front.give_room_back(0)));
        assert!(!stands_after(Front::close));
        assert!(!stands_after(|front| front.board.retract()));
    }
}
