//! The pool under simulated schedules.
mod determinism;
