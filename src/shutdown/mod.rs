//! The end of all tasks: who asks, who waits, what is said at last.

pub(crate) mod courier;

pub(crate) mod kernel;

pub(crate) mod diagnosis;

pub(crate) mod report;

#[cfg(all(feature = "signals", not(any(loom, shuttle))))]
pub(crate) mod signal;

pub(crate) mod drain;

#[cfg(all(test, not(any(loom, shuttle))))]
mod drain_model;
