//! A folder for a temporary store: SQLite puts files of its own beside the one it is given, and
//! with the folder all of them go.

use super::StoreError;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs, process};

#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self, StoreError> {
        // Two at the same moment are told apart.
        static NEXT: AtomicU64 = AtomicU64::new(0);

        // Relaxed: only that each gets another number matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = now.unwrap_or_default().as_nanos();
        let folder = env::temp_dir().join(format!("flights-{}-{nanos}-{number}", process::id()));
        // Fails when it is there already, so nobody else's files are ever used or deleted.
        match fs::create_dir(&folder) {
            Ok(()) => Ok(Self(folder)),
            Err(error) => Err(StoreError(format!(
                "can't create the folder {} for a temporary store: {error}; \
                 set TMPDIR, or name a store with --store",
                folder.display()
            ))),
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("flights.sqlite")
    }

    #[cfg(test)]
    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be deleted is in the temporary folder of the system, for it to clear.
        let _ = fs::remove_dir_all(&self.0);
    }
}
