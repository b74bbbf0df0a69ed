//! A pool whose futures a test polls itself, one after the other.
//!
//! What threads do at the same moment can so be made to happen in any order, each time. A dispatcher
//! wakes a worker when it has handed out what it took: what that worker's waker does, which is the
//! test's, happens in the middle of the dispatcher's poll.

pub(crate) use crate::spawned::ByHand;
use crate::tools::{Flag, Job, Pool, Ticket, WakeWith, poll_once, pool};
use shardpool::executors::Task;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake, Waker};

type Action = Box<dyn FnOnce() + Send>;

/// A waker that counts, and does something once.
#[derive(Default)]
struct Act {
    action: Mutex<Option<Action>>,
    wakes: AtomicUsize,
}

impl Wake for Act {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        let action = self.action.lock().unwrap().take();
        if let Some(action) = action {
            action();
        }
    }
}

#[derive(Clone)]
pub(crate) struct Workers(Arc<Mutex<Vec<Task>>>, Arc<Act>);

impl Workers {
    /// Drops one, as an executor may.
    pub(crate) fn lose_one(&self) {
        drop(self.0.lock().unwrap().pop());
    }

    /// How often one was woken.
    pub(crate) fn wakes(&self) -> usize {
        self.1.wakes.load(Ordering::SeqCst)
    }

    pub(crate) fn poll(&self) {
        let waker = Waker::from(Arc::clone(&self.1));
        for worker in &mut *self.0.lock().unwrap() {
            let _ = poll_once(worker, &waker);
        }
    }
}

/// One shard, polled by hand. Its workers sleep.
pub(crate) struct Shard {
    pub(crate) pool: Pool,
    pub(crate) workers: Workers,
    dispatcher: Task,
}

impl Shard {
    pub(crate) fn new(workers: usize, depth: usize) -> Self {
        let executor = ByHand::default();
        Self::of(pool(executor.clone(), 1, workers, depth), &executor)
    }

    /// A pool of one shard, started on this executor.
    pub(crate) fn of(pool: Pool, executor: &ByHand) -> Self {
        let mut tasks = executor.tasks();
        let dispatcher = tasks.remove(0);
        let workers = Workers(Arc::new(Mutex::new(tasks)), Arc::default());
        workers.poll();
        Self { pool, dispatcher, workers }
    }

    pub(crate) fn submit(&self, id: u64) -> Ticket {
        self.pool.try_submit(Job::plain(id)).unwrap()
    }

    /// Polls the dispatcher. True if it has itself polled again.
    pub(crate) fn poll_dispatcher(&mut self) -> bool {
        let woken = Flag::default();
        let _ = poll_once(&mut self.dispatcher, &Waker::from(Arc::new(woken.clone())));
        woken.is_set()
    }

    /// Polls the dispatcher, with something that happens in the middle of it. True if it has itself
    /// polled again.
    pub(crate) fn poll(&mut self, action: impl FnOnce() + Send + 'static) -> bool {
        let happens = Flag::default();
        let mark = happens.clone();
        *self.workers.1.action.lock().unwrap() = Some(Box::new(move || {
            action();
            // Last: a panic of the action is contained by the pool.
            mark.set();
        }));
        let again = self.poll_dispatcher();
        assert!(happens.is_set(), "the dispatcher has woken no worker, or the action has failed");
        again
    }

    /// Polls the dispatcher until it sleeps; `woken` is called when somebody wakes it then.
    pub(crate) fn lull(&mut self, woken: impl Fn() + Send + Sync + 'static) {
        let (asleep, awake) = (Flag::default(), Flag::default());
        let (is_asleep, wakes) = (asleep.clone(), awake.clone());
        let waker = Waker::from(Arc::new(WakeWith(move || {
            wakes.set();
            if is_asleep.is_set() {
                woken();
            }
        })));
        for _ in 0..1_000 {
            awake.clear();
            let _ = poll_once(&mut self.dispatcher, &waker);
            if !awake.is_set() {
                return asleep.set();
            }
        }
        panic!("the dispatcher does not fall asleep: {:?}", self.pool.stats());
    }

    /// Polls everything until nothing happens any more.
    pub(crate) fn settle(&mut self) {
        for _ in 0..20 {
            self.poll_all();
        }
    }

    fn poll_all(&mut self) {
        self.poll_dispatcher();
        self.workers.poll();
    }

    /// Polls everything until all of these have committed.
    pub(crate) fn run_all(&mut self, tickets: impl IntoIterator<Item = Ticket>) {
        for ticket in tickets {
            self.run(ticket).unwrap();
        }
    }

    /// Polls everything until a future is ready.
    pub(crate) fn run<F: Future + Unpin>(&mut self, mut future: F) -> F::Output {
        for _ in 0..1_000 {
            if let Poll::Ready(output) = poll_once(&mut future, Waker::noop()) {
                return output;
            }
            self.poll_all();
        }
        panic!("no end: {:?}", self.pool.stats());
    }
}
