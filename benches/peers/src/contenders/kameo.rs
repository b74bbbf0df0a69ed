//! kameo: an actor per key, found in a concurrent map and spawned on first touch, asked for each
//! outcome; with its default mailbox of 64 messages.
//!
//! It keeps order per key, and the actor counts versions. It lacks a bound for the whole, as each
//! key has a mailbox of its own; a limit of how many handlers run at once; and one drain for all:
//! each actor is stopped by itself, and whoever wants to end idle ones races with the next message.
//!
//! The crate boxes each message, and each pending reply, which is what a ticket is here.

use super::Contender;
use crate::domain::{Command, Domain, Id, Refused, Versioned};
use crate::runtimes::Tokio;
use crate::workload::Setup;
use dashmap::DashMap;
use kameo::Actor;
use kameo::actor::{ActorRef, Spawn};
use kameo::error::SendError;
use kameo::message::{Context, Message};
use kameo::request::PendingReply;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

#[derive(Actor)]
struct Aggregate<D: Domain> {
    domain: Arc<D>,
    /// `None` until it is loaded.
    held: Option<Versioned>,
}

impl<D: Domain> Message<Command> for Aggregate<D> {
    type Reply = Result<u64, Refused>;

    async fn handle(
        &mut self,
        command: Command,
        _: &mut Context<Self, Self::Reply>,
    ) -> Self::Reply {
        let held = match &mut self.held {
            Some(held) => held,
            None => self.held.insert(self.domain.load(&command.id).await),
        };
        self.domain.commit(held, command).await
    }
}

pub struct Kameo<D: Domain> {
    domain: Arc<D>,
    actors: DashMap<Id, Arc<ActorRef<Aggregate<D>>>>,
}

impl<D: Domain> Kameo<D> {
    // In an `Arc`, as a clone of the reference itself counts in several places.
    fn actor(&self, id: &Id) -> Arc<ActorRef<Aggregate<D>>> {
        if let Some(actor) = self.actors.get(id) {
            return Arc::clone(&actor);
        }
        let spawn = || {
            Arc::new(Aggregate::spawn(Aggregate { domain: Arc::clone(&self.domain), held: None }))
        };
        Arc::clone(&self.actors.entry(Arc::clone(id)).or_insert_with(spawn))
    }
}

fn refused(error: SendError<Command, Refused>) -> Refused {
    match error {
        SendError::HandlerError(refused) => refused,
        _ => Refused::Lost,
    }
}

/// The crate's pending reply, with the error that all have here.
pub struct Pending(PendingReply<Command, Result<u64, Refused>>);

impl Future for Pending {
    type Output = Result<u64, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(refused)
    }
}

impl<D: Domain> Contender for Kameo<D> {
    type Runtime = Tokio;
    type Ticket = Pending;

    fn start(setup: &Setup) -> Self {
        Self { domain: Arc::new(D::new(setup.stored)), actors: DashMap::new() }
    }

    async fn submit(&self, command: Command) -> Result<Pending, Refused> {
        let actor = self.actor(&command.id);
        actor.ask(command).enqueue().await.map(Pending).map_err(|_| Refused::Lost)
    }

    async fn send(&self, command: Command) -> Result<u64, Refused> {
        self.actor(&command.id).ask(command).await.map_err(refused)
    }
}
