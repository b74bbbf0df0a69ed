//! The work itself, in the caller, with nothing around it: with no work it shows what the harness
//! costs, with work what limits every contender. It keeps no aggregate and promises nothing.

use super::Contender;
use crate::domain::{Command, Domain, Refused, State};
use crate::runtimes::Runtime;
use crate::workload::Setup;
use std::future::{Ready, ready};
use std::marker::PhantomData;

pub struct Bare<D, R> {
    domain: D,
    runtime: PhantomData<fn() -> R>,
}

impl<D: Domain, R: Runtime> Contender for Bare<D, R> {
    type Runtime = R;
    type Ticket = Ready<Result<u64, Refused>>;

    fn start(setup: &Setup) -> Self {
        Self { domain: D::new(setup.stored), runtime: PhantomData }
    }

    async fn submit(&self, command: Command) -> Result<Self::Ticket, Refused> {
        Ok(ready(self.send(command).await))
    }

    async fn send(&self, command: Command) -> Result<u64, Refused> {
        self.domain.handle(&mut State::default(), 1, command).await
    }
}
