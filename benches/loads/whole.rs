//! Whole commands: callers on the pool's own executor, from the submission to the outcome.

use super::{Claim, Commands, IN_FLIGHT, Pool};
use futures::channel::oneshot;
use futures::future::join_all;
use shardpool::executors::Executor;
use std::collections::VecDeque;

#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// One caller, which waits for each outcome before it sends again.
    OneCaller,
    /// 64 of them.
    Callers,
    /// 64 of them, half of the commands to one aggregate.
    HotAggregate,
    /// One caller with a ring of 256 tickets, the oldest of which it awaits before it submits again.
    Ring,
}

pub(crate) const LOADS: [(&str, Load); 4] = [
    ("one_caller", Load::OneCaller),
    ("64_callers", Load::Callers),
    ("hot_aggregate", Load::HotAggregate),
    ("256_in_flight", Load::Ring),
];

/// Carries out so many commands.
pub(crate) async fn run(executor: &impl Executor, pool: &Pool, load: Load, commands: usize) {
    let callers = match load {
        Load::OneCaller | Load::Ring => 1,
        Load::Callers | Load::HotAggregate => 64,
    };
    join_all((0..callers).map(|caller| {
        let pool = pool.clone();
        let random = Commands::new(caller as u64, matches!(load, Load::HotAggregate));
        // The first ones take what is left over.
        let share = commands / callers + usize::from(caller < commands % callers);
        let (done, is_done) = oneshot::channel();
        let spawned = executor.spawn(Box::pin(async move {
            match load {
                Load::Ring => ring(&pool, random, share).await,
                _ => closed_loop(&pool, random, share).await,
            }
            done.send(()).ok();
        }));
        spawned.expect("an executor that takes tasks");
        async { is_done.await.expect("a caller that did not panic") }
    }))
    .await;
}

async fn closed_loop(pool: &Pool, mut random: Commands, commands: usize) {
    for _ in 0..commands {
        pool.send(random.next()).await.expect("a commit");
    }
}

async fn ring(pool: &Pool, mut random: Commands, commands: usize) {
    let mut ring: VecDeque<Claim> = VecDeque::with_capacity(IN_FLIGHT);
    for _ in 0..commands {
        if ring.len() == IN_FLIGHT {
            ring.pop_front().expect("a full ring").await.expect("a commit");
        }
        ring.push_back(pool.submit(random.next()).await.expect("an open pool"));
    }
    for ticket in ring {
        ticket.await.expect("a commit");
    }
}
