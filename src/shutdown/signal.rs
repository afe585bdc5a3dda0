//! Signals: one handler for the process, which only raises requests.
//!
//! ctrlc (3.5) allows one handler, for ever, and runs it on a thread of its own that a panic would kill: every later
//! signal would be swallowed. So the handler counts, raises the request of each subscribed manager, and ends the process
//! where that is what a press means; it runs no foreign code and waits for nobody.
//!
//! | press of the process | a manager is open | none is open (any more) |
//! |---|---|---|
//! | first | asks for the shutdown | ends the process, as without this library |
//! | second | skips the grace | does nothing |
//! | third | ends the process | ends the process |
//!
//! The second one does nothing without a manager since the first has stopped the program: it is on its way out, prints its
//! result and its report, and there is nothing to hurry any more. That one would lose both, pressed in the moment in which
//! the shutdown is over and the program is not.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::process;
use std::sync::{Arc, Weak};

use crate::base::log::{self, Level};
use crate::base::sync::{self, AtomicUsize, Mutex, Ordering, start_thread};
use crate::base::time::Duration;
use crate::base::unwind;
use crate::cancel::cause::{Cause, CauseKind};
use crate::task::registry::Registry;

/// The exit code of a process that was interrupted three times: 128 + SIGINT, as shells have it.
const FORCED: i32 = 130;

/// How long the destructors of the C library may take after the third signal, before the process is aborted.
const LAST_PATIENCE: Duration = Duration::from_millis(500);

/// How often the creation of ctrlc's thread is tried. ctrlc installs its OS handler first, and leaves it there when the
/// thread cannot be created: signals would then be swallowed for ever, so giving up is the last resort.
const TRIES: u32 = 6;

static HUB: Hub = Hub {
    presses: AtomicUsize::new(0),
    subscribers: Mutex::new(Vec::new()),
    installed: Mutex::new(false),
};

struct Hub {
    /// Signals so far, in the life of the process: a manager made after the first starts with a request to stop.
    presses: AtomicUsize,
    subscribers: Mutex<Vec<Weak<Registry>>>,
    installed: Mutex<bool>,
}

/// Lets SIGINT, SIGTERM and SIGHUP raise the request of this registry's manager.
pub(crate) fn subscribe(registry: &Arc<Registry>) -> Result<(), SignalError> {
    HUB.install()?;
    HUB.open_subscribers();
    HUB.subscribers.lock().push(Arc::downgrade(registry));
    // A press before the push was not told to this manager; telling it twice is harmless.
    tell(registry, HUB.presses.load(Ordering::SeqCst));
    Ok(())
}

fn tell(registry: &Registry, presses: usize) {
    let cause = || Cause::from_outside(CauseKind::Signal);
    match presses {
        0 => {}
        1 => {
            registry.request.raise(cause(), None);
        }
        _ => registry.request.hurry(cause()),
    }
}

impl Hub {
    fn install(&self) -> Result<(), SignalError> {
        let mut installed = self.installed.lock();
        if !*installed {
            let ignored_hangup = hangup_is_ignored();
            install_handler()?;
            *installed = true;
            drop(installed);
            if ignored_hangup {
                log::say(
                    Level::Warn,
                    format_args!(
                        "SIGHUP was ignored (nohup?); from now on a hang-up is a request to stop"
                    ),
                );
            }
        }
        Ok(())
    }

    /// A signal has come.
    fn press(&self) {
        // SeqCst pairs with `subscribe`: either the press sees the subscriber or the subscriber sees the press.
        let presses = self.presses.fetch_add(1, Ordering::SeqCst) + 1;
        if presses >= 3 {
            end_process();
        }
        let registries = self.open_subscribers();
        if registries.is_empty() && presses == 1 {
            // All managers have ended without a signal, or were never there: what would happen without this library.
            end_process();
        }
        // Without a manager the second is left to the program, which the first has stopped.
        for registry in registries {
            tell(&registry, presses);
        }
    }

    /// The registries whose manager has not ended; forgets the others.
    fn open_subscribers(&self) -> Vec<Arc<Registry>> {
        let open = |subscriber: &Weak<Registry>| {
            subscriber
                .upgrade()
                .filter(|registry| !registry.request.is_closed())
        };
        let mut subscribers = self.subscribers.lock();
        let registries: Vec<_> = subscribers.iter().filter_map(open).collect();
        *subscribers = registries.iter().map(Arc::downgrade).collect();
        registries
    }
}

fn install_handler() -> Result<(), SignalError> {
    for attempt in 1.. {
        let handler = || {
            unwind::contain(|| HUB.press());
        };
        match ctrlc::set_handler(handler) {
            Ok(()) => break,
            Err(ctrlc::Error::System(error)) if attempt == TRIES => {
                return Err(SignalError::Os(error));
            }
            Err(ctrlc::Error::System(_)) => sync::sleep(Duration::from_millis(10 << attempt)),
            Err(_) => return Err(SignalError::Taken),
        }
    }
    Ok(())
}

/// Ends the process with 130, whatever else hangs.
#[expect(clippy::exit, reason = "the third signal always ends the process")]
fn end_process() -> ! {
    // `exit` runs the destructors of the C library, which may hang as well, and a second `exit` waits for the first.
    let fallback = start_thread("tm-last-resort".to_owned(), None, || {
        sync::sleep(LAST_PATIENCE);
        process::abort();
    });
    drop(fallback);
    process::exit(FORCED)
}

/// Whether SIGHUP was ignored when the program was started: `SigIgn: 0000000000000001` in `/proc/self/status`.
fn hangup_is_ignored() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// Why signals cannot be handled.
#[derive(Debug)]
#[non_exhaustive]
pub enum SignalError {
    /// Other code of the process has set ctrlc's one handler: call
    /// [`request_shutdown`](crate::Manager::request_shutdown) from there.
    Taken,
    /// The system could not start the thread that hears the signals. Until a later call succeeds they are swallowed: end
    /// the program, or try again.
    Os(io::Error),
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str(
                "other code of this process has set ctrlc's handler; call `request_shutdown` from that one instead",
            ),
            Self::Os(_) => f.write_str("the system could not start the thread that hears signals"),
        }
    }
}

impl Error for SignalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            Self::Taken => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_read_from_the_status_of_the_process() {
        assert!(ignores_hangup(
            "Name:\tx\nSigIgn:\t0000000000000001\nSigCgt:\t0\n"
        ));
        assert!(ignores_hangup("SigIgn:\t0000000000001007\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001002\n"));
        assert!(!ignores_hangup(""));
    }
}
