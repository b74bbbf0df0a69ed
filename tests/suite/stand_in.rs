//! While commands come alone, a worker stands in for a dispatcher that sleeps: one wake for both (G18). What
//! is lost when either of them goes away in the middle, or when more comes than one, is nothing (G5).

use crate::by_hand::ByHand;
use crate::harness::Door;
use crate::tools::{
    Error, Flag, Job, Pool, Ticket, WANTED, WakeWith, hush_wanted_panics, poll_once, pool,
};
use shardpool::executors::Task;
use shardpool::{CommandError, TrySubmitError};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

/// A future of the pool's, and whether it was woken.
struct Hand {
    task: Option<Task>,
    woken: Flag,
}

impl Hand {
    fn new(task: Task) -> Self {
        Self { task: Some(task), woken: Flag::default() }
    }

    fn poll(&mut self) {
        self.woken = Flag::default();
        let waker = Waker::from(Arc::new(self.woken.clone()));
        if self.task.as_mut().is_some_and(|task| poll_once(task, &waker).is_ready()) {
            self.task = None;
        }
    }

    fn is_woken(&self) -> bool {
        self.woken.is_set()
    }

    /// Dropped, as an executor may.
    fn lose(&mut self) {
        self.task = None;
    }
}

/// One shard, all of which sleeps.
struct Shard {
    pool: Pool,
    dispatcher: Hand,
    workers: Vec<Hand>,
}

impl Shard {
    fn new(workers: usize) -> Self {
        let executor = ByHand::default();
        let pool = pool(executor.clone(), 1, workers, 64);
        let mut hands = executor.tasks().into_iter().map(Hand::new);
        let dispatcher = hands.next().unwrap();
        let mut this = Self { pool, dispatcher, workers: hands.collect() };
        this.hands().for_each(Hand::poll);
        this.run();
        this
    }

    fn submit(&self, id: u64) -> Ticket {
        self.pool.try_submit(Job::plain(id)).unwrap()
    }

    /// Which of the workers were woken.
    fn woken(&self) -> Vec<usize> {
        (0..self.workers.len()).filter(|&n| self.workers[n].is_woken()).collect()
    }

    /// Polls the worker that was sent to stand in, and tells which it is.
    fn stand_in(&mut self) -> usize {
        let sent = self.woken()[0];
        self.workers[sent].poll();
        sent
    }

    fn hands(&mut self) -> impl Iterator<Item = &mut Hand> {
        std::iter::once(&mut self.dispatcher).chain(&mut self.workers)
    }

    /// Polls who was woken, as an executor does, until nobody is. True if all have ended.
    fn run(&mut self) -> bool {
        for _ in 0..100 {
            for hand in self.hands().filter(|hand| hand.is_woken()) {
                hand.poll();
            }
            if !self.hands().any(|hand| hand.is_woken()) {
                return self.hands().all(|hand| hand.task.is_none());
            }
        }
        panic!("no end: {:?}", self.pool.stats());
    }

    /// Has the dispatcher find several commands at a time, and go back to sleep.
    fn crowd(&mut self) {
        for _ in 0..10 {
            let tickets: Vec<_> = (0..8).map(|id| self.submit(id)).collect();
            self.run();
            for ticket in tickets {
                assert!(outcome(ticket).is_some_and(|outcome| outcome.is_ok()));
            }
        }
    }
}

/// What has come of a command, if it has ended.
fn outcome(mut ticket: Ticket) -> Option<Result<(), CommandError<Error>>> {
    match poll_once(&mut ticket, Waker::noop()) {
        Poll::Ready(outcome) => Some(outcome.map(drop)),
        Poll::Pending => None,
    }
}

#[test]
fn g18_one_wake_carries_out_a_command_that_comes_alone() {
    let mut shard = Shard::new(3);
    for id in [1, 1, 2] {
        let ticket = shard.submit(id);
        let woken = shard.woken();
        assert_eq!((woken.len(), shard.dispatcher.is_woken()), (1, false));
        shard.workers[woken[0]].poll();
        assert_eq!(outcome(ticket), Some(Ok(())));
        assert!(!shard.hands().any(|hand| hand.is_woken()));
    }
}

#[test]
fn g18_the_dispatchers_own_task_is_woken_when_no_worker_sleeps() {
    let mut shard = Shard::new(1);
    let door = Door::closed();
    let first = shard.pool.try_submit(Job::at(1, &door)).unwrap();
    shard.run();
    let second = shard.submit(2);
    assert!(shard.dispatcher.is_woken() && shard.woken().is_empty());
    shard.run();
    door.open();
    shard.run();
    assert_eq!((outcome(first), outcome(second)), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn g02_a_worker_that_has_handed_out_more_than_one_lets_others_run_before_it_takes_any() {
    for workers in [2, 3] {
        let mut shard = Shard::new(workers);
        let tickets = [1, 2].map(|id| shard.submit(id));
        let sent = shard.stand_in();
        assert_eq!(shard.pool.stats()[0].queued, 2, "a handler would hold up the other command");
        // The dispatcher's own task watches the rest; another worker may take both.
        let woken = shard.woken();
        assert_eq!(
            (woken.len(), woken.contains(&sent), shard.dispatcher.is_woken()),
            (2, true, true)
        );
        let other = woken.into_iter().find(|&worker| worker != sent).unwrap();
        shard.workers[other].poll();
        assert_eq!(tickets.map(outcome), [Some(Ok(())), Some(Ok(()))]);
        shard.run();
    }
}

#[test]
fn g02_a_worker_runs_the_dispatcher_once_and_then_takes_what_is_ready() {
    let mut shard = Shard::new(2);
    let tickets = [1, 2].map(|id| shard.submit(id));
    let sent = shard.stand_in();
    // More comes, for which it would have to run the dispatcher again.
    let more = shard.submit(3);
    shard.workers[sent].poll();
    assert_eq!(tickets.map(outcome), [Some(Ok(())), Some(Ok(()))]);
    assert_eq!(shard.pool.stats()[0].queued, 1, "the dispatcher was run again");
    shard.run();
    assert_eq!(outcome(more), Some(Ok(())));
}

#[test]
fn g02_the_dispatchers_own_task_watches_what_a_worker_has_handed_out() {
    let mut shard = Shard::new(3);
    let door = Door::closed();
    // The worker that stands in, and the one that it wakes, have a handler that waits then.
    let waiting = [1, 2].map(|id| shard.pool.try_submit(Job::at(id, &door)).unwrap());
    let third = shard.submit(3);
    shard.run();
    assert_eq!((outcome(third), door.arrived()), (Some(Ok(())), 2));
    door.open();
    shard.run();
    assert_eq!(waiting.map(outcome), [Some(Ok(())), Some(Ok(()))]);
}

#[test]
fn g05_a_worker_dropped_on_its_way_to_the_dispatcher_loses_no_command() {
    let mut shard = Shard::new(2);
    let ticket = shard.submit(1);
    let sent = shard.woken()[0];
    shard.workers[sent].lose();
    assert!(shard.dispatcher.is_woken());
    shard.run();
    assert_eq!(outcome(ticket), Some(Ok(())));
    assert!(matches!(shard.pool.try_submit(Job::plain(1)), Err(TrySubmitError::Closed(_))));
}

#[test]
fn g05_a_worker_dropped_when_it_has_run_the_dispatcher_loses_no_command() {
    let mut shard = Shard::new(3);
    let first = [1, 2].map(|id| shard.submit(id));
    let sent = shard.stand_in();
    let second = shard.submit(3);
    shard.workers[sent].lose();
    shard.run();
    assert_eq!(first.map(outcome), [Some(Ok(())), Some(Ok(()))]);
    assert_eq!(outcome(second), Some(Ok(())));
}

#[test]
fn g07_the_dispatchers_own_task_is_woken_when_the_waker_of_a_worker_panics() {
    hush_wanted_panics();
    let mut shard = Shard::new(1);
    let waker = Waker::from(Arc::new(WakeWith(|| panic!("{WANTED}: a waker"))));
    let worker = shard.workers[0].task.as_mut().unwrap();
    assert!(poll_once(worker, &waker).is_pending());
    let ticket = shard.submit(1);
    assert!(shard.dispatcher.is_woken());
    shard.dispatcher.poll();
    shard.workers[0].poll();
    assert_eq!(outcome(ticket), Some(Ok(())));
}

#[test]
fn g05_a_dispatcher_dropped_while_a_worker_is_on_its_way_ends_what_it_held() {
    let mut shard = Shard::new(2);
    let ticket = shard.submit(1);
    let sent = shard.woken()[0];
    shard.dispatcher.lose();
    assert_eq!(outcome(ticket), Some(Err(CommandError::Aborted { started: false })));
    shard.workers[sent].poll();
    assert!(shard.run(), "a future of the pool is left");
}

#[test]
fn g05_a_dispatcher_dropped_while_a_worker_runs_it_ends_what_it_held_after_that_run() {
    let mut shard = Shard::new(2);
    let dispatcher = Mutex::new(shard.dispatcher.task.take());
    let (pool, ended_early) = (shard.pool.clone(), Flag::default());
    let is_early = ended_early.clone();
    // The run that hands out two commands wakes the other worker.
    let waker = Waker::from(Arc::new(WakeWith(move || {
        drop(dispatcher.lock().unwrap().take());
        if pool.stats()[0].outcomes.total() > 0 {
            is_early.set();
        }
    })));
    assert!(poll_once(shard.workers[1].task.as_mut().unwrap(), &waker).is_pending());
    let tickets = [1, 2].map(|id| shard.submit(id));
    assert_eq!(shard.stand_in(), 0);
    assert!(!ended_early.is_set(), "the dispatcher went in the middle of a run");
    let aborted = || Some(Err(CommandError::Aborted { started: false }));
    assert_eq!(tickets.map(outcome), [aborted(), aborted()]);
    shard.workers[1].poll();
    assert!(shard.run(), "a future of the pool is left");
}

#[test]
fn g15_a_drain_is_over_when_the_dispatchers_own_task_is_though_a_worker_came_first() {
    // One worker: were it to end the dispatcher, it would end itself.
    let mut shard = Shard::new(1);
    let ticket = shard.submit(1);
    assert!(ticket.withdraw());
    let mut drain = shard.pool.drain();
    // There is nothing to carry out, and nothing to wait for.
    shard.stand_in();
    assert!(poll_once(&mut drain, Waker::noop()).is_pending(), "a future of the pool is left");
    assert!(shard.run(), "a future of the pool is left");
    assert!(poll_once(&mut drain, Waker::noop()).is_ready());
}

#[test]
fn g17_no_waker_is_left_of_a_future_that_is_gone() {
    let mut shard = Shard::new(2);
    // Each sleeps, and nobody wakes it any more. The last poll's flag is the test's own, and the waker's.
    for hand in shard.hands() {
        assert_eq!(hand.woken.holders(), 2);
    }
    let worker = &mut shard.workers[0];
    worker.lose();
    assert_eq!(worker.woken.holders(), 1, "the pool's handle keeps a worker's waker");
    shard.run();
    shard.dispatcher.lose();
    assert_eq!(
        shard.dispatcher.woken.holders(),
        1,
        "the pool's handle keeps the dispatcher's waker"
    );
}

#[test]
fn g17_no_waker_is_left_when_all_has_ended() {
    let mut shard = Shard::new(2);
    drop(shard.pool.drain());
    assert!(shard.run(), "a future of the pool is left");
    for hand in shard.hands() {
        assert_eq!(hand.woken.holders(), 1, "the pool's handle keeps a waker");
    }
}

#[test]
fn g18_a_dispatcher_that_finds_several_lets_others_run_first() {
    let mut shard = Shard::new(2);
    shard.crowd();
    let first = shard.submit(1);
    assert!(shard.dispatcher.is_woken() && shard.woken().is_empty());
    shard.dispatcher.poll();
    assert!(shard.dispatcher.is_woken() && shard.woken().is_empty(), "nothing is handed out yet");
    let second = shard.submit(2);
    shard.dispatcher.poll();
    assert_eq!(shard.woken().len(), 1);
    shard.run();
    assert_eq!([first, second].map(outcome), [Some(Ok(())), Some(Ok(()))]);
}

#[test]
fn g16_a_dispatcher_that_finds_several_lets_nobody_run_before_an_abort() {
    let mut shard = Shard::new(2);
    shard.crowd();
    let ticket = shard.submit(1);
    drop(shard.pool.abort());
    shard.dispatcher.poll();
    assert_eq!(outcome(ticket), Some(Err(CommandError::Aborted { started: false })));
    assert!(shard.run(), "a future of the pool is left");
}

#[test]
fn g18_commands_that_come_alone_again_are_carried_out_by_one_wake_again() {
    let mut shard = Shard::new(2);
    shard.crowd();
    for _ in 0..40 {
        let ticket = shard.submit(1);
        shard.run();
        assert_eq!(outcome(ticket), Some(Ok(())));
    }
    let _ticket = shard.submit(1);
    assert_eq!((shard.woken().len(), shard.dispatcher.is_woken()), (1, false));
}
