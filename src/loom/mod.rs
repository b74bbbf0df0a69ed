//! The model checker's side: what stands in for the parts that it can't look into, and the models.
//!
//! Each model runs the very code that ships, under every interleaving of its threads with up to
//! `LOOM_MAX_PREEMPTIONS` preemptions, and under every value that the memory model lets a load
//! return. `.ci/loom` runs them all. Those of front and floor (`src/shard/models`) have a dispatcher's loop
//! that is written for the model; those of the whole pool run all of it.
//!
//! What loom can't see: it takes accesses that are SeqCst for acquire and release only (fences are
//! what they are), so where the code relies on the one order of such accesses it has a fence more
//! under loom; see `sync::full_order_for_loom`.

pub(crate) mod channel;
pub(crate) mod swap;
pub(crate) mod waker;

#[cfg(test)]
mod cell;
#[cfg(test)]
pub(crate) mod check;
#[cfg(test)]
mod depot;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod reentry;
