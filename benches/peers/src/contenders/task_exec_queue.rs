//! task-exec-queue: futures that are put into groups, of which each runs its own one after the other.
//!
//! All workers of one queue are polled by one task, so there is a queue for each shard here, each
//! with the shard's workers. It gives each command its outcome and can be flushed. It lacks state, which
//! is in a map of mutexes here, and versions, counted there; it boxes each future. Order and exclusion
//! per key have a hole: between the end of a group's last future and the removal of the group another
//! can start it again and a third can find it gone, so that two run at once; the mutex covers that.

use super::Contender;
use super::mutex_per_key::Locked;
use crate::domain::{Command, Id, Refused};
use crate::runtimes::Tokio;
use crate::workload::Setup;
use futures::channel::mpsc;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use task_exec_queue::{Builder, TaskExecQueue, TaskType};

type Queue = TaskExecQueue<mpsc::Sender<((), TaskType)>, Id>;

pub struct Grouped {
    locked: Arc<Locked>,
    queues: Box<[Queue]>,
    hasher: RandomState,
}

impl Contender for Grouped {
    type Runtime = Tokio;

    fn start(setup: &Setup) -> Self {
        let queues = (0..setup.shards)
            .map(|_| {
                let queue = Builder::default().workers(setup.workers).queue_max(setup.depth);
                let (queue, runner) = queue.group().build::<Id>();
                Tokio::handle().spawn(runner);
                queue
            })
            .collect();
        Self { locked: Arc::new(Locked::new(setup)), queues, hasher: RandomState::new() }
    }

    async fn send(&self, command: Command) -> Result<u64, Refused> {
        let id = Arc::clone(&command.id);
        let queue = &self.queues[self.hasher.hash_one(&id) as usize % self.queues.len()];
        let locked = Arc::clone(&self.locked);
        let task = async move { locked.carry_out(command).await };
        queue.spawn(task).group(id).result().await.unwrap_or(Err(Refused::Lost))
    }
}
