//! A timer thread for the process, `shardpool-timer`, for drains with a deadline: where the executor has no
//! timer or its timer is gone, and in `blocking_wait`. The first such wait starts it, behind a `OnceLock`; it
//! stays until the process ends.
//!
//! # Who may touch what, and when
//!
//! | field | who writes |
//! | --- | --- |
//! | `rung` | the timer thread, once; the thread that sets the alarm, if there is no timer thread |
//! | `waker` | the sleeper registers, before it looks at `rung`, and takes it when it is dropped; who rings takes it, after it has set `rung` |
//!
//! So no wake-up is lost: either the sleeper sees `rung`, or its waker is there to be taken.

use super::Task;
use crate::waker_cell::WakerCell;
use flume::TryRecvError;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

/// Ready after this time; for one too long to count, never.
pub(super) fn sleep(time: Duration) -> Task {
    let Some(at) = Instant::now().checked_add(time) else {
        return Box::pin(std::future::pending());
    };
    Box::pin(Sleep { at, alarm: Arc::default(), set: false })
}

/// The sleeper's end of an alarm.
struct Sleep {
    at: Instant,
    alarm: Arc<Alarm>,
    /// The timer has the alarm.
    set: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.alarm.waker.is_spoiled() {
            (self.alarm, self.set) = (Arc::default(), false);
        }
        self.alarm.waker.register(cx.waker());
        if !std::mem::replace(&mut self.set, true) {
            Timer::set(self.at, Arc::clone(&self.alarm));
        }
        // Acquire: pairs with the ringing.
        if self.alarm.rung.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // The timer keeps the alarm until its time.
        self.alarm.waker.clear();
    }
}

/// One sleep.
#[derive(Default)]
struct Alarm {
    rung: AtomicBool,
    waker: WakerCell,
}

/// The process's timer thread, started at the first sleep.
struct Timer {
    alarms: flume::Sender<(Instant, Arc<Alarm>)>,
    thread: thread::Thread,
}

impl Timer {
    /// `None` if there is no thread to be had; the next sleep tries again.
    fn of_process() -> Option<&'static Self> {
        static TIMER: OnceLock<Timer> = OnceLock::new();
        if TIMER.get().is_none() {
            let (alarms, receiver) = flume::unbounded();
            let spawned = thread::Builder::new()
                .name("shardpool-timer".to_owned())
                .spawn(move || Timer::run(&receiver));
            let thread = spawned.ok()?.thread().clone();
            // Of two that come at once, one is used; the other's thread finds its channel closed.
            if TIMER.set(Timer { alarms, thread: thread.clone() }).is_err() {
                thread.unpark();
            }
        }
        TIMER.get()
    }

    fn set(at: Instant, alarm: Arc<Alarm>) {
        match Self::of_process() {
            Some(timer) if timer.alarms.send((at, Arc::clone(&alarm))).is_ok() => {
                timer.thread.unpark();
            }
            // Better early than never.
            _ => alarm.ring(),
        }
    }

    fn run(alarms: &flume::Receiver<(Instant, Arc<Alarm>)>) {
        let mut pending: BinaryHeap<Pending> = BinaryHeap::new();
        let mut most = 64;
        loop {
            loop {
                match alarms.try_recv() {
                    Ok((at, alarm)) => pending.push(Pending { at, alarm }),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if pending.len() > most {
                // Of sleeps that were dropped, only this is left.
                pending.retain(|p| Arc::strong_count(&p.alarm) > 1);
                most = 64.max(2 * pending.len());
            }
            let now = Instant::now();
            if pending.peek().is_some_and(|next| next.at <= now) {
                if let Some(due) = pending.pop() {
                    due.alarm.ring();
                }
                // From the start: a waker may take long, and may park, and so take the unpark of a new alarm.
                continue;
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
        self.waker.wake();
    }
}

/// Ordered so that the earliest is the heap's greatest.
struct Pending {
    at: Instant,
    alarm: Arc<Alarm>,
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

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::contain::contain;
    use crate::park::tests::{Woken, loath};
    use std::task::Waker;

    #[test]
    fn g07_a_waker_that_panics_as_it_is_cloned_costs_a_sleep_no_wake_up() {
        let (at, woken) = (Instant::now() + Duration::from_secs(3600), Arc::new(Woken::default()));
        let mut sleep = Sleep { at, alarm: Arc::default(), set: false };
        let mut poll = |waker: &Waker| {
            let polled = Pin::new(&mut sleep).poll(&mut Context::from_waker(waker));
            (polled, Arc::clone(&sleep.alarm))
        };
        contain(|| drop(poll(&loath()))).unwrap_err();
        let (polled, alarm) = poll(&Waker::from(Arc::clone(&woken)));
        assert!(polled.is_pending() && !woken.get());
        alarm.ring();
        assert!(woken.get());
        assert!(poll(Waker::noop()).0.is_ready());
    }
}
