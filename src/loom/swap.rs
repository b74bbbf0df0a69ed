//! Stands in for `arc_swap::ArcSwapOption`: a pointer behind a lock, which is read and replaced at once.

use crate::sync::Arc;
use loom::sync::Mutex;

pub(crate) struct ArcSwapOption<T>(Mutex<Option<Arc<T>>>);

impl<T> ArcSwapOption<T> {
    pub(crate) fn empty() -> Self {
        Self(Mutex::new(None))
    }

    pub(crate) fn load(&self) -> Option<Arc<T>> {
        self.load_full()
    }

    pub(crate) fn load_full(&self) -> Option<Arc<T>> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn store(&self, new: Option<Arc<T>>) {
        let old = std::mem::replace(&mut *self.0.lock().unwrap(), new);
        drop(old);
    }

    /// Gives what was there before.
    pub(crate) fn rcu(&self, edit: impl Fn(&Option<Arc<T>>) -> Option<Arc<T>>) -> Option<Arc<T>> {
        let mut slot = self.0.lock().unwrap();
        let new = edit(&slot);
        std::mem::replace(&mut *slot, new)
    }
}
