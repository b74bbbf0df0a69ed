//! What was done on a runtime.

use shardpool::Outcomes;
use std::fmt;

#[derive(Default, Clone)]
pub(crate) struct Tally {
    pub(crate) pools: u64,
    pub(crate) drains: u64,
    pub(crate) late_drains: u64,
    pub(crate) aborts: u64,
    pub(crate) drops: u64,
    pub(crate) commands: u64,
    pub(crate) refused: u64,
    /// Whose caller went away.
    pub(crate) forgotten: u64,
    /// What was told to callers.
    pub(crate) outcomes: Outcomes,
    /// Waits inside handlers that were refused.
    pub(crate) deadlocks: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pools, drains, late_drains, aborts, drops, .. } = self;
        let Self { commands, refused, forgotten, outcomes, deadlocks, .. } = self;
        writeln!(
            f,
            "{pools} pools ({drains} drained, {aborts} aborted, {drops} dropped; {late_drains} drains over their time)"
        )?;
        write!(
            f,
            "           {commands} commands: {} committed, {} rejected, {} failed, {} panicked, {} cancelled, \
             {} expired, {} aborted; {refused} refused, {forgotten} forgotten; {deadlocks} waits refused",
            outcomes.committed,
            outcomes.rejected,
            outcomes.failed,
            outcomes.panicked,
            outcomes.cancelled,
            outcomes.expired,
            outcomes.aborted,
        )
    }
}
