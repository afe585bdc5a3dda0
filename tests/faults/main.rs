//! The faults this library must survive, each with a test that bears its number: see `FAULTS.md` beside this file.
//!
//! A test named `f028_…` shows fault 28. What must not happen inside the test's own process (signals, exit codes, aborts,
//! exhaustion) is played by a child process: this very binary, told to run one ignored test, its *role*.

#![cfg(unix)]

mod attempts;
mod books;
mod callbacks;
mod child;
mod deadlines;
mod environment;
mod listeners;
mod logger;
mod nasty;
mod outcome;
mod owners;
mod pages;
mod panics;
mod preload;
mod race;
mod sections;
mod shim;
mod shutdown;
mod signals;
mod spawn;
mod stragglers;
mod stuck;
mod table;
mod token;
mod trees;
mod usage;
