//! The aircraft: the command to one, what it keeps in mind, and how a command is carried out.

use crate::digest::Digest;
use crate::miles::Miles;
use crate::store::{Event, Store, StoreError};
use shardpool::{Command, CommandHandler, Context, Failure, Loaded, Loader};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// It would be chained onto a history that lacks a leg, and no version would show that.
    EarlierNotStored,
}

impl fmt::Display for LegError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverDeparted => f.write_str("the flight never departed"),
            Self::Store(error) => error.fmt(f),
            Self::EarlierNotStored => {
                f.write_str("an earlier leg of this aircraft could not be stored")
            }
        }
    }
}

impl std::error::Error for LegError {}

/// Carries legs out, on top of a store of events.
#[derive(Debug)]
pub(crate) struct Fleet {
    store: Arc<Store>,
    /// The aircraft that the store has failed in this run. They take no more legs in it, so what
    /// is stored of an aircraft is always the first of its legs, with none left out.
    stopped: Mutex<HashSet<AircraftId>>,
}

impl Fleet {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, stopped: Mutex::default() }
    }

    fn stop(&self, aircraft: AircraftId, error: StoreError) -> LegError {
        self.stopped().insert(aircraft);
        LegError::Store(error)
    }

    /// A panic elsewhere leaves the set whole: each call changes it by one insertion.
    fn stopped(&self) -> MutexGuard<'_, HashSet<AircraftId>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            aircraft: leg.aircraft.clone(),
            version: cx.version(),
            line: leg.line,
            after: after.clone(),
        };
        // Durable first, resident second. When the store fails, whether the event is in it is
        // unknown: the pool drops the state, and asks the loader before the next leg.
        match self.store.append(event).await {
            Ok(()) => {
                *flown = after;
                Ok(())
            }
            Err(error) => Err(Failure::Failed(self.stop(leg.aircraft, error))),
        }
    }
}

impl Loader for Fleet {
    type AggregateId = AircraftId;
    type State = Flown;
    type Error = LegError;

    async fn load(&self, aircraft: &AircraftId) -> Result<Loaded<Flown>, LegError> {
        if self.stopped().contains(aircraft) {
            return Err(LegError::EarlierNotStored);
        }
        match self.store.last(aircraft).await {
            Ok(last) => Ok(Loaded::new(last.after, last.version)),
            Err(error) => Err(self.stop(aircraft.clone(), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Place, Scratch};
    use futures::executor::block_on;
    use rusqlite::Connection;
    use shardpool::ShardPool;
    use shardpool::executors::Threads;

    fn leg(aircraft: &[u8], line: &[u8]) -> Leg {
        Leg {
            aircraft: aircraft.into(),
            departed: true,
            miles: Miles::default(),
            line: line.into(),
        }
    }

    /// A store in a file, with a connection of the test's own to meddle with it.
    fn store() -> (Scratch, Arc<Store>, Connection) {
        let scratch = Scratch::new().unwrap();
        let store = Store::open(&Place::Sqlite(scratch.file())).unwrap();
        let other = Connection::open(scratch.file()).unwrap();
        (scratch, Arc::new(store), other)
    }

    #[test]
    fn what_is_stored_of_an_aircraft_has_no_leg_left_out() {
        let (_scratch, store, other) = store();
        let refuse_b = "CREATE TRIGGER no BEFORE INSERT ON event WHEN NEW.line = x'62'
                        BEGIN SELECT RAISE(ABORT, 'no'); END";
        other.execute_batch(refuse_b).unwrap();
        let fleet = Arc::new(Fleet::new(store.clone()));
        let pool = ShardPool::builder(fleet.clone()).loader(fleet).start(Threads::new()).unwrap();
        let [n1, n2]: [AircraftId; 2] = [b"N1"[..].into(), b"N2"[..].into()];
        block_on(async {
            let mut tickets = Vec::new();
            for line in [b"a", b"b", b"c", b"d"] {
                tickets.push(pool.submit(leg(&n1, line)).await.unwrap());
            }
            let mut errors = Vec::new();
            for ticket in tickets {
                errors.push(ticket.await.err().map(|error| error.to_string()));
            }
            assert_eq!(errors[0], None);
            assert!(errors[1].as_ref().unwrap().contains("can't append version 2 of N1: no"));
            for error in &errors[2..] {
                assert!(error.as_ref().unwrap().contains("an earlier leg"), "{error:?}");
            }
            let last = store.last(&n1).await.unwrap();
            assert_eq!(last.after, Flown::default().and(&leg(&n1, b"a")));

            pool.send(leg(&n2, b"a")).await.unwrap();
            assert_eq!(store.last(&n2).await.unwrap().version, 1, "the others fly on");
        });
    }

    #[test]
    fn an_aircraft_that_could_not_be_loaded_once_takes_no_leg() {
        let (_scratch, store, other) = store();
        let fleet = Fleet::new(store);
        let aircraft: AircraftId = b"N1"[..].into();
        block_on(async {
            other.execute_batch("ALTER TABLE event RENAME TO hidden").unwrap();
            assert!(matches!(fleet.load(&aircraft).await, Err(LegError::Store(_))));
            other.execute_batch("ALTER TABLE hidden RENAME TO event").unwrap();
            assert!(matches!(fleet.load(&aircraft).await, Err(LegError::EarlierNotStored)));
            let other: AircraftId = b"N2"[..].into();
            assert!(fleet.load(&other).await.is_ok());
        });
    }
}
