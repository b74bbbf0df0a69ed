//! G13: how much a shard holds, and who waits for room.

use crate::by_hand::{ByHand, Shard};
use crate::harness::{Bed, Door, Shared, suite, until, yield_now};
use crate::script::{Actor, Do, Log, Pool, Tick, only};
use crate::tools::{Error, Job, Live, Script, poll_once};
use futures::future::join_all;
use shardpool::executors::{Clock, Executor, SpawnError, Task};
use shardpool::{ShardPool, TrySubmitError, WeakPool};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Poll, Waker};

suite!(
    g13_a_full_shard_refuses_and_hands_the_command_back,
    g13_trap06_depth_counts_what_waits_in_the_channel,
    g13_trap06_depth_counts_what_waits_in_backlogs_and_turns,
    g13_trap06_depth_holds_under_load,
    g13_the_depth_is_each_shards_own,
    g13_room_comes_back_when_a_command_starts,
    g13_submit_waits_first_come_first_served,
    g13_submit_and_send_wait_in_one_line,
    g13_blocking_submissions_wait_in_the_same_line,
    g13_try_submit_refuses_while_somebody_waits,
    g13_a_submission_does_not_overtake_those_who_wait,
    g13_dropping_a_waiting_submission_is_not_accepting_it,
    g13_waiters_that_went_away_hold_up_no_one,
    g13_waiters_that_went_away_do_not_pile_up,
    g13_waiting_is_cancel_safe_under_load,
    g13_a_granted_waiter_that_nobody_polls_holds_up_no_one,
    g13_a_granted_waiter_that_is_dropped_leaves_no_hole,
);

fn pool(
    bed: &Bed,
    workers: usize,
    depth: usize,
    executor: impl Executor,
) -> (Pool, Log, Arc<AtomicU64>) {
    let (log, taken) = (Log::default(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&taken);
    let pool = ShardPool::builder(Actor { log: log.clone(), store: None })
        .shards(1)
        .workers_per_shard(workers)
        .queue_depth(depth)
        .on_dispatched(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .start(executor)
        .unwrap();
    bed.watch(pool.clone());
    (pool, log, taken)
}

/// A shard of one worker, which is held at a door; nothing is queued.
async fn held(bed: &Bed, depth: usize) -> (Pool, Log, Door, Tick) {
    let (pool, log, _) = pool(bed, 1, depth, bed.executor());
    let door = Door::closed();
    let first = pool.try_submit(Do::commit(0, 0).at(&door)).unwrap();
    until(|| door.arrived() == 1).await;
    (pool, log, door, first)
}

/// An executor that polls nothing until it is told to.
#[derive(Clone)]
struct Late {
    inner: Shared,
    tasks: Arc<Mutex<Vec<Task>>>,
}

impl Late {
    fn new(bed: &Bed) -> Self {
        Self { inner: bed.executor(), tasks: Arc::default() }
    }

    fn go(&self) {
        for task in self.tasks.lock().unwrap().drain(..) {
            self.inner.spawn(task).unwrap();
        }
    }
}

impl Executor for Late {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        self.tasks.lock().unwrap().push(task);
        Ok(())
    }
    fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock()
    }
    fn threads(&self) -> usize {
        self.inner.threads()
    }
}

/// Fills the shard with commands of one aggregate, and tells how many it took.
fn fill(pool: &Pool, id: u32, tickets: &mut Vec<Tick>) -> u64 {
    for tag in 0.. {
        match pool.try_submit(Do::commit(id, tag)) {
            Ok(ticket) => tickets.push(ticket),
            Err(TrySubmitError::Full(_)) => return tag,
            Err(other) => panic!("{other:?}"),
        }
    }
    unreachable!("a shard has a bound")
}

async fn g13_a_full_shard_refuses_and_hands_the_command_back(bed: Bed) {
    for depth in [1, 2, 7, 64] {
        let (pool, _, door, first) = held(&bed, depth).await;
        let mut tickets = vec![first];
        // What runs does not count.
        assert_eq!(fill(&pool, 1, &mut tickets), depth as u64);
        for tag in 0..3 {
            let error = pool.try_submit(Do::commit(9, 1_000 + tag)).unwrap_err();
            assert!(error.is_full());
            let command = error.into_command();
            assert_eq!((command.id, command.tag), (9, 1_000 + tag));
        }
        door.open();
        for ticket in tickets {
            ticket.await.unwrap();
        }
        let shard = only(&pool);
        assert_eq!(shard.accepted, depth as u64 + 1, "what was refused was not accepted");
        assert_eq!(shard.outcomes.committed, depth as u64 + 1);
    }
}

async fn g13_trap06_depth_counts_what_waits_in_the_channel(bed: Bed) {
    for depth in [1, 2, 33] {
        let late = Late::new(&bed);
        let (pool, _, taken) = pool(&bed, 2, depth, late.clone());
        let mut tickets = Vec::new();
        // Nobody takes anything: a depth of one is not a rendezvous either.
        assert_eq!(fill(&pool, 1, &mut tickets), depth as u64);
        assert_eq!(only(&pool).queued, depth as u64);
        assert_eq!(taken.load(Ordering::SeqCst), 0);
        late.go();
        for ticket in tickets {
            ticket.await.unwrap();
        }
    }
}

async fn g13_trap06_depth_counts_what_waits_in_backlogs_and_turns(bed: Bed) {
    const DEPTH: u64 = 12;
    let (pool, _, taken) = pool(&bed, 1, DEPTH as usize, bed.executor());
    let dispatched = async |n| until(|| taken.load(Ordering::SeqCst) == n).await;
    let (outer, inner) = (Door::closed(), Door::closed());
    let mut tickets = Vec::new();
    tickets.push(pool.try_submit(Do::commit(0, 0).at(&outer)).unwrap());
    until(|| outer.arrived() == 1).await;
    // One turn of several commands; the first is held, so the others are in the worker's hands.
    for tag in 0..4 {
        tickets.push(pool.try_submit(Do::commit(1, tag).at(&inner)).unwrap());
    }
    dispatched(5).await;
    outer.open();
    until(|| inner.arrived() == 1).await;
    assert_eq!(only(&pool).queued, 3, "in the worker's turn");
    // The backlog of an aggregate that is busy.
    for tag in 4..7 {
        tickets.push(pool.try_submit(Do::commit(1, tag).at(&inner)).unwrap());
    }
    // Aggregates that are ready while no worker is.
    for id in 2..5 {
        tickets.push(pool.try_submit(Do::commit(id, 0)).unwrap());
    }
    dispatched(11).await;
    assert_eq!(only(&pool).queued, 9);
    let before = tickets.len();
    assert_eq!(fill(&pool, 5, &mut tickets), DEPTH - 9);
    assert_eq!(tickets.len() - before, 3);
    assert_eq!(only(&pool).queued, DEPTH);
    // Taken by the dispatcher or not, there is no room.
    dispatched(14).await;
    assert!(pool.try_submit(Do::commit(6, 0)).unwrap_err().is_full());
    inner.open();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(only(&pool).queued, 0);
}

async fn g13_trap06_depth_holds_under_load(bed: Bed) {
    const DEPTH: u64 = 5;
    const WORKERS: u64 = 3;
    let (pool, log, _) = pool(&bed, WORKERS as usize, DEPTH as usize, bed.executor());
    let accepted = Arc::new(AtomicU64::new(0));
    let submitters = (0..3).map(|submitter| {
        let (pool, log, accepted) = (pool.clone(), log.clone(), Arc::clone(&accepted));
        bed.spawn(async move {
            for tag in 0..800 {
                // Few aggregates: most of what waits is in backlogs.
                let command = Do::commit(submitter, tag).restless();
                let accept = || accepted.fetch_add(1, Ordering::SeqCst) + 1;
                let so_far = match pool.try_submit(command) {
                    Ok(ticket) => {
                        drop(ticket);
                        accept()
                    }
                    Err(full) => {
                        drop(pool.submit(full.into_command()).await.unwrap());
                        accept()
                    }
                };
                let started = log.started() as u64;
                // A worker takes a command a moment before its handler is in the log.
                let waiting = so_far.saturating_sub(started);
                assert!(waiting <= DEPTH + WORKERS, "{waiting} accepted and not started");
                let queued = only(&pool).queued;
                assert!(queued <= DEPTH, "{queued} queued");
            }
        })
    });
    join_all(submitters).await;
    assert_eq!(pool.drain().await.unwrap().committed, 2_400);
}

async fn g13_the_depth_is_each_shards_own(bed: Bed) {
    let late = Late::new(&bed);
    let pool =
        ShardPool::builder(Actor::default()).shards(3).queue_depth(4).start(late.clone()).unwrap();
    bed.watch(pool.clone());
    let mut tickets = Vec::new();
    for shard in 0..3 {
        let id = (0..).find(|id| pool.shard_of(id) == shard).unwrap();
        assert_eq!(fill(&pool, id, &mut tickets), 4);
    }
    late.go();
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

async fn g13_room_comes_back_when_a_command_starts(bed: Bed) {
    let (pool, _, _) = pool(&bed, 1, 2, bed.executor());
    let doors: Vec<Door> = (0..20).map(|_| Door::closed()).collect();
    let mut tickets = Vec::new();
    for n in 0..20 {
        // One runs, held at its door; two wait behind it; with the start of the next there is room
        // for one more, before anything but the first has ended.
        tickets.push(pool.submit(Do::commit(0, n as u64).at(&doors[n])).await.unwrap());
        if n >= 2 {
            until(|| doors[n - 2].arrived() == 1).await;
            assert_eq!(only(&pool).queued, 2);
            assert!(pool.try_submit(Do::commit(1, 0)).unwrap_err().is_full());
            doors[n - 2].open();
            until(|| doors[n - 1].arrived() == 1).await;
            assert_eq!(only(&pool).queued, 1);
        }
    }
    for door in &doors {
        door.open();
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

async fn g13_submit_waits_first_come_first_served(bed: Bed) {
    const WAITERS: usize = 12;
    let (pool, _, _) = pool(&bed, 1, 2, bed.executor());
    let doors: Vec<Door> = (0..WAITERS + 3).map(|_| Door::closed()).collect();
    let mut tickets = Vec::new();
    for (door, tag) in doors[..3].iter().zip(0..) {
        tickets.push(pool.submit(Do::commit(0, tag).at(door)).await.unwrap());
    }
    until(|| doors[0].arrived() == 1).await;
    let mut waiters: Vec<_> = doors[3..]
        .iter()
        .zip(0..)
        .map(|(door, tag)| Box::pin(pool.submit(Do::commit(0, 3 + tag).at(door))))
        .collect();
    for waiter in &mut waiters {
        assert!(futures::poll!(waiter).is_pending());
    }
    // Room for one at a time, and each time for the first of those who still wait.
    for (n, door) in doors.iter().enumerate().take(WAITERS) {
        assert_eq!(only(&pool).waiting, (WAITERS - n) as u64);
        door.open();
        until(|| only(&pool).waiting < (WAITERS - n) as u64).await;
        // Last come first asked: it makes no difference.
        for (at, waiter) in waiters.iter_mut().enumerate().skip(n + 1).rev() {
            assert!(futures::poll!(waiter).is_pending(), "{at} was served before {n}");
        }
        tickets.push(waiters[n].as_mut().await.unwrap());
    }
    for door in &doors {
        door.open();
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

async fn g13_submit_and_send_wait_in_one_line(bed: Bed) {
    let (pool, log, door, first) = held(&bed, 1).await;
    let mut tickets = vec![first];
    fill(&pool, 0, &mut tickets);
    let mut submitting: Vec<_> =
        (0..20).map(|n| Box::pin(pool.submit(Do::commit(1, 2 * n)))).collect();
    let mut sending: Vec<_> =
        (0..20).map(|n| Box::pin(pool.send(Do::commit(1, 2 * n + 1)))).collect();
    for (submission, sending) in submitting.iter_mut().zip(&mut sending) {
        assert!(futures::poll!(submission).is_pending());
        assert!(futures::poll!(sending).is_pending());
    }
    assert_eq!(only(&pool).waiting, 40);
    door.open();
    // Asked for in another order than they came.
    for receipt in join_all(sending).await {
        receipt.unwrap();
    }
    for ticket in join_all(submitting).await {
        ticket.unwrap().await.unwrap();
    }
    // One aggregate: it starts in the order in which the line was served.
    assert_eq!(log.tags_of(1), (0..40).collect::<Vec<_>>());
}

async fn g13_blocking_submissions_wait_in_the_same_line(bed: Bed) {
    let (pool, log, door, first) = held(&bed, 1).await;
    let mut tickets = vec![first];
    fill(&pool, 0, &mut tickets);
    let mut threads = Vec::new();
    for tag in 0..6 {
        let of_thread = pool.clone();
        threads.push(std::thread::spawn(move || {
            if tag % 2 == 0 {
                let ticket = of_thread.blocking_submit(Do::commit(1, tag)).unwrap();
                ticket.blocking_wait().unwrap()
            } else {
                of_thread.blocking_send(Do::commit(1, tag)).unwrap()
            }
        }));
        until(|| only(&pool).waiting == tag + 1).await;
    }
    door.open();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    until(|| threads.iter().all(|thread| thread.is_finished())).await;
    for (thread, version) in threads.into_iter().zip(1..) {
        assert_eq!(thread.join().unwrap().version, version);
    }
    assert_eq!(log.tags_of(1), (0..6).collect::<Vec<_>>());
}

async fn g13_try_submit_refuses_while_somebody_waits(bed: Bed) {
    let late = Late::new(&bed);
    let (pool, log, _) = pool(&bed, 1, 1, late.clone());
    let first = pool.try_submit(Do::commit(0, 0)).unwrap();
    let mut waiter = Box::pin(pool.submit(Do::commit(0, 1)));
    assert!(futures::poll!(&mut waiter).is_pending());
    // There is room, but the dispatcher is not polled, so the waiter has not got it yet.
    assert!(first.withdraw());
    let shard = only(&pool);
    assert_eq!((shard.queued, shard.waiting), (0, 1));
    let error = pool.try_submit(Do::commit(0, 2)).unwrap_err();
    assert!(error.is_full());
    assert_eq!(error.into_command().tag, 2);
    late.go();
    waiter.await.unwrap().await.unwrap();
    // Nobody waits any more.
    pool.try_submit(Do::commit(0, 3)).unwrap().await.unwrap();
    assert_eq!(log.tags_of(0), [1, 3]);
}

async fn g13_a_submission_does_not_overtake_those_who_wait(bed: Bed) {
    let late = Late::new(&bed);
    let (pool, log, _) = pool(&bed, 1, 1, late.clone());
    let first = pool.try_submit(Do::commit(0, 0)).unwrap();
    let mut waiter = Box::pin(pool.submit(Do::commit(0, 1)));
    assert!(futures::poll!(&mut waiter).is_pending());
    assert!(first.withdraw());
    // Comes when there is room, and goes to the end of the line all the same.
    let mut second = Box::pin(pool.submit(Do::commit(0, 2)));
    assert!(futures::poll!(&mut second).is_pending());
    let mut third = Box::pin(pool.send(Do::commit(0, 3)));
    assert!(futures::poll!(&mut third).is_pending());
    late.go();
    third.await.unwrap();
    drop((waiter.await.unwrap(), second.await.unwrap()));
    assert_eq!(log.tags_of(0), [1, 2, 3]);
}

async fn g13_dropping_a_waiting_submission_is_not_accepting_it(bed: Bed) {
    let (pool, log, door, first) = held(&bed, 2).await;
    let mut tickets = vec![first];
    assert_eq!(fill(&pool, 0, &mut tickets), 2);
    // Neither a submission nor a send that nobody has polled does anything.
    drop((pool.submit(Do::commit(1, 0)), pool.send(Do::commit(1, 1))));
    let mut submission = Box::pin(pool.submit(Do::commit(1, 2)));
    let mut sending = Box::pin(pool.send(Do::commit(1, 3)));
    assert!(futures::poll!(&mut submission).is_pending());
    assert!(futures::poll!(&mut sending).is_pending());
    assert_eq!(only(&pool).waiting, 2);
    drop(submission);
    assert_eq!(only(&pool).waiting, 1);
    drop(sending);
    let shard = only(&pool);
    assert_eq!((shard.waiting, shard.queued, shard.accepted), (0, 2, 3));
    door.open();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.total()), (3, 3));
    assert_eq!(log.tags_of(1), [0; 0]);
}

async fn g13_waiters_that_went_away_hold_up_no_one(bed: Bed) {
    // A few, and more than anybody would keep.
    for waiters in [3, 300] {
        let (pool, log, door, first) = held(&bed, 1).await;
        let mut tickets = vec![first];
        fill(&pool, 0, &mut tickets);
        let (mut gone, mut waiting) = (Vec::new(), Vec::new());
        for tag in 0..waiters {
            let mut submission = Box::pin(pool.submit(Do::commit(1, tag)));
            assert!(futures::poll!(&mut submission).is_pending());
            if tag % 3 == 2 { &mut waiting } else { &mut gone }.push(submission);
        }
        drop(gone);
        assert_eq!(only(&pool).waiting, waiters / 3);
        door.open();
        for (submission, version) in waiting.into_iter().zip(1..) {
            assert_eq!(submission.await.unwrap().await.unwrap().version, version);
        }
        let stayed: Vec<u64> = (0..waiters).filter(|tag| tag % 3 == 2).collect();
        assert_eq!(log.tags_of(1), stayed);
    }
}

async fn g13_waiters_that_went_away_do_not_pile_up(bed: Bed) {
    let pool = crate::tools::pool(bed.executor(), 1, 1, 1);
    bed.watch(pool.clone());
    let door = Door::closed();
    let mut tickets = vec![pool.try_submit(Job::at(1, &door)).unwrap()];
    until(|| door.arrived() == 1).await;
    tickets.push(pool.try_submit(Job::plain(2)).unwrap());
    // In front of the others: none of them is looked at before it has its turn.
    let mut stays = Box::pin(pool.submit(Job::plain(3)));
    assert!(futures::poll!(&mut stays).is_pending());
    let live = Live::default();
    for _ in 0..1_000 {
        let mut goes = Box::pin(pool.submit(Job::plain(4).counted(&live)));
        assert!(futures::poll!(&mut goes).is_pending());
    }
    until(|| live.count() < 500).await;
    door.open();
    tickets.push(stays.await.unwrap());
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

/// A run of the dispatcher has emptied the lobby's channel and not yet looked how many have given up.
#[test]
fn g13_waiters_that_go_away_in_the_middle_of_a_run_do_not_pile_up() {
    let (live, executor) = (Live::default(), ByHand::default());
    let (handle, count) = (Arc::new(OnceLock::<WeakPool<Job, u64, Error>>::new()), live.clone());
    let of_hook = Arc::clone(&handle);
    let pool = ShardPool::builder(Script::new())
        .shards(1)
        .workers_per_shard(1)
        .queue_depth(1)
        .on_dispatched(move |_| {
            let Some(pool) = of_hook.get().and_then(WeakPool::upgrade) else { return };
            for _ in 0..1_000 {
                let mut goes = Box::pin(pool.submit(Job::plain(4).counted(&count)));
                assert!(poll_once(&mut goes, Waker::noop()).is_pending());
            }
        })
        .start(executor.clone())
        .unwrap();
    let mut shard = Shard::of(pool, &executor);
    handle.set(shard.pool.downgrade()).unwrap();
    drop(shard.submit(1));
    let pool = shard.pool.clone();
    let mut stays = Box::pin(pool.submit(Job::plain(3)));
    assert!(poll_once(&mut stays, Waker::noop()).is_pending());
    // In front of the others, and without room: none of them is looked at before it has its turn.
    for _ in 0..3 {
        shard.poll_dispatcher();
    }
    assert_eq!(live.count(), 0, "submissions that were given up are kept");
}

#[test]
fn g13_waiters_that_go_away_at_the_end_of_a_run_do_not_pile_up() {
    let (live, mut shard) = (Live::default(), Shard::new(1, 1));
    drop(shard.submit(1));
    let pool = shard.pool.clone();
    let wait = || {
        let (pool, job) = (pool.clone(), Job::plain(3).counted(&live));
        let mut waits = Box::pin(async move { pool.submit(job).await.map(drop) });
        assert!(poll_once(&mut waits, Waker::noop()).is_pending());
        waits
    };
    let _stays = wait();
    let go: Vec<_> = (0..1_000).map(|_| wait()).collect();
    // While it hands out, after it has looked at the lobby.
    let mut again = shard.poll(move || drop(go));
    while again {
        again = shard.poll_dispatcher();
    }
    // A few are never minded.
    assert!(live.count() <= 1 + 64, "{} are kept", live.count());
}

async fn g13_waiting_is_cancel_safe_under_load(bed: Bed) {
    const DEPTH: usize = 3;
    const SUBMITTERS: u32 = 4;
    let (pool, log, _) = pool(&bed, 2, DEPTH, bed.executor());
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|id| {
            let pool = pool.clone();
            bed.spawn(async move {
                let mut accepted = Vec::new();
                for tag in 0..1_000 {
                    let mut submission = Box::pin(pool.submit(Do::commit(id, tag).restless()));
                    // Some patience, and then away, whatever happens at that very moment.
                    for _ in 0..fastrand::u32(1..20) {
                        if let Poll::Ready(ticket) = futures::poll!(&mut submission) {
                            accepted.push((tag, ticket.unwrap()));
                            break;
                        }
                        yield_now().await;
                    }
                }
                let mut tags = HashSet::new();
                for (tag, ticket) in accepted {
                    ticket.await.unwrap();
                    tags.insert(tag);
                }
                tags
            })
        })
        .collect();
    for (id, submitter) in (0..).zip(submitters) {
        let accepted = submitter.await;
        let started = log.tags_of(id);
        // Granted and dropped before it knew: such a command runs as well. But once, and in order.
        assert!(started.is_sorted_by(|a, b| a < b), "aggregate {id}: twice, or out of order");
        assert!(accepted.iter().all(|tag| started.contains(tag)));
    }
    until(|| {
        let shard = only(&pool);
        shard.waiting == 0 && shard.outcomes.total() == shard.accepted
    })
    .await;
    assert_eq!(only(&pool).accepted, log.started() as u64);
    // All the room is there again, and no more than that.
    let door = Door::closed();
    let mut tickets = vec![
        pool.submit(Do::commit(100, 0).at(&door)).await.unwrap(),
        pool.submit(Do::commit(101, 0).at(&door)).await.unwrap(),
    ];
    until(|| door.arrived() == 2).await;
    assert_eq!(fill(&pool, 102, &mut tickets), DEPTH as u64);
    door.open();
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

async fn g13_a_granted_waiter_that_nobody_polls_holds_up_no_one(bed: Bed) {
    let (pool, log, door, first) = held(&bed, 1).await;
    let mut tickets = vec![first];
    fill(&pool, 0, &mut tickets);
    let mut unpolled = Vec::new();
    for tag in 0..10 {
        let mut submission = Box::pin(pool.submit(Do::commit(1, tag)));
        assert!(futures::poll!(&mut submission).is_pending());
        unpolled.push(submission);
    }
    let mut last = Box::pin(pool.submit(Do::commit(2, 0)));
    assert!(futures::poll!(&mut last).is_pending());
    door.open();
    // Behind ten that are granted room and are not told.
    last.await.unwrap().await.unwrap();
    until(|| only(&pool).outcomes.committed == 13).await;
    assert_eq!(log.tags_of(1), (0..10).collect::<Vec<_>>());
    // Nor is a later one held up.
    pool.try_submit(Do::commit(3, 0)).unwrap().await.unwrap();
    // Asked at last, they have been accepted, and are long done.
    for (submission, version) in unpolled.into_iter().zip(1..) {
        let ticket = submission.await.unwrap();
        assert!(ticket.is_finished());
        assert_eq!(ticket.await.unwrap().version, version);
    }
}

async fn g13_a_granted_waiter_that_is_dropped_leaves_no_hole(bed: Bed) {
    let (pool, log, door, first) = held(&bed, 1).await;
    let queued = pool.try_submit(Do::commit(0, 1)).unwrap();
    let mut granted = Box::pin(pool.submit(Do::commit(1, 0)));
    assert!(futures::poll!(&mut granted).is_pending());
    let mut next = Box::pin(pool.submit(Do::commit(1, 1)));
    assert!(futures::poll!(&mut next).is_pending());
    // The room of this one goes to the first who waits; the worker is still held.
    assert!(queued.withdraw());
    until(|| only(&pool).waiting == 1).await;
    // Accepted though not polled since, and so it runs.
    drop(granted);
    assert_eq!(only(&pool).queued, 1);
    door.open();
    assert_eq!(next.await.unwrap().await.unwrap().version, 2);
    assert_eq!(log.tags_of(1), [0, 1]);
    first.await.unwrap();
    let shard = only(&pool);
    assert_eq!((shard.accepted, shard.outcomes.total()), (4, 4));
}
