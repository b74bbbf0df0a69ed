//! Where the events are kept: one for each leg flown, unique by aircraft and version.

mod memory;
mod scratch;
mod sqlite;

use crate::fleet::{AircraftId, Flown};
use memory::Memory;
pub(crate) use scratch::Scratch;
use sqlite::Sqlite;
use std::fmt;
use std::path::PathBuf;

/// A leg that was flown, and what the aircraft came to by it: its last event alone tells all
/// that a command needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) aircraft: AircraftId,
    pub(crate) version: u64,
    pub(crate) line: Box<[u8]>,
    pub(crate) after: Flown,
}

/// The end of an aircraft's history: version 0 when it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) version: u64,
    pub(crate) after: Flown,
}

/// The versions that are stored of one aircraft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) aircraft: AircraftId,
    pub(crate) events: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Span {
    /// Whether they are 1, 2, .. n: versions are unique, so two ends and a count tell.
    pub(crate) fn is_whole(&self) -> bool {
        self.first == 1 && self.last == self.events
    }
}

/// Which store to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    Sqlite(PathBuf),
    /// An SQLite file that goes when the store is closed.
    Temporary,
}

impl Place {
    /// The files that it is in, whether they are there or not. SQLite has some beside the one that
    /// is named.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let Self::Sqlite(path) = self else {
            return Vec::new();
        };
        let named = |suffix| {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            name.into()
        };
        ["", "-wal", "-shm", "-journal"].map(named).into()
    }
}

/// What went wrong, in words: it is told to every command that it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreError(String);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug)]
pub(crate) enum Store {
    Memory(Memory),
    Sqlite(Sqlite),
}

impl Store {
    pub(crate) fn open(place: &Place) -> Result<Self, StoreError> {
        Ok(match place {
            Place::Memory => Self::Memory(Memory::default()),
            Place::Sqlite(path) => Self::Sqlite(Sqlite::open(path, None)?),
            Place::Temporary => {
                let scratch = Scratch::new()?;
                Self::Sqlite(Sqlite::open(&scratch.file(), Some(scratch))?)
            }
        })
    }

    /// Returns when the event is durable. After an error it may or may not be in the store.
    pub(crate) async fn append(&self, event: Event) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => store.append(event),
            Self::Sqlite(store) => store.append(event).await,
        }
    }

    /// Sees every event whose append has returned.
    pub(crate) async fn last(&self, aircraft: &AircraftId) -> Result<Last, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.last(aircraft)),
            Self::Sqlite(store) => store.last(aircraft).await,
        }
    }

    /// One for each aircraft in the store.
    pub(crate) async fn spans(&self) -> Result<Vec<Span>, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.spans()),
            Self::Sqlite(store) => store.spans().await,
        }
    }

    /// Puts the files in order, whoever still holds the store; a temporary one is deleted.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Sqlite(store) => store.close().await,
        }
    }
}

/// What the tests of both kinds need.
#[cfg(test)]
mod testing {
    use super::*;

    pub(super) fn event(aircraft: &[u8], version: u64) -> Event {
        let mut after = Flown { legs: version, ..Flown::default() };
        after.digest = after.digest.line(aircraft);
        after.miles += &crate::miles::Miles::parse(b"99999999999999999999").unwrap();
        Event {
            aircraft: aircraft.into(),
            version,
            line: format!("line {version}").into_bytes().into(),
            after,
        }
    }

    /// What every store must do.
    pub(super) async fn behaves(store: &Store) {
        let [a, b]: [AircraftId; 2] = [b"A"[..].into(), b"\xff\x00"[..].into()];
        assert_eq!(store.last(&a).await, Ok(Last::default()));
        assert_eq!(store.spans().await, Ok(vec![]));

        for version in [1, 2] {
            store.append(event(&a, version)).await.unwrap();
        }
        store.append(event(&b, 2)).await.unwrap();

        let last = store.last(&a).await.unwrap();
        assert_eq!(last.version, 2);
        assert_eq!(last.after, event(&a, 2).after);

        let error = store.append(event(&a, 2)).await.unwrap_err().to_string();
        assert!(error.contains("version 2 of A"), "{error}");
        assert_eq!(store.last(&a).await.unwrap(), last, "nothing was written");

        let spans = store.spans().await.unwrap();
        let whole: Vec<_> = spans.iter().map(|s| (&s.aircraft, s.is_whole())).collect();
        assert_eq!(whole, [(&a, true), (&b, false)]);
    }
}
