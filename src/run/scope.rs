//! Tasks that borrow from the stack, always joined before it unwinds.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::sync::{self, AtomicUsize, Ordering, ThreadScope};
use crate::base::time::{Deadline, Duration};
use crate::base::unwind::{self, Contained};
use crate::cancel::cancelled::Cancelled;
use crate::cancel::cause::{Cause, CauseKind};
use crate::cancel::checkpoint::Wait;
use crate::cancel::deadline::DeadlineError;
use crate::cancel::token::CancellationToken;
use crate::policy::failure::OnFailure;
use crate::task::context::{BoxError, TaskContext, TaskResult};
use crate::task::gather::GroupFailure;
use crate::task::group::Group;
use crate::task::handle::{Slot, TaskHandle};
use crate::task::occupant;
use crate::task::registry::Failures;
use crate::task::spawner::SpawnFailure;
use crate::task::spec;
use crate::task::thread::Job;

/// # Tasks that borrow
impl Group {
    /// Lends a scope to `body`, whose tasks may borrow what outlives the call; all of them have ended when it returns.
    ///
    /// They are tasks like all others: named, stoppable, in the report, below a group of this name. The first failure
    /// cancels the siblings, unless [`Scope::on_failure`] says otherwise; an error or a panic of `body` cancels them as
    /// well. The wait for them has no limit, since they borrow: a task that does not stop keeps the caller here, and the
    /// report of a shutdown names both.
    ///
    /// # Errors
    /// [`ScopeError::Body`] with the error of `body`; [`ScopeError::Tasks`] when `body` ended well, but tasks failed
    /// whose failure it has not read. Tasks that were cancelled are no failures: a scope whose tasks were all cut short by
    /// its timeout or a cancel gives `Ok`, unless `body` joins their handles or looks at [`Scope::token`].
    ///
    /// ```
    /// use taskmuster::Manager;
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let text = String::from("the quick brown fox");
    ///     let (words, letters) = manager.scope("count", |scope| {
    ///         let words = scope.spawn("words", |_| Ok(text.split(' ').count()))?; // borrows
    ///         let letters = scope.spawn("letters", |ctx| {
    ///             let mut letters = 0;
    ///             for c in ctx.iter(text.chars()) {
    ///                 letters += usize::from(c?.is_alphabetic());
    ///             }
    ///             Ok(letters)
    ///         })?;
    ///         Ok((words.join()?, letters.join()?))
    ///     })?;
    ///     assert_eq!((words, letters), (4, 16));
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    ///
    /// What a task borrows must outlive the scope:
    ///
    /// ```compile_fail,E0373
    /// # taskmuster::Manager::builder().run(|manager| {
    /// Ok(manager.scope("short", |scope| {
    ///     let inside = String::from("dies with the body");
    ///     scope.spawn("borrows", |_| Ok(inside.len()))?; // the body may end before the task
    ///     Ok(())
    /// })?)
    /// # });
    /// ```
    ///
    /// And what it gives back must not:
    ///
    /// ```compile_fail,E0597
    /// # taskmuster::Manager::builder().run(|manager| {
    /// let escaped = {
    ///     let text = String::from("dies with this block");
    ///     manager.scope("escape", |scope| Ok(scope.spawn("borrows", |_| Ok(&*text))?.join()?))?
    /// };
    /// println!("{escaped}");
    /// # Ok(())
    /// # });
    /// ```
    #[track_caller]
    pub fn scope<'env, R>(
        &self,
        name: impl AsRef<str>,
        body: impl for<'scope> FnOnce(&Scope<'scope, 'env>) -> TaskResult<R>,
    ) -> Result<R, ScopeError> {
        let group = self.group_below(name.as_ref(), self.token(), Failures::OfItsMaker);
        in_scope(&group, Location::caller(), body)
    }
}

impl TaskContext {
    /// Lends a scope to `body`, whose tasks are stopped with this one; see [`Group::scope`].
    ///
    /// Once the stop of the task's group has begun, nothing can be started there: a clean-up does its work itself.
    ///
    /// # Errors
    /// As [`Group::scope`].
    #[track_caller]
    pub fn scope<'env, R>(
        &self,
        name: impl AsRef<str>,
        body: impl for<'scope> FnOnce(&Scope<'scope, 'env>) -> TaskResult<R>,
    ) -> Result<R, ScopeError> {
        let place = Location::caller();
        self.record().pulse.beat(place);
        let (group, failures) = (self.group(), Failures::OfItsMaker);
        let group = group.group_below(name.as_ref(), self.token(), failures);
        in_scope(&group, place, body)
    }
}

fn in_scope<'env, R>(
    group: &Group,
    place: &'static Location<'static>,
    body: impl for<'scope> FnOnce(&Scope<'scope, 'env>) -> TaskResult<R>,
) -> Result<R, ScopeError> {
    let unread = Arc::new(AtomicUsize::new(0));
    let result = sync::thread_scope(|threads| {
        let scope = Scope {
            threads,
            group: group.clone(),
            on_failure: Cell::new(OnFailure::StopGroup),
            unread: Arc::clone(&unread),
        };
        let result = unwind::catch(|| body(&scope));
        if !matches!(result, Ok(Ok(_))) {
            let cause = Cause::at_place(CauseKind::Request, place);
            group
                .token()
                .cancel_with(cause.with_note("the body of the scope failed"));
        }
        // std's own wait follows, but this one is on the books.
        wait_for_tasks(group, place);
        result
    });
    match result {
        Err(payload) => unwind::resume(payload),
        Ok(Err(error)) => Err(ScopeError::Body(error)),
        Ok(Ok(value)) if group.registry().ledger.is_forked() => Ok(value),
        // Relaxed: all tasks have ended.
        Ok(Ok(value)) => match group.unread_failure(unread.load(Ordering::Relaxed)) {
            None => Ok(value),
            Some(failure) => Err(ScopeError::Tasks(failure)),
        },
    }
}

fn wait_for_tasks(group: &Group, place: &'static Location<'static>) {
    if group.registry().ledger.is_forked() {
        // In the copy there are none.
        return;
    }
    let record = occupant::current_record();
    let _waiting = record.as_ref().map(|record| {
        record.pulse.beat(place);
        record.pulse.waits_for(Wait::Tasks)
    });
    group.idle().wait_until(Deadline::NEVER);
}

/// Starts tasks that borrow; lent by [`Group::scope`] and [`TaskContext::scope`].
pub struct Scope<'scope, 'env> {
    threads: &'scope ThreadScope<'scope, 'env>,
    group: Group,
    on_failure: Cell<OnFailure>,
    /// How many of its tasks have failed without anybody reading it.
    unread: Arc<AtomicUsize>,
}

impl<'scope> Scope<'scope, '_> {
    /// Starts a task that may borrow what outlives the scope.
    ///
    /// # Errors
    /// [`ScopeSpawnError`]; `body` is dropped then, what it borrows is not.
    #[track_caller]
    pub fn spawn<T: Send + 'scope>(
        &self,
        name: impl AsRef<str>,
        body: impl FnOnce(&TaskContext) -> TaskResult<T> + Send + 'scope,
    ) -> Result<TaskHandle<T>, ScopeSpawnError> {
        let task = self.group.task(name).on_failure(self.on_failure.get());
        let failed = |failure, stopped| ScopeSpawnError {
            task: Arc::clone(task.path()),
            failure,
            stopped,
        };
        let registered = task.register(Location::caller());
        let record = registered.map_err(|(failure, stopped)| failed(failure, stopped))?;
        record.count_unread_in(&self.unread);
        let slot = Slot::without_body();
        let handle = TaskHandle::new(Arc::clone(&record), Arc::clone(&slot));
        let thread_name = spec::thread_name(&record.path);
        let job = Job {
            record: Arc::clone(&record),
            group: self.group.clone(),
            slot,
        };
        // std drops a closure whose thread could not be created.
        let body = Contained::new(body);
        let started = sync::start_scoped_thread(self.threads, thread_name, move || {
            if let Some(body) = body.take() {
                job.run_borrowing(body);
            }
        });
        match started {
            Ok(()) => Ok(handle),
            Err(error) => {
                self.group.registry().withdraw(&record);
                Err(failed(SpawnFailure::Os(error), None))
            }
        }
    }

    /// What the failure of a task that is spawned from now on means for the others: they are cancelled, without it.
    pub fn on_failure(&self, policy: OnFailure) {
        self.on_failure.set(policy);
    }

    /// The token that all tasks of the scope hang below.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        self.group.token()
    }

    /// Asks all tasks of the scope to stop when `timeout` is over; the scope still waits for them. `false` if that is too
    /// late: they were asked before.
    ///
    /// Tasks that were cut short are no failures, and no error of the scope: join their handles, or look at the
    /// [`token`](Self::token) at the end of the body.
    ///
    /// # Errors
    /// [`DeadlineError`] when the system has no thread for deadlines.
    #[track_caller]
    pub fn set_timeout(&self, timeout: Duration) -> Result<bool, DeadlineError> {
        self.group.token().set_timeout(timeout)
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// Why a scope gave no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum ScopeError {
    /// Its body failed.
    Body(BoxError),
    /// Its body ended well, but did not read that these tasks failed.
    Tasks(GroupFailure),
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(error) => error.fmt(f),
            Self::Tasks(failure) => failure.fmt(f),
        }
    }
}

impl Error for ScopeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(error) => Some(&**error),
            Self::Tasks(_) => None,
        }
    }
}

/// Why a task was not accepted by a scope. Its closure was dropped: it may borrow, and an error may not.
#[derive(Debug)]
pub struct ScopeSpawnError {
    task: Arc<str>,
    failure: SpawnFailure,
    stopped: Option<Cancelled>,
}

impl ScopeSpawnError {
    /// The name of the task that was not started.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.task
    }

    /// Why.
    #[must_use]
    pub fn failure(&self) -> &SpawnFailure {
        &self.failure
    }
}

impl fmt::Display for ScopeSpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task `{}` was not started: {}", self.task, self.failure)
    }
}

impl Error for ScopeSpawnError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match (&self.failure, &self.stopped) {
            (SpawnFailure::Os(error), _) => Some(error),
            (_, Some(stopped)) => Some(stopped),
            _ => None,
        }
    }
}
