//! Handlers that block their thread in a wait of the pool's.
//!
//! Who may touch what is at the top of `mod.rs`.

use super::frame::{Peers, with_current};
use crate::sync::{Arc, Ordering};

/// A handler that blocks its thread in a wait of the pool's.
pub(crate) struct Blocked(Option<Arc<Peers>>);

impl Drop for Blocked {
    fn drop(&mut self) {
        if let Some(peers) = &self.0 {
            // Relaxed: as in `may_block`.
            peers.blocked.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Asked before a blocking wait. Inside a handler the thread is the executor's; `None` if it is the
/// last one: then nobody would be left to end the wait.
pub(crate) fn may_block() -> Option<Blocked> {
    with_current(|frame| {
        let peers = frame.peers;
        // Relaxed: a count, decided by the order of its own modifications. One that is refused never counts.
        let counted = peers.blocked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |blocked| {
            (blocked + 1 < peers.threads).then_some(blocked + 1)
        });
        counted.is_ok().then(|| Blocked(Some(Arc::clone(peers))))
    })
    .unwrap_or(Some(Blocked(None)))
}
