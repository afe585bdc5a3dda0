//! Models: the real code, with threads that a checker schedules.
#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    reason = "not part of the API"
)]

pub mod interleavings;

pub mod twins;

#[cfg(shuttle)]
pub mod schedules;
