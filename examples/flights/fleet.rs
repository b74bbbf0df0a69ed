//! The aircraft: the command to one, what it keeps in mind, and how a command is carried out.

use crate::digest::Digest;
use crate::miles::Miles;
use crate::store::{Event, Store, StoreError};
use shardpool::{Command, CommandHandler, Context, Failure, Loaded, Loader};
use std::fmt;
use std::sync::Arc;

/// A tail number, as the bytes that the file has.
pub(crate) type AircraftId = Arc<[u8]>;

/// What an aircraft has flown so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Flown {
    pub(crate) legs: u64,
    pub(crate) miles: Miles,
    pub(crate) digest: Digest,
}

impl Flown {
    fn and(&self, leg: &Leg) -> Self {
        let mut after = self.clone();
        after.legs += 1;
        after.miles += &leg.miles;
        after.digest = after.digest.line(&leg.line);
        after
    }
}

/// The command: fly this leg.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) aircraft: AircraftId,
    pub(crate) departed: bool,
    pub(crate) miles: Miles,
    /// The row in the file, without its line end.
    pub(crate) line: Box<[u8]>,
}

impl Command for Leg {
    type AggregateId = AircraftId;

    fn aggregate_id(&self) -> &AircraftId {
        &self.aircraft
    }
}

/// Why a leg did not commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LegError {
    NeverDeparted,
    Store(StoreError),
}

impl fmt::Display for LegError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverDeparted => f.write_str("the flight never departed"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LegError {}

/// Carries legs out, on top of a store of events.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) store: Arc<Store>,
}

impl CommandHandler for Fleet {
    type Command = Leg;
    type State = Flown;
    type Output = ();
    type Error = LegError;

    async fn handle(
        &self,
        flown: &mut Flown,
        leg: Leg,
        cx: &Context,
    ) -> Result<(), Failure<LegError>> {
        if !leg.departed {
            return Err(Failure::Rejected(LegError::NeverDeparted));
        }
        let after = flown.and(&leg);
        let event = Event {
            aircraft: leg.aircraft,
            version: cx.version(),
            line: leg.line,
            after: after.clone(),
        };
        // Durable first, resident second. When the store fails, whether the event is in it is
        // unknown: the pool drops the state and loads it again.
        self.store.append(event).await.map_err(LegError::Store)?;
        *flown = after;
        Ok(())
    }
}

impl Loader for Fleet {
    type AggregateId = AircraftId;
    type State = Flown;
    type Error = LegError;

    async fn load(&self, aircraft: &AircraftId) -> Result<Loaded<Flown>, LegError> {
        let last = self.store.last(aircraft).await.map_err(LegError::Store)?;
        Ok(Loaded::new(last.after, last.version))
    }
}
