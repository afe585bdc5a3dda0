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

use std::thread;
use std::time::{Duration, Instant};

/// A hang fails after this. Nothing here takes nearly as long, even if the machine stands still for half a minute.
const HANG: Duration = Duration::from_secs(60);

/// Looks again and again, until it is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < HANG, "{what}");
        thread::yield_now();
    }
}
