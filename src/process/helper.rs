//! Threads of this library that serve one child process.

use std::io;

use crate::base::limits;
use crate::base::sync::{JoinHandle, start_thread};

/// Nothing deep is called there.
const STACK: usize = 128 * 1024;

/// Starts a helper, unless the process has as many threads as the system can bear.
pub(crate) fn start(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let claim = Claim::new()?;
    start_thread(name.to_owned(), Some(STACK), move || {
        work();
        drop(claim);
    })
}

/// The place of one thread among those the process may have.
struct Claim;

impl Claim {
    fn new() -> io::Result<Self> {
        match limits::claim_thread() {
            Ok(()) => Ok(Self),
            Err(limit) => {
                let words =
                    format!("this process has {limit} threads, as many as the system can bear");
                Err(io::Error::new(io::ErrorKind::WouldBlock, words))
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        limits::release_thread();
    }
}
