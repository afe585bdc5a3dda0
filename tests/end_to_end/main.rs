//! The demos as a user runs them: real processes, real signals.

#[cfg(unix)]
mod client;
#[cfg(all(unix, feature = "process"))]
mod command_line;
#[cfg(unix)]
mod dedup;
#[cfg(unix)]
mod harness;
#[cfg(unix)]
mod program;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod signals;
#[cfg(all(unix, feature = "process"))]
mod timeouts;
