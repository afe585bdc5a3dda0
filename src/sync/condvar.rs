//! A condition variable whose waits hear a cancel.
//!
//! Invariants:
//!
//! 1. A waiter joins the line while he holds the mutex, and gives it up afterwards. So whoever changes the value under
//!    the mutex and then notifies finds him in the line, or was seen by him.
//! 2. Whoever was called alone and goes without the lock, for a cancel or a deadline, calls the next in his place: a
//!    notification is not lost with the one who got it. Whoever was called with all the others owes nothing.
//! 3. A waiter returns with the lock only if he was called: there are no wake-ups for no reason.
//! 4. `waiting` follows the line, under its lock. It is read without the lock, by whoever notifies: of a waiter he must
//!    know about he knows through the mutex (1).

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::latch::Latch;
use crate::base::sync::{AtomicUsize, Mutex, Ordering};
use crate::base::time::{Deadline, Duration, Instant};
use crate::cancel::cancelled::Cancelled;
use crate::cancel::token::CancellationToken;
use crate::sync::gate;
use crate::sync::line::{self, Claim, Line, Names, Return};
use crate::sync::mutex::{LockError, MutexGuard};
use crate::sync::patience::{Intent, Patience, Refused};
use crate::task::context::TaskContext;
use crate::task::record::Awaited;

/// A condition variable whose waits hear a cancel, for the values of a [`Mutex`](crate::sync::Mutex).
///
/// Inside a task wait with [`ctx.wait_while`](TaskContext::wait_while), in what a task calls with
/// [`token.wait_while`](CancellationToken::wait_while). The methods named `wait` here are for threads that are no tasks,
/// and hear nothing.
///
/// A wait that ends without success has given the lock up: when it was cancelled, and when its time was over. For then
/// it need not wait for the lock. A notification that reaches somebody who goes for such a reason is passed on to the
/// next. There are no wake-ups for no reason, but others may have been faster: check the value again, as the `_while`
/// forms do.
///
/// ```
/// use std::sync::Arc;
/// use taskmuster::Manager;
/// use taskmuster::sync::{Condvar, Mutex};
///
/// let report = Manager::builder().run(|manager| {
///     let door = Arc::new((Mutex::new(false), Condvar::new()));
///     let theirs = Arc::clone(&door);
///     let guest = manager.spawn("guest", move |ctx| {
///         let (is_open, opened) = &*theirs;
///         let is_open = ctx.lock(is_open)?;
///         let is_open = ctx.wait_while(opened, is_open, |is_open| !*is_open)?;
///         Ok(*is_open)
///     })?;
///     let (is_open, opened) = &*door;
///     *is_open.lock() = true;
///     opened.notify_all();
///     assert!(guest.join()?);
///     Ok(())
/// });
/// assert!(report.is_clean());
/// ```
///
/// # Not for
/// Handing values on: a channel does that without a lock of yours ([`ctx.recv`](TaskContext::recv)).
pub struct Condvar {
    line: Mutex<Line>,
    /// How many wait uncalled (4).
    waiting: AtomicUsize,
}

impl Condvar {
    /// A condition variable nobody waits at.
    #[cfg(not(any(loom, shuttle)))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            line: Mutex::new(Line::new()),
            waiting: AtomicUsize::new(0),
        }
    }

    /// A condition variable nobody waits at. Loom's primitives cannot be made at compile time.
    #[cfg(any(loom, shuttle))]
    #[must_use]
    pub fn new() -> Self {
        Self {
            line: Mutex::new(Line::new()),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Wakes one of those who wait, the first first; nobody, if nobody does.
    pub fn notify_one(&self) {
        // Relaxed: see 4.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.call_one();
        }
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut line = self.line.lock();
        let called = line.call_all();
        self.waiting.store(0, Ordering::Relaxed);
        drop(line);
        for latch in called {
            latch.open();
        }
    }

    /// Gives the lock up and waits for a notification: for threads that are no tasks.
    #[track_caller]
    pub fn wait<'m, T: ?Sized>(&self, guard: MutexGuard<'m, T>) -> MutexGuard<'m, T> {
        let (mutex, place) = (guard.mutex(), Location::caller());
        let patience = Patience::deaf(Deadline::NEVER);
        // Without a cancel and a deadline nobody is refused.
        self.wait_by(guard, place, &patience)
            .unwrap_or_else(|_| mutex.lock())
    }

    /// Gives the lock up and waits at most `timeout` for a notification: for threads that are no tasks. `None` if none
    /// came, or the lock was not free, in that time: then it is not held.
    #[must_use]
    #[track_caller]
    pub fn wait_timeout<'m, T: ?Sized>(
        &self,
        guard: MutexGuard<'m, T>,
        timeout: Duration,
    ) -> Option<MutexGuard<'m, T>> {
        let patience = Patience::deaf(Deadline::after(timeout));
        self.wait_by(guard, Location::caller(), &patience).ok()
    }

    /// Like [`wait_timeout`](Self::wait_timeout), until `deadline` at the latest.
    #[must_use]
    #[track_caller]
    pub fn wait_deadline<'m, T: ?Sized>(
        &self,
        guard: MutexGuard<'m, T>,
        deadline: Instant,
    ) -> Option<MutexGuard<'m, T>> {
        let patience = Patience::deaf(Deadline::at(deadline));
        self.wait_by(guard, Location::caller(), &patience).ok()
    }

    /// Gives the lock up and waits for as long as `condition` holds: for threads that are no tasks.
    ///
    /// ```
    /// use std::thread;
    /// use taskmuster::sync::{Condvar, Mutex};
    ///
    /// let (left, changed) = (Mutex::new(3), Condvar::new());
    /// thread::scope(|scope| {
    ///     for _ in 0..3 {
    ///         scope.spawn(|| {
    ///             *left.lock() -= 1;
    ///             changed.notify_all();
    ///         });
    ///     }
    ///     let none = changed.wait_while(left.lock(), |left| *left > 0);
    ///     assert_eq!(*none, 0);
    /// });
    /// ```
    #[track_caller]
    pub fn wait_while<'m, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'m, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'m, T> {
        while condition(&mut guard) {
            guard = self.wait(guard);
        }
        guard
    }

    /// Like [`wait_while`](Self::wait_while), at most `timeout`. `None` if the condition still held then, or the lock was
    /// not free to see it: then it is not held.
    #[must_use]
    #[track_caller]
    pub fn wait_while_timeout<'m, T: ?Sized>(
        &self,
        guard: MutexGuard<'m, T>,
        timeout: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Option<MutexGuard<'m, T>> {
        let patience = Patience::deaf(Deadline::after(timeout));
        self.wait_while_by(guard, condition, Location::caller(), &patience)
            .ok()
    }

    /// Like [`wait_while_timeout`](Self::wait_while_timeout), until `deadline` at the latest.
    #[must_use]
    #[track_caller]
    pub fn wait_while_deadline<'m, T: ?Sized>(
        &self,
        guard: MutexGuard<'m, T>,
        deadline: Instant,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Option<MutexGuard<'m, T>> {
        let patience = Patience::deaf(Deadline::at(deadline));
        self.wait_while_by(guard, condition, Location::caller(), &patience)
            .ok()
    }

    /// What all waits come down to.
    #[track_caller]
    fn wait_by<'m, T: ?Sized>(
        &self,
        guard: MutexGuard<'m, T>,
        place: &'static Location<'static>,
        patience: &Patience<'_>,
    ) -> Result<MutexGuard<'m, T>, Refused> {
        let mutex = guard.mutex();
        let (turn, latch) = self.join();
        drop(guard);
        patience.on_books(Arc::new(Notification), place, || patience.wait_at(&latch));
        let intent = patience.intent();
        let back = self.come_back(turn, intent);
        match (intent, back) {
            (Intent::Go, _) => Err(Refused::Cancelled),
            (_, Return::Uncalled) => Err(Refused::Late),
            (_, Return::Called | Return::Settled) => {
                let entered = mutex.enter(place, patience);
                if entered.is_err() && back == Return::Called {
                    self.call_one();
                }
                entered
            }
        }
    }

    #[track_caller]
    fn wait_while_by<'m, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'m, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        place: &'static Location<'static>,
        patience: &Patience<'_>,
    ) -> Result<MutexGuard<'m, T>, Refused> {
        let mutex = guard.mutex();
        while condition(&mut guard) {
            guard = match self.wait_by(guard, place, patience) {
                Err(Refused::Late) => {
                    // What is there by now comes before the end of the time, but nobody waits for the lock any more.
                    let mut guard = mutex.try_enter(place).ok_or(Refused::Late)?;
                    return if condition(&mut guard) {
                        Err(Refused::Late)
                    } else {
                        Ok(guard)
                    };
                }
                result => result?,
            };
        }
        Ok(guard)
    }

    /// The caller holds the mutex (1).
    fn join(&self) -> (u64, Arc<Latch>) {
        let thread = gate::own_number();
        let mut line = self.line.lock();
        let joined = line.join(None, thread, Claim::Call);
        self.waiting.store(line.len(), Ordering::Relaxed);
        joined
    }

    /// Whoever was called and goes passes the call on in the same step (2).
    fn come_back(&self, turn: u64, intent: Intent) -> Return {
        let mut line = self.line.lock();
        let back = line.come_back(turn);
        let next = match (intent, back) {
            (Intent::Go, Return::Called) => line.call_first(),
            _ => None,
        };
        self.waiting.store(line.len(), Ordering::Relaxed);
        drop(line);
        line::wake(next);
        back
    }

    fn call_one(&self) {
        let mut line = self.line.lock();
        let called = line.call_first();
        self.waiting.store(line.len(), Ordering::Relaxed);
        drop(line);
        line::wake(called);
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = self.line.lock().threads();
        f.debug_struct("Condvar")
            .field("awaited_by", &Names(&threads))
            .finish_non_exhaustive()
    }
}

/// What a condition variable is waited for.
#[derive(Debug)]
struct Notification;

impl Awaited for Notification {
    fn describe(&self) -> String {
        "a notification".to_owned()
    }
}

/// # Condition variables
///
/// Each wait is a checkpoint, ends at once when the task is asked to stop, and is on the books while it lasts. A wait
/// that gives an error has given the lock up.
impl TaskContext {
    /// Gives the lock up and waits for a notification; then holds it again.
    ///
    /// [`wait_while`](Self::wait_while) is what is mostly wanted: between the notification and the return somebody else
    /// may have changed the value.
    ///
    /// # Errors
    /// [`Cancelled`] when the task was asked to stop: the lock is not held. A notification that came as well is passed on.
    #[track_caller]
    pub fn wait_on<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
    ) -> Result<MutexGuard<'m, T>, Cancelled> {
        let place = Location::caller();
        self.checkpoint_at(place)?;
        condvar
            .wait_by(guard, place, &Patience::of_task(self, Deadline::NEVER))
            .map_err(|refused| refused.as_cancelled(self.token()))
    }

    /// Like [`wait_on`](Self::wait_on), waiting at most `timeout`.
    ///
    /// # Errors
    /// [`LockError::Timeout`] when no notification came, or the lock was not free, in that time. In any case the lock is
    /// not held.
    #[track_caller]
    pub fn wait_on_timeout<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
        timeout: Duration,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        let place = Location::caller();
        self.checkpoint_at(place)?;
        let patience = Patience::of_task(self, Deadline::after(timeout));
        condvar
            .wait_by(guard, place, &patience)
            .map_err(|refused| LockError::new(refused, &patience))
    }

    /// Like [`wait_on`](Self::wait_on), waiting until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`wait_on_timeout`](Self::wait_on_timeout).
    #[track_caller]
    pub fn wait_on_deadline<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
        deadline: Instant,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        let place = Location::caller();
        self.checkpoint_at(place)?;
        let patience = Patience::of_task(self, Deadline::at(deadline));
        condvar
            .wait_by(guard, place, &patience)
            .map_err(|refused| LockError::new(refused, &patience))
    }

    /// Gives the lock up and waits for as long as `condition` holds; then holds it again.
    ///
    /// # Errors
    /// [`Cancelled`] when the task was asked to stop, even if the condition does not hold: the lock is not held.
    ///
    /// ```
    /// use std::collections::VecDeque;
    /// use taskmuster::sync::{Condvar, Mutex};
    /// use taskmuster::{Cancelled, TaskContext};
    ///
    /// fn next(
    ///     ctx: &TaskContext,
    ///     queue: &Mutex<VecDeque<u32>>,
    ///     arrival: &Condvar,
    /// ) -> Result<Option<u32>, Cancelled> {
    ///     let queue = ctx.lock(queue)?;
    ///     let mut queue = ctx.wait_while(arrival, queue, |queue| queue.is_empty())?;
    ///     Ok(queue.pop_front())
    /// }
    /// ```
    #[track_caller]
    pub fn wait_while<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Result<MutexGuard<'m, T>, Cancelled> {
        let place = Location::caller();
        self.checkpoint_at(place)?;
        let patience = Patience::of_task(self, Deadline::NEVER);
        condvar
            .wait_while_by(guard, condition, place, &patience)
            .map_err(|refused| refused.as_cancelled(self.token()))
    }

    /// Like [`wait_while`](Self::wait_while), waiting at most `timeout`.
    ///
    /// # Errors
    /// [`LockError::Timeout`] when the condition still held at the end of that time, or the lock was not free to see it.
    /// In any case the lock is not held.
    ///
    /// ```
    /// use std::time::Duration;
    /// use taskmuster::sync::{Condvar, LockError, Mutex};
    /// use taskmuster::{BoxError, TaskContext};
    ///
    /// /// A full batch, or what has come within a second.
    /// fn batch(
    ///     ctx: &TaskContext,
    ///     lines: &Mutex<Vec<String>>,
    ///     arrival: &Condvar,
    /// ) -> Result<Vec<String>, BoxError> {
    ///     let second = Duration::from_secs(1);
    ///     let waited = ctx.wait_while_timeout(arrival, ctx.lock(lines)?, second, |lines| lines.len() < 64);
    ///     let mut lines = match waited {
    ///         Err(LockError::Timeout) => ctx.lock(lines)?,
    ///         lines => lines?,
    ///     };
    ///     Ok(std::mem::take(&mut *lines))
    /// }
    /// ```
    #[track_caller]
    pub fn wait_while_timeout<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
        timeout: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        let place = Location::caller();
        self.checkpoint_at(place)?;
        let patience = Patience::of_task(self, Deadline::after(timeout));
        condvar
            .wait_while_by(guard, condition, place, &patience)
            .map_err(|refused| LockError::new(refused, &patience))
    }

    /// Like [`wait_while`](Self::wait_while), waiting until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`wait_while_timeout`](Self::wait_while_timeout).
    #[track_caller]
    pub fn wait_while_deadline<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
        deadline: Instant,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        let place = Location::caller();
        self.checkpoint_at(place)?;
        let patience = Patience::of_task(self, Deadline::at(deadline));
        condvar
            .wait_while_by(guard, condition, place, &patience)
            .map_err(|refused| LockError::new(refused, &patience))
    }
}

/// # Condition variables
///
/// All of these are woken at once by the cancel. A wait that gives an error has given the lock up.
impl CancellationToken {
    /// Gives the lock up and waits for a notification; then holds it again.
    ///
    /// [`wait_while`](Self::wait_while) is what is mostly wanted: between the notification and the return somebody else
    /// may have changed the value.
    ///
    /// # Errors
    /// [`Cancelled`] when the token is cancelled: the lock is not held. A notification that came as well is passed on.
    #[track_caller]
    pub fn wait_on<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
    ) -> Result<MutexGuard<'m, T>, Cancelled> {
        self.checkpoint()?;
        let patience = Patience::of_token(self, Deadline::NEVER);
        condvar
            .wait_by(guard, Location::caller(), &patience)
            .map_err(|refused| refused.as_cancelled(self))
    }

    /// Like [`wait_on`](Self::wait_on), waiting at most `timeout`.
    ///
    /// # Errors
    /// [`LockError::Timeout`] when no notification came, or the lock was not free, in that time. In any case the lock is
    /// not held.
    #[track_caller]
    pub fn wait_on_timeout<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
        timeout: Duration,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        self.checkpoint()?;
        let patience = Patience::of_token(self, Deadline::after(timeout));
        condvar
            .wait_by(guard, Location::caller(), &patience)
            .map_err(|refused| LockError::new(refused, &patience))
    }

    /// Like [`wait_on`](Self::wait_on), waiting until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`wait_on_timeout`](Self::wait_on_timeout).
    #[track_caller]
    pub fn wait_on_deadline<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
        deadline: Instant,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        self.checkpoint()?;
        let patience = Patience::of_token(self, Deadline::at(deadline));
        condvar
            .wait_by(guard, Location::caller(), &patience)
            .map_err(|refused| LockError::new(refused, &patience))
    }

    /// Gives the lock up and waits for as long as `condition` holds; then holds it again.
    ///
    /// # Errors
    /// [`Cancelled`] when the token is cancelled, even if the condition does not hold: the lock is not held.
    ///
    /// ```
    /// use taskmuster::CancellationToken;
    /// use taskmuster::sync::{Condvar, Mutex};
    ///
    /// let (stock, delivery) = (Mutex::new(1), Condvar::new());
    /// let token = CancellationToken::new();
    /// let stock = token.lock(&stock)?;
    /// let stock = token.wait_while(&delivery, stock, |stock| *stock == 0)?;
    /// token.cancel();
    /// assert!(token.wait_while(&delivery, stock, |stock| *stock == 0).is_err());
    /// # Ok::<(), taskmuster::BoxError>(())
    /// ```
    #[track_caller]
    pub fn wait_while<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Result<MutexGuard<'m, T>, Cancelled> {
        self.checkpoint()?;
        let patience = Patience::of_token(self, Deadline::NEVER);
        condvar
            .wait_while_by(guard, condition, Location::caller(), &patience)
            .map_err(|refused| refused.as_cancelled(self))
    }

    /// Like [`wait_while`](Self::wait_while), waiting at most `timeout`.
    ///
    /// # Errors
    /// [`LockError::Timeout`] when the condition still held at the end of that time, or the lock was not free to see it.
    /// In any case the lock is not held.
    #[track_caller]
    pub fn wait_while_timeout<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
        timeout: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        self.checkpoint()?;
        let patience = Patience::of_token(self, Deadline::after(timeout));
        condvar
            .wait_while_by(guard, condition, Location::caller(), &patience)
            .map_err(|refused| LockError::new(refused, &patience))
    }

    /// Like [`wait_while`](Self::wait_while), waiting until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`wait_while_timeout`](Self::wait_while_timeout).
    #[track_caller]
    pub fn wait_while_deadline<'m, T: ?Sized>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'m, T>,
        deadline: Instant,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Result<MutexGuard<'m, T>, LockError> {
        self.checkpoint()?;
        let patience = Patience::of_token(self, Deadline::at(deadline));
        condvar
            .wait_while_by(guard, condition, Location::caller(), &patience)
            .map_err(|refused| LockError::new(refused, &patience))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_owed_to_the_next_only_by_one_who_was_called_alone() {
        let condvar = Condvar::new();
        let (first, _) = condvar.join();
        condvar.notify_one();
        let (second, latch) = condvar.join();
        assert_eq!(condvar.come_back(first, Intent::Go), Return::Called);
        assert!(latch.is_open(), "the call was passed on");
        assert_eq!(condvar.come_back(second, Intent::Stay), Return::Called);

        let (first, _) = condvar.join();
        condvar.notify_all();
        let (second, latch) = condvar.join();
        assert_eq!(condvar.come_back(first, Intent::Go), Return::Settled);
        assert!(!latch.is_open(), "it was not for him");
        assert_eq!(condvar.come_back(second, Intent::Go), Return::Uncalled);
        assert!(condvar.line.lock().is_empty());
        assert_eq!(condvar.waiting.load(Ordering::Relaxed), 0);
    }
}
