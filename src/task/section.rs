//! Sections with rules of their own: timeout, shield, foreign code.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::log::{self, Level};
use crate::base::time::{self, Deadline, Duration, Instant, human};
use crate::cancel::cancelled;
use crate::cancel::deadline::DeadlineError;
use crate::cancel::token::CancellationToken;
use crate::task::context::{BoxError, TaskContext, TaskResult};
use crate::task::occupant;
use crate::task::record::{Section, SectionKind};

/// # Sections
impl TaskContext {
    /// Runs `body` with a context whose checkpoints and waits also end when `timeout` is over.
    ///
    /// # Errors
    /// [`TimeoutError::Elapsed`] when `body` was stopped by this very timeout. Any other error of `body`, the task's own
    /// cancellation included, comes as [`TimeoutError::Failed`], and passed on with `?` it still counts as what it is. A
    /// value that `body` returns late is a value.
    ///
    /// ```
    /// use std::time::Duration;
    /// use taskmuster::{Manager, TimeoutError};
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let query = manager.spawn("query", |ctx| {
    ///         let answer = ctx.with_timeout(Duration::from_millis(5), |ctx| {
    ///             ctx.sleep(Duration::from_secs(60))?; // a slow database
    ///             Ok(42)
    ///         });
    ///         match answer {
    ///             Err(TimeoutError::Elapsed { .. }) => Ok(0), // a default
    ///             other => Ok(other?),
    ///         }
    ///     })?;
    ///     assert_eq!(query.join()?, 0);
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    #[track_caller]
    pub fn with_timeout<T>(
        &self,
        timeout: Duration,
        body: impl FnOnce(&TaskContext) -> TaskResult<T>,
    ) -> Result<T, TimeoutError> {
        self.until(Deadline::after(timeout), timeout, Location::caller(), body)
    }

    /// Like [`with_timeout`](Self::with_timeout), until `deadline`.
    ///
    /// # Errors
    /// As [`with_timeout`](Self::with_timeout).
    #[track_caller]
    pub fn with_deadline<T>(
        &self,
        deadline: Instant,
        body: impl FnOnce(&TaskContext) -> TaskResult<T>,
    ) -> Result<T, TimeoutError> {
        let limit = deadline.saturating_duration_since(time::now());
        self.until(Deadline::at(deadline), limit, Location::caller(), body)
    }

    fn until<T>(
        &self,
        deadline: Deadline,
        limit: Duration,
        place: &'static Location<'static>,
        body: impl FnOnce(&TaskContext) -> TaskResult<T>,
    ) -> Result<T, TimeoutError> {
        self.record().pulse.beat(place);
        let token = self.token().child_until(deadline, place)?;
        self.run_section(token, limit, place, body)
    }

    /// Runs clean-up that must not be cut: `body` gets a context that hears nothing of the task's stop, only of `limit`.
    ///
    /// The shutdown's own deadline stands: what has not ended by then is abandoned like everything else. Without a thread
    /// for its limit (the system has none to give) the clean-up is run all the same, and only that deadline limits it.
    ///
    /// Once the stop of its group has begun, a task starts no others, in a shield neither: what a clean-up does, it does
    /// itself.
    ///
    /// # Errors
    /// [`TimeoutError::Elapsed`] when `body` was stopped by the limit, [`TimeoutError::Failed`] with its own error.
    ///
    /// ```
    /// use std::time::Duration;
    /// use taskmuster::Manager;
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let writer = manager.spawn("writer", |ctx| {
    ///         let stop = ctx.wait(); // the work
    ///         ctx.shield(Duration::from_secs(2), |ctx| {
    ///             ctx.sleep(Duration::from_millis(1))?; // would be cut without the shield
    ///             Ok(println!("saved after {stop}"))
    ///         })?;
    ///         Ok("saved")
    ///     })?;
    ///     while writer.status().checkpoints == 0 { std::thread::yield_now(); }
    ///     writer.cancel();
    ///     assert_eq!(writer.join()?, "saved");
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    #[track_caller]
    pub fn shield<T>(
        &self,
        limit: Duration,
        body: impl FnOnce(&TaskContext) -> TaskResult<T>,
    ) -> Result<T, TimeoutError> {
        let place = Location::caller();
        self.record().pulse.beat(place);
        let deadline = Deadline::after(limit);
        let token = CancellationToken::new();
        let token = token.child_until(deadline, place).unwrap_or_else(|error| {
            let name = self.name();
            log::say(
                Level::Warn,
                format_args!("task `{name}` is shielded without a limit: {error}"),
            );
            token
        });
        let _section = Entered::new(self, SectionKind::Shield, Cow::Borrowed("shield"), deadline);
        self.run_section(token, limit, place, body)
    }

    fn run_section<T>(
        &self,
        token: CancellationToken,
        limit: Duration,
        place: &'static Location<'static>,
        body: impl FnOnce(&TaskContext) -> TaskResult<T>,
    ) -> Result<T, TimeoutError> {
        let context = self.with_token(token);
        let ambient = Ambient(occupant::exchange(context.another()));
        let result = body(&context);
        drop(ambient);
        result.map_err(|error| {
            if cancelled::is_timeout_of(context.token().node(), &*error) {
                TimeoutError::Elapsed { limit, at: place }
            } else {
                TimeoutError::Failed(error)
            }
        })
    }

    /// Announces code that nothing can stop: a name lookup, a read of standard input, a call into a C library.
    ///
    /// A shutdown waits for it until it has lasted for `limit`, and no longer: `Duration::ZERO` for what may take for
    /// ever, like a read of the terminal. Then the task is let go, listed in the report with `what`, and does not make
    /// the exit code 2. Its thread dies with the process.
    ///
    /// It is the task's own thread that counts: what a helper thread of the task is in keeps nobody from waiting for the
    /// task. One that waits for such a helper is in foreign code itself, and says so around that wait.
    ///
    /// Not for calls that [`on_cancel`](Self::on_cancel) can unblock, nor for computations that could have a checkpoint.
    ///
    /// ```
    /// use std::net::ToSocketAddrs as _;
    /// use std::time::Duration;
    /// use taskmuster::Manager;
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let lookup = manager.spawn("lookup", |ctx| {
    ///         let found = ctx.foreign("dns lookup", Duration::from_secs(5), || {
    ///             ("localhost", 80).to_socket_addrs()
    ///         });
    ///         Ok(found?.count())
    ///     })?;
    ///     assert!(lookup.join()? > 0);
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    #[track_caller]
    pub fn foreign<R>(
        &self,
        what: impl Into<Cow<'static, str>>,
        limit: Duration,
        call: impl FnOnce() -> R,
    ) -> R {
        self.record().pulse.beat(Location::caller());
        let until = Deadline::after(limit);
        let _section = Entered::new(self, SectionKind::Foreign, what.into(), until);
        call()
    }
}

/// Puts the ambient context back, by a panic too.
struct Ambient(Option<TaskContext>);

impl Drop for Ambient {
    fn drop(&mut self) {
        if let Some(context) = self.0.take() {
            drop(occupant::exchange(context));
        }
    }
}

/// The task is in a section until this is dropped, by a panic too.
struct Entered<'a> {
    context: &'a TaskContext,
    section: Arc<Section>,
}

impl<'a> Entered<'a> {
    fn new(
        context: &'a TaskContext,
        kind: SectionKind,
        what: Cow<'static, str>,
        until: Deadline,
    ) -> Self {
        let is_own = occupant::current_record()
            .is_some_and(|occupant| Arc::ptr_eq(&occupant, context.record()));
        let section = Arc::new(Section {
            kind,
            what: what.into(),
            since: time::now(),
            until,
            is_own,
        });
        context.record().enter_section(&section);
        if kind == SectionKind::Foreign {
            context.record().ledger().enter_foreign();
            context.tell_drain();
        }
        Self { context, section }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.section.kind == SectionKind::Foreign {
            self.context.record().ledger().leave_foreign();
        }
        self.context.record().leave_section(&self.section);
    }
}

impl TaskContext {
    /// A shutdown under way looks anew for whom it waits.
    fn tell_drain(&self) {
        let request = &self.group().registry().request;
        if request.latch().is_open() {
            request.bell().ring();
        }
    }
}

/// Why a section gave no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum TimeoutError {
    /// It was stopped by its own timeout.
    Elapsed {
        /// The time it had.
        limit: Duration,
        /// The line that gave it this time.
        at: &'static Location<'static>,
    },
    /// It ended with this error.
    Failed(BoxError),
    /// The system has no thread that could end it in time; it was not begun.
    Unavailable(DeadlineError),
}

impl From<DeadlineError> for TimeoutError {
    fn from(error: DeadlineError) -> Self {
        Self::Unavailable(error)
    }
}

impl fmt::Display for TimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elapsed { limit, at } => write!(
                f,
                "it took longer than the {} it has at {}:{}",
                human(*limit),
                at.file(),
                at.line()
            ),
            Self::Failed(error) => error.fmt(f),
            Self::Unavailable(error) => error.fmt(f),
        }
    }
}

impl Error for TimeoutError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Elapsed { .. } => None,
            Self::Failed(error) => Some(&**error),
            Self::Unavailable(error) => error.source(),
        }
    }
}
