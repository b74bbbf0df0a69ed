//! Counts the instructions of a part of this program.

use std::env::current_exe;
use std::io::ErrorKind;
use std::process::Command;

/// Valgrind is not installed.
pub(crate) struct Missing;

/// The part that is counted: callgrind counts from its entry to its return. Under a name that is the
/// same in each build, and not inlined, so that callgrind finds it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shardpool_counted(work: &mut &mut dyn FnMut()) {
    work();
    // Something left to do, or the call would become a jump.
    std::hint::black_box(());
}

/// Does what is to be counted.
pub(crate) fn counted(mut work: &mut dyn FnMut()) {
    shardpool_counted(&mut work);
}

/// The instructions between entries to and returns from [`counted`] in a run of this program with
/// these arguments.
pub(crate) fn count(arguments: &[&str]) -> Result<u64, Missing> {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--collect-atstart=no", "--toggle-collect=shardpool_counted"])
        .arg(current_exe().expect("the path of this program"))
        .args(arguments)
        .output();
    let output = match run {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Missing),
        run => run.expect("valgrind can be run"),
    };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} failed under callgrind:\n{told}");
    // "==4711== Collected : 123456"
    let count = told.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match count {
        Some(0) | None => panic!("{arguments:?}: callgrind counted nothing:\n{told}"),
        Some(count) => Ok(count),
    }
}
