//! What the compiler must accept: checked when this file compiles.

use crate::tools::Script;
use futures::future::join_all;
use shardpool::executors::{SpawnError, Threads};
use shardpool::{
    Builder, Command, CommandError, CommandHandler, Context, Drain, DrainError, Failure, Loaded,
    NoLoader, Outcomes, Receipt, SendError, Sending, SettingError, ShardPool, ShardStats,
    StartError, Submission, SubmitError, Submitter, Ticket, TrySubmitError, WeakPool,
};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;

struct Named(&'static str);

impl Command for Named {
    type AggregateId = &'static str;
    fn aggregate_id(&self) -> &&'static str {
        &self.0
    }
}

type Error = &'static str;

fn send_and_sync<T: Send + Sync>() {}
fn send<T: Send>(_: &T) {}
fn unpin<T: Unpin>() {}
fn unwind_safe<T: UnwindSafe + RefUnwindSafe>() {}

/// A command that may not be shared, only moved.
struct Unshared(#[expect(dead_code, reason = "makes it not `Sync`")] std::cell::Cell<u32>, u8);

impl Command for Unshared {
    type AggregateId = u8;
    fn aggregate_id(&self) -> &u8 {
        &self.1
    }
}

#[test]
fn g19_public_types_are_send_and_sync() {
    send_and_sync::<ShardPool<Unshared, std::cell::Cell<u8>, std::cell::Cell<u8>>>();
    send_and_sync::<WeakPool<Named, u64, Error>>();
    send_and_sync::<Ticket<Unshared, std::cell::Cell<u8>, std::cell::Cell<u8>>>();
    send_and_sync::<Submitter<'_, Named, u64, Error>>();
    send_and_sync::<Context>();
    send_and_sync::<Receipt<u64>>();
    send_and_sync::<CommandError<Error>>();
    send_and_sync::<SubmitError<Named>>();
    send_and_sync::<TrySubmitError<Named>>();
    send_and_sync::<SendError<Named, Error>>();
    send_and_sync::<DrainError>();
    send_and_sync::<SettingError>();
    send_and_sync::<StartError>();
    send_and_sync::<SpawnError>();
    send_and_sync::<Failure<Error>>();
    send_and_sync::<Loaded<u64>>();
    send_and_sync::<Outcomes>();
    send_and_sync::<ShardStats>();
    send_and_sync::<Threads>();
    #[cfg(feature = "tokio")]
    send_and_sync::<shardpool::executors::Tokio>();
    #[cfg(feature = "smol")]
    send_and_sync::<shardpool::executors::Smol>();
    #[cfg(feature = "async-std")]
    send_and_sync::<shardpool::executors::AsyncStd>();
    unpin::<Ticket<Named, u64, Error>>();
    unpin::<Submission<'_, Named, u64, Error>>();
    unpin::<Sending<'_, Named, u64, Error>>();
    unpin::<Drain>();
}

/// A caller may catch a panic of its own around what it does with them.
#[test]
fn g07_handles_are_unwind_safe() {
    unwind_safe::<ShardPool<Unshared, std::cell::Cell<u8>, std::cell::Cell<u8>>>();
    unwind_safe::<WeakPool<Named, u64, Error>>();
    unwind_safe::<Ticket<Named, u64, Error>>();
    unwind_safe::<Submitter<'_, Named, u64, Error>>();
    unwind_safe::<CommandError<Error>>();
}

#[test]
fn g19_futures_and_builders_are_send() {
    fn is_send<T: Send>() {}
    is_send::<Drain>();
    is_send::<Submission<'_, Unshared, u64, Error>>();
    is_send::<Sending<'_, Unshared, u64, Error>>();
    is_send::<Builder<Script<u64>, NoLoader>>();
}

/// Lifetimes are forgotten when an async block is checked for `Send`: bounds that ask for
/// `'static` where they need not would refuse these.
#[test]
fn g19_futures_with_static_references_are_send() {
    async fn each_call(pool: ShardPool<Named, &'static str, Error>) {
        let ticket = pool.submit(Named("a")).await.unwrap();
        let _ = ticket.await;
        let _ = pool.send(Named("a")).await;
        let _ = pool.within(std::time::Duration::from_secs(1)).send(Named("a")).await;
        let _ = pool.drain().await;
    }
    async fn joined(pool: ShardPool<Named, &'static str, Error>) {
        let tickets = vec![pool.submit(Named("a")).await.unwrap()];
        let _ = join_all(tickets).await;
        let _ = join_all([pool.send(Named("a")), pool.send(Named("b"))]).await;
        let _ = join_all([pool.submit(Named("a"))]).await;
        let _ = futures::join!(pool.send(Named("a")), pool.submit(Named("a")), pool.drain());
    }
    fn not_run(pool: ShardPool<Named, &'static str, Error>) {
        send(&each_call(pool.clone()));
        send(&joined(pool));
    }
    let _ = (not_run, Fan);
}

/// The same of a handler's own future.
struct Fan(WeakPool<Named, &'static str, Error>);

impl CommandHandler for Fan {
    type Command = Named;
    type State = ();
    type Output = &'static str;
    type Error = Error;

    async fn handle(
        &self,
        (): &mut (),
        _: Named,
        _: &Context,
    ) -> Result<&'static str, Failure<Error>> {
        let pool = self.0.upgrade().ok_or("closed")?;
        let all = join_all([pool.send(Named("a")), pool.send(Named("b"))]).await;
        Ok(if all.iter().all(Result::is_ok) { "all" } else { "not all" })
    }
}

/// A command that may lead to others of its pool, and an output with a command's ticket.
struct Chained(u32, Option<WeakPool<Chained, Follows, Error>>);

struct Follows(Option<Ticket<Chained, Follows, Error>>);

impl Command for Chained {
    type AggregateId = u32;
    fn aggregate_id(&self) -> &u32 {
        &self.0
    }
}

#[test]
fn g19_a_command_can_hold_its_own_pool_and_an_output_a_ticket() {
    let handler = shardpool::handler_fn(|_: &mut (), Chained(id, pool): Chained, _: &Context| {
        let next = pool.and_then(|pool| pool.upgrade()?.try_submit(Chained(id + 1, None)).ok());
        Ok::<_, Failure<Error>>(Follows(next))
    });
    let pool = ShardPool::builder(handler).start(Threads::new()).unwrap();
    let first = pool.blocking_send(Chained(1, Some(pool.downgrade()))).unwrap();
    let second = first.output.0.expect("a ticket").blocking_wait().unwrap();
    assert!(second.output.0.is_none());
}

/// The name of a pool over a closure can be written down.
struct Service {
    pool: ShardPool<Named, usize, Error>,
}

#[test]
fn a_pool_over_a_closure_fits_a_struct() {
    let service = Service {
        pool: ShardPool::builder(shardpool::handler_fn(
            |seen: &mut Vec<&'static str>, named: Named, _: &Context| {
                seen.push(named.0);
                if seen.len() > 1 { Err(Failure::Rejected("once")) } else { Ok(seen.len()) }
            },
        ))
        .start(shardpool::executors::Threads::new())
        .unwrap(),
    };
    assert_eq!(service.pool.blocking_send(Named("a")).unwrap().output, 1);
    assert!(service.pool.blocking_send(Named("a")).is_err());
    // A caller need not be `Send`.
    let local = Rc::new(service.pool.clone());
    assert!(futures::executor::block_on(async { local.send(Named("b")).await }).is_ok());
}
