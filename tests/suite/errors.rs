//! What errors say, give back and come from.

use shardpool::executors::SpawnError;
use shardpool::{CommandError, SendError, StartError, SubmitError, TrySubmitError};
use std::error::Error;
use std::io;

type Failed = CommandError<io::Error>;
type Unsent = SendError<&'static str, io::Error>;

fn failed(started: bool) -> Failed {
    CommandError::Failed { error: io::Error::other("disk full"), started }
}

#[test]
fn g05_each_outcome_says_whether_the_handler_had_started() {
    for (started, says) in
        [(true, "after the handler had started"), (false, "before the handler started")]
    {
        let errors: [Failed; 3] = [
            failed(started),
            CommandError::Panicked { message: "on purpose".to_owned(), started },
            CommandError::Aborted { started },
        ];
        for error in errors {
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(SendError::<(), _>::Command(error).started(), started);
        }
    }
    assert!(!Unsent::NotAccepted(SubmitError::Closed("deposit")).started());
}

#[test]
fn g13_a_command_that_was_not_accepted_comes_back_with_the_error() {
    let refused = Unsent::NotAccepted(SubmitError::Closed("deposit"));
    assert_eq!(refused.into_command(), Some("deposit"));
    assert_eq!(Unsent::Command(CommandError::Expired).into_command(), None);
    assert!(TrySubmitError::Full(()).is_full() && !TrySubmitError::Closed(()).is_full());
}

#[test]
fn the_error_of_a_handler_is_the_source_of_the_outcome() {
    let source = |error: &dyn Error| error.source().map(ToString::to_string);
    let of_handler = Some("disk full".to_owned());
    assert_eq!(source(&failed(true)), of_handler);
    assert_eq!(source(&CommandError::Rejected(io::Error::other("disk full"))), of_handler);
    assert_eq!(source(&Unsent::Command(failed(true))), of_handler);
    assert_eq!(source(&Failed::Expired), None);
    assert_eq!(failed(true).into_error().map(|error| error.to_string()), of_handler);
    assert!(Failed::Expired.into_error().is_none());
}

#[test]
fn why_a_pool_did_not_start_is_the_source_of_the_error() {
    let spawn = StartError::from(SpawnError::new("no threads left"));
    assert!(spawn.source().is_some_and(|source| source.to_string().contains("no threads left")));
}
