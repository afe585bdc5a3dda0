//! The primitives of std, with `parking_lot`'s mutex.
//!
//! Under `--cfg tsan` the monitor is `parking_lot`'s too: std comes without instrumentation, and what its locks order
//! looks like a race to `ThreadSanitizer`.

use std::cell::Cell;
use std::io;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, Builder, Thread};
pub(crate) use std::thread::{JoinHandle, ThreadId};

use crate::base::time::{Deadline, Duration};

/// A lock without poisoning: state changes under it are single assignments, and no user code runs there.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

pub(crate) type MutexGuard<'a, T> = parking_lot::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

#[cfg(not(tsan))]
pub(crate) use monitor::Monitor;

#[cfg(tsan)]
pub(crate) use instrumented::Monitor;

#[cfg(not(tsan))]
mod monitor {
    use std::sync::PoisonError;

    use crate::base::time::Deadline;

    /// A lock that threads wait at until somebody changes what it guards.
    #[derive(Debug, Default)]
    pub(crate) struct Monitor<T> {
        mutex: std::sync::Mutex<T>,
        changed: std::sync::Condvar,
    }

    pub(crate) type MonitorGuard<'a, T> = std::sync::MutexGuard<'a, T>;

    impl<T> Monitor<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self {
                mutex: std::sync::Mutex::new(value),
                changed: std::sync::Condvar::new(),
            }
        }

        pub(crate) fn lock(&self) -> MonitorGuard<'_, T> {
            self.mutex.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Waits for a notification; may return early or for no reason, so callers loop.
        pub(crate) fn wait_until<'a>(
            &self,
            guard: MonitorGuard<'a, T>,
            deadline: Deadline,
        ) -> MonitorGuard<'a, T> {
            match deadline.remaining() {
                None => self
                    .changed
                    .wait(guard)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.changed
                        .wait_timeout(guard, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            }
        }

        pub(crate) fn notify_one(&self) {
            self.changed.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.changed.notify_all();
        }
    }
}

#[cfg(tsan)]
mod instrumented {
    use crate::base::time::Deadline;

    /// The same on locks that ThreadSanitizer understands.
    #[derive(Debug, Default)]
    pub(crate) struct Monitor<T> {
        mutex: parking_lot::Mutex<T>,
        changed: parking_lot::Condvar,
    }

    pub(crate) type MonitorGuard<'a, T> = parking_lot::MutexGuard<'a, T>;

    impl<T> Monitor<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self {
                mutex: parking_lot::Mutex::new(value),
                changed: parking_lot::Condvar::new(),
            }
        }

        pub(crate) fn lock(&self) -> MonitorGuard<'_, T> {
            self.mutex.lock()
        }

        pub(crate) fn wait_until<'a>(
            &self,
            mut guard: MonitorGuard<'a, T>,
            deadline: Deadline,
        ) -> MonitorGuard<'a, T> {
            match deadline.remaining() {
                None => self.changed.wait(&mut guard),
                Some(left) => {
                    self.changed.wait_for(&mut guard, left);
                }
            }
            guard
        }

        pub(crate) fn notify_one(&self) {
            self.changed.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.changed.notify_all();
        }
    }
}

/// The one handle under every wait on more than one source: std's own token for a thread.
#[derive(Clone, Debug)]
pub(crate) struct Parker(Thread);

impl Parker {
    pub(crate) fn current() -> Self {
        Self(thread::current())
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }

    pub(crate) fn unpark(&self) {
        self.0.unpark();
    }

    /// Parks the calling thread; may return early or for no reason, so callers loop.
    pub(crate) fn park_until(deadline: Deadline) {
        match deadline.remaining() {
            None => thread::park(),
            Some(left) => thread::park_timeout(left),
        }
    }
}

/// The calling thread, for comparison.
pub(crate) fn thread_id() -> ThreadId {
    thread::current().id()
}

thread_local! {
    /// The number of this thread; zero until it has one (callsign.rs). Without a destructor: there until the end.
    pub(crate) static THREAD_NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// Looks for a microsecond or two whether something is there: for what mostly comes before a thread is asleep.
pub(crate) fn comes_soon(mut is_there: impl FnMut() -> bool) -> bool {
    (0..7).any(|round| {
        (0..1 << round).for_each(|_| std::hint::spin_loop());
        is_there()
    })
}

/// Starts an operating system thread.
pub(crate) fn start_thread(
    name: String,
    stack_size: Option<usize>,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let builder = Builder::new().name(name);
    match stack_size {
        Some(bytes) => builder.stack_size(bytes).spawn(body),
        None => builder.spawn(body),
    }
}

pub(crate) use std::thread::{Scope as ThreadScope, scope as thread_scope};

/// Starts an operating system thread that its scope joins.
pub(crate) fn start_scoped_thread<'scope>(
    scope: &'scope ThreadScope<'scope, '_>,
    name: String,
    body: impl FnOnce() + Send + 'scope,
) -> io::Result<()> {
    let builder = Builder::new().name(name);
    builder.spawn_scoped(scope, body).map(drop)
}

/// Puts the calling thread to sleep, deaf to everything.
pub(crate) fn sleep(span: Duration) {
    thread::sleep(span);
}

/// What threads of the house send each other.
pub(crate) use crossbeam_channel::{
    Receiver as MailReceiver, Sender as MailSender, unbounded as mailbox,
};
