//! The three types that travel through a pool, as one type parameter.

use crate::command::{Command, CommandHandler};

/// Command, output and error of a pool. Handler, state and hasher are erased behind it, so that
/// a pool over a closure can be named.
///
/// Neither the structs that carry it nor what is implemented for them asks for `'static`, though only such
/// types can start a pool: the compiler forgets lifetimes when it checks whether an async block is `Send`,
/// and would refuse one that holds a ticket whose error is a `&'static str`, or several of them joined.
pub(crate) trait Types: Sized {
    type Command: Command;
    type Output: Send;
    type Error: Send;
}

impl<C: Command, O: Send, E: Send> Types for fn(C) -> Result<O, E> {
    type Command = C;
    type Output = O;
    type Error = E;
}

/// The types of a pool whose face names them one by one.
pub(crate) type TypesOf<C, O, E> = fn(C) -> Result<O, E>;

/// The types of a handler's pool.
pub(crate) type HandlerTypes<H> = TypesOf<
    <H as CommandHandler>::Command,
    <H as CommandHandler>::Output,
    <H as CommandHandler>::Error,
>;

/// The id of an aggregate.
pub(crate) type IdOf<T> = <<T as Types>::Command as Command>::AggregateId;
