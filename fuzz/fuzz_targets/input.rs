//! What an input says.

use arbitrary::{Arbitrary, Result, Unstructured};

#[derive(Debug, Arbitrary)]
pub struct Input {
    pub settings: Settings,
    pub operations: Vec<Operation>,
}

#[derive(Debug, Arbitrary)]
pub struct Settings {
    #[arbitrary(with = up_to::<3>)]
    pub shards: usize,
    #[arbitrary(with = up_to::<3>)]
    pub workers: usize,
    #[arbitrary(with = up_to::<8>)]
    pub depth: usize,
    #[arbitrary(with = up_to::<4>)]
    pub turn: usize,
    /// `None`: no loader.
    pub store: Option<Store>,
}

#[derive(Debug, Arbitrary)]
pub struct Store {
    #[arbitrary(with = |u: &mut Unstructured| u.arbitrary::<bool>()?.then(|| up_to::<4>(u)).transpose())]
    pub resident: Option<usize>,
    /// Whether loads fail and panic now and then.
    pub has_faults: bool,
}

/// One thing that the caller does. A place is one of what it holds: counted round, if there are fewer.
#[derive(Debug, Arbitrary)]
pub enum Operation {
    TrySubmit(Job),
    /// Made, and not polled yet.
    Submit(Job),
    Send(Job),
    /// Once.
    Poll(u8),
    Await(u8),
    Drop(u8),
    Withdraw(u8),
    /// Made, and not polled yet; with a deadline in milliseconds.
    Drain(Option<u8>),
    Abort,
    DropHandle,
    /// A command for each of so many aggregates that are used by nothing else.
    Touch(u8),
    Yield(u8),
    /// Until nobody is ready.
    Settle,
    /// Virtual time, in milliseconds.
    Sleep(u8),
    /// A future of the pool's is dropped from outside.
    LoseTask(u8),
    ShutDown,
}

#[derive(Debug, Arbitrary)]
pub struct Job {
    #[arbitrary(with = |u: &mut Unstructured| u.int_in_range(0..=7))]
    pub aggregate: u32,
    pub end: Finish,
    pub pause: Pause,
    /// In milliseconds.
    pub deadline: Option<u8>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Finish {
    Commit,
    Reject,
    Fail,
    WriteThenFail,
    PanicAtOnce,
    PanicLater,
    PanicAtEnd,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Pause {
    None,
    Yields,
    /// In milliseconds.
    Sleeps(u8),
}

fn up_to<const MOST: usize>(u: &mut Unstructured) -> Result<usize> {
    u.int_in_range(1..=MOST)
}
