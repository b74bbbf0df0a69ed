//! An executor that leaves its tasks to the test, which polls them. `tests/costs.rs` has it as well.

use shardpool::executors::{Executor, SpawnError, Task};
use std::sync::{Arc, Mutex};

/// Keeps what is spawned: of each shard the dispatcher, then the workers.
#[derive(Clone, Default)]
pub(crate) struct ByHand(Arc<Mutex<Vec<Task>>>);

impl ByHand {
    /// All that were spawned since the last time.
    pub(crate) fn tasks(&self) -> Vec<Task> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Executor for ByHand {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        self.0.lock().unwrap().push(task);
        Ok(())
    }
}
