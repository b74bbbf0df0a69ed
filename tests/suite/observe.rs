//! What a test and a monitor can see (G21).

use crate::harness::{Bed, Door, suite, until};
use crate::tools::poll_once;
use shardpool::{Command, CommandError, CommandHandler, Context, Failure, ShardPool, SubmitError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Wake, Waker};

suite!(
    g21_the_hook_sees_each_command_that_a_dispatcher_takes,
    g21_the_counters_tell_where_every_command_is,
    g21_each_outcome_has_its_total,
    g21_who_is_woken_by_an_outcome_finds_it_counted,
);

enum Act {
    Commit,
    Reject,
    Fail,
    Panic,
    Wait,
}

struct Ask(u32, Act);

impl Command for Ask {
    type AggregateId = u32;
    fn aggregate_id(&self) -> &u32 {
        &self.0
    }
}

struct Acting(Door);

impl CommandHandler for Acting {
    type Command = Ask;
    type State = ();
    type Output = ();
    type Error = &'static str;

    async fn handle(&self, _: &mut (), ask: Ask, _: &Context) -> Result<(), Failure<&'static str>> {
        match ask.1 {
            Act::Commit => Ok(()),
            Act::Reject => Err(Failure::Rejected("no")),
            Act::Fail => Err(Failure::Failed("oh")),
            Act::Panic => panic!("on purpose"),
            Act::Wait => {
                self.0.pass().await;
                Ok(())
            }
        }
    }
}

async fn g21_the_hook_sees_each_command_that_a_dispatcher_takes(bed: Bed) {
    let seen: Arc<[AtomicUsize]> = (0..3).map(|_| AtomicUsize::new(0)).collect();
    let by_hook = Arc::clone(&seen);
    let door = Door::closed();
    let pool = ShardPool::builder(Acting(door.clone()))
        .shards(3)
        .workers_per_shard(2)
        .on_dispatched(move |shard| {
            by_hook[shard].fetch_add(1, Ordering::SeqCst);
        })
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    let mut expected = [0; 3];
    let mut tickets = Vec::new();
    for id in 0..300 {
        expected[pool.shard_of(&id)] += 1;
        // All of them wait: taken by the dispatcher does not mean carried out.
        tickets.push(pool.submit(Ask(id, Act::Wait)).await.unwrap());
    }
    until(|| seen.iter().zip(expected).all(|(s, e)| s.load(Ordering::SeqCst) == e)).await;
    door.open();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert!(seen.iter().zip(expected).all(|(s, e)| s.load(Ordering::SeqCst) == e));
}

async fn g21_the_counters_tell_where_every_command_is(bed: Bed) {
    let door = Door::closed();
    let pool = ShardPool::builder(Acting(door.clone()))
        .shards(1)
        .workers_per_shard(2)
        .queue_depth(10)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    let mut tickets = Vec::new();
    // Two run, ten wait in the queue, one waits for room.
    for id in 0..2 {
        tickets.push(pool.submit(Ask(id, Act::Wait)).await.unwrap());
    }
    until(|| door.arrived() == 2).await;
    for id in 0..10 {
        tickets.push(pool.submit(Ask(id % 5, Act::Commit)).await.unwrap());
    }
    let mut waiting = pool.submit(Ask(9, Act::Commit));
    assert!(futures::poll!(&mut waiting).is_pending());
    let stats = pool.stats();
    assert_eq!(stats.len(), 1);
    let now = stats[0];
    assert_eq!((now.accepted, now.queued, now.running, now.waiting), (12, 10, 2, 1));
    assert_eq!(now.outcomes.total(), 0);
    until(|| pool.stats()[0].resident == 5).await;
    door.open();
    waiting.await.unwrap().await.unwrap();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let then = pool.stats()[0];
    assert_eq!((then.accepted, then.queued, then.running, then.waiting), (13, 0, 0, 0));
    assert_eq!((then.resident, then.outcomes.committed, then.outcomes.total()), (6, 13, 13));
}

async fn g21_each_outcome_has_its_total(bed: Bed) {
    let door = Door::closed();
    let pool = ShardPool::builder(Acting(door.clone()))
        .shards(1)
        .workers_per_shard(1)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    let blocker = pool.submit(Ask(0, Act::Wait)).await.unwrap();
    until(|| door.arrived() == 1).await;
    let mut tickets = Vec::new();
    for _ in 0..2 {
        tickets.push(pool.submit(Ask(1, Act::Commit)).await.unwrap());
    }
    for _ in 0..3 {
        tickets.push(pool.submit(Ask(2, Act::Reject)).await.unwrap());
    }
    for _ in 0..4 {
        tickets.push(pool.submit(Ask(3, Act::Fail)).await.unwrap());
    }
    for _ in 0..5 {
        tickets.push(pool.submit(Ask(4, Act::Panic)).await.unwrap());
    }
    for _ in 0..6 {
        let ticket = pool.submit(Ask(5, Act::Commit)).await.unwrap();
        assert!(ticket.withdraw());
        tickets.push(ticket);
    }
    for _ in 0..7 {
        // A thread that is held up for so long is too late to submit, and submits again.
        tickets.push(loop {
            let soon = pool.within(std::time::Duration::from_millis(1));
            match soon.submit(Ask(6, Act::Commit)).await {
                Ok(ticket) => break ticket,
                Err(SubmitError::Expired(_)) => {}
                Err(error) => panic!("{error}"),
            }
        });
    }
    // Until the executor's clock has passed the deadlines.
    use shardpool::executors::Executor;
    bed.executor().clock().sleep(std::time::Duration::from_millis(5)).await;
    door.open();
    blocker.await.unwrap();
    let mut said = shardpool::Outcomes::default();
    said.committed += 1;
    for ticket in tickets {
        match ticket.await {
            Ok(_) => said.committed += 1,
            Err(CommandError::Rejected(_)) => said.rejected += 1,
            Err(CommandError::Failed { started: true, .. }) => said.failed += 1,
            Err(CommandError::Panicked { started: true, .. }) => said.panicked += 1,
            Err(CommandError::Cancelled) => said.cancelled += 1,
            Err(CommandError::Expired) => said.expired += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    let counted = pool.stats()[0].outcomes;
    assert_eq!(counted, said);
    assert_eq!(
        (counted.committed, counted.rejected, counted.failed, counted.panicked),
        (3, 3, 4, 5)
    );
    assert_eq!((counted.cancelled, counted.expired, counted.aborted), (6, 7, 0));
}

/// Looks at the counters when it is woken.
struct Looking(ShardPool<Ask, (), &'static str>, AtomicU64);

impl Wake for Looking {
    fn wake(self: Arc<Self>) {
        self.1.store(self.0.stats()[0].outcomes.total(), Ordering::SeqCst);
    }
}

async fn g21_who_is_woken_by_an_outcome_finds_it_counted(bed: Bed) {
    for act in [Act::Commit, Act::Reject, Act::Fail, Act::Panic] {
        let door = Door::closed();
        let pool =
            ShardPool::builder(Acting(door.clone())).shards(1).start(bed.executor()).unwrap();
        bed.watch(pool.clone());
        let _first = pool.submit(Ask(1, Act::Wait)).await.unwrap();
        let mut second = pool.submit(Ask(1, act)).await.unwrap();
        let looking = Arc::new(Looking(pool, AtomicU64::new(0)));
        assert!(poll_once(&mut second, &Waker::from(Arc::clone(&looking))).is_pending());
        door.open();
        until(|| looking.1.load(Ordering::SeqCst) != 0).await;
        assert_eq!(looking.1.load(Ordering::SeqCst), 2, "the outcome is told before it is counted");
    }
}
