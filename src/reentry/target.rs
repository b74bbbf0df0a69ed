//! What a handler waits for.

use super::frame::{Key, Peers, with_current};
use crate::cell::Probed;
use crate::shard::front::Front;
use crate::sync::Arc;

/// What a handler waits for.
#[derive(Clone)]
pub(crate) enum Target {
    /// The outcome of a command. `id` or, once it is dispatched, `cell` tells its aggregate.
    Command { front: Arc<Front>, id: Option<Arc<dyn Key>>, cell: Option<Probed> },
    /// Room in a shard's queue.
    Room { front: Arc<Front>, cell: Option<Probed> },
    /// The end of a pool.
    Drain(Arc<Peers>),
}

pub(super) fn is_among(fronts: &[Arc<Front>], other: &Arc<Front>) -> bool {
    fronts.iter().any(|front| Arc::ptr_eq(front, other))
}

/// Adds those of some shards that are not there yet.
pub(super) fn add_new(fronts: &mut Vec<Arc<Front>>, others: &[Arc<Front>]) {
    for other in others {
        if !is_among(fronts, other) {
            fronts.push(Arc::clone(other));
        }
    }
}

impl Target {
    /// The shards that must do something for it.
    pub(super) fn fronts(&self) -> &[Arc<Front>] {
        match self {
            Target::Command { front, .. } | Target::Room { front, .. } => {
                std::slice::from_ref(front)
            }
            Target::Drain(peers) => &peers.fronts,
        }
    }

    /// The number of the lane that the awaited command is in, 0 if it is not known.
    pub(super) fn lane(&self) -> u64 {
        match self {
            Target::Command { cell: Some(cell), .. } => cell.lane(),
            _ => 0,
        }
    }

    /// The target for a ticket of the pool that the current handler belongs to, whose aggregate is
    /// not known. `None` for one of another pool.
    pub(crate) fn of_ticket(front: *const Front, cell: Probed) -> Option<Self> {
        with_current(|frame| {
            let front = frame.peers.fronts.iter().find(|f| Arc::as_ptr(f) == front)?;
            Some(Target::Command { front: Arc::clone(front), id: None, cell: Some(cell) })
        })
        .flatten()
    }
}

/// Of a submission that was made inside a handler: its aggregate.
pub(crate) struct Origin {
    pub(super) front: Arc<Front>,
    pub(super) id: Arc<dyn Key>,
}

impl Origin {
    /// What a wait for the outcome waits for.
    pub(crate) fn target(&self, cell: Option<Probed>) -> Target {
        let (front, id) = (Arc::clone(&self.front), Some(Arc::clone(&self.id)));
        Target::Command { front, id, cell }
    }
}
