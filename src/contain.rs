//! User code that panics goes no further than here (G7).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The message of a caught panic.
#[derive(Debug)]
pub(crate) struct Panic(pub(crate) String);

/// Calls user code; a panic comes back as its message.
///
/// What the closure borrowed may be left half done. Callers drop what the panic may have broken:
/// the aggregate's resident state, the command, the future.
#[inline]
pub(crate) fn contain<R>(f: impl FnOnce() -> R) -> Result<R, Panic> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| Panic(message(payload)))
}

/// Drops a value of the user's, whose destructor may panic.
pub(crate) fn drop_contained<T>(value: T) {
    if std::mem::needs_drop::<T>() {
        // The panic is one of a value that nobody waits for any more: there is no one to tell.
        let _ = contain(|| drop(value));
    }
}

/// Holds a value of the user's in a future of the pool's, and drops it contained.
pub(crate) struct Quiet<T>(Option<T>);

impl<T> Quiet<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> std::ops::Deref for Quiet<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("there until the drop")
    }
}

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        drop_contained(self.0.take());
    }
}

fn message(payload: Box<dyn Any + Send>) -> String {
    let text = if let Some(s) = payload.downcast_ref::<&'static str>() {
        (*s).to_owned()
    } else if let Some(s) = payload.downcast_ref::<String>() {
        s.clone()
    } else {
        "a panic without a message".to_owned()
    };
    // A payload can have a destructor that panics as well; what that panic carries is leaked,
    // since it could go on for ever.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }

    #[test]
    fn a_panic_comes_back_as_its_message() {
        assert_eq!(
            contain(|| panic!("plain")).map_err(|p: Panic| p.0),
            Err::<(), _>("plain".into())
        );
        assert_eq!(
            contain(|| panic!("with {}", 1)).map_err(|p: Panic| p.0),
            Err::<(), _>("with 1".into())
        );
        assert_eq!(contain(|| 5).map_err(|p| p.0), Ok(5));
    }

    #[test]
    fn a_payload_that_panics_in_its_destructor_is_contained() {
        let caught = contain(|| std::panic::panic_any(Bomb));
        assert_eq!(caught.map_err(|p| p.0), Err::<(), _>("a panic without a message".into()));
        drop_contained(Bomb);
    }
}
