//! Locks, atomics, threads and channels: the seam for model checks.
//!
//! Everything that can race goes through this file, so that under `--cfg loom` the very same protocols run on
//! loom's primitives. Three kinds of lock:
//!
//! - [`Mutex`] (`parking_lot`: one byte, no poisoning) guards data for a few instructions.
//! - [`Monitor`] (std's `Mutex` with `Condvar`) is for threads that wait: waking a thousand of them is six times
//!   faster than with `parking_lot`, which hands each woken thread the lock in turn.
//! - [`Vault`] holds what a user's mutex guards; the waiting for it is done elsewhere (sync/gate.rs).

pub(crate) use crossbeam_channel::{
    Receiver, Sender, TryRecvError, TrySendError, at, bounded, never, select_biased, unbounded,
};

/// For what belongs to the whole process and outlives a model: loom does not see it.
pub(crate) use parking_lot::Mutex as StaticMutex;
pub(crate) use std::sync::atomic::AtomicUsize as StaticCounter;

pub(crate) use crossbeam_utils::atomic::AtomicCell;
/// A mark of what must be dropped by the thread that made it.
pub(crate) type BoundToThread = std::marker::PhantomData<std::sync::MutexGuard<'static, ()>>;

/// The name the operating system's thread was started with.
pub(crate) fn thread_name() -> Option<String> {
    std::thread::current().name().map(str::to_owned)
}

/// Whether the calling thread is unwinding.
pub(crate) fn is_panicking() -> bool {
    std::thread::panicking()
}

/// A lock that is free whenever somebody comes to it, because he has passed a gate before.
pub(crate) struct Vault<T: ?Sized>(parking_lot::Mutex<T>);

pub(crate) type VaultGuard<'a, T> = parking_lot::MutexGuard<'a, T>;

impl<T> Vault<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: ?Sized> Vault<T> {
    /// Loom does not see this lock: that nobody else is behind the gate is what the models are to show, with the
    /// gate's own orderings.
    #[inline]
    pub(crate) fn open(&self) -> VaultGuard<'_, T> {
        #[cfg(loom)]
        return self.0.try_lock().expect("two threads behind one gate");
        #[cfg(not(loom))]
        self.0.lock()
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

pub(crate) use primitives::{
    AtomicBool, AtomicU32, AtomicUsize, JoinHandle, Monitor, Mutex, Ordering, Parker,
    THREAD_NUMBER, ThreadId, comes_soon, sleep, start_thread, thread_id,
};

#[cfg(not(loom))]
pub(crate) use primitives::{ThreadScope, start_scoped_thread, thread_scope};

#[cfg(not(loom))]
mod primitives {
    use std::cell::Cell;
    use std::io;
    use std::sync::PoisonError;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
    use std::thread::{self, Builder, Thread};
    pub(crate) use std::thread::{JoinHandle, ThreadId};

    use crate::base::time::Deadline;

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
    pub(crate) fn sleep(span: crate::base::time::Duration) {
        thread::sleep(span);
    }
}

#[cfg(loom)]
mod primitives {
    use std::cell::Cell;
    use std::io;

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
    use loom::thread::{self, Thread};
    pub(crate) use loom::thread::{JoinHandle, ThreadId};

    use crate::base::time::Deadline;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    pub(crate) type MutexGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("loom's locks are not poisoned")
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().expect("loom's locks are not poisoned")
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Monitor<T> {
        mutex: loom::sync::Mutex<T>,
        changed: loom::sync::Condvar,
    }

    pub(crate) type MonitorGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

    impl<T> Monitor<T> {
        pub(crate) fn new(value: T) -> Self {
            Self {
                mutex: loom::sync::Mutex::new(value),
                changed: loom::sync::Condvar::new(),
            }
        }

        pub(crate) fn lock(&self) -> MonitorGuard<'_, T> {
            self.mutex.lock().expect("loom's locks are not poisoned")
        }

        /// A deadline may fire at any moment: the model gives the lock away once and returns.
        pub(crate) fn wait_until<'a>(
            &'a self,
            guard: MonitorGuard<'a, T>,
            deadline: Deadline,
        ) -> MonitorGuard<'a, T> {
            if deadline == Deadline::NEVER {
                return self
                    .changed
                    .wait(guard)
                    .expect("loom's locks are not poisoned");
            }
            drop(guard);
            thread::yield_now();
            self.lock()
        }

        pub(crate) fn notify_one(&self) {
            self.changed.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.changed.notify_all();
        }
    }

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

        pub(crate) fn park_until(deadline: Deadline) {
            match deadline.instant() {
                None => thread::park(),
                Some(_) => thread::yield_now(),
            }
        }
    }

    pub(crate) fn thread_id() -> ThreadId {
        thread::current().id()
    }

    loom::thread_local! {
        pub(crate) static THREAD_NUMBER: Cell<usize> = Cell::new(0);
    }

    pub(crate) fn comes_soon(_is_there: impl FnMut() -> bool) -> bool {
        false
    }

    pub(crate) fn start_thread(
        name: String,
        _stack_size: Option<usize>,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(name).spawn(body)
    }

    pub(crate) fn sleep(_span: crate::base::time::Duration) {
        thread::yield_now();
    }
}
