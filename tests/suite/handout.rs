//! A free worker takes what is ready (G2), whatever the moment at which it became free.

use crate::harness::{Bed, Door, load, suite, until, yield_at_random};
use crate::tools::{Job, Peek, pool};

suite!(g02_no_worker_sleeps_beside_an_aggregate_that_is_ready);

async fn g02_no_worker_sleeps_beside_an_aggregate_that_is_ready(bed: Bed) {
    const WORKERS: u64 = 4;
    const ROUNDS: usize = load(1_500, 20_000);
    let pool = pool(bed.executor(), 1, WORKERS as usize, 1024);
    bed.watch(Peek(pool.downgrade()));
    for round in 0..ROUNDS {
        let door = Door::closed();
        let mut tickets = Vec::new();
        for n in 0..WORKERS {
            // Short ones in between leave workers at any point of their way to sleep.
            if fastrand::bool() {
                tickets.push(pool.try_submit(Job::plain(100 + n)).unwrap());
            }
            tickets.push(pool.try_submit(Job::at(n, &door)).unwrap());
            if round % 2 == 0 {
                yield_at_random().await;
            }
        }
        // As many as there are workers, and each runs: else a ready one waits beside a free worker.
        until(|| door.arrived() == WORKERS).await;
        door.open();
        for ticket in tickets {
            ticket.await.unwrap();
        }
    }
}
