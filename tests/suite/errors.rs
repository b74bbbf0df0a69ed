//! What errors say, give back and come from.

use shardpool::executors::SpawnError;
use shardpool::{CommandError, SendError, StartError, SubmitError, TrySubmitError};
use std::error::Error;
use std::{fmt, io};

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
    // No outcome: what was accepted has started, or will.
    assert!(CommandError::<()>::Deadlock.started());
}

#[test]
fn g13_a_command_that_was_not_accepted_comes_back_with_the_error() {
    let refused = Unsent::NotAccepted(SubmitError::Closed("deposit"));
    assert_eq!(refused.into_command(), Some("deposit"));
    assert_eq!(Unsent::Command(CommandError::Expired).into_command(), None);
    assert!(TrySubmitError::Full(()).is_full() && !TrySubmitError::Closed(()).is_full());
}

/// What an error says, and then what each says that is behind it.
fn texts(error: &dyn Error) -> Vec<String> {
    let behind = error.source().map(texts).unwrap_or_default();
    std::iter::once(error.to_string()).chain(behind).collect()
}

/// An error with one behind it.
#[derive(Debug)]
struct NoStore(io::Error);

impl fmt::Display for NoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no store")
    }
}

impl Error for NoStore {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn the_error_of_a_handler_is_said_once_and_what_is_behind_it_is_the_source() {
    let no_store = || NoStore(io::Error::other("disk full"));
    let failed = || CommandError::Failed { error: no_store(), started: true };
    let unsent = || SendError::<(), _>::from(failed());
    for (error, says) in [
        (&failed() as &dyn Error, "command failed after the handler had started: no store"),
        (&CommandError::Rejected(no_store()), "command rejected: no store"),
        (&unsent(), "command failed after the handler had started: no store"),
    ] {
        assert_eq!(texts(error), [says, "disk full"]);
    }
    assert!(Failed::Expired.source().is_none());
}

#[test]
fn the_error_of_a_handler_comes_back() {
    let says = |error: io::Error| error.to_string();
    assert_eq!(failed(true).into_error().map(says).as_deref(), Some("disk full"));
    assert_eq!(Unsent::from(failed(true)).into_error().map(says).as_deref(), Some("disk full"));
    assert!(Failed::Expired.into_error().is_none());
    assert!(Unsent::from(Failed::Expired).into_error().is_none());
    assert!(Unsent::from(SubmitError::Closed("deposit")).into_error().is_none());
}

#[test]
fn why_a_pool_did_not_start_is_said_once() {
    let spawn = StartError::from(SpawnError::new("no threads left"));
    assert!(spawn.to_string().ends_with("no threads left") && spawn.source().is_none(), "{spawn}");
}
