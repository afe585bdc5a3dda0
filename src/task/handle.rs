//! A view on a task, and what joining it can say.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::latch::{self, Latch};
use crate::base::log::{self, Level};
use crate::base::sync::{Mutex, Receiver};
use crate::base::time::{Deadline, Duration, Instant};
use crate::base::unwind;
use crate::cancel::cancelled::Cancelled;
use crate::cancel::cause::Cause;
use crate::cancel::checkpoint::Wait;
use crate::cancel::token::CancellationToken;
use crate::status::outcome::{Outcome, SharedError};
use crate::status::panic::Panic;
use crate::status::state::{TaskId, TaskStatus};
use crate::task::context::{TaskBody, TaskContext};
use crate::task::occupant;
use crate::task::record::Record;

/// A view on a task: cancel it, join it, look at it.
///
/// The manager owns the task; dropping a handle changes nothing. Joining takes `&self`, so a handle may be shared and
/// several threads may join: all of them learn the outcome, the first gets the value.
///
/// ```
/// use std::time::Duration;
/// use taskmuster::{JoinError, Manager};
///
/// let report = Manager::builder().run(|manager| {
///     let clock = manager.spawn::<()>("clock", |ctx| loop { ctx.sleep(Duration::from_secs(1))? })?;
///     assert!(matches!(clock.join_timeout(Duration::ZERO), Err(JoinError::StillRunning { .. })));
///     clock.cancel();
///     assert!(matches!(clock.join(), Err(JoinError::Cancelled { .. })));
///     Ok(())
/// });
/// assert!(report.is_clean());
/// ```
pub struct TaskHandle<T> {
    record: Arc<Record>,
    slot: Arc<Slot<T>>,
}

/// Where a task's body waits for its thread, and then what came of it for those who join.
pub(crate) struct Slot<T>(Mutex<Content<T>>);

/// What is in a slot.
pub(crate) enum Content<T> {
    Nothing,
    Body(TaskBody<T>),
    /// For the first who joins.
    Value(T),
    /// For all who join.
    Error(SharedError),
    /// For all who join; its payload for the first.
    Panic(Panic),
}

impl<T> Slot<T> {
    pub(crate) fn new(body: TaskBody<T>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Content::Body(body))))
    }

    /// For a task whose body is elsewhere.
    pub(crate) fn without_body() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Content::Nothing)))
    }

    pub(crate) fn put(&self, content: Content<T>) {
        let before = self.replace(content);
        drop(before);
    }

    pub(crate) fn take_body(&self) -> Option<TaskBody<T>> {
        match self.replace(Content::Nothing) {
            Content::Body(body) => Some(body),
            _ => None,
        }
    }

    /// For somebody who knows that the task has completed.
    fn take_value(&self) -> Option<T> {
        match self.replace(Content::Nothing) {
            Content::Value(value) => Some(value),
            _ => None,
        }
    }

    fn error(&self) -> Option<SharedError> {
        match &*self.0.lock() {
            Content::Error(error) => Some(Arc::clone(error)),
            _ => None,
        }
    }

    fn panic(&self) -> Option<Panic> {
        match &*self.0.lock() {
            Content::Panic(panic) => Some(panic.clone()),
            _ => None,
        }
    }

    fn replace(&self, content: Content<T>) -> Content<T> {
        std::mem::replace(&mut *self.0.lock(), content)
    }
}

impl<T> Drop for Slot<T> {
    /// A value nobody took is dropped wherever the last handle goes; its panic must not hit that place.
    fn drop(&mut self) {
        if !unwind::discard(self.replace(Content::Nothing)) {
            log::say(
                Level::Warn,
                format_args!("what a task left and nobody took panicked when it was dropped"),
            );
        }
    }
}

impl<T> TaskHandle<T> {
    pub(crate) fn new(record: Arc<Record>, slot: Arc<Slot<T>>) -> Self {
        Self { record, slot }
    }

    /// The task's number.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.record.id
    }

    /// The name with those of the groups around it: `ingest/reader`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.path
    }

    /// Asks the task to stop; `true` for the call that did it. Harmless twice, too late, and from the task itself.
    ///
    /// Returns at once: whether the task heard it is known when it is joined.
    #[expect(clippy::must_use_candidate, reason = "asking twice is harmless")]
    #[track_caller]
    pub fn cancel(&self) -> bool {
        self.cancel_with(Cause::request())
    }

    /// Like [`cancel`](Self::cancel), with a cause of the caller's making.
    #[expect(clippy::must_use_candidate, reason = "asking twice is harmless")]
    pub fn cancel_with(&self, cause: Cause) -> bool {
        !self.is_finished() && self.record.token.cancel_with(cause)
    }

    /// The task's own token.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.record.token
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.record.has_ended()
    }

    /// What became of the task; `None` while it runs. A failure counts as read from then on.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.record.read_outcome()
    }

    /// A look at the task.
    #[must_use]
    pub fn status(&self) -> TaskStatus {
        self.record.status()
    }

    /// Waits for the task's end and takes its value.
    ///
    /// Inside a task, [`TaskContext::join`] is the one that hears that task's own cancel.
    ///
    /// # Errors
    /// [`JoinError`] says why there is no value; a failure counts as read from then on.
    #[track_caller]
    pub fn join(&self) -> Result<T, JoinError> {
        self.join_by(Deadline::NEVER, Location::caller())
    }

    /// Waits at most `timeout` for the task's end and takes its value. The handle stays usable.
    ///
    /// # Errors
    /// As [`join`](Self::join), and [`JoinError::StillRunning`].
    #[track_caller]
    pub fn join_timeout(&self, timeout: Duration) -> Result<T, JoinError> {
        self.join_by(Deadline::after(timeout), Location::caller())
    }

    /// Waits until `deadline` at the latest for the task's end and takes its value. The handle stays usable.
    ///
    /// # Errors
    /// As [`join`](Self::join), and [`JoinError::StillRunning`].
    #[track_caller]
    pub fn join_deadline(&self, deadline: Instant) -> Result<T, JoinError> {
        self.join_by(Deadline::at(deadline), Location::caller())
    }

    /// Asks the task to stop and waits at most `timeout` for its end: the value, if it completed all the same.
    ///
    /// # Errors
    /// As [`join_timeout`](Self::join_timeout): [`JoinError::Cancelled`] if it heard the stop, and
    /// [`JoinError::StillRunning`] if it did not.
    ///
    /// ```
    /// # use taskmuster::{JoinError, Manager};
    /// # use std::time::Duration;
    /// # let report = Manager::builder().run(|manager| {
    /// let clock = manager.spawn::<()>("clock", |ctx| loop { ctx.sleep(Duration::from_secs(1))? })?;
    /// assert!(matches!(clock.stop(Duration::from_secs(5)), Err(JoinError::Cancelled { .. })));
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// ```
    #[track_caller]
    pub fn stop(&self, timeout: Duration) -> Result<T, JoinError> {
        if self.record.ledger().is_forked() {
            return Err(JoinError::Forked { task: self.task() });
        }
        self.cancel();
        self.join_by(Deadline::after(timeout), Location::caller())
    }

    /// Waits at most `timeout` until the task says that it is [ready](TaskContext::ready).
    ///
    /// # Errors
    /// [`ReadyError::Ended`] when it ended without having said so, [`ReadyError::Cancelled`] when it was asked to stop
    /// before, [`ReadyError::NotYet`] when the time was over.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), ReadyError> {
        self.wait_ready_or(timeout, None)
    }

    /// The same, or until the other latch opens.
    pub(crate) fn wait_ready_or(
        &self,
        timeout: Duration,
        other: Option<&Latch>,
    ) -> Result<(), ReadyError> {
        let task = self.task();
        if self.record.ledger().is_forked() {
            return Err(ReadyError::NotYet { task });
        }
        let ready = self.record.ready_beacon().latch();
        let mut latches = vec![ready, self.record.settled().latch()];
        latches.extend(other);
        latch::wait_any(&latches, Deadline::after(timeout));
        if self.record.is_ready() {
            return Ok(());
        }
        let token = &self.record.token;
        match self.record.read_outcome() {
            Some(outcome) if token.is_cancelled() && !outcome.is_failure() => {
                let cancelled = Cancelled::of(token.node());
                Err(ReadyError::Cancelled { task, cancelled })
            }
            Some(outcome) => Err(ReadyError::Ended { task, outcome }),
            None => Err(ReadyError::NotYet { task }),
        }
    }

    /// A receiver that never yields anything and disconnects when the task has ended: for `select!`.
    ///
    /// ```
    /// # use taskmuster::Manager;
    /// use taskmuster::crossbeam_channel::{never, select};
    ///
    /// # let report = Manager::builder().run(|manager| {
    /// let orders = never::<u32>();
    /// let work = manager.spawn("work", |_| Ok(7))?;
    /// select! {
    ///     recv(work.finished()) -> _ => assert_eq!(work.try_join()?, 7),
    ///     recv(orders) -> _ => unreachable!(),
    /// }
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// ```
    #[must_use]
    pub fn finished(&self) -> &Receiver<Infallible> {
        self.record.settled().receiver()
    }

    /// Takes the value of a task that has ended.
    ///
    /// # Errors
    /// As [`join`](Self::join), and [`JoinError::StillRunning`].
    pub fn try_join(&self) -> Result<T, JoinError> {
        self.take_result()
    }

    /// The outcome, without having read it.
    pub(crate) fn peek_outcome(&self) -> Option<Outcome> {
        self.record.outcome()
    }

    /// The error of a task that failed, without having read it.
    pub(crate) fn peek_error(&self) -> Option<SharedError> {
        self.slot.error()
    }

    /// Waits for the end without looking at what it was.
    pub(crate) fn wait_end(&self, timeout: Duration) -> bool {
        self.record
            .settled()
            .latch()
            .wait_until(Deadline::after(timeout))
    }

    /// Waits until nothing of the task is left, its thread-locals included, or the other latch opens; `false` if something
    /// is.
    pub(crate) fn wait_until_gone(&self, timeout: Duration, other: &Latch) -> bool {
        let deadline = Deadline::after(timeout);
        self.record.wait_until_gone(deadline, other)
    }

    /// A wait inside a task is put on that task's books: a straggler that waits for a straggler is told apart.
    fn join_by(
        &self,
        deadline: Deadline,
        place: &'static Location<'static>,
    ) -> Result<T, JoinError> {
        if self.record.ledger().is_forked() {
            return Err(JoinError::Forked { task: self.task() });
        }
        let me = occupant::current_record();
        let _waiting = match &me {
            None => None,
            Some(me) if Arc::ptr_eq(me, &self.record) => {
                return Err(JoinError::WouldDeadlock { task: self.task() });
            }
            Some(me) => {
                me.pulse.beat(place);
                Some(me.pulse.waits_for_task(self.record.id.0))
            }
        };
        self.record.settled().latch().wait_until(deadline);
        self.take_result()
    }

    fn take_result(&self) -> Result<T, JoinError> {
        let task = self.task();
        match self.record.read_outcome() {
            None => Err(JoinError::StillRunning { task }),
            Some(Outcome::Completed) => self
                .slot
                .take_value()
                .ok_or(JoinError::AlreadyTaken { task }),
            Some(Outcome::Failed(failure)) => Err(JoinError::Failed {
                task,
                error: self.slot.error().unwrap_or_else(|| Arc::new(failure)),
            }),
            Some(Outcome::Panicked(panic)) => {
                Err(JoinError::Panicked(self.slot.panic().unwrap_or(panic)))
            }
            Some(Outcome::Abandoned) => Err(JoinError::Abandoned { task }),
            Some(Outcome::Cancelled(_)) => Err(JoinError::Cancelled {
                task,
                cancelled: Cancelled::of(self.record.token.node()),
            }),
        }
    }

    fn task(&self) -> Arc<str> {
        Arc::clone(&self.record.path)
    }
}

/// # Waiting for other tasks
impl TaskContext {
    /// Waits for the end of another task and takes its value, unless this task is asked to stop meanwhile.
    ///
    /// # Errors
    /// [`JoinError::Interrupted`] when this task was asked to stop; the other one goes on, and the handle stays usable.
    /// Otherwise as [`TaskHandle::join`].
    #[track_caller]
    pub fn join<T>(&self, other: &TaskHandle<T>) -> Result<T, JoinError> {
        self.join_by(other, Deadline::NEVER, Location::caller())
    }

    /// Like [`join`](Self::join), waiting at most `timeout`.
    ///
    /// # Errors
    /// As [`join`](Self::join), and [`JoinError::StillRunning`].
    #[track_caller]
    pub fn join_timeout<T>(
        &self,
        other: &TaskHandle<T>,
        timeout: Duration,
    ) -> Result<T, JoinError> {
        self.join_by(other, Deadline::after(timeout), Location::caller())
    }

    /// Like [`join`](Self::join), waiting until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`join`](Self::join), and [`JoinError::StillRunning`].
    #[track_caller]
    pub fn join_deadline<T>(
        &self,
        other: &TaskHandle<T>,
        deadline: Instant,
    ) -> Result<T, JoinError> {
        self.join_by(other, Deadline::at(deadline), Location::caller())
    }

    /// Waits until one of several tasks has ended and gives its index in `handles`: the first, if several have.
    ///
    /// # Errors
    /// [`Cancelled`] when this task was asked to stop.
    ///
    /// # Panics
    /// If `handles` is empty: nothing could ever end that wait.
    ///
    /// ```
    /// # use taskmuster::Manager;
    /// # let report = Manager::builder().run(|manager| {
    /// let racers = [manager.spawn("slow", |ctx| Err(ctx.wait().into()))?, manager.spawn("fast", |_| Ok(7))?];
    /// let race = manager.spawn("race", move |ctx| {
    ///     let winner = ctx.wait_any(&racers)?;
    ///     Ok((winner, racers[winner].join()?))
    /// })?;
    /// assert_eq!(race.join()?, (1, 7));
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// ```
    #[track_caller]
    pub fn wait_any<T>(&self, handles: &[TaskHandle<T>]) -> Result<usize, Cancelled> {
        assert!(
            !handles.is_empty(),
            "a wait for none of no tasks would never end"
        );
        let pulse = &self.record().pulse;
        pulse.beat(Location::caller());
        let _waiting = pulse.waits_for(Wait::Tasks);
        let mut latches = vec![self.token().node().beacon().latch()];
        latches.extend(handles.iter().map(|handle| handle.record.settled().latch()));
        let open = latch::wait_any(&latches, Deadline::NEVER);
        match open.and_then(|open| open.checked_sub(1)) {
            Some(index) if !self.is_cancelled() => Ok(index),
            _ => Err(Cancelled::of(self.token().node())),
        }
    }

    fn join_by<T>(
        &self,
        other: &TaskHandle<T>,
        deadline: Deadline,
        place: &'static Location<'static>,
    ) -> Result<T, JoinError> {
        if other.record.ledger().is_forked() {
            return Err(JoinError::Forked { task: other.task() });
        }
        let pulse = &self.record().pulse;
        pulse.beat(place);
        if Arc::ptr_eq(self.record(), &other.record) {
            return Err(JoinError::WouldDeadlock { task: other.task() });
        }
        let _waiting = pulse.waits_for_task(other.record.id.0);
        latch::wait_any(
            &[
                self.token().node().beacon().latch(),
                other.record.settled().latch(),
            ],
            deadline,
        );
        if let Err(cancelled) = self.token().checkpoint() {
            return Err(JoinError::Interrupted {
                task: other.task(),
                cancelled,
            });
        }
        other.take_result()
    }
}

/// Waits until one of several tasks has ended and gives its index in `handles`: the first, if several have.
///
/// Inside a task, [`TaskContext::wait_any`] also hears that task's own cancel.
///
/// # Panics
/// If `handles` is empty: nothing could ever end that wait.
///
/// ```
/// # use taskmuster::Manager;
/// # let report = Manager::builder().run(|manager| {
/// let racers = [manager.spawn("slow", |ctx| Err(ctx.wait().into()))?, manager.spawn("fast", |_| Ok(7))?];
/// assert_eq!(racers[taskmuster::wait_any(&racers)].join()?, 7);
/// # Ok(())
/// # });
/// # assert!(report.is_clean());
/// ```
#[must_use]
pub fn wait_any<T>(handles: &[TaskHandle<T>]) -> usize {
    assert!(
        !handles.is_empty(),
        "a wait for none of no tasks would never end"
    );
    let settled = handles.iter().map(|handle| handle.record.settled().latch());
    let latches: Vec<&Latch> = settled.collect();
    loop {
        if let Some(index) = latch::wait_any(&latches, Deadline::NEVER) {
            return index;
        }
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle")
            .field("id", &self.record.id)
            .field("name", &self.record.path)
            .finish_non_exhaustive()
    }
}

/// Why a task is not ready.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadyError {
    /// It ended without having said that it is; a failure counts as read.
    Ended {
        /// The task that was waited for.
        task: Arc<str>,
        /// What became of it.
        outcome: Outcome,
    },
    /// It was asked to stop before it was ready, and did: passed on with `?` by somebody who is stopped by the same, the
    /// error counts as theirs.
    Cancelled {
        /// The task that was waited for.
        task: Arc<str>,
        /// By whom and why.
        cancelled: Cancelled,
    },
    /// The time was over; it goes on.
    NotYet {
        /// The task that was waited for.
        task: Arc<str>,
    },
}

impl fmt::Display for ReadyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { task, outcome } => {
                write!(f, "task `{task}` ended before it was ready: {outcome}")
            }
            Self::Cancelled { task, .. } => {
                write!(f, "task `{task}` was asked to stop before it was ready")
            }
            Self::NotYet { task } => write!(f, "task `{task}` was not ready in time"),
        }
    }
}

impl Error for ReadyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Ended { outcome, .. } => match outcome {
                Outcome::Failed(failure) => Some(failure),
                Outcome::Panicked(panic) => Some(panic),
                _ => None,
            },
            Self::Cancelled { cancelled, .. } => Some(cancelled),
            Self::NotYet { .. } => None,
        }
    }
}

/// Why a join gave no value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// The task returned an error, which is the source of this one.
    Failed {
        /// The task that was joined.
        task: Arc<str>,
        /// What it returned.
        error: SharedError,
    },
    /// The task panicked.
    Panicked(Panic),
    /// The task heard that it was asked to stop, and did.
    Cancelled {
        /// The task that was joined.
        task: Arc<str>,
        /// By whom and why.
        cancelled: Cancelled,
    },
    /// The shutdown ended without the task; if it ends after all, a later join says how.
    Abandoned {
        /// The task that was joined.
        task: Arc<str>,
    },
    /// The task completed, and an earlier join got its value.
    AlreadyTaken {
        /// The task that was joined.
        task: Arc<str>,
    },
    /// A task tried to join itself.
    WouldDeadlock {
        /// The task that tried.
        task: Arc<str>,
    },
    /// The task has not ended, and the time was over.
    StillRunning {
        /// The task that was joined.
        task: Arc<str>,
    },
    /// This process is a fork of the one that runs the task: its threads do not exist here.
    Forked {
        /// The task that was joined.
        task: Arc<str>,
    },
    /// The task that waited was itself asked to stop.
    Interrupted {
        /// The task that was joined, not the one that waited.
        task: Arc<str>,
        /// By whom and why the waiting task was asked to stop.
        cancelled: Cancelled,
    },
}

impl JoinError {
    /// The name of the task that was joined.
    #[must_use]
    pub fn task(&self) -> &str {
        match self {
            Self::Panicked(panic) => panic.task(),
            Self::Failed { task, .. }
            | Self::Cancelled { task, .. }
            | Self::Abandoned { task }
            | Self::AlreadyTaken { task }
            | Self::WouldDeadlock { task }
            | Self::StillRunning { task }
            | Self::Forked { task }
            | Self::Interrupted { task, .. } => task,
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let task = self.task();
        match self {
            Self::Failed { .. } => write!(f, "task `{task}` failed"),
            Self::Panicked(panic) => write!(f, "task `{task}` {panic}"),
            Self::Cancelled { .. } => write!(f, "task `{task}` was cancelled"),
            Self::Abandoned { .. } => write!(
                f,
                "task `{task}` did not stop and was abandoned by the shutdown"
            ),
            Self::AlreadyTaken { .. } => {
                write!(f, "the value of task `{task}` was taken by an earlier join")
            }
            Self::WouldDeadlock { .. } => write!(f, "task `{task}` cannot join itself"),
            Self::StillRunning { .. } => write!(f, "task `{task}` is still running"),
            Self::Forked { .. } => write!(
                f,
                "task `{task}` runs in the process this one was forked from"
            ),
            Self::Interrupted { .. } => write!(f, "waiting for task `{task}` was cancelled"),
        }
    }
}

impl Error for JoinError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { error, .. } => Some(&**error),
            Self::Panicked(panic) => Some(panic),
            Self::Cancelled { cancelled, .. } | Self::Interrupted { cancelled, .. } => {
                Some(cancelled)
            }
            Self::Abandoned { .. }
            | Self::AlreadyTaken { .. }
            | Self::WouldDeadlock { .. }
            | Self::StillRunning { .. }
            | Self::Forked { .. } => None,
        }
    }
}
