//! Locks, atomics, threads and channels: the seam for model checks.
//!
//! Everything that can race goes through this file, so that under `--cfg loom` or `--cfg shuttle` the very same protocols
//! run on the primitives of a model checker. Three kinds of lock:
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
    /// The checkers do not see this lock: that nobody else is behind the gate is what the models are to show, with the
    /// gate's own orderings.
    #[inline]
    pub(crate) fn open(&self) -> VaultGuard<'_, T> {
        #[cfg(any(loom, shuttle))]
        return self.0.try_lock().expect("two threads behind one gate");
        #[cfg(not(any(loom, shuttle)))]
        self.0.lock()
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

/// The model checker.
#[cfg(loom)]
pub(crate) use loom as checker;
#[cfg(shuttle)]
pub(crate) use shuttle as checker;

#[cfg(any(loom, shuttle))]
pub(crate) use crate::base::modelled::{
    AtomicBool, AtomicU32, AtomicUsize, JoinHandle, MailReceiver, MailSender, Monitor, Mutex,
    Ordering, Parker, THREAD_NUMBER, ThreadId, comes_soon, mailbox, sleep, start_thread, thread_id,
};

#[cfg(not(any(loom, shuttle)))]
pub(crate) use crate::base::real::{
    AtomicBool, AtomicU32, AtomicUsize, JoinHandle, MailReceiver, MailSender, Monitor, Mutex,
    Ordering, Parker, THREAD_NUMBER, ThreadId, comes_soon, mailbox, sleep, start_thread, thread_id,
};

#[cfg(not(any(loom, shuttle)))]
pub(crate) use crate::base::real::{ThreadScope, start_scoped_thread, thread_scope};
