//! What is in a cell.

use crate::command::Receipt;
use crate::contain::drop_contained;
use crate::error::CommandError;
use crate::shard::front::Front;
use crate::sync::Arc;
use crate::types::Types;

/// What a command's caller gets.
pub(crate) type Outcome<O, E> = Result<Receipt<O>, CommandError<E>>;

/// What is in a cell: a command, or its outcome. Flat, and small: for small commands the whole cell
/// is then on one line of the cache, but for what is seldom looked at.
pub(super) enum Slot<T: Types> {
    Empty,
    Command(T::Command),
    Committed(u64, T::Output),
    Rejected(T::Error),
    Failed(T::Error, bool),
    Panicked(Box<str>, bool),
    Expired,
    Aborted(bool),
    /// Keeps the front of the shard alive for a caller that is giving room back to it.
    Front(#[expect(dead_code, reason = "held, not read")] Arc<Front>),
}

impl<T: Types> Slot<T> {
    /// Drops what the user put in. Mostly there is nothing any more.
    pub(super) fn drop_contained(self) {
        if !matches!(self, Slot::Empty) {
            drop_contained(self);
        }
    }

    pub(super) fn of(outcome: Outcome<T::Output, T::Error>) -> Self {
        match outcome {
            Ok(Receipt { version, output }) => Slot::Committed(version, output),
            Err(CommandError::Rejected(error)) => Slot::Rejected(error),
            Err(CommandError::Failed { error, started }) => Slot::Failed(error, started),
            Err(CommandError::Panicked { message, started }) => {
                Slot::Panicked(message.into_boxed_str(), started)
            }
            Err(CommandError::Expired) => Slot::Expired,
            Err(CommandError::Aborted { started }) => Slot::Aborted(started),
            // A withdrawal is told by the state, and a deadlock is not an outcome.
            Err(CommandError::Cancelled | CommandError::Deadlock) => {
                unreachable!("such an outcome is not published")
            }
        }
    }

    pub(super) fn outcome(self) -> Outcome<T::Output, T::Error> {
        Err(match self {
            Slot::Committed(version, output) => return Ok(Receipt { version, output }),
            Slot::Rejected(error) => CommandError::Rejected(error),
            Slot::Failed(error, started) => CommandError::Failed { error, started },
            Slot::Panicked(message, started) => {
                CommandError::Panicked { message: message.into_string(), started }
            }
            Slot::Expired => CommandError::Expired,
            Slot::Aborted(started) => CommandError::Aborted { started },
            Slot::Empty | Slot::Command(_) | Slot::Front(_) => {
                unreachable!("a done cell holds an outcome")
            }
        })
    }
}
