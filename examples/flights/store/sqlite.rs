//! Events in SQLite, written in groups by one thread.
//!
//! A durable commit waits for the disk, and one such wait serves any number of events. So one
//! thread owns the connection: while it waits for one group, the next one gathers in its channel.

use super::{Event, Last, Scratch, Span, StoreError};
use crate::digest::Digest;
use crate::fleet::{AircraftId, Flown};
use crate::miles::Miles;
use futures::channel::oneshot;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, params};
use std::fmt;
use std::iter;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS event (
        aircraft BLOB NOT NULL,
        version INTEGER NOT NULL,
        line BLOB NOT NULL,     -- the row of the file that was carried out
        legs INTEGER NOT NULL,  -- and what the aircraft came to by it:
        miles TEXT NOT NULL,    -- decimal, of any length
        digest TEXT NOT NULL,   -- 16 hex digits
        PRIMARY KEY (aircraft, version)
    ) STRICT, WITHOUT ROWID";

const APPEND: &str = "
    INSERT INTO event (aircraft, version, line, legs, miles, digest)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

const LAST: &str = "
    SELECT version, legs, miles, digest FROM event
    WHERE aircraft = ?1 ORDER BY version DESC LIMIT 1";

const SPANS: &str = "
    SELECT aircraft, count(*), min(version), max(version) FROM event
    GROUP BY aircraft ORDER BY aircraft";

/// How long another process may hold the file before it counts as a failure.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Sqlite {
    name: String,
    requests: mpsc::Sender<Request>,
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

#[derive(Debug)]
enum Request {
    Append(Event, Reply<()>),
    AfterAppends(Other),
}

#[derive(Debug)]
enum Other {
    Last(AircraftId, Reply<Last>),
    Spans(Reply<Vec<Span>>),
    Close(Reply<()>),
}

impl Sqlite {
    /// Opens the file, or makes it. The scratch folder goes when the store is closed.
    pub(crate) fn open(path: &Path, scratch: Option<Scratch>) -> Result<Self, StoreError> {
        let name = format!("store {}", path.display());
        let connection = connect(path).map_err(|reason| {
            StoreError(format!(
                "{name} can't be opened: {reason}; --store needs a file that is an SQLite \
                 database or doesn't exist yet, in a folder that can be written to"
            ))
        })?;
        let (requests, incoming) = mpsc::channel();
        let writer = Writer { name: name.clone(), connection, patient: true, scratch };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(&incoming))
            .map_err(|error| StoreError(format!("{name} can't have a thread: {error}")))?;
        Ok(Self { name, requests })
    }

    pub(crate) async fn append(&self, event: Event) -> Result<(), StoreError> {
        self.ask(|reply| Request::Append(event, reply)).await
    }

    pub(crate) async fn last(&self, aircraft: &AircraftId) -> Result<Last, StoreError> {
        let last = |reply| Other::Last(aircraft.clone(), reply);
        self.ask(|reply| Request::AfterAppends(last(reply))).await
    }

    pub(crate) async fn spans(&self) -> Result<Vec<Span>, StoreError> {
        self.ask(|reply| Request::AfterAppends(Other::Spans(reply))).await
    }

    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        self.ask(|reply| Request::AfterAppends(Other::Close(reply))).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let closed = || StoreError(format!("{} is closed", self.name));
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(request(reply));
        sent.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

fn connect(path: &Path) -> Result<Connection, String> {
    // SQLite would take `file:..` for an URI, and it could name any file. With a folder in front it
    // is a path like all others.
    let is_uri = path.as_os_str().as_encoded_bytes().starts_with(b"file:");
    let path = if is_uri { &Path::new(".").join(path) } else { path };
    let open = || {
        let connection = Connection::open(path)?;
        connection.busy_timeout(PATIENCE)?;
        let wal = |row: &Row<'_>| row.get::<_, String>(0);
        let journal = connection.pragma_update_and_check(None, "journal_mode", "wal", wal)?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.execute_batch(SCHEMA)?;
        // Compiled now, so that a table of another make is found before anything is run.
        for statement in [APPEND, LAST, SPANS] {
            connection.prepare_cached(statement)?;
        }
        Ok((connection.is_readonly("main")?, journal, connection))
    };
    match open().map_err(|error: rusqlite::Error| error.to_string())? {
        (true, ..) => Err("it is read-only".to_owned()),
        (_, journal, connection) if journal == "wal" => Ok(connection),
        (_, journal, _) => {
            Err(format!("its journal is '{journal}' and can't be a write-ahead log"))
        }
    }
}

/// The thread's side.
struct Writer {
    name: String,
    connection: Connection,
    patient: bool,
    scratch: Option<Scratch>,
}

impl Writer {
    fn run(mut self, requests: &mpsc::Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut appends = Vec::new();
            let mut others = Vec::new();
            for request in iter::once(first).chain(requests.try_iter()) {
                match request {
                    Request::Append(event, reply) => appends.push((event, reply)),
                    Request::AfterAppends(other) => others.push(other),
                }
            }
            self.append(appends);
            // Outside of the appends' transaction, so that what is read is durable. An answer that
            // nobody waits for any more is dropped.
            for other in others {
                match other {
                    Other::Last(aircraft, reply) => drop(reply.send(self.last(&aircraft))),
                    Other::Spans(reply) => drop(reply.send(self.spans())),
                    Other::Close(reply) => return drop(reply.send(self.close())),
                }
            }
        }
    }

    fn append(&mut self, appends: Vec<(Event, Reply<()>)>) {
        if appends.is_empty() {
            return;
        }
        let together = self.commit(appends.iter().map(|(event, _)| event));
        let alone = appends.len() == 1;
        for (event, reply) in appends {
            let result = match &together {
                Ok(()) => Ok(()),
                // Nothing would come of trying again.
                Err(error) if alone || is_busy(error) => Err(self.cannot_append(&event, error)),
                // Whose fault it was is not known: each event gets a transaction of its own.
                Err(_) => self
                    .commit(iter::once(&event))
                    .map_err(|error| self.cannot_append(&event, &error)),
            };
            drop(reply.send(result));
        }
    }

    /// All or none of them.
    fn commit<'a>(&mut self, events: impl Iterator<Item = &'a Event>) -> rusqlite::Result<()> {
        let result = self.transaction(events);
        // Whoever has waited in vain once does not wait again for each of thousands of commands,
        // not before the file is free.
        let patient = !result.as_ref().is_err_and(is_busy);
        if patient != self.patient {
            self.patient = patient;
            let patience = if patient { PATIENCE } else { Duration::ZERO };
            self.connection.busy_timeout(patience)?;
        }
        result
    }

    fn transaction<'a>(&mut self, events: impl Iterator<Item = &'a Event>) -> rusqlite::Result<()> {
        // The lock is taken first, so that all waiting is done before anything is written.
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut append = transaction.prepare_cached(APPEND)?;
            for event in events {
                let rows = append.execute(params![
                    &event.aircraft[..],
                    integer(event.version)?,
                    &event.line[..],
                    integer(event.after.legs)?,
                    event.after.miles.to_string(),
                    event.after.digest.to_string(),
                ])?;
                if rows != 1 {
                    return Err(rusqlite::Error::StatementChangedRows(rows));
                }
            }
        }
        transaction.commit()
    }

    fn last(&self, aircraft: &AircraftId) -> Result<Last, StoreError> {
        let last = || {
            let mut select = self.connection.prepare_cached(LAST)?;
            let last = select.query_row([&aircraft[..]], |row| {
                Ok(Last {
                    version: unsigned(row, 0)?,
                    after: Flown {
                        legs: unsigned(row, 1)?,
                        miles: parsed(row, 2, |text| Miles::parse(text.as_bytes()))?,
                        digest: parsed(row, 3, Digest::parse)?,
                    },
                })
            });
            last.optional()
        };
        match last() {
            Ok(last) => Ok(last.unwrap_or_default()),
            Err(error) => {
                let doing = format!("load {}", aircraft.escape_ascii());
                Err(self.cannot(&doing, &error))
            }
        }
    }

    fn spans(&self) -> Result<Vec<Span>, StoreError> {
        let spans = || {
            let mut select = self.connection.prepare_cached(SPANS)?;
            let spans = select.query_map([], |row| {
                Ok(Span {
                    aircraft: row.get::<_, Vec<u8>>(0)?.into(),
                    events: unsigned(row, 1)?,
                    first: unsigned(row, 2)?,
                    last: unsigned(row, 3)?,
                })
            })?;
            spans.collect::<rusqlite::Result<_>>()
        };
        spans().map_err(|error| self.cannot("read its versions", &error))
    }

    fn close(self) -> Result<(), StoreError> {
        let closed = self.connection.close();
        drop(self.scratch);
        closed.map_err(|(_, error)| StoreError(format!("{}: can't be closed: {error}", self.name)))
    }

    fn cannot_append(&self, event: &Event, error: &rusqlite::Error) -> StoreError {
        let aircraft = event.aircraft.escape_ascii();
        let doing = format!("append version {} of {aircraft}", event.version);
        self.cannot(&doing, error)
    }

    fn cannot(&self, doing: &str, error: &dyn fmt::Display) -> StoreError {
        StoreError(format!("{}: can't {doing}: {error}", self.name))
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// SQLite's integers have a sign.
fn integer(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let value = row.get_ref(column)?;
    parse(value.as_str()?).ok_or_else(|| {
        let name = row.as_ref().column_name(column).unwrap_or_default();
        rusqlite::Error::InvalidColumnType(column, name.to_owned(), value.data_type())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Place, Store, testing};
    use futures::executor::block_on;
    use futures::future::join_all;

    /// A folder, and a store in it.
    fn scratch() -> (Scratch, Place) {
        let scratch = Scratch::new().unwrap();
        let place = Place::Sqlite(scratch.file());
        (scratch, place)
    }

    /// By a connection of the test's own.
    fn meddle(scratch: &Scratch, sql: &str) -> Connection {
        let connection = Connection::open(scratch.file()).unwrap();
        connection.execute_batch(sql).unwrap();
        connection
    }

    #[test]
    fn it_behaves() {
        let (_scratch, place) = scratch();
        let store = Store::open(&place).unwrap();
        block_on(testing::behaves(&store));
    }

    #[test]
    fn what_is_appended_is_there_when_it_is_opened_again() {
        let (scratch, place) = scratch();
        block_on(async {
            let store = Store::open(&place).unwrap();
            let event = testing::event(b"A", 1);
            store.append(event.clone()).await.unwrap();
            store.close().await.unwrap();
            let files = std::fs::read_dir(scratch.folder()).unwrap();
            assert_eq!(files.count(), 1, "the log was folded in");
            assert!(store.append(testing::event(b"A", 2)).await.is_err());

            let store = Store::open(&place).unwrap();
            let last = store.last(&event.aircraft).await.unwrap();
            assert_eq!((last.version, last.after), (1, event.after));
        });
    }

    #[test]
    fn a_temporary_store_leaves_nothing() {
        let scratch = Scratch::new().unwrap();
        let folder = scratch.folder().to_owned();
        let store = Sqlite::open(&scratch.file(), Some(scratch)).unwrap();
        block_on(async {
            store.append(testing::event(b"A", 1)).await.unwrap();
            assert!(folder.exists());
            store.close().await.unwrap();
            assert!(!folder.exists());
        });
    }

    #[test]
    fn the_log_is_synced_at_every_commit() {
        let (scratch, _) = scratch();
        let connection = connect(&scratch.file()).unwrap();
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
        assert_eq!(pragma("synchronous"), Ok(2), "FULL");
        let journal = connection.pragma_query_value(None, "journal_mode", |row| row.get(0));
        assert_eq!(journal, Ok("wal".to_owned()));
    }

    /// One bad event must not take its group along, whatever the failure does to the transaction.
    #[test]
    fn in_a_group_that_fails_every_event_is_answered_for_itself() {
        for raise in
            ["RAISE(ABORT, 'no')", "RAISE(FAIL, 'no')", "RAISE(ROLLBACK, 'no')", "RAISE(IGNORE)"]
        {
            let (scratch, place) = scratch();
            let store = Store::open(&place).unwrap();
            let other = meddle(
                &scratch,
                &format!(
                    "CREATE TRIGGER no BEFORE INSERT ON event WHEN NEW.version % 3 = 0
                     BEGIN SELECT {raise}; END;
                     BEGIN IMMEDIATE"
                ),
            );
            // While another writer holds the file, the first is waited for and the others gather.
            let waiter = thread::spawn(move || {
                thread::sleep(Duration::from_millis(100));
                other.execute_batch("COMMIT").unwrap();
            });
            block_on(async {
                let appends = (1..=20).map(|version| store.append(testing::event(b"A", version)));
                for (answer, version) in join_all(appends).await.into_iter().zip(1..) {
                    assert_eq!(answer.is_err(), version % 3 == 0, "{raise}: {answer:?}");
                }
                let spans = store.spans().await.unwrap();
                assert_eq!((spans[0].events, spans[0].is_whole()), (14, false));
            });
            waiter.join().unwrap();
        }
    }

    #[test]
    fn a_file_that_is_held_for_good_is_waited_for_once() {
        let (scratch, place) = scratch();
        let store = Store::open(&place).unwrap();
        let other = meddle(&scratch, "BEGIN IMMEDIATE");
        block_on(async {
            for version in 1..=3 {
                let error = store.append(testing::event(b"A", version)).await;
                assert!(error.unwrap_err().to_string().contains("locked"));
            }
            other.execute_batch("ROLLBACK").unwrap();
            store.append(testing::event(b"A", 1)).await.unwrap();
        });
    }

    #[test]
    fn what_is_no_store_is_refused() {
        let (scratch, place) = scratch();
        let refused = |place: &Place| Store::open(place).unwrap_err().to_string();

        std::fs::write(scratch.file(), "a letter, and a long one: ".repeat(100)).unwrap();
        assert!(refused(&place).contains("not a database"));
        std::fs::remove_file(scratch.file()).unwrap();
        drop(meddle(&scratch, "CREATE TABLE event (name TEXT)"));
        assert!(refused(&place).contains("column"));

        assert!(refused(&Place::Sqlite(scratch.folder().to_owned())).contains("can't be opened"));
        let nowhere = scratch.folder().join("no/such/folder.sqlite");
        assert!(refused(&Place::Sqlite(nowhere)).contains("no/such/folder.sqlite"));
        assert!(refused(&Place::Sqlite(":memory:".into())).contains("write-ahead log"));
    }

    #[test]
    fn a_path_is_no_uri() {
        let uri = Place::Sqlite("file:no/such/folder?mode=memory".into());
        let error = Store::open(&uri).unwrap_err().to_string();
        assert!(error.contains("unable to open"), "{error}");
    }

    #[test]
    fn what_is_damaged_is_an_error() {
        for damage in ["digest = 'xyz'", "miles = '-1'", "legs = -1"] {
            let (scratch, place) = scratch();
            let store = Store::open(&place).unwrap();
            block_on(async {
                let event = testing::event(b"A", 1);
                store.append(event.clone()).await.unwrap();
                drop(meddle(&scratch, &format!("UPDATE event SET {damage}")));
                let error = store.last(&event.aircraft).await.unwrap_err();
                assert!(error.to_string().contains("can't load A"), "{error}");
            });
        }
    }
}
