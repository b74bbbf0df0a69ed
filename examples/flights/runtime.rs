//! The four executors that the pool can run on, and what drives the program's own future on each.

use crate::fleet::Fleet;
use futures::executor::block_on;
use shardpool::{Builder, Loading, PoolOf, executors};
use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;

/// One that is compiled in: a value of this type can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    #[cfg(feature = "tokio")]
    Tokio,
    #[cfg(feature = "smol")]
    Smol,
    #[cfg(feature = "async-std")]
    AsyncStd,
    Threads,
}

/// All, whether compiled in or not.
const NAMES: [&str; 4] = ["tokio", "smol", "async-std", "threads"];

/// The first is the default.
const COMPILED_IN: &[(&str, Runtime)] = &[
    #[cfg(feature = "tokio")]
    ("tokio", Runtime::Tokio),
    #[cfg(feature = "smol")]
    ("smol", Runtime::Smol),
    #[cfg(feature = "async-std")]
    ("async-std", Runtime::AsyncStd),
    ("threads", Runtime::Threads),
];

impl Default for Runtime {
    fn default() -> Self {
        COMPILED_IN[0].1
    }
}

impl Runtime {
    /// The error names those that there are.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        match COMPILED_IN.iter().find(|(known, _)| *known == name) {
            Some((_, runtime)) => Ok(*runtime),
            None if NAMES.contains(&name) => {
                Err(format!("executor '{name}' is not compiled in: build with --features {name}"))
            }
            None => {
                Err(format!("unknown executor '{name}': it must be one of {}", NAMES.join(", ")))
            }
        }
    }

    /// Runs the future to its end on this thread, and all that it spawns on the runtime.
    pub(crate) fn block_on<F: Future>(self, future: F) -> io::Result<F::Output> {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio => {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
                Ok(runtime.block_on(future))
            }
            #[cfg(feature = "smol")]
            Self::Smol => Ok(smol::block_on(future)),
            #[cfg(feature = "async-std")]
            Self::AsyncStd => Ok(async_std::task::block_on(future)),
            Self::Threads => Ok(block_on(future)),
        }
    }

    /// Starts the pool. It is called from within [`block_on`](Self::block_on).
    pub(crate) fn start(
        self,
        builder: Builder<Arc<Fleet>, Loading<Arc<Fleet>>>,
    ) -> Result<PoolOf<Fleet>, Box<dyn Error>> {
        Ok(match self {
            #[cfg(feature = "tokio")]
            Self::Tokio => builder.start(executors::Tokio::current()?)?,
            #[cfg(feature = "smol")]
            Self::Smol => builder.start(executors::Smol::global())?,
            #[cfg(feature = "async-std")]
            Self::AsyncStd => builder.start(executors::AsyncStd::new())?,
            Self::Threads => builder.start(executors::Threads::new())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_finds_what_is_compiled_in() {
        assert_eq!(Runtime::named("threads"), Ok(Runtime::Threads));
        for name in NAMES {
            match Runtime::named(name) {
                Ok(_) => {}
                Err(error) => assert!(error.contains(&format!("--features {name}")), "{error}"),
            }
        }
        assert!(Runtime::named("Tokio").unwrap_err().contains("one of"));
    }

    #[test]
    fn each_drives_a_future() {
        for (name, runtime) in COMPILED_IN {
            let answer = runtime.block_on(async { 42 }).unwrap();
            assert_eq!(answer, 42, "{name}");
        }
    }
}
