//! A lock whose waits hear a cancel.

use std::error::Error;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;

use crate::base::sync::{Vault, VaultGuard};
use crate::base::time::{Deadline, Duration, Instant};
use crate::cancel::cancelled::Cancelled;
use crate::cancel::token::CancellationToken;
use crate::sync::gate::{Gate, Pass};
use crate::sync::line::Names;
use crate::sync::patience::{Patience, Refused};
use crate::task::context::TaskContext;

/// A lock whose waits hear a cancel, and whose holder is known by name.
///
/// Inside a task lock it with [`ctx.lock(&m)?`](TaskContext::lock), in what a task calls with
/// [`token.lock(&m)?`](CancellationToken::lock): both are woken at once by the cancel. [`lock`](Self::lock) itself is for
/// threads that are no tasks, and hears nothing.
///
/// It is **not poisoned**: when a holder panics the lock is free again, and the value is as the panic left it.
///
/// A free lock is had by whoever comes, and those who wait are woken in the order in which they came. Nobody starves: one
/// who was woken some times and found that others had been faster is handed the lock.
///
/// Locking a mutex one holds oneself would never end, so it panics. Two tasks that wait for each other's lock do not
/// find out; but both hear their stop, and until then each one's books say whom it waits for.
///
/// ```
/// use std::sync::Arc;
/// use taskmuster::Manager;
/// use taskmuster::sync::Mutex;
///
/// let report = Manager::builder().run(|manager| {
///     let total = Arc::new(Mutex::new(0));
///     let adders: Vec<_> = (1..=4)
///         .map(|n| {
///             let total = Arc::clone(&total);
///             manager.spawn("adder", move |ctx| {
///                 *ctx.lock(&total)? += n;
///                 Ok(())
///             })
///         })
///         .collect::<Result<_, _>>()?;
///     for adder in adders {
///         adder.join()?;
///     }
///     assert_eq!(*total.lock(), 10);
///     Ok(())
/// });
/// assert!(report.is_clean());
/// ```
///
/// # Not for
/// Values guarded for a few instructions and never across a wait: any mutex will do, and costs half.
pub struct Mutex<T: ?Sized> {
    gate: Gate,
    value: Vault<T>,
}

impl<T> Mutex<T> {
    /// A free lock around `value`.
    ///
    /// ```
    /// use taskmuster::sync::Mutex;
    ///
    /// static LAST_ERROR: Mutex<Option<String>> = Mutex::new(None);
    /// assert_eq!(*LAST_ERROR.lock(), None);
    /// ```
    #[cfg(not(any(loom, shuttle)))]
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self {
            gate: Gate::new(),
            value: Vault::new(value),
        }
    }

    /// A free lock around `value`. Loom's primitives cannot be made at compile time.
    #[cfg(any(loom, shuttle))]
    #[must_use]
    pub fn new(value: T) -> Self {
        Self {
            gate: Gate::new(),
            value: Vault::new(value),
        }
    }

    /// The value; nobody can hold the lock.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks, waiting for as long as it takes: for threads that are no tasks.
    ///
    /// Inside a task use [`ctx.lock`](TaskContext::lock). This one does not hear the task's stop; should it be what a
    /// shutdown waits for in the end, the report says so.
    ///
    /// # Panics
    /// If the calling thread holds the lock already.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let place = Location::caller();
        loop {
            // Without a cancel and a deadline nobody is refused.
            if let Ok(guard) = self.enter(place, &Patience::deaf(Deadline::NEVER)) {
                return guard;
            }
        }
    }

    /// Locks, waiting at most `timeout`: for threads that are no tasks. `None` if it was not free in that time.
    ///
    /// # Panics
    /// If the calling thread holds the lock already.
    #[must_use]
    #[track_caller]
    pub fn lock_timeout(&self, timeout: Duration) -> Option<MutexGuard<'_, T>> {
        let patience = Patience::deaf(Deadline::after(timeout));
        self.enter(Location::caller(), &patience).ok()
    }

    /// Locks, waiting until `deadline` at the latest: for threads that are no tasks. `None` if it was not free by then.
    ///
    /// # Panics
    /// If the calling thread holds the lock already.
    #[must_use]
    #[track_caller]
    pub fn lock_deadline(&self, deadline: Instant) -> Option<MutexGuard<'_, T>> {
        let patience = Patience::deaf(Deadline::at(deadline));
        self.enter(Location::caller(), &patience).ok()
    }

    /// Locks if that is possible at once; `None` if somebody holds it, the calling thread included.
    ///
    /// ```
    /// use taskmuster::sync::Mutex;
    ///
    /// let mutex = Mutex::new(7);
    /// let guard = mutex.try_lock().ok_or("it is free")?;
    /// assert!(mutex.try_lock().is_none());
    /// # Ok::<(), taskmuster::BoxError>(())
    /// ```
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.try_enter(Location::caller())
    }

    /// The value; nobody can hold the lock.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    #[inline]
    pub(crate) fn try_enter(&self, place: &'static Location<'static>) -> Option<MutexGuard<'_, T>> {
        Some(self.behind(self.gate.try_pass(place)?))
    }

    #[inline]
    #[track_caller]
    pub(crate) fn enter(
        &self,
        place: &'static Location<'static>,
        patience: &Patience<'_>,
    ) -> Result<MutexGuard<'_, T>, Refused> {
        match self.gate.try_pass(place) {
            Some(pass) => Ok(self.behind(pass)),
            None => Ok(self.behind(self.gate.pass(place, patience)?)),
        }
    }

    #[track_caller]
    pub(crate) fn enter_by(
        &self,
        place: &'static Location<'static>,
        patience: &Patience<'_>,
    ) -> Result<MutexGuard<'_, T>, LockError> {
        self.enter(place, patience)
            .map_err(|refused| LockError::new(refused, patience))
    }

    #[inline]
    fn behind<'a>(&'a self, pass: Pass<'a>) -> MutexGuard<'a, T> {
        MutexGuard {
            value: self.value.open(),
            _pass: pass,
            mutex: self,
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

/// The value, if it can be had; else who holds the lock, and who waits for it.
impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Mutex");
        if let Some(guard) = self.try_lock() {
            return shown.field("value", &&*guard).finish();
        }
        if let Some(holder) = self.gate.holder() {
            shown.field("held_by", &format_args!("{holder}"));
        }
        let waiting = self.gate.waiting();
        if !waiting.is_empty() {
            shown.field("awaited_by", &Names(&waiting));
        }
        shown.finish_non_exhaustive()
    }
}

/// Access to the value of a [`Mutex`]; unlocks it when dropped.
///
/// It stays with the thread that locked:
///
/// ```compile_fail,E0277
/// use taskmuster::sync::Mutex;
///
/// let mutex = Mutex::new(7);
/// let guard = mutex.lock();
/// std::thread::scope(|scope| {
///     scope.spawn(move || drop(guard));
/// });
/// ```
#[must_use = "the lock is given up at once"]
#[clippy::has_significant_drop]
pub struct MutexGuard<'a, T: ?Sized> {
    // In this order: the value's own lock is free again before anybody else passes the gate.
    value: VaultGuard<'a, T>,
    _pass: Pass<'a>,
    mutex: &'a Mutex<T>,
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    pub(crate) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// # Locks
///
/// Each lock is a checkpoint, ends at once when the task is asked to stop, and is on the books while it has to wait.
impl TaskContext {
    /// Locks a [`Mutex`](crate::sync::Mutex), unless the task is asked to stop meanwhile.
    ///
    /// # Errors
    /// [`Cancelled`] when the task was asked to stop, even if the lock is free: it was not taken.
    ///
    /// # Panics
    /// If the calling thread holds the lock already.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use taskmuster::{JoinError, Manager};
    /// use taskmuster::sync::Mutex;
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let ledger = Arc::new(Mutex::new(Vec::<u32>::new()));
    ///     let held = ledger.lock();
    ///     let theirs = Arc::clone(&ledger);
    ///     let clerk = manager.spawn("clerk", move |ctx| {
    ///         ctx.lock(&theirs)?.push(1);
    ///         Ok(())
    ///     })?;
    ///     clerk.cancel(); // ends its wait at once, although the lock is not free
    ///     assert!(matches!(clerk.join(), Err(JoinError::Cancelled { .. })));
    ///     assert!(held.is_empty());
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    #[inline]
    #[track_caller]
    pub fn lock<'m, T: ?Sized>(&self, mutex: &'m Mutex<T>) -> Result<MutexGuard<'m, T>, Cancelled> {
        let place = Location::caller();
        self.checkpoint_at(place)?;
        mutex
            .enter(place, &Patience::of_task(self, Deadline::NEVER))
            .map_err(|refused| refused.as_cancelled(self.token()))
    }

    /// Like [`lock`](Self::lock), waiting at most `timeout`.
    ///
    /// # Errors
    /// [`LockError`] tells a cancel from the end of the time; the lock was not taken.
    ///
    /// # Panics
    /// As [`lock`](Self::lock).
    #[track_caller]
    pub fn lock_timeout<'m, T: ?Sized>(
        &self,
        mutex: &'m Mutex<T>,
        timeout: Duration,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        let place = Location::caller();
        self.checkpoint_at(place)?;
        mutex.enter_by(place, &Patience::of_task(self, Deadline::after(timeout)))
    }

    /// Like [`lock`](Self::lock), waiting until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`lock_timeout`](Self::lock_timeout).
    ///
    /// # Panics
    /// As [`lock`](Self::lock).
    #[track_caller]
    pub fn lock_deadline<'m, T: ?Sized>(
        &self,
        mutex: &'m Mutex<T>,
        deadline: Instant,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        let place = Location::caller();
        self.checkpoint_at(place)?;
        mutex.enter_by(place, &Patience::of_task(self, Deadline::at(deadline)))
    }
}

/// # Locks
///
/// All of these are woken at once by the cancel.
impl CancellationToken {
    /// Locks a [`Mutex`](crate::sync::Mutex), unless the token is cancelled meanwhile.
    ///
    /// # Errors
    /// [`Cancelled`] when the token is cancelled, even if the lock is free: it was not taken.
    ///
    /// # Panics
    /// If the calling thread holds the lock already.
    ///
    /// ```
    /// use taskmuster::CancellationToken;
    /// use taskmuster::sync::Mutex;
    ///
    /// let token = CancellationToken::new();
    /// let mutex = Mutex::new(1);
    /// *token.lock(&mutex)? += 1;
    /// token.cancel();
    /// assert!(token.lock(&mutex).is_err());
    /// assert_eq!(mutex.into_inner(), 2);
    /// # Ok::<(), taskmuster::BoxError>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn lock<'m, T: ?Sized>(&self, mutex: &'m Mutex<T>) -> Result<MutexGuard<'m, T>, Cancelled> {
        self.checkpoint()?;
        mutex
            .enter(
                Location::caller(),
                &Patience::of_token(self, Deadline::NEVER),
            )
            .map_err(|refused| refused.as_cancelled(self))
    }

    /// Like [`lock`](Self::lock), waiting at most `timeout`.
    ///
    /// # Errors
    /// [`LockError`] tells a cancel from the end of the time; the lock was not taken.
    ///
    /// # Panics
    /// As [`lock`](Self::lock).
    ///
    /// ```
    /// use std::time::Duration;
    /// use taskmuster::CancellationToken;
    /// use taskmuster::sync::{LockError, Mutex};
    ///
    /// let token = CancellationToken::new();
    /// let mutex = Mutex::new("busy");
    /// let held = mutex.lock();
    /// let late = std::thread::scope(|scope| {
    ///     let other = scope.spawn(|| token.lock_timeout(&mutex, Duration::from_millis(1)).err());
    ///     other.join().expect("no panic")
    /// });
    /// assert!(matches!(late, Some(LockError::Timeout)));
    /// ```
    #[track_caller]
    pub fn lock_timeout<'m, T: ?Sized>(
        &self,
        mutex: &'m Mutex<T>,
        timeout: Duration,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        self.checkpoint()?;
        let patience = Patience::of_token(self, Deadline::after(timeout));
        mutex.enter_by(Location::caller(), &patience)
    }

    /// Like [`lock`](Self::lock), waiting until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`lock_timeout`](Self::lock_timeout).
    ///
    /// # Panics
    /// As [`lock`](Self::lock).
    #[track_caller]
    pub fn lock_deadline<'m, T: ?Sized>(
        &self,
        mutex: &'m Mutex<T>,
        deadline: Instant,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        self.checkpoint()?;
        let patience = Patience::of_token(self, Deadline::at(deadline));
        mutex.enter_by(Location::caller(), &patience)
    }
}

/// Why a lock is not held that was asked for with a timeout, by locking or by waiting at a [`Condvar`](crate::sync::Condvar).
///
/// ```
/// use std::time::Duration;
/// use taskmuster::sync::{LockError, Mutex};
/// use taskmuster::{BoxError, TaskContext};
///
/// fn try_to_save(ctx: &TaskContext, ledger: &Mutex<Vec<u32>>) -> Result<bool, BoxError> {
///     match ctx.lock_timeout(ledger, Duration::from_millis(100)) {
///         Ok(ledger) => Ok(!ledger.is_empty()),
///         Err(LockError::Timeout) => Ok(false), // another time
///         Err(error) => Err(error.into()),
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum LockError {
    /// The token was cancelled.
    Cancelled(Cancelled),
    /// The time was over.
    Timeout,
}

impl LockError {
    pub(crate) fn new(refused: Refused, patience: &Patience<'_>) -> Self {
        match (refused, patience.token()) {
            (Refused::Cancelled, Some(token)) => Self::Cancelled(Cancelled::of(token.node())),
            _ => Self::Timeout,
        }
    }
}

impl From<Cancelled> for LockError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Cancelled(cancelled)
    }
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled(_) => "the wait for the lock was cancelled",
            Self::Timeout => "the lock was not to be had in time",
        })
    }
}

impl Error for LockError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Cancelled(cancelled) => Some(cancelled),
            Self::Timeout => None,
        }
    }
}
