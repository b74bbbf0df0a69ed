//! A random load on a pool with random settings: clients that submit, wait, withdraw and give up.

use crate::script::{Act, Do, Outcome, Pause, Pool, Ticket, World};
use crate::things::{Bomb, Poison, polls_at_most};
use shardpool::sim::Sim;
use shardpool::{Builder, CommandError, SendError, SubmitError, TrySubmitError};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a run is like. A test sets what it is about, and leaves the rest to the seed.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) shards: usize,
    pub(crate) workers: usize,
    pub(crate) depth: usize,
    pub(crate) turn: usize,
    pub(crate) loads: bool,
    pub(crate) resident: Option<usize>,
    pub(crate) same_hash: bool,
    pub(crate) aggregates: u64,
    pub(crate) clients: u32,
    pub(crate) commands: u32,
    /// How often a command does something else than to commit, or a load to succeed.
    pub(crate) failures: f64,
    /// How often a command panics where it is dropped, or its id does.
    pub(crate) poison: f64,
    /// How often a caller gives up.
    pub(crate) impatience: f64,
    pub(crate) withdrawals: f64,
    pub(crate) deadlines: f64,
    /// How often a handler sleeps, in virtual time.
    pub(crate) sleeps: f64,
}

impl Settings {
    pub(crate) fn random(sim: &Sim) -> Self {
        let sometimes = |most: f64| if sim.chance(0.5) { most } else { 0.0 };
        let loads = sim.chance(0.5);
        Self {
            shards: 1 + sim.below(3) as usize,
            workers: 1 + sim.below(3) as usize,
            depth: if sim.chance(0.7) { 1 + sim.below(6) as usize } else { 1000 },
            turn: 1 + sim.below(4) as usize,
            loads,
            resident: (loads && sim.chance(0.5)).then(|| 1 + sim.below(3) as usize),
            same_hash: sim.chance(0.2),
            aggregates: 1 + sim.below(6),
            clients: 1 + sim.below(5) as u32,
            commands: 1 + sim.below(8) as u32,
            failures: sometimes(0.4),
            poison: sometimes(0.1),
            impatience: sometimes(0.3),
            withdrawals: sometimes(0.3),
            deadlines: sometimes(0.3),
            sleeps: sometimes(0.3),
        }
    }

    /// Nothing but commits, and callers that wait.
    pub(crate) fn plain(sim: &Sim) -> Self {
        Self {
            failures: 0.0,
            poison: 0.0,
            impatience: 0.0,
            withdrawals: 0.0,
            deadlines: 0.0,
            ..Self::random(sim)
        }
    }
}

/// What became of a command, as far as its caller knows.
#[derive(Debug)]
pub(crate) enum Fate {
    /// Came back: not accepted.
    Refused,
    Ended(Outcome),
    /// Accepted, and its ticket dropped.
    Forgotten,
    /// The future was dropped on its way: accepted or not.
    Unknown,
}

pub(crate) struct Report {
    pub(crate) tag: (u32, u32),
    pub(crate) id: u32,
    pub(crate) act: Act,
    pub(crate) has_deadline: bool,
    pub(crate) is_poisoned: bool,
    pub(crate) fate: Fate,
}

#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) world: World,
    pub(crate) settings: Arc<Settings>,
    reports: Arc<Mutex<Vec<Report>>>,
}

/// Gives the same for everything.
#[derive(Default)]
pub(crate) struct Constant;

impl Hasher for Constant {
    fn finish(&self) -> u64 {
        42
    }
    fn write(&mut self, _: &[u8]) {}
}

enum Hash {
    Seeded(shardpool::sim::SeededHasher),
    Constant(BuildHasherDefault<Constant>),
}

impl BuildHasher for Hash {
    type Hasher = Box<dyn Hasher>;

    fn build_hasher(&self) -> Box<dyn Hasher> {
        match self {
            Self::Seeded(hasher) => Box::new(hasher.build_hasher()),
            Self::Constant(hasher) => Box::new(hasher.build_hasher()),
        }
    }
}

impl Load {
    pub(crate) fn new(sim: &Sim, settings: Settings) -> Self {
        let world = World::new(sim, settings.loads);
        sim.note(format!("{settings:?}"));
        Self { world, settings: Arc::new(settings), reports: Arc::default() }
    }

    fn sim(&self) -> &Sim {
        &self.world.sim
    }

    pub(crate) fn pool(&self) -> Pool {
        let settings = &self.settings;
        let sim = self.sim().clone();
        let hash = if settings.same_hash {
            Hash::Constant(BuildHasherDefault::default())
        } else {
            Hash::Seeded(sim.hasher())
        };
        let builder = Pool::builder(self.world.actor())
            .shards(settings.shards)
            .workers_per_shard(settings.workers)
            .queue_depth(settings.depth)
            .max_turn(settings.turn)
            .hasher(hash)
            .on_dispatched(move |shard| sim.note(format!("dispatched on {shard}")));
        self.start(builder)
    }

    fn start(&self, builder: Builder<crate::script::Actor, shardpool::NoLoader>) -> Pool {
        let executor = self.sim().clone();
        let started = if self.settings.loads {
            let builder = builder.loader(self.world.store(self.settings.failures / 4.0));
            match self.settings.resident {
                Some(most) => builder.max_resident(most).start(executor),
                None => builder.start(executor),
            }
        } else {
            builder.start(executor)
        };
        started.expect("valid settings")
    }

    /// Has a worker busy with a command of a minute.
    pub(crate) async fn long(&self, pool: &Pool) -> Ticket {
        let mut command = self.world.command(0, (0, 0), Act::Commit);
        command.pause = Pause::Sleeps(Duration::from_secs(60));
        let ticket = pool.try_submit(command).unwrap();
        self.sim().settle().await;
        ticket
    }

    /// Spawns the clients.
    pub(crate) fn clients(&self, pool: &Pool) -> Vec<shardpool::sim::JoinHandle<()>> {
        (0..self.settings.clients)
            .map(|client| {
                let (load, pool) = (self.clone(), pool.clone());
                self.sim().spawn(async move { load.client(client, &pool).await })
            })
            .collect()
    }

    /// Clients, and a drain when they are done. The reports are in the order of the tags.
    pub(crate) async fn run(&self) -> Vec<Report> {
        let pool = self.pool();
        for client in self.clients(&pool) {
            client.await;
        }
        // It may be that a handler of a forgotten command still runs.
        let _ = pool.drain().await;
        self.assert_quiet(&pool);
        drop(pool);
        self.ended().await
    }

    /// For runs to be compared, whatever comes out.
    pub(crate) async fn run_noting(self, sim: Sim) {
        let pool = self.pool();
        for client in self.clients(&pool) {
            client.await;
        }
        let outcomes = pool.drain().await;
        sim.note(format!("{outcomes:?}"));
    }

    /// After the last handle is gone, everything goes (G17): then the reports.
    pub(crate) async fn ended(&self) -> Vec<Report> {
        let sim = self.sim();
        for _ in 0..1000 {
            sim.settle().await;
            if sim.live_tasks() == 0 {
                break;
            }
            // A handler sleeps.
            sim.sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(sim.live_tasks(), 0, "G17: tasks of the pool are left");
        assert_eq!(self.world.live.count(), 0, "G17: commands, states or handlers are left");
        let mut reports = std::mem::take(&mut *self.reports.lock().unwrap());
        reports.sort_by_key(|report| report.tag);
        for report in &reports {
            match &report.fate {
                Fate::Ended(outcome) => self.world.judge(report.tag, report.act, outcome),
                Fate::Refused => {
                    assert!(!self.world.has_started(report.tag), "{:?} was refused", report.tag);
                }
                Fate::Forgotten | Fate::Unknown => {}
            }
        }
        reports
    }

    /// At a quiet moment every accepted command is in the outcomes, and in nothing else (G5).
    pub(crate) fn assert_quiet(&self, pool: &Pool) {
        let stats = pool.stats();
        for shard in &stats {
            assert_eq!(shard.accepted, shard.outcomes.total(), "G5: {stats:?}");
            assert_eq!((shard.queued, shard.running, shard.waiting), (0, 0, 0), "G5: {stats:?}");
        }
    }

    /// A random command. Those with a poisoned id have an aggregate of their own.
    fn command(&self, tag: (u32, u32)) -> Do {
        let (sim, settings) = (self.sim(), &self.settings);
        let others = [
            Act::Reject,
            Act::Fail,
            Act::WriteThenFail,
            Act::PanicAtOnce,
            Act::PanicLater,
            Act::PanicAtEnd,
        ];
        let act = if sim.chance(settings.failures) {
            others[sim.below(others.len() as u64) as usize]
        } else {
            Act::Commit
        };
        let mut command = self.world.command(sim.below(settings.aggregates) as u32, tag, act);
        command.pause = if sim.chance(settings.sleeps) {
            Pause::Sleeps(Duration::from_millis(sim.below(20)))
        } else if sim.chance(0.6) {
            Pause::Yields
        } else {
            Pause::None
        };
        if sim.chance(settings.poison) {
            command.bomb = Some(Bomb("in the command"));
        }
        if sim.chance(settings.poison) {
            command.id.number += 100;
            command.id.poison = [Poison::Hash, Poison::Eq, Poison::Clone][sim.below(3) as usize];
        }
        command
    }

    /// One client: submits in one way or another, and sees to its tickets now and then.
    pub(crate) async fn client(&self, client: u32, pool: &Pool) {
        let sim = self.sim();
        let mut tickets: Vec<(Report, Ticket)> = Vec::new();
        for number in 0..self.settings.commands {
            self.submit(self.command((client, number)), pool, &mut tickets).await;
            if sim.chance(0.3) {
                sim.yield_at_random().await;
            }
            if !tickets.is_empty() && sim.chance(0.3) {
                let at = sim.below(tickets.len() as u64) as usize;
                let (report, ticket) = tickets.swap_remove(at);
                self.attend(report, ticket).await;
            }
        }
        for (report, ticket) in tickets {
            self.attend(report, ticket).await;
        }
    }

    async fn submit(&self, mut command: Do, pool: &Pool, tickets: &mut Vec<(Report, Ticket)>) {
        let (sim, settings) = (self.sim(), &self.settings);
        let (tag, id, act) = (command.tag, command.id.number, command.act);
        let time = sim.chance(settings.deadlines).then(|| match sim.below(4) {
            0 => Duration::ZERO,
            1 => Duration::MAX,
            _ => Duration::from_millis(sim.below(40)),
        });
        let is_poisoned = command.bomb.is_some() || command.id.poison != Poison::None;
        command.not_after = time.and_then(|time| sim.elapsed().checked_add(time));
        let has_deadline = command.not_after.is_some();
        let report = |fate| Report { tag, id, act, has_deadline, is_poisoned, fate };
        // `within` of `None` can't be said; `MAX` is the same.
        let submitter = pool.within(time.unwrap_or(Duration::MAX));
        let polls = if sim.chance(settings.impatience) { 1 + sim.below(8) } else { u64::MAX };
        match sim.below(3) {
            0 => match submitter.try_submit(command) {
                Ok(ticket) => tickets.push((report(Fate::Unknown), ticket)),
                Err(error) => {
                    if let TrySubmitError::Panicked { command, .. } = &error {
                        assert_eq!(command.id.poison, Poison::Hash, "{error:?}");
                    }
                    self.refused(report(Fate::Refused), error.into_command());
                }
            },
            1 => match polls_at_most(polls, submitter.submit(command)).await {
                Some(Ok(ticket)) => tickets.push((report(Fate::Unknown), ticket)),
                Some(Err(error)) => self.not_accepted(report(Fate::Refused), error),
                None => self.note(report(Fate::Unknown)),
            },
            _ => match polls_at_most(polls, submitter.send(command)).await {
                Some(Err(SendError::NotAccepted(error))) => {
                    self.not_accepted(report(Fate::Refused), error);
                }
                Some(Err(SendError::Command(error))) => {
                    self.ended_as(report(Fate::Unknown), Err(error))
                }
                Some(Ok(receipt)) => self.ended_as(report(Fate::Unknown), Ok(receipt)),
                Some(Err(error)) => panic!("unknown: {error:?}"),
                None => self.note(report(Fate::Unknown)),
            },
        }
    }

    fn not_accepted(&self, report: Report, error: SubmitError<Do>) {
        match &error {
            SubmitError::Closed(_) => {}
            SubmitError::Expired(_) => assert!(report.has_deadline, "{:?} expired", report.tag),
            SubmitError::Panicked { command, .. } => {
                assert_eq!(command.id.poison, Poison::Hash, "{error:?}")
            }
            other => panic!("{:?} is refused as {other:?}", report.tag),
        }
        self.refused(report, error.into_command());
    }

    /// A refusal gives back the command that was to be submitted.
    fn refused(&self, report: Report, mut command: Do) {
        assert_eq!(command.tag, report.tag, "another command came back");
        // The caller would have to live with the bang.
        std::mem::forget(command.bomb.take());
        self.note(report);
    }

    async fn attend(&self, report: Report, mut ticket: Ticket) {
        let (sim, settings) = (self.sim(), &self.settings);
        if sim.chance(settings.withdrawals) {
            let before = self.world.has_started(report.tag);
            let withdrawn = ticket.withdraw();
            assert!(!(before && withdrawn), "G8: {:?} is withdrawn after its start", report.tag);
            let outcome = ticket.await;
            assert_eq!(
                withdrawn,
                outcome == Err(CommandError::Cancelled),
                "G8: {:?}, withdrawn or not, ended as {outcome:?}",
                report.tag
            );
            return self.ended_as(report, outcome);
        }
        if sim.chance(settings.impatience) {
            return match polls_at_most(sim.below(4), &mut ticket).await {
                Some(outcome) => self.ended_as(report, outcome),
                None => self.note(Report { fate: Fate::Forgotten, ..report }),
            };
        }
        let outcome = ticket.await;
        self.ended_as(report, outcome);
    }

    fn ended_as(&self, report: Report, outcome: Outcome) {
        self.world.judge(report.tag, report.act, &outcome);
        if let Err(CommandError::Expired) = outcome {
            assert!(report.has_deadline, "G8: {:?} expired", report.tag);
        }
        self.note(Report { fate: Fate::Ended(outcome), ..report });
    }

    fn note(&self, report: Report) {
        self.reports.lock().unwrap().push(report);
    }
}
