//! A timer thread for the process, for executors that have no timer of their own.
//!
//! # Who may touch what, and when
//!
//! | field | who writes |
//! | --- | --- |
//! | `rung` | the timer thread, once; the thread that sets the alarm, if there is no timer thread |
//! | `waker` | the sleeper registers, before it looks at `rung`; who rings takes it, after it has set `rung` |
//!
//! So no wake-up is lost: either the sleeper sees `rung`, or its waker is there to be taken.

use super::Task;
use crate::contain::{Quiet, contain};
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

/// Ready after this time; for one too long to count, never.
pub(super) fn sleep(time: Duration) -> Task {
    let Some(at) = Instant::now().checked_add(time) else {
        return Box::pin(std::future::pending());
    };
    let alarm = Arc::new(Alarm::default());
    let mut set = false;
    Box::pin(poll_fn(move |cx| {
        alarm.waker.register(cx.waker());
        if !set {
            set = true;
            Timer::set(at, Arc::clone(&alarm));
        }
        // Acquire: pairs with the ringing.
        if alarm.rung.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }))
}

/// One sleep.
#[derive(Default)]
struct Alarm {
    rung: AtomicBool,
    waker: atomic_waker::AtomicWaker,
}

/// The process's timer thread, started at the first sleep.
struct Timer {
    alarms: flume::Sender<(Instant, Arc<Alarm>)>,
    thread: thread::Thread,
}

impl Timer {
    fn set(at: Instant, alarm: Arc<Alarm>) {
        static TIMER: OnceLock<Option<Timer>> = OnceLock::new();
        let timer = TIMER.get_or_init(|| {
            let (alarms, receiver) = flume::unbounded();
            let spawned = thread::Builder::new()
                .name("shardpool-timer".to_owned())
                .spawn(move || Timer::run(&receiver));
            Some(Timer { alarms, thread: spawned.ok()?.thread().clone() })
        });
        match timer {
            Some(timer) if timer.alarms.send((at, Arc::clone(&alarm))).is_ok() => {
                timer.thread.unpark();
            }
            // No thread is to be had: better early than never.
            _ => alarm.ring(),
        }
    }

    fn run(alarms: &flume::Receiver<(Instant, Arc<Alarm>)>) {
        let mut pending: BinaryHeap<Pending> = BinaryHeap::new();
        let mut most = 64;
        loop {
            while let Ok((at, alarm)) = alarms.try_recv() {
                pending.push(Pending { at, alarm: Quiet::new(alarm) });
            }
            if pending.len() > most {
                // Of sleeps that were dropped, only this is left.
                pending.retain(|p| Arc::strong_count(&p.alarm) > 1);
                most = 64.max(2 * pending.len());
            }
            let now = Instant::now();
            while pending.peek().is_some_and(|next| next.at <= now) {
                if let Some(due) = pending.pop() {
                    due.alarm.ring();
                }
            }
            // An unpark between the look at the channel and here makes this return at once.
            match pending.peek() {
                Some(next) => thread::park_timeout(next.at - now),
                None => thread::park(),
            }
        }
    }
}

impl Alarm {
    fn ring(&self) {
        // Release: who sees it rung sees all that came before.
        self.rung.store(true, Ordering::Release);
        // A waker that panics must not take the timer down.
        let _ = contain(|| self.waker.wake());
    }
}

/// Ordered so that the earliest is the heap's greatest.
struct Pending {
    at: Instant,
    /// With a waker, whose destructor must not take the timer down either.
    alarm: Quiet<Arc<Alarm>>,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}
