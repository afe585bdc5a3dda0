//! What a running task is given, and what it gives back.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::sync::{Receiver, Sender};
use crate::base::time::{Deadline, Duration, Instant};
use crate::cancel::cancelled::{self, Cancelled};
use crate::cancel::checkpoint::{Wait, Waiting};
use crate::cancel::on_cancel::CallbackGuard;
use crate::cancel::token::CancellationToken;
use crate::cancel::wait::{RecvError, SendError};
use crate::status::state::TaskId;
use crate::task::group::Group;
use crate::task::record::{Awaited, Record};

/// Any error a task may end with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What a task returns.
pub type TaskResult<T = ()> = Result<T, BoxError>;

/// A task's closure, boxed: what [`SpawnError`](crate::SpawnError) gives back.
pub type TaskBody<T> = Box<dyn FnOnce(&TaskContext) -> TaskResult<T> + Send>;

/// What a running task is given: its checkpoints, its cancellable waits, its name, its group.
///
/// Every method that waits or checks leaves the caller's source line behind, so that the report of a shutdown can say
/// where a task that did not stop was last seen. It may be used from several threads at once (scoped helpers of the
/// task); then the number of checkpoints is a sign of life, not a total.
///
/// ```
/// use taskmuster::Manager;
///
/// let report = Manager::builder().run(|manager| {
///     let squares = manager.spawn("squares", |ctx| {
///         let mut sum = 0_u64;
///         for n in 0..1_000 {
///             ctx.checkpoint()?; // about a nanosecond
///             sum += n * n;
///         }
///         Ok(sum)
///     })?;
///     assert_eq!(squares.join()?, 332_833_500);
///     Ok(())
/// });
/// assert!(report.is_clean());
/// ```
pub struct TaskContext {
    record: Arc<Record>,
    /// The record's own, once more: a checkpoint reaches the flag one load earlier.
    token: CancellationToken,
    group: Group,
}

impl TaskContext {
    pub(crate) fn new(record: &Arc<Record>, group: &Group) -> Self {
        Self {
            record: Arc::clone(record),
            token: record.token.clone(),
            group: group.clone(),
        }
    }

    /// The same task's, with another token: that of a section.
    pub(crate) fn with_token(&self, token: CancellationToken) -> Self {
        Self {
            record: Arc::clone(&self.record),
            token,
            group: self.group.clone(),
        }
    }

    pub(crate) fn another(&self) -> Self {
        self.with_token(self.token.clone())
    }

    #[inline]
    pub(crate) fn checkpoint_at(&self, place: &'static Location<'static>) -> Result<(), Cancelled> {
        self.record.pulse.beat(place);
        self.token.checkpoint()
    }

    /// Looks whether the task was asked to stop, and leaves a sign of life. Costs about a nanosecond: put it into every
    /// loop that may run for long.
    ///
    /// In a loop over tiny elements that the compiler could vectorise, check once per some thousand elements instead.
    ///
    /// # Errors
    /// [`Cancelled`] once the task was asked to stop: clean up and return it, with `?`.
    #[inline]
    #[track_caller]
    pub fn checkpoint(&self) -> Result<(), Cancelled> {
        self.checkpoint_at(Location::caller())
    }

    /// Whether the task was asked to stop, for code that cannot return an error. Leaves no sign of life.
    #[inline]
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The name with those of the groups around it: `ingest/reader`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.path
    }

    /// The task's number.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.record.id
    }

    /// The earliest moment at which the task is asked to stop, if nobody does before: that of its own deadline, of one
    /// above it, or of the section it is in.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.token.deadline()
    }

    /// Has `work` done when the task is asked to stop, to unblock a call that hears no stop flag; see
    /// [`CancellationToken::on_cancel`].
    #[track_caller]
    pub fn on_cancel(&self, work: impl FnOnce() + Send + 'static) -> CallbackGuard {
        self.record.pulse.beat(Location::caller());
        self.token.on_cancel(work)
    }

    /// Which run of the task's body this is: 1, and more for a task that was [restarted](crate::TaskBuilder::restart).
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.record.attempt()
    }

    /// The task's own token, for the functions and helper threads it calls. In a section, that of the section.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// The group the task is in: `ctx.group().spawn(..)` starts a sibling, which lives on when this task ends.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Says that the task does from now on what it is there for: the listener listens, the cache is warm.
    ///
    /// Wakes whoever waits in [`wait_ready`](crate::TaskHandle::wait_ready) or
    /// [`spawn_ready`](crate::TaskBuilder::spawn_ready). Harmless twice.
    #[track_caller]
    pub fn ready(&self) {
        self.record.pulse.beat(Location::caller());
        self.record.become_ready();
    }

    /// Asks the manager to shut down, and returns at once. The task itself is then asked to stop like all others.
    #[track_caller]
    pub fn request_shutdown(&self, note: impl Into<String>) {
        self.group.request_shutdown(note.into(), Location::caller());
    }

    /// Whether a shutdown has begun, so that nothing new should be taken in.
    ///
    /// The task itself is asked to stop later: see [`TaskBuilder::drains`](crate::TaskBuilder::drains).
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.group.registry().request.is_draining()
    }

    /// A receiver that never yields anything and disconnects when nothing new should be taken in: for `select!`.
    #[must_use]
    pub fn draining(&self) -> &Receiver<Infallible> {
        self.group.registry().request.draining().receiver()
    }

    /// A receiver that never yields anything and disconnects when the task is asked to stop: for `select!`.
    ///
    /// For a plain receive or send, [`recv`](Self::recv) and [`send`](Self::send) are shorter and faster.
    ///
    /// A clone of the receiver disconnects also when the task has ended and nobody has its [`token`](Self::token) or one
    /// below it: who keeps one keeps a clone of the token as long.
    #[track_caller]
    #[must_use]
    pub fn cancelled(&self) -> &Receiver<Infallible> {
        self.record.pulse.beat(Location::caller());
        self.token.cancelled()
    }

    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Whether the task is or soon will be asked to stop, so that its own groups may have been asked before: a shutdown
    /// was requested, or its group is stopping.
    #[cfg_attr(
        any(loom, shuttle),
        expect(dead_code, reason = "nobody there starts others")
    )]
    pub(crate) fn is_stop_ahead(&self) -> bool {
        let request = &self.group.registry().request;
        self.is_cancelled() || self.group.token().is_cancelled() || request.latch().is_open()
    }

    /// The `Cancelled` in `error` that asked this very task to stop, or that of the shutdown, which has come to another task
    /// first that this one depends on.
    pub(crate) fn own_cancelled(&self, error: &(dyn Error + 'static)) -> Option<Cancelled> {
        cancelled::addressed_to(self.token.node(), error).or_else(|| {
            let shutdown = self.group.registry().request.demand()?;
            cancelled::coming_from(&shutdown.cause, error)
        })
    }
}

/// # Waiting
///
/// Each wait is a checkpoint, ends at once when the task is asked to stop, and is on the books while it lasts. When
/// several things are ready at once, a cancel beats a new value, and a present value beats a timeout.
impl TaskContext {
    /// Waits until the task is asked to stop, and says why.
    ///
    /// ```
    /// # use taskmuster::Manager;
    /// # let report = Manager::builder().run(|manager| {
    /// manager.spawn("guard", |ctx| {
    ///     let stop = ctx.wait();
    ///     println!("closing the door: {stop}");
    ///     Err::<(), _>(stop.into())
    /// })?;
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// ```
    #[expect(clippy::must_use_candidate, reason = "that it returns says it all")]
    #[track_caller]
    pub fn wait(&self) -> Cancelled {
        let _waiting = self.begin_wait(Location::caller(), Wait::Cancel);
        self.token.wait()
    }

    /// Waits until the task is asked to stop; `None` if `timeout` passed first.
    #[must_use]
    #[track_caller]
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Cancelled> {
        let _waiting = self.begin_wait(Location::caller(), Wait::Cancel);
        self.token.wait_timeout(timeout)
    }

    /// Waits until the task is asked to stop; `None` if `deadline` came first.
    #[must_use]
    #[track_caller]
    pub fn wait_deadline(&self, deadline: Instant) -> Option<Cancelled> {
        let _waiting = self.begin_wait(Location::caller(), Wait::Cancel);
        self.token.wait_deadline(deadline)
    }

    /// Sleeps for `span`, unless the task is asked to stop meanwhile.
    ///
    /// # Errors
    /// [`Cancelled`], at once.
    #[track_caller]
    pub fn sleep(&self, span: Duration) -> Result<(), Cancelled> {
        let _waiting = self.begin_wait(Location::caller(), Wait::Sleep);
        self.token.sleep(span)
    }

    /// Sleeps until `moment`, unless the task is asked to stop meanwhile.
    ///
    /// # Errors
    /// [`Cancelled`], at once.
    #[track_caller]
    pub fn sleep_until(&self, moment: Instant) -> Result<(), Cancelled> {
        let _waiting = self.begin_wait(Location::caller(), Wait::Sleep);
        self.token.sleep_until(moment)
    }

    /// Receives a value. Faster than a `select!`: it looks at what is there first.
    ///
    /// # Errors
    /// [`RecvError::Cancelled`] when the task was asked to stop: nothing was taken from the channel.
    /// [`RecvError::Disconnected`] at the end of the input; passed on with `?` it is a failure, so match on it where the
    /// end is expected.
    ///
    /// ```
    /// use taskmuster::{Manager, RecvError};
    /// use taskmuster::crossbeam_channel::bounded;
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let (orders, inbox) = bounded(8);
    ///     let total = manager.spawn("total", move |ctx| {
    ///         let mut total = 0;
    ///         loop {
    ///             match ctx.recv(&inbox) {
    ///                 Ok(order) => total += order,
    ///                 Err(RecvError::Disconnected) => return Ok(total),
    ///                 Err(error) => return Err(error.into()),
    ///             }
    ///         }
    ///     })?;
    ///     for order in 1..=4 {
    ///         orders.send(order)?;
    ///     }
    ///     drop(orders);
    ///     assert_eq!(total.join()?, 10);
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    #[track_caller]
    pub fn recv<T>(&self, receiver: &Receiver<T>) -> Result<T, RecvError> {
        self.recv_by(receiver, Deadline::NEVER, Location::caller())
    }

    /// Receives a value, waiting at most `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvError::Timeout`].
    #[track_caller]
    pub fn recv_timeout<T>(
        &self,
        receiver: &Receiver<T>,
        timeout: Duration,
    ) -> Result<T, RecvError> {
        self.recv_by(receiver, Deadline::after(timeout), Location::caller())
    }

    /// Receives a value, waiting until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvError::Timeout`].
    #[track_caller]
    pub fn recv_deadline<T>(
        &self,
        receiver: &Receiver<T>,
        deadline: Instant,
    ) -> Result<T, RecvError> {
        self.recv_by(receiver, Deadline::at(deadline), Location::caller())
    }

    /// Sends a value, waiting for room in the channel.
    ///
    /// # Errors
    /// [`SendError`], which gives the value back, when the task was asked to stop or the channel has no receiver.
    #[track_caller]
    pub fn send<T>(&self, sender: &Sender<T>, value: T) -> Result<(), SendError<T>> {
        self.send_by(sender, value, Deadline::NEVER, Location::caller())
    }

    /// Sends a value, waiting at most `timeout` for room.
    ///
    /// # Errors
    /// As [`send`](Self::send), and when the time is over.
    #[track_caller]
    pub fn send_timeout<T>(
        &self,
        sender: &Sender<T>,
        value: T,
        timeout: Duration,
    ) -> Result<(), SendError<T>> {
        self.send_by(sender, value, Deadline::after(timeout), Location::caller())
    }

    /// Sends a value, waiting for room until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`send`](Self::send), and when the time is over.
    #[track_caller]
    pub fn send_deadline<T>(
        &self,
        sender: &Sender<T>,
        value: T,
        deadline: Instant,
    ) -> Result<(), SendError<T>> {
        self.send_by(sender, value, Deadline::at(deadline), Location::caller())
    }

    /// What is there already costs no entry in the ledger of waits.
    fn recv_by<T>(
        &self,
        receiver: &Receiver<T>,
        deadline: Deadline,
        place: &'static Location<'static>,
    ) -> Result<T, RecvError> {
        self.record.pulse.beat(place);
        match self.token.try_recv(receiver) {
            Err(RecvError::Timeout) => {
                let _waiting = self.record.pulse.waits_for(Wait::Receive);
                self.token.recv_blocking(receiver, deadline)
            }
            ready => ready,
        }
    }

    fn send_by<T>(
        &self,
        sender: &Sender<T>,
        value: T,
        deadline: Deadline,
        place: &'static Location<'static>,
    ) -> Result<(), SendError<T>> {
        self.record.pulse.beat(place);
        match self.token.try_send(sender, value) {
            Err(unsent) if unsent.is_timeout() => {
                let _waiting = self.record.pulse.waits_for(Wait::Send);
                self.token
                    .send_blocking(sender, unsent.into_inner(), deadline)
            }
            ready => ready,
        }
    }

    fn begin_wait(&self, place: &'static Location<'static>, what: Wait) -> Waiting<'_> {
        self.record.pulse.beat(place);
        self.record.pulse.waits_for(what)
    }

    /// Says that the task waits for something that can describe itself, until the guard goes.
    pub(crate) fn awaiting(&self, what: Arc<dyn Awaited>) -> Awaiting<'_> {
        self.record.begin_awaiting(&what);
        Awaiting {
            _waiting: self.record.pulse.waits_for(Wait::Other),
            record: &self.record,
            what,
        }
    }
}

/// Until it is dropped the books say what the task waits for.
#[derive(Debug)]
pub(crate) struct Awaiting<'a> {
    _waiting: Waiting<'a>,
    record: &'a Record,
    what: Arc<dyn Awaited>,
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.record.end_awaiting(&self.what);
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("id", &self.record.id)
            .field("name", &self.record.path)
            .finish_non_exhaustive()
    }
}
