//! Starting tasks: the builder, the registration, the thread.

use std::error::Error;
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;

use crate::base::sync::{self, Mutex};
use crate::base::time::{Deadline, Duration, Instant};
use crate::cancel::cancelled::Cancelled;
use crate::cancel::deadline::DeadlineError;
use crate::policy::error::PolicyError;
use crate::policy::failure::OnFailure;
use crate::task::context::{TaskBody, TaskContext, TaskResult};
use crate::task::group::Group;
use crate::task::handle::{Slot, TaskHandle};
use crate::task::panic::{self, PanicHook};
use crate::task::record::{Birth, OnDrain, Record};
use crate::task::registry::Refusal;
use crate::task::spec;
use crate::task::thread::Job;

/// More than enough for the cancel that follows a group's refusal.
const CANCEL_FOLLOWS: Duration = Duration::from_secs(1);

/// # Starting tasks
impl Group {
    /// Starts a task on a thread of its own and returns once the thread is created.
    ///
    /// The task is on the books before its thread exists. Names need not be unique. A task whose group was cancelled
    /// already is accepted and ends as cancelled: its closure does not run, it is dropped on the task's thread.
    ///
    /// # Errors
    /// [`SpawnError`], which gives the closure back: the group is stopping, the limit of live tasks is reached, the
    /// system has no thread to give, or this process is a fork.
    ///
    /// # What infers
    /// The type of the value comes from the closure's `Ok`. An endless loop leaves it open; say it:
    ///
    /// ```
    /// # use taskmuster::{Manager, TaskResult};
    /// # use std::time::Duration;
    /// # let report = Manager::builder().run(|manager| {
    /// # let group = manager.group("g");
    /// let sum = group.spawn("sum", |_| Ok(1 + 1))?;                        // TaskHandle<i32>
    /// group.spawn::<()>("clock", |ctx| loop { ctx.sleep(Duration::from_secs(1))? })?;
    /// group.spawn("tick", |ctx| -> TaskResult { loop { ctx.sleep(Duration::from_secs(1))? } })?;
    /// fn named(ctx: &taskmuster::TaskContext) -> TaskResult<u8> { ctx.checkpoint()?; Ok(3) }
    /// group.spawn("named", named)?;
    /// let limit = 7;
    /// group.spawn("with captures", move |_| Ok(limit))?;
    /// # assert_eq!(sum.join()?, 2);
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// ```
    ///
    /// A closure that was first bound with `let` does not infer the lifetime of its argument: write
    /// `let body = |ctx: &TaskContext| ..` there.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        name: impl AsRef<str>,
        body: impl FnOnce(&TaskContext) -> TaskResult<T> + Send + 'static,
    ) -> Result<TaskHandle<T>, SpawnError<T>> {
        self.task(name).spawn(body)
    }

    /// Describes a task that needs more than a name.
    ///
    /// ```
    /// # use taskmuster::{Manager, OnFailure};
    /// # use std::time::Duration;
    /// # let report = Manager::builder().run(|manager| {
    /// manager
    ///     .task("indexer")
    ///     .stack_size(512 * 1024)
    ///     .grace(Duration::from_secs(3))
    ///     .on_failure(OnFailure::StopGroup)
    ///     .spawn(|ctx| Ok(ctx.checkpoint()?))?;
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// ```
    pub fn task(&self, name: impl AsRef<str>) -> TaskBuilder {
        TaskBuilder {
            group: self.clone(),
            path: spec::path(self.name(), name.as_ref()).into(),
            stack_size: None,
            grace: None,
            end: End::Open,
            on_drain: OnDrain::default(),
            on_failure: OnFailure::default(),
            counts_for_readiness: false,
        }
    }
}

/// A task before it is started; made by [`Manager::task`](crate::Manager::task) and [`Group::task`].
#[derive(Clone, Debug)]
#[must_use = "a task is started by `spawn`"]
pub struct TaskBuilder {
    group: Group,
    path: Arc<str>,
    stack_size: Option<usize>,
    grace: Option<Duration>,
    end: End,
    on_drain: OnDrain,
    on_failure: OnFailure,
    counts_for_readiness: bool,
}

/// When a task is asked to stop, if nobody does before.
#[derive(Clone, Copy, Debug)]
enum End {
    Open,
    /// So long after it was spawned, which may be long after it was described.
    After(Duration),
    At(Instant),
}

impl End {
    fn deadline(self) -> Deadline {
        match self {
            Self::Open => Deadline::NEVER,
            Self::After(timeout) => Deadline::after(timeout),
            Self::At(moment) => Deadline::at(moment),
        }
    }
}

impl TaskBuilder {
    /// The size of the thread's stack in bytes; std's default of 2 MiB without it. The system may round it up.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// How long the task may need to stop after it was asked.
    ///
    /// At the shutdown its group is given the longest grace of its tasks before the next group is asked (at most half of
    /// the time left; at least a fair share, if some of them have none). A task that took longer than its own is marked
    /// in the report. It never extends the shutdown's one deadline, and only that one abandons a task.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// When a shutdown begins, this task takes in nothing new, finishes what was begun, and ends by itself.
    ///
    /// It learns of it by [`TaskContext::is_draining`] or [`TaskContext::draining`]. The shutdown waits for all such
    /// tasks, at most for the manager's [drain time](crate::ManagerBuilder::drain), before it asks anybody to stop.
    ///
    /// What waits in a queue is for the task to take: a bounded channel of crossbeam keeps its messages when the last
    /// receiver goes, and whoever waits for an answer to one of them waits as long as a sender is left. So receive until the
    /// channel is empty, not only until the shutdown begins.
    ///
    /// ```
    /// # use taskmuster::{Manager, RecvError};
    /// # use taskmuster::crossbeam_channel::unbounded;
    /// # use std::time::Duration;
    /// # let report = Manager::builder().drain(Duration::from_secs(5)).run(|manager| {
    /// let (orders, queue) = unbounded::<u32>();
    /// manager.task("intake").drains().spawn(move |ctx| {
    ///     let mut number = 0;
    ///     while !ctx.is_draining() {
    ///         number += 1;
    ///         ctx.send(&orders, number)?;
    ///         ctx.sleep(Duration::from_millis(1))?;
    ///     }
    ///     Ok(()) // drops the sender: the queue runs dry
    /// })?;
    /// manager.task("worker").drains().spawn(move |ctx| loop {
    ///     match ctx.recv(&queue) {
    ///         Ok(order) => println!("order {order}"),
    ///         Err(RecvError::Disconnected) => return Ok(()),
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// })?;
    /// # Ok(())
    /// # });
    /// # assert_eq!(report.counts().completed, 2);
    /// ```
    pub fn drains(mut self) -> Self {
        self.on_drain = OnDrain::Ends;
        self
    }

    /// Asks the task to stop when it has taken this long since it was spawned; `Duration::MAX` means never.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.end = End::After(timeout);
        self
    }

    /// Asks the task to stop at this moment; if it has passed, the task ends as cancelled and its closure does not run.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.end = End::At(deadline);
        self
    }

    /// What the failure of this task means for others; nothing, without it.
    pub fn on_failure(mut self, policy: OnFailure) -> Self {
        self.on_failure = policy;
        self
    }

    /// The program makes no sense without this task: its failure shuts the manager down.
    pub fn critical(self) -> Self {
        self.on_failure(OnFailure::ShutDown)
    }

    /// Whether the manager is not ready before this task is.
    pub(crate) fn counts_for_readiness(mut self, counts: bool) -> Self {
        self.counts_for_readiness = counts;
        self
    }

    pub(crate) fn spawn_boxed<T: Send + 'static>(
        self,
        body: TaskBody<T>,
        spawned_at: &'static Location<'static>,
    ) -> Result<TaskHandle<T>, SpawnError<T>> {
        self.launch(body, spawned_at)
    }

    /// Enters a task into the books that is started elsewhere.
    pub(crate) fn register(
        &self,
        spawned_at: &'static Location<'static>,
    ) -> Result<Arc<Record>, (SpawnFailure, Option<Cancelled>)> {
        // Before anything is locked: what another thread had locked at the moment of the fork stays so for ever.
        if self.group.registry().ledger.is_forked() {
            return Err((SpawnFailure::Forked, None));
        }
        if self.group.registry().panic_hook == PanicHook::Chain {
            panic::install_hook();
        }
        let birth = self.birth(spawned_at);
        let birth = birth.map_err(|error| (SpawnFailure::Os(io::Error::other(error)), None))?;
        let registered = self.group.registry().register(birth);
        registered.map_err(|refusal| (refusal.into(), stop_of(&self.group, refusal)))
    }

    /// Starts the task; see [`Group::spawn`].
    ///
    /// # Errors
    /// [`SpawnError`], which gives the closure back.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        self,
        body: impl FnOnce(&TaskContext) -> TaskResult<T> + Send + 'static,
    ) -> Result<TaskHandle<T>, SpawnError<T>> {
        self.launch(Box::new(body), Location::caller())
    }

    fn launch<T: Send + 'static>(
        self,
        body: TaskBody<T>,
        spawned_at: &'static Location<'static>,
    ) -> Result<TaskHandle<T>, SpawnError<T>> {
        let record = match self.register(spawned_at) {
            Ok(record) => record,
            Err((failure, stopped)) => {
                return Err(SpawnError::new(self.path, failure, stopped, body));
            }
        };
        let slot = Slot::new(body);
        let handle = TaskHandle::new(Arc::clone(&record), Arc::clone(&slot));
        let job = Job {
            record,
            group: self.group.clone(),
            slot: Arc::clone(&slot),
        };
        match self.start(job) {
            Ok(()) => Ok(handle),
            Err(error) => match slot.take_body() {
                Some(body) => {
                    let failure = SpawnFailure::Os(error);
                    Err(SpawnError::new(self.path, failure, None, body))
                }
                None => unreachable!("a thread that was not created has not taken its body"),
            },
        }
    }

    /// The error of a task that is not even tried.
    pub(crate) fn refuse<T>(self, failure: SpawnFailure, body: TaskBody<T>) -> SpawnError<T> {
        SpawnError::new(self.path, failure, None, body)
    }

    /// The task's name without those of its groups.
    pub(crate) fn own_name(&self) -> &str {
        let around = self.group.name().len();
        let name = self.path.get(around..).unwrap_or(&self.path);
        name.strip_prefix('/').unwrap_or(name)
    }

    /// The name with those of the groups around it.
    pub(crate) fn path(&self) -> &Arc<str> {
        &self.path
    }

    fn birth(&self, spawned_at: &'static Location<'static>) -> Result<Birth, DeadlineError> {
        Ok(Birth {
            path: Arc::clone(&self.path),
            group: self.group.id(),
            token: self
                .group
                .token()
                .child_until(self.end.deadline(), spawned_at)?,
            grace: self.grace,
            on_drain: self.on_drain,
            on_failure: self.on_failure,
            counts_for_readiness: self.counts_for_readiness,
            spawned_at,
        })
    }

    /// Starts the thread; if there is none to be had, strikes the task off the books. Its body is left in the slot,
    /// because std drops a closure whose thread could not be created.
    fn start<T: Send + 'static>(&self, job: Job<T>) -> io::Result<()> {
        // std rounds the size up to whole pages and asserts that the system takes it.
        const LARGEST_STACK: usize = isize::MAX.unsigned_abs() / 2;
        let (registry, record) = (self.group.registry(), Arc::clone(&job.record));
        registry.join_one_who_is_gone();
        let thread = if self.stack_size.is_some_and(|bytes| bytes > LARGEST_STACK) {
            let words = "the stack size is larger than the address space";
            Err(io::Error::new(io::ErrorKind::InvalidInput, words))
        } else {
            let name = spec::thread_name(&record.path);
            sync::start_thread(name, self.stack_size, move || job.run())
        };
        thread
            .map(|thread| registry.attach(&record, thread))
            .inspect_err(|_| registry.withdraw(&record))
    }
}

/// The cancel of a group that is stopping, or of the one above that stops it. It follows its refusal of tasks at once, but
/// not in the same step.
fn stop_of(group: &Group, refusal: Refusal) -> Option<Cancelled> {
    if refusal != Refusal::Stopping {
        return None;
    }
    let own = group.token().checkpoint();
    own.err().or_else(|| {
        let stopping = group.registry().stopping_token(group.id())?;
        stopping.wait_timeout(CANCEL_FOLLOWS)
    })
}

/// Why a task was not accepted; gives its closure back.
pub struct SpawnError<T> {
    task: Arc<str>,
    failure: SpawnFailure,
    /// The cancel of the group that takes no more tasks: passed on with `?` by somebody who is stopped by it as well, the
    /// error counts as theirs.
    stopped: Option<Cancelled>,
    /// Behind a lock nobody contends for: it makes the error `Sync` for every closure, so that `?` works.
    body: Mutex<TaskBody<T>>,
}

/// The reasons for a [`SpawnError`].
#[derive(Debug)]
#[non_exhaustive]
pub enum SpawnFailure {
    /// The group's stop, or the manager's, has begun.
    Stopping,
    /// There are as many live tasks as the manager's limit allows.
    Limit(usize),
    /// So many threads of ended tasks have not gone: they hang in the destructors of thread-locals, or in the logger.
    Exiting(usize),
    /// All managers of this process together have as many threads as the system allows it.
    ProcessLimit(usize),
    /// The restart policy or the schedule says something that could never happen.
    Policy(PolicyError),
    /// The system could not create the thread.
    Os(io::Error),
    /// This process is a fork of the one that owns the manager.
    Forked,
}

impl From<Refusal> for SpawnFailure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stopping => Self::Stopping,
            Refusal::Limit(limit) => Self::Limit(limit),
            Refusal::Exiting(threads) => Self::Exiting(threads),
            Refusal::ProcessLimit(limit) => Self::ProcessLimit(limit),
        }
    }
}

impl<T> SpawnError<T> {
    fn new(
        task: Arc<str>,
        failure: SpawnFailure,
        stopped: Option<Cancelled>,
        body: TaskBody<T>,
    ) -> Self {
        Self {
            task,
            failure,
            stopped,
            body: Mutex::new(body),
        }
    }

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

    /// The closure, which has not run: spawn it elsewhere, or call it.
    #[must_use]
    pub fn into_body(self) -> TaskBody<T> {
        self.body.into_inner()
    }
}

impl<T> fmt::Debug for SpawnError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpawnError")
            .field("task", &self.task)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for SpawnError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task `{}` was not started: {}", self.task, self.failure)
    }
}

impl fmt::Display for SpawnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopping => f.write_str("its group is stopping"),
            Self::Limit(limit) => write!(
                f,
                "there are {limit} live tasks already, the limit; raise `ManagerBuilder::max_tasks` or wait for some"
            ),
            Self::Exiting(threads) => write!(
                f,
                "{threads} threads of ended tasks have not gone: look for destructors of thread-locals, or a logger, that block"
            ),
            Self::ProcessLimit(limit) => write!(
                f,
                "the managers of this process have {limit} threads, as many as the system can bear; raise vm.max_map_count \
                 or the limit of processes, or use fewer tasks"
            ),
            Self::Policy(error) => error.fmt(f),
            Self::Os(error) => write!(f, "the system gave no thread: {error}"),
            Self::Forked => f.write_str("this process is a fork of the one that owns the manager"),
        }
    }
}

impl<T> Error for SpawnError<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.failure {
            SpawnFailure::Os(error) => Some(error),
            SpawnFailure::Stopping => self.stopped.as_ref().map(|stopped| stopped as _),
            _ => None,
        }
    }
}
