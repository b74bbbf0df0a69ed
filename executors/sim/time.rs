//! Virtual time, and who waits for it.
//!
//! Apart from the tasks: the pool and its futures keep their clock, which must not own what they are
//! spawned on (G17).

use super::lock;
use crate::executors::{Clock, Task};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub(super) struct Time {
    /// What the clock says at the start of the run.
    base: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Since the start of the run.
    now: Duration,
    /// In the order in which they are due, then in that of their creation.
    alarms: BTreeMap<(Duration, u64), Waker>,
    created: u64,
}

impl Time {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { base: Instant::now(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock.
        lock(&self.state)
    }

    /// Since the start of the run.
    pub(super) fn elapsed(&self) -> Duration {
        self.state().now
    }

    /// Goes to the time of the next alarm, and rings all that are due then. False if there is none.
    pub(super) fn advance(&self) -> bool {
        let mut due = Vec::new();
        {
            let mut state = self.state();
            let Some((&(next, _), _)) = state.alarms.first_key_value() else { return false };
            state.now = state.now.max(next);
            while let Some(first) = state.alarms.first_entry()
                && first.key().0 <= next
            {
                due.push(first.remove());
            }
        }
        due.into_iter().for_each(Waker::wake);
        true
    }

    pub(super) fn sleep(self: &Arc<Self>, time: Duration) -> Sleep {
        let mut state = self.state();
        state.created += 1;
        // A time too long for the clock never comes.
        let until = state.now.checked_add(time).filter(|t| self.base.checked_add(*t).is_some());
        Sleep { time: Arc::clone(self), alarm: until.map(|until| (until, state.created)) }
    }
}

/// The clock that the pool gets.
pub(super) struct SimClock(pub(super) Arc<Time>);

impl Clock for SimClock {
    fn now(&self) -> Instant {
        // An alarm is only set for what the clock can show.
        self.0.base + self.0.elapsed()
    }

    fn sleep(&self, time: Duration) -> Task {
        Box::pin(self.0.sleep(time))
    }
}

/// Ready when its time has come.
pub(super) struct Sleep {
    time: Arc<Time>,
    /// `None`: never.
    alarm: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(alarm) = self.alarm else { return Poll::Pending };
        if self.time.elapsed() >= alarm.0 {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let old = self.time.state().alarms.insert(alarm, waker);
        // Not under the lock: a waker may be anybody's code.
        drop(old);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // Time must not stop for who does not wait any more.
        let old = self.alarm.and_then(|alarm| self.time.state().alarms.remove(&alarm));
        drop(old);
    }
}
