//! One run: the rows go in as commands, as fast as the pool takes them, and the outcomes come out.

use crate::complain;
use crate::fleet::{AircraftId, Fleet, Leg, LegError};
use crate::options::Options;
use crate::report::{Line, OutFile, Summary};
use crate::rows::{Row, Rows};
use crate::store::{Span, Store};
use indicatif::{ProgressBar, ProgressStyle};
use shardpool::{CommandError, PoolOf, ShardPool, Ticket};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Outcomes that may be outstanding. It bounds the rows that are in memory, and is many times what
/// the pool needs to keep all of its workers busy.
const IN_FLIGHT: usize = 16 * 1024;

/// Of the failures of one kind, this many are told one by one.
const TOLD: u64 = 10;

/// Whether all went well. The error says why nothing was run.
pub(crate) async fn run(options: &Options) -> Result<bool, String> {
    let input = options.input.display();
    let file = File::open(&options.input)
        .map_err(|error| format!("input {input} can't be opened: {error}; see --input"))?;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let rows = Rows::new(BufReader::new(file)).map_err(|error| format!("input {input} {error}"))?;
    let out = match &options.out {
        Some(path) => Some(OutFile::open(path).map_err(|error| {
            let out = path.display();
            format!("output {out} can't be opened for writing: {error}; see --out")
        })?),
        None => None,
    };
    if let Some(out) = &out {
        spare(out, options)?;
    }
    let store = Arc::new(Store::open(&options.store).map_err(|error| error.to_string())?);
    if let Some(warning) = warning(&store).await {
        complain(warning);
    }

    let went_well = match start(options, &store) {
        Ok(pool) => {
            let run = Run::new(options, pool, progress_bar(length));
            Ok(run.finish(rows, &store, out).await)
        }
        Err(error) => Err(error),
    };
    // Also when nothing was run, since a temporary store is deleted by it.
    match store.close().await {
        Ok(()) => went_well,
        Err(error) => {
            complain(error);
            went_well.map(|_| false)
        }
    }
}

/// Refuses an output that would destroy what it is written over. It has been opened, so it exists,
/// but nothing has been written to it.
fn spare(out: &OutFile, options: &Options) -> Result<(), String> {
    let mut others = vec![("input", options.input.clone())];
    others.extend(options.store.files().into_iter().map(|file| ("store", file)));
    // The summary and what is wrong go there. Where there are no such paths, none is the output.
    others.extend(["/dev/stdout", "/dev/stderr"].map(|path| ("file behind", path.into())));
    match others.iter().find(|(_, other)| out.is(other)) {
        Some((what, other)) => {
            let out = options.out.as_deref().unwrap_or(other).display();
            let other = other.display();
            Err(format!("output {out} is the {what} {other}: name another file with --out"))
        }
        None => Ok(()),
    }
}

/// All is well with a second file; the same one again, after a run that was killed, counts twice.
async fn warning(store: &Store) -> Option<String> {
    // A store that can't tell is told of at the end.
    let spans = store.spans().await.ok()?;
    match spans.iter().map(|span| span.events).sum() {
        0_u64 => None,
        events => Some(format!("the store has {events} events already: this run adds to them")),
    }
}

fn start(options: &Options, store: &Arc<Store>) -> Result<PoolOf<Fleet>, String> {
    let store = store.clone();
    let fleet = Arc::new(Fleet::new(store));
    let mut builder = ShardPool::builder(fleet.clone()).loader(fleet);
    if let Some(shards) = options.shards {
        builder = builder.shards(shards);
    }
    if let Some(workers) = options.workers {
        builder = builder.workers_per_shard(workers);
    }
    if let Some(depth) = options.depth {
        builder = builder.queue_depth(depth);
    }
    let started = options.runtime.start(builder);
    started.map_err(|error| format!("the pool can't be started: {error}"))
}

/// A command that was accepted and whose outcome has not been looked at.
struct Sent {
    ticket: Ticket<Leg, (), LegError>,
    aircraft: AircraftId,
    line_number: u64,
    bytes_read: u64,
}

struct Run<'a> {
    input: &'a Path,
    pool: PoolOf<Fleet>,
    bar: ProgressBar,
    in_flight: VecDeque<Sent>,
    /// Every aircraft that has had a command, and how many of its commands were rejected.
    rejected: BTreeMap<AircraftId, u64>,
    malformed: u64,
    without_aircraft: u64,
    failed: u64,
    went_well: bool,
}

impl<'a> Run<'a> {
    fn new(options: &'a Options, pool: PoolOf<Fleet>, bar: ProgressBar) -> Self {
        Self {
            input: &options.input,
            pool,
            bar,
            in_flight: VecDeque::new(),
            rejected: BTreeMap::new(),
            malformed: 0,
            without_aircraft: 0,
            failed: 0,
            went_well: true,
        }
    }

    async fn finish(
        mut self,
        rows: Rows<impl BufRead>,
        store: &Store,
        out: Option<OutFile>,
    ) -> bool {
        let started = Instant::now();
        self.submit(rows).await;
        while !self.in_flight.is_empty() {
            self.settle_oldest().await;
        }
        let outcomes = match self.pool.drain().await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.trouble(format_args!("the pool can't be drained: {error}"));
                return false;
            }
        };
        let elapsed = started.elapsed();
        self.bar.finish_and_clear();
        if self.failed > TOLD {
            let more = self.failed - TOLD;
            self.trouble(format_args!("and {more} more commands like these"));
        }

        if let Some(out) = out {
            self.write(out, store).await;
        }
        let summary = Summary {
            outcomes,
            malformed: self.malformed,
            without_aircraft: self.without_aircraft,
            aircraft: self.rejected.len() as u64,
            elapsed,
            spans: self.check(store).await,
        };
        if let Err(error) = writeln!(io::stdout(), "{summary}") {
            self.trouble(format_args!("the summary can't be printed: {error}"));
        }
        self.went_well
    }

    /// Turns every row into a command, in the file's order, without waiting for outcomes: only for
    /// room, in the pool or in what is in flight.
    async fn submit(&mut self, mut rows: Rows<impl BufRead>) {
        while let Some(leg) = self.next_leg(&mut rows) {
            let aircraft = leg.aircraft.clone();
            let line_number = rows.line_number();
            match self.pool.submit(leg).await {
                Ok(ticket) => self.in_flight.push_back(Sent {
                    ticket,
                    aircraft,
                    line_number,
                    bytes_read: rows.bytes_read(),
                }),
                Err(error) => {
                    self.trouble_at(line_number, format_args!("the run ends here: {error}"));
                    return;
                }
            }
            while let Some(oldest) = self.in_flight.front()
                && (oldest.ticket.is_finished() || self.in_flight.len() >= IN_FLIGHT)
            {
                self.settle_oldest().await;
            }
        }
    }

    /// The next row that is a command; the others are counted, and told where they are malformed.
    fn next_leg(&mut self, rows: &mut Rows<impl BufRead>) -> Option<Leg> {
        loop {
            match rows.next() {
                Ok(Some(Row::Leg { aircraft, departed, miles, line })) => {
                    return Some(Leg {
                        aircraft: self.id(aircraft),
                        departed,
                        miles,
                        line: line.into(),
                    });
                }
                Ok(Some(Row::NoAircraft)) => self.without_aircraft += 1,
                Ok(Some(Row::Malformed(reason))) => {
                    self.malformed += 1;
                    self.trouble_at(rows.line_number(), reason);
                }
                Ok(None) => return None,
                Err(error) => {
                    let line_number = rows.line_number() + 1;
                    self.trouble_at(line_number, format_args!("can't be read: {error}"));
                    return None;
                }
            }
        }
    }

    /// One allocation for each aircraft, not for each of its legs.
    fn id(&mut self, aircraft: &[u8]) -> AircraftId {
        if let Some((id, _)) = self.rejected.get_key_value(aircraft) {
            return id.clone();
        }
        let id = AircraftId::from(aircraft);
        self.rejected.insert(id.clone(), 0);
        id
    }

    async fn settle_oldest(&mut self) {
        let Some(oldest) = self.in_flight.pop_front() else {
            return;
        };
        match oldest.ticket.await {
            Ok(_) => {}
            Err(CommandError::Rejected(_)) => {
                *self.rejected.entry(oldest.aircraft).or_default() += 1;
            }
            Err(error) => {
                self.failed += 1;
                self.went_well = false;
                if self.failed <= TOLD {
                    self.trouble_at(oldest.line_number, error);
                }
            }
        }
        self.bar.set_position(oldest.bytes_read);
    }

    async fn write(&mut self, out: OutFile, store: &Store) {
        let lines = self.lines(store).await;
        if let Err(error) = out.write(&lines) {
            self.trouble(format_args!("the output can't be written: {error}"));
        }
    }

    /// Of every aircraft that can be read.
    async fn lines(&mut self, store: &Store) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut errors = Vec::new();
        for (aircraft, &rejected) in &self.rejected {
            match store.last(aircraft).await {
                Ok(last) => lines.push(Line { aircraft: aircraft.clone(), last, rejected }),
                Err(error) => errors.push(error),
            }
        }
        for error in errors.iter().take(TOLD as usize) {
            self.trouble(format_args!("an aircraft is not in the output: {error}"));
        }
        if let Some(more @ 1..) = errors.len().checked_sub(TOLD as usize) {
            self.trouble(format_args!("and {more} more aircraft are not in the output"));
        }
        lines
    }

    async fn check(&mut self, store: &Store) -> Option<Vec<Span>> {
        let spans = match store.spans().await {
            Ok(spans) => spans,
            Err(error) => {
                self.trouble(error);
                return None;
            }
        };
        let gaps: Vec<&Span> = spans.iter().filter(|span| !span.is_whole()).collect();
        for span in gaps.iter().take(TOLD as usize) {
            self.trouble(format_args!(
                "the store has {} events of {}, with versions from {} to {}",
                span.events,
                span.aircraft.escape_ascii(),
                span.first,
                span.last
            ));
        }
        Some(spans)
    }

    fn trouble_at(&mut self, line_number: u64, what: impl Display) {
        let input = self.input.display();
        self.trouble(format_args!("{input}: line {line_number}: {what}"));
    }

    /// Tells it without tearing the progress bar, and remembers that not all went well.
    fn trouble(&mut self, what: impl Display) {
        self.went_well = false;
        self.bar.suspend(|| complain(what));
    }
}

fn progress_bar(length: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{wide_bar} {bytes}/{total_bytes}, {eta} left";
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Place, Scratch};
    use futures::executor::block_on;
    use rusqlite::Connection;
    use std::fs;

    const FILE: &str = "dep_time,tailnum,distance\n1,N1,2\n1,N2,3\n";

    /// A folder with an input and, not yet made, a store.
    fn options() -> (Scratch, Options) {
        let scratch = Scratch::new().unwrap();
        let options = Options {
            input: scratch.folder().join("in.csv"),
            store: Place::Sqlite(scratch.file()),
            ..Options::default()
        };
        fs::write(&options.input, FILE).unwrap();
        (scratch, options)
    }

    fn refused(options: &Options) -> String {
        block_on(run(options)).unwrap_err()
    }

    #[test]
    fn an_output_that_is_the_input_or_the_store_is_refused() {
        let (scratch, mut options) = options();
        let folder = scratch.folder().to_owned();
        let count = || fs::read_dir(&folder).unwrap().count();
        let other_name = folder.join("other.csv");
        fs::hard_link(&options.input, &other_name).unwrap();

        for input in [&options.input.clone(), &other_name, &folder.join("./in.csv")] {
            options.out = Some(input.clone());
            let error = refused(&options);
            assert!(error.contains(&format!("output {} is", input.display())), "{error}");
            assert!(error.contains(&format!("the input {}", options.input.display())), "{error}");
        }
        assert_eq!(fs::read(&options.input).unwrap(), FILE.as_bytes());

        for suffix in ["", "-wal"] {
            options.out = Some(folder.join(format!("flights.sqlite{suffix}")));
            let error = refused(&options);
            assert!(error.contains("the store"), "{error}");
            assert_eq!(count(), 2, "nothing was made");
        }
        drop(Connection::open(scratch.file()).unwrap());
        options.out = Some(scratch.file());
        assert!(refused(&options).contains("the store"));
        assert_eq!(count(), 3);
    }

    #[test]
    fn a_store_that_is_not_empty_is_told_of() {
        let (_scratch, options) = options();
        let done = options.runtime.block_on(async {
            let store = Arc::new(Store::open(&options.store).unwrap());
            assert_eq!(warning(&store).await, None);
            let pool = start(&options, &store).unwrap();
            let mut run = Run::new(&options, pool, ProgressBar::hidden());
            run.submit(Rows::new(FILE.as_bytes()).unwrap()).await;
            run.pool.drain().await.unwrap();
            assert!(warning(&store).await.unwrap().contains("has 2 events already"));
        });
        done.unwrap();
    }

    #[test]
    fn an_aircraft_that_cannot_be_read_costs_only_its_own_line() {
        let (scratch, options) = options();
        let done = options.runtime.block_on(async {
            let store = Arc::new(Store::open(&options.store).unwrap());
            let pool = start(&options, &store).unwrap();
            let mut run = Run::new(&options, pool, ProgressBar::hidden());
            run.submit(Rows::new(FILE.as_bytes()).unwrap()).await;
            run.pool.drain().await.unwrap();
            assert_eq!(run.lines(&store).await.len(), 2);
            assert!(run.went_well);

            let damage = "UPDATE event SET legs = -1 WHERE aircraft = x'4e31'";
            Connection::open(scratch.file()).unwrap().execute_batch(damage).unwrap();
            let lines = run.lines(&store).await;
            assert_eq!(lines.len(), 1);
            assert_eq!(&*lines[0].aircraft, b"N2");
            assert!(!run.went_well);
        });
        done.unwrap();
    }
}
