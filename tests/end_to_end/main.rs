//! The demos as a user runs them: real processes, real signals.

mod dedup;
mod program;
mod signals;
