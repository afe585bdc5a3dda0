//! The primitives of a model checker: loom's or shuttle's.

#[cfg(loom)]
use loom as checker;
#[cfg(shuttle)]
use shuttle as checker;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

pub(crate) use checker::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use checker::thread::{self, Thread};
pub(crate) use checker::thread::{JoinHandle, ThreadId};
/// The checkers have none: what they are to see of it are the atomics and locks around it.
pub(crate) use std::sync::OnceLock;

use crossbeam_channel::TryRecvError;

use crate::base::time::{Deadline, Duration, Instant};

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

pub(crate) type MutexGuard<'a, T> = checker::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(checker::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("nobody panics under a lock")
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().expect("nobody panics under a lock")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Monitor<T> {
    mutex: checker::sync::Mutex<T>,
    changed: checker::sync::Condvar,
}

pub(crate) type MonitorGuard<'a, T> = checker::sync::MutexGuard<'a, T>;

impl<T> Monitor<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            mutex: checker::sync::Mutex::new(value),
            changed: checker::sync::Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MonitorGuard<'_, T> {
        self.mutex.lock().expect("nobody panics under a lock")
    }

    /// A deadline may fire at any moment: the model gives the lock away once and returns.
    pub(crate) fn wait_until<'a>(
        &'a self,
        guard: MonitorGuard<'a, T>,
        deadline: Deadline,
    ) -> MonitorGuard<'a, T> {
        let Some(moment) = deadline.instant() else {
            return self
                .changed
                .wait(guard)
                .expect("nobody panics under a lock");
        };
        drop(guard);
        let_time_pass(moment);
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
            Some(moment) => let_time_pass(moment),
        }
    }
}

pub(crate) fn thread_id() -> ThreadId {
    thread::current().id()
}

checker::thread_local! {
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

pub(crate) fn sleep(span: Duration) {
    if let Some(moment) = Deadline::after(span).instant() {
        let_time_pass(moment);
    }
}

/// Lets others go on; the clock may reach the moment before they have done anything, or not at all.
fn let_time_pass(moment: Instant) {
    #[cfg(shuttle)]
    if checker::rand::Rng::gen_bool(&mut checker::rand::thread_rng(), 0.3) {
        crate::base::time::clock::advance_to(moment);
    }
    #[cfg(loom)]
    let _ = moment;
    thread::yield_now();
}

/// What threads of the house send each other. The checkers do not know crossbeam's channels; these are never closed.
pub(crate) fn mailbox<T>() -> (MailSender<T>, MailReceiver<T>) {
    let mail = Arc::new(Monitor::new(VecDeque::new()));
    (MailSender(Arc::clone(&mail)), MailReceiver(mail))
}

#[derive(Debug)]
pub(crate) struct MailSender<T>(Arc<Monitor<VecDeque<T>>>);

#[derive(Debug)]
pub(crate) struct MailReceiver<T>(Arc<Monitor<VecDeque<T>>>);

/// The other end is gone, which no model looks at.
#[derive(Debug)]
pub(crate) struct Gone;

impl<T> MailSender<T> {
    #[expect(clippy::unnecessary_wraps, reason = "as crossbeam's")]
    pub(crate) fn send(&self, it: T) -> Result<(), Gone> {
        self.0.lock().push_back(it);
        self.0.notify_one();
        Ok(())
    }
}

impl<T> MailReceiver<T> {
    #[expect(clippy::unnecessary_wraps, reason = "as crossbeam's")]
    pub(crate) fn recv(&self) -> Result<T, Gone> {
        let mut mail = self.0.lock();
        loop {
            match mail.pop_front() {
                Some(it) => return Ok(it),
                None => mail = self.0.wait_until(mail, Deadline::NEVER),
            }
        }
    }

    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.lock().pop_front().ok_or(TryRecvError::Empty)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for MailReceiver<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
