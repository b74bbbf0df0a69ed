//! Who submits: clients on the pool's own runtime or on threads of their own, and handlers.

use crate::handler::{Act, Do, HANDLERS, Outcome, Pause, Pool, Tag, Ticket, Weak};
use crate::round::Round;
use crate::things::polls_at_most;
use shardpool::{CommandError, SendError, SubmitError, TrySubmitError};
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

/// What the caller knows of a command.
#[derive(Debug, Clone, Copy)]
struct Told {
    tag: Tag,
    act: Act,
    has_deadline: bool,
}

fn chance(probability: f64) -> bool {
    fastrand::f64() < probability
}

/// Lets others run.
pub(crate) async fn yields(mut times: u8) {
    poll_fn(|cx| {
        if times == 0 {
            return Poll::Ready(());
        }
        times -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

fn command(round: &Round, tag: Tag) -> Do {
    let settings = &round.settings;
    let others = [Act::Reject, Act::Fail, Act::PanicAtOnce, Act::PanicLater];
    let act = if chance(settings.failures) { others[fastrand::usize(..4)] } else { Act::Commit };
    let short = Duration::from_micros(fastrand::u64(..2_000));
    let pause = if round.slot.hangs && chance(0.001) {
        Pause::ForEver
    } else if chance(settings.sleeps) {
        if chance(0.1) { Pause::Blocks(short) } else { Pause::Sleeps(short) }
    } else if chance(0.5) {
        Pause::Yields(fastrand::u8(..4))
    } else {
        Pause::None
    };
    let visits = if chance(settings.visits) { 1 + fastrand::u8(..2) } else { 0 };
    let id = fastrand::u32(..settings.aggregates);
    round.slot.tally().commands += 1;
    Do { id, tag, act, pause, visits, _alive: round.live.one() }
}

/// Submits in one way or another, and sees to the tickets now and then; until all is done, or the pool is
/// closed.
pub(crate) async fn client(round: &Round, pool: Pool, number: u32, may_block: bool) {
    let settings = &round.settings;
    let mut tickets: Vec<(Told, Ticket)> = Vec::new();
    for n in 0..settings.commands {
        let mut command = command(round, (number, n));
        let time =
            chance(settings.deadlines).then(|| Duration::from_micros(fastrand::u64(..5_000)));
        let has_deadline = time.is_some();
        let told = Told { tag: command.tag, act: command.act, has_deadline };
        // `within` of `None` can't be said; `MAX` is the same.
        let submitter = pool.within(time.unwrap_or(Duration::MAX));
        let polls = if chance(settings.impatience) { fastrand::u64(..4) } else { u64::MAX };
        let ways = if may_block { 5 } else { 3 };
        // One that nobody waits for can end the client by a close alone.
        command.visits *= u8::from(fastrand::bool());
        let is_open = match fastrand::u8(..ways) {
            0 => match submitter.try_submit(command) {
                Ok(ticket) => {
                    tickets.push((told, ticket));
                    true
                }
                Err(TrySubmitError::Full(command)) => {
                    refused(round, told, command);
                    yields(1).await;
                    true
                }
                Err(TrySubmitError::Expired(command)) => {
                    refused(round, told, command);
                    assert!(has_deadline, "{told:?} expired");
                    true
                }
                Err(error) => {
                    assert!(matches!(error, TrySubmitError::Closed(_)), "{told:?}: {error:?}");
                    refused(round, told, error.into_command());
                    false
                }
            },
            1 => match polls_at_most(polls, submitter.submit(command)).await {
                Some(Ok(ticket)) => {
                    tickets.push((told, ticket));
                    true
                }
                Some(Err(error)) => not_accepted(round, told, error),
                None => forgotten(round),
            },
            2 => match polls_at_most(polls, submitter.send(command)).await {
                Some(result) => sent(round, told, result),
                None => forgotten(round),
            },
            3 => match submitter.blocking_submit(command) {
                Ok(ticket) => {
                    tickets.push((told, ticket));
                    true
                }
                Err(error) => not_accepted(round, told, error),
            },
            _ => sent(round, told, submitter.blocking_send(command)),
        };
        if !is_open {
            break;
        }
        if !tickets.is_empty() && (tickets.len() > 100 || chance(0.3)) {
            let (told, ticket) = tickets.swap_remove(fastrand::usize(..tickets.len()));
            attend(round, told, ticket).await;
        }
    }
    // While it waits for the rest, it keeps the pool open no longer.
    drop(pool);
    for (told, ticket) in tickets {
        attend(round, told, ticket).await;
    }
}

async fn attend(round: &Round, told: Told, mut ticket: Ticket) {
    if chance(round.settings.withdrawals) {
        let before = round.book().has_started(told.tag);
        let withdrawn = ticket.withdraw();
        assert!(!(before && withdrawn), "G8: {told:?} is withdrawn after its start");
        let outcome = ticket.await;
        let is_cancelled = matches!(outcome, Err(CommandError::Cancelled));
        assert_eq!(withdrawn, is_cancelled, "G8: {told:?} ended as {outcome:?}");
        return ended(round, told, outcome);
    }
    if chance(round.settings.impatience) {
        match polls_at_most(fastrand::u64(..3), &mut ticket).await {
            Some(outcome) => ended(round, told, outcome),
            None => drop(forgotten(round)),
        }
        return;
    }
    let outcome = ticket.await;
    ended(round, told, outcome);
}

/// Whether the pool is open, as far as one can tell by this.
fn sent(
    round: &Round,
    told: Told,
    result: Result<shardpool::Receipt<u64>, SendError<Do, u64>>,
) -> bool {
    match result {
        Ok(receipt) => ended(round, told, Ok(receipt)),
        Err(SendError::Command(error)) => ended(round, told, Err(error)),
        Err(SendError::NotAccepted(error)) => return not_accepted(round, told, error),
        Err(other) => panic!("unknown: {other:?}"),
    }
    true
}

fn not_accepted(round: &Round, told: Told, error: SubmitError<Do>) -> bool {
    let is_expected = match error {
        SubmitError::Closed(_) => true,
        SubmitError::Expired(_) => told.has_deadline,
        SubmitError::Deadlock(_) => told.tag.0 == HANDLERS,
        _ => false,
    };
    assert!(is_expected, "{told:?} is refused as {error:?}");
    if let SubmitError::Deadlock(_) = error {
        round.slot.tally().deadlocks += 1;
    }
    let is_open = !matches!(error, SubmitError::Closed(_));
    refused(round, told, error.into_command());
    is_open
}

fn refused(round: &Round, told: Told, command: Do) {
    round.slot.step();
    round.slot.tally().refused += 1;
    assert_eq!(command.tag, told.tag, "another command came back");
    assert!(!round.book().has_started(told.tag), "{told:?} was refused, and is started");
}

fn forgotten(round: &Round) -> bool {
    round.slot.tally().forgotten += 1;
    true
}

/// What the outcome of a command says must be what happened to it.
fn ended(round: &Round, told: Told, outcome: Outcome) {
    round.slot.step();
    let is_expected = match &outcome {
        Ok(receipt) => told.act == Act::Commit && receipt.version == receipt.output,
        Err(CommandError::Rejected(_)) => told.act == Act::Reject,
        Err(CommandError::Failed { started, .. }) => told.act == Act::Fail || !started,
        Err(CommandError::Panicked { started, .. }) => {
            matches!(told.act, Act::PanicAtOnce | Act::PanicLater) || !started
        }
        Err(CommandError::Expired) => told.has_deadline,
        Err(CommandError::Aborted { started }) => !started,
        Err(CommandError::Deadlock) => told.tag.0 == HANDLERS,
        Err(_) => true,
    };
    assert!(is_expected, "{told:?} ended as {outcome:?}");
    let mut tally = round.slot.tally();
    if let Err(CommandError::Deadlock) = outcome {
        // It goes on, and nobody hears of it.
        tally.deadlocks += 1;
        tally.forgotten += 1;
        return;
    }
    count(&mut tally.outcomes, &outcome);
    drop(tally);
    count(&mut round.told(), &outcome);
    let said = outcome.as_ref().map_or_else(CommandError::started, |_| true);
    assert_eq!(said, round.book().has_started(told.tag), "{told:?} ended as {outcome:?}");
}

fn count(outcomes: &mut shardpool::Outcomes, outcome: &Outcome) {
    *match outcome {
        Ok(_) => &mut outcomes.committed,
        Err(CommandError::Rejected(_)) => &mut outcomes.rejected,
        Err(CommandError::Failed { .. }) => &mut outcomes.failed,
        Err(CommandError::Panicked { .. }) => &mut outcomes.panicked,
        Err(CommandError::Cancelled) => &mut outcomes.cancelled,
        Err(CommandError::Expired) => &mut outcomes.expired,
        Err(_) => &mut outcomes.aborted,
    } += 1;
}

/// A handler's command to its own pool, and often a wait for it: one that could never end is refused (G9).
pub(crate) async fn visit(round: &Round, visits: u8) {
    let Some(pool) = round.weak.get().and_then(Weak::upgrade) else { return };
    let number = round.visits.fetch_add(1, Ordering::Relaxed);
    let mut command = command(round, (HANDLERS, number));
    command.visits = visits;
    let told = Told { tag: command.tag, act: command.act, has_deadline: false };
    match fastrand::u8(..4) {
        0 => drop(sent(round, told, pool.send(command).await)),
        1 => match pool.submit(command).await {
            Ok(ticket) => attend(round, told, ticket).await,
            Err(error) => drop(not_accepted(round, told, error)),
        },
        2 => match pool.submit(command).await {
            Ok(_) => drop(forgotten(round)),
            Err(error) => drop(not_accepted(round, told, error)),
        },
        _ => match pool.try_submit(command) {
            Ok(_) => drop(forgotten(round)),
            Err(error) => refused(round, told, error.into_command()),
        },
    }
}
