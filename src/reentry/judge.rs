//! What is asked of the boards, and by whom.
//!
//! Why no circle is missed, and none invented, is at the top of `mod.rs`.

use super::board::Backlogs;
use super::frame::Frame;
use super::graph::{By, Graph, Verdict};
use super::target::{Target, add_new};
use crate::cell::{Probed, Stage};
use crate::shard::front::Front;
use crate::sync::{Arc, Ordering, fence};

/// What a handler finds of its wait.
pub(super) enum Judged {
    /// Whether it can end, but for jams.
    As(Verdict),
    /// It can't, but only because of waits of others that may yet be refused.
    ByUnsettled,
}

pub(super) fn judge(frame: &Frame<'_>, target: &Target) -> Judged {
    // What is not known yet stays unknown for the whole judgement: a lane that became known halfway
    // would find its own handler already taken for one that can end.
    let lane = target.lane();
    let verdict = Graph::at(target).can_end(target, lane);
    if verdict != Verdict::Stuck {
        return Judged::As(verdict);
    }
    let mut graph = Graph::around(target, By::Handler);
    match graph.can_end(target, lane) {
        Verdict::Stuck if !graph.is_stuck_by_settled(frame, target, lane) => Judged::ByUnsettled,
        verdict => Judged::As(verdict),
    }
}

/// Whether a command that is not in a lobby ends whatever the handlers that wait now wait for. For one that is about to
/// be submitted, and comes to a lobby, see `came_to_a_lobby`.
pub(super) fn can_end_anyway(target: &Target) -> bool {
    let Target::Command { cell, .. } = target else { return false };
    cell.as_ref().is_none_or(|cell| cell.stage() != Stage::Waiting)
        && Graph::at(target).can_end(target, target.lane()) == Verdict::Fine
}

/// Asked by a dispatcher that has no room, nothing ready, nothing in the ring, no tombstones and somebody waiting: whether
/// every queued command is behind a handler that can't end. If so, room will never come; the answer is
/// the cells of what those handlers wait for: the submissions among them are to be refused.
pub(crate) fn jammed(front: &Arc<Front>, backlogs: Backlogs) -> Vec<*const ()> {
    front.board.report(backlogs);
    fence(Ordering::SeqCst);
    let room = Target::Room { front: Arc::clone(front), cell: None };
    let graph = Graph::around(&room, By::Jammed);
    if !graph.is_full(front) {
        return Vec::new();
    }
    graph
        .stuck()
        // Whichever of them are in this shard's lobby.
        .filter_map(|wait| match &*wait.target {
            Target::Room { cell, .. } | Target::Command { cell, .. } => cell.as_ref(),
            Target::Drain(_) => None,
        })
        .map(Probed::address)
        .collect()
}

/// Asked by a dispatcher that has lost a worker: whether one is left that is free, or busy with a
/// handler that can end. A wait that was found able to end counted on the lost one, maybe.
pub(crate) fn has_worker(front: &Arc<Front>) -> bool {
    // The loss first, then the look at who has settled: see `watch.rs`.
    fence(Ordering::SeqCst);
    let room = Target::Room { front: Arc::clone(front), cell: None };
    Graph::around(&room, By::Bereft).has_worker(front)
}

/// Said by a dispatcher that has lost a worker, once: a shard may be jammed now that counted on that. Who begins to wait
/// later sees the loss.
pub(crate) fn tell_of_loss(front: &Arc<Front>) {
    // The loss first, then the look at who has settled: see `watch.rs`.
    fence(Ordering::SeqCst);
    ask_for_reviews(&Target::Room { front: Arc::clone(front), cell: None });
}

/// Has the dispatchers of all shards that a wait depends on judge anew those who wait there.
pub(super) fn ask_for_reviews(target: &Target) {
    let mut fronts = target.fronts().to_vec();
    let mut at = 0;
    while let Some(front) = fronts.get(at).map(Arc::clone) {
        for slot in &front.board.slots {
            if let Some(waiting) = slot.load().as_ref() {
                add_new(&mut fronts, &waiting.fronts);
            }
        }
        front.ask_for_review_if_it_matters();
        at += 1;
    }
}
