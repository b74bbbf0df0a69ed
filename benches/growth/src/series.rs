//! What is varied, in which steps, and which lines and tables are made of it.

use crate::measure::{Job, Quantity, Task};

/// How thorough a pass is.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub quick: bool,
}

impl Effort {
    /// For how long callers run before what they do counts, and for how long it does.
    fn window_ms(self) -> (u64, u64) {
        if self.quick { (30, 100) } else { (60, 300) }
    }

    fn for_ms(self) -> u64 {
        if self.quick { 50 } else { 200 }
    }

    pub fn rounds(self, sweep: &Sweep) -> usize {
        match (self.quick, sweep.slow) {
            (false, false) => 7,
            (false, true) | (true, false) => 3,
            (true, true) => 1,
        }
    }
}

/// One thing that is varied while all others stay.
pub struct Sweep {
    pub name: &'static str,
    /// What is varied, in the plural.
    pub cause: &'static str,
    /// A round takes long.
    pub slow: bool,
    /// In ascending order: how many, and what is done with them.
    pub points: Vec<(u64, Job)>,
}

/// A line in a plot, and columns in a table: one quantity over one sweep.
pub struct Line {
    pub sweep: &'static str,
    pub quantity: Quantity,
    pub label: &'static str,
}

/// One plot, its table and its text.
pub struct Figure {
    /// Of the file of the plot.
    pub name: &'static str,
    pub heading: &'static str,
    /// What is measured.
    pub about: &'static str,
    pub x: &'static str,
    /// Units: nanoseconds for each command, bytes for each, or time in all.
    pub y: &'static str,
    pub lines: Vec<Line>,
    /// What the growth is made of.
    pub why: &'static str,
}

const USUAL: Job = Job {
    task: Task::DrainResident,
    shards: 8,
    workers: 8,
    depth: 1024,
    aggregates: 10_000,
    callers: 64,
};

const TENS: [u64; 7] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];

/// From 1 up to `last`, `factor` times as many at each step.
fn powers(factor: u64, last: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(1), move |n| Some(n * factor)).take_while(move |n| *n <= last)
}

fn sweep(
    name: &'static str,
    cause: &'static str,
    steps: impl IntoIterator<Item = u64>,
    job: impl Fn(u64) -> Job,
) -> Sweep {
    let points = steps.into_iter().map(|n| (n, job(n))).collect();
    Sweep { name, cause, slow: false, points }
}

pub fn sweeps(effort: Effort) -> Vec<Sweep> {
    let (warm_up_ms, window_ms) = effort.window_ms();
    let closed = Job { task: Task::Closed { warm_up_ms, window_ms }, ..USUAL };
    let yields = Job { task: Task::Yield { warm_up_ms, window_ms }, ..USUAL };
    let idle = Job { task: Task::StartAndDrain { for_ms: effort.for_ms() }, ..USUAL };
    let mut aggregates = sweep("aggregates", "aggregates", powers(10, 10_000_000).skip(2), |n| {
        Job { aggregates: n, ..closed }
    });
    aggregates.slow = true;
    let queued = sweep("queued", "queued commands", TENS, |n| Job {
        task: Task::DrainQueued { commands: n },
        depth: n as usize + USUAL.workers,
        aggregates: 1_000,
        ..USUAL
    });
    let resident = sweep("resident", "resident aggregates", TENS.into_iter().skip(2), |n| Job {
        aggregates: n,
        ..USUAL
    });
    vec![
        aggregates,
        sweep("shards", "shards", powers(2, 256), |n| Job { shards: n as usize, ..closed }),
        sweep("shards-loaded", "shards", powers(2, 256), |n| Job {
            shards: n as usize,
            callers: 8 * n,
            ..closed
        }),
        sweep("workers", "workers per shard", powers(4, 1024), |n| Job {
            workers: n as usize,
            ..closed
        }),
        sweep("callers", "callers", powers(4, 16_384), |n| Job {
            callers: n,
            depth: 16_384,
            ..closed
        }),
        sweep("callers-waiting", "callers", powers(4, 16_384), |n| Job {
            callers: n,
            depth: 8,
            ..closed
        }),
        sweep("callers-bare", "callers", powers(4, 16_384), |n| Job { callers: n, ..yields }),
        sweep("depth", "queue depth", TENS, |n| Job {
            task: Task::Flood {
                commands: (2 * n).max(if effort.quick { 50_000 } else { 400_000 }),
            },
            shards: 1,
            depth: n as usize,
            callers: 2,
            ..USUAL
        }),
        sweep("idle-shards", "shards", powers(2, 256), |n| Job { shards: n as usize, ..idle }),
        sweep("idle-workers", "workers", powers(4, 4096), |n| Job {
            shards: 1,
            workers: n as usize,
            ..idle
        }),
        queued,
        resident,
        sweep("nested", "waits of one handler", powers(10, 10_000), |n| Job {
            task: Task::Nested { for_ms: effort.for_ms() },
            depth: 16_384,
            aggregates: n,
            callers: 1,
            ..USUAL
        }),
    ]
}

const fn line(sweep: &'static str, quantity: Quantity, label: &'static str) -> Line {
    Line { sweep, quantity, label }
}

pub fn figures() -> Vec<Figure> {
    use Quantity::{Bytes, Drain, PerCommand, Resident, Start};
    const PER_COMMAND: &str = "ns per command";
    vec![
        Figure {
            name: "aggregates",
            heading: "Aggregates",
            about: "64 callers send to random aggregates, all of them resident.",
            x: "aggregates",
            y: PER_COMMAND,
            lines: vec![line("aggregates", PerCommand, "64 callers")],
            why: "A command does the same work for its aggregate however many there are: one look-up in a hash table, \
                  and the lane. What grows is the time to fetch them. A random aggregate is a miss of the cache in the \
                  table and one for each of the lane's lines that it needs, and a walk of the page table as well once \
                  there are more pages than the processor's translation buffers cover. The dispatcher asks for table \
                  and lane ahead, so that the misses of a batch overlap; with 64 callers on 8 shards a batch is short. \
                  The rise is that from one level of the cache to the next, and ends in memory.",
        },
        Figure {
            name: "shards",
            heading: "Shards",
            about: "8 workers for each shard, 10,000 aggregates. With 64 callers in all, fewer and fewer \
                    commands share a shard; with 8 callers for each shard the load grows with it.",
            x: "shards",
            y: PER_COMMAND,
            lines: vec![
                line("shards", PerCommand, "64 callers"),
                line("shards-loaded", PerCommand, "8 callers for each shard"),
            ],
            why: "A shard that nobody sends to costs nothing. What the commands of one shard share is its dispatcher's \
                  poll and the wake-up of a worker: with 64 callers on 8 shards up to eight of them do, on 64 shards \
                  and more each command pays for its own. That is the rise of the first line. With 8 callers for each \
                  shard they go on to share, and what grows is the memory in use: a shard with its eight workers takes \
                  some 13 KiB (see [Memory](#memory)), its callers half of that, so that some fifty of them fill each \
                  MiB of a core's L2. Neither depends on the number of shards as such: there is no list of shards that a \
                  command goes through.",
        },
        Figure {
            name: "workers",
            heading: "Workers",
            about: "64 callers, 8 shards, 10,000 aggregates.",
            x: "workers per shard",
            y: PER_COMMAND,
            lines: vec![line("workers", PerCommand, "64 callers")],
            why: "Workers that sleep are a bit each in a set. Who looks for one takes the first, so the \
                  same few stay busy, and their memory in the cache. To find that all sleep, or none, is \
                  one word for 64 of them.",
        },
        Figure {
            name: "callers",
            heading: "Callers",
            about: "8 shards with 8 workers each, 10,000 aggregates. Once with room for all callers, once with room for \
                  8 commands in each shard, so that most callers wait for room. Beneath them the same callers without \
                  a pool: tasks that yield to the runtime and draw the next random number.",
            x: "callers",
            y: PER_COMMAND,
            lines: vec![
                line("callers", PerCommand, "room for all"),
                line("callers-waiting", PerCommand, "room for 64"),
                line("callers-bare", PerCommand, "without a pool"),
            ],
            why: "One caller pays for each wake-up alone. With more callers a dispatcher finds more commands in each \
                  poll, and cost falls. Then memory sets in: each caller is a task of the runtime with a future and a \
                  cell in flight, which are written by another thread, or long after they were last used. With 16,384 \
                  callers they are beyond L2, and a profile shows the time where the pool's worker first touches the \
                  caller's cell and its task, to wake it. Tasks that yield are only read in turn, so they show what is \
                  the runtime's own. Who waits for room is in one queue, first come, first served: nobody looks at the \
                  others.",
        },
        Figure {
            name: "depth",
            heading: "Queue depth",
            about: "2 callers submit to one shard with 8 workers as fast as there is room, and wait for no \
                    outcome: the queue is full most of the time.",
            x: "queue depth",
            y: PER_COMMAND,
            lines: vec![line("depth", PerCommand, "2 callers that do not wait")],
            why: "The depth is a number in a word; nothing is allocated for it. With room for a single command the \
                  callers sleep, which is an allocation, and are woken for each one. A deep queue is memory that is \
                  written long before it is read again: at some 130 bytes for a command, each MiB of a core's L2 holds \
                  8,000 of them. And from some 2,000 on cells are allocated and freed as well, since threads keep no \
                  more than those for the next commands. So cost rises in two steps, and once more where a queue \
                  leaves L3, if it does.",
        },
        Figure {
            name: "nested",
            heading: "Waits inside a handler",
            about: "One handler sends to so many other aggregates of its pool at once, as by `join_all`, and waits for \
                    all of them; when it is over, it is sent the next command. 8 shards with 8 workers each.",
            x: "waits at once",
            y: "ns per wait",
            lines: vec![line("nested", PerCommand, "one handler")],
            why: "One wait pays for the handler's own command as well, and for wake-ups that many share. Each is \
                  published, so that one which could never end is refused: a list of all that the handler waits for \
                  is copied, of which the copy shares all but one piece of 64. What grows is the number of these \
                  pieces, and the memory of cells and futures that wait.",
        },
        Figure {
            name: "idle-shards",
            heading: "Start and drain, over shards",
            about: "An idle pool with 8 workers for each shard. A start is over when each shard has \
                    answered a command, a drain when the last of the pool's futures has ended.",
            x: "shards",
            y: "time",
            lines: vec![line("idle-shards", Start, "start"), line("idle-shards", Drain, "drain")],
            why: "A shard is nine tasks to spawn, to poll and to end, and the first answer of each is a lane to make.",
        },
        Figure {
            name: "idle-workers",
            heading: "Start and drain, over workers",
            about: "The same with one shard and ever more workers.",
            x: "workers",
            y: "time",
            lines: vec![line("idle-workers", Start, "start"), line("idle-workers", Drain, "drain")],
            why: "A worker is a task to spawn, to poll and to end. A thousand of them fill a MiB of a core's L2; more \
                  than that are, at each start, fresh pages from the system.",
        },
        Figure {
            name: "drain-queued",
            heading: "Drain, over queued commands",
            about: "All 64 workers are held at a gate while commands queue up for 1,000 aggregates. Then \
                    the pool is closed, the gate opens, and the time runs until everything is done.",
            x: "queued commands",
            y: "time",
            lines: vec![line("queued", Drain, "drain")],
            why: "Below some hundred commands the time is that of waking and ending 72 tasks. Above, each command is \
                  work of its own, and what it costs grows with the misses of the cache: the commands of one aggregate \
                  are linked through their cells, one after another in time but not in memory. The dispatcher follows \
                  the links when it cuts turns of at most 64 commands, and the worker once more. Since nobody holds \
                  the tickets here, the workers free the cells, which another thread has allocated: a profile of a \
                  million has most of the time in the allocator, which merges each cell with its neighbours under a \
                  lock that both threads want.",
        },
        Figure {
            name: "drain-resident",
            heading: "Drain, over resident aggregates",
            about: "Nothing is queued; the aggregates are idle, and what is kept for them is freed.",
            x: "resident aggregates",
            y: "time",
            lines: vec![line("resident", Drain, "drain")],
            why: "Every lane is asked once whether it is out, and then freed: two visits in the order of the table, \
                  which is random in memory, and a third one by the allocator to the neighbours. Each is a miss of the \
                  cache, and these are all that grows for each aggregate. A pool has no cheaper end, as states may \
                  have destructors.",
        },
        Figure {
            name: "memory",
            heading: "Memory",
            about: "Bytes asked of the allocator, over how many there are: for an idle aggregate with a \
                    `u64` as id and as state; for a queued command of 16 bytes; for a shard with 8 workers \
                    on tokio; for a worker on tokio, with its one shard.",
            x: "how many",
            y: "bytes for each",
            lines: vec![
                line("aggregates", Bytes, "idle aggregate"),
                line("queued", Bytes, "queued command"),
                line("idle-shards", Bytes, "shard"),
                line("idle-workers", Bytes, "worker"),
            ],
            why: "Tables and queues double when they are full, so the bytes for each swing between full and half full. \
                  With few of them what is fixed is most.",
        },
        Figure {
            name: "memory-resident",
            heading: "Memory, by the system's account",
            about: "How much more of the process is in memory, from 10,000 of them on.",
            x: "how many",
            y: "bytes for each",
            lines: vec![
                line("aggregates", Resident, "idle aggregate"),
                line("queued", Resident, "queued command"),
            ],
            why: "What is above the bytes that were asked for is the allocator's. Lanes and cells begin on a line of \
                  the cache, so that two of them never share one. The C library's allocator, which is measured here, \
                  serves such a request from a larger piece and keeps what is left over for smaller ones.",
        },
    ]
}
