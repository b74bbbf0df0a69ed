//! The steps in the life of a command, one by one: a batch is submitted, then worked off, then asked
//! for its outcomes. On a runtime of one thread nothing else happens meanwhile.

use super::{Claim, Commands, IN_FLIGHT, Pool};
use futures::FutureExt;
use tokio::runtime::Runtime;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Step {
    /// Accepted without waiting.
    TrySubmit,
    /// Accepted by a future, which is ready at once.
    Submit,
    /// From the shard's channel through the dispatcher to a worker, the handler, and back into the cell.
    HandOver,
    /// Taken out of a ticket that is done.
    Await,
    /// Not wanted: the ticket is dropped.
    Drop,
}

pub(crate) const STEPS: [(&str, Step); 5] = [
    ("try_submit", Step::TrySubmit),
    ("submit", Step::Submit),
    ("hand_over", Step::HandOver),
    ("await_ticket", Step::Await),
    ("drop_ticket", Step::Drop),
];

/// Does all steps with so many commands, and hands the measured one to `measure`.
pub(crate) fn run(
    runtime: &Runtime,
    pool: &Pool,
    step: Step,
    commands: usize,
    mut measure: impl FnMut(&mut dyn FnMut()),
) {
    let mut random = Commands::new(0, false);
    let mut batch = Vec::with_capacity(IN_FLIGHT);
    let mut tickets: Vec<Claim> = Vec::with_capacity(IN_FLIGHT);
    let mut pass = |is_measured: bool, work: &mut dyn FnMut()| {
        if is_measured { measure(work) } else { work() }
    };
    let mut left = commands;
    while left > 0 {
        batch.extend((0..left.min(IN_FLIGHT)).map(|_| random.next()));
        left -= batch.len();
        pass(matches!(step, Step::TrySubmit | Step::Submit), &mut || {
            for command in batch.drain(..) {
                tickets.push(if step == Step::Submit {
                    let at_once = pool.submit(command).now_or_never().expect("room");
                    at_once.expect("an open pool")
                } else {
                    pool.try_submit(command).expect("room")
                });
            }
        });
        pass(step == Step::HandOver, &mut || {
            runtime.block_on(async {
                while tickets.iter().any(|ticket| !ticket.is_finished()) {
                    tokio::task::yield_now().await;
                }
            });
        });
        pass(matches!(step, Step::Await | Step::Drop), &mut || {
            for ticket in tickets.drain(..) {
                if step != Step::Drop {
                    ticket.now_or_never().expect("it is done").expect("a commit");
                }
            }
        });
    }
}
