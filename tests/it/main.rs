//! The library as its users see it, one module a concept.

mod cancelling;
mod draining;
mod gathering;
mod hostile;
mod locks;
#[cfg(all(unix, feature = "process"))]
mod process;
mod readiness;
mod repeating;
mod scopes;
mod sections;
mod spine;
mod supervising;
mod timetables;
mod unblocking;
