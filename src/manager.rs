//! The manager: owns every task, and ends them all.

use std::env;
use std::error::Error;
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;

use crate::base::latch::{self, Latch};
use crate::base::limits;
use crate::base::log::{self, Level};
use crate::base::sync::{JoinHandle, Mutex, mailbox, start_thread};
use crate::base::time::{Deadline, Duration, Instant, human};
use crate::base::unwind;
use crate::cancel::cancelled::{self, Cancelled};
use crate::cancel::cause::{Cause, CauseKind};
#[cfg(not(any(loom, shuttle)))]
use crate::run::scope::{Scope, ScopeError};
use crate::shutdown::courier::Courier;
use crate::shutdown::drain::{self, Body, Verdict};
use crate::shutdown::report::ShutdownReport;
#[cfg(all(feature = "signals", not(any(loom, shuttle))))]
use crate::shutdown::signal::{self, SignalError};
use crate::status::state::{TaskCounts, TaskStatus};
use crate::task::context::{TaskContext, TaskResult};
use crate::task::group::Group;
use crate::task::handle::TaskHandle;
use crate::task::occupant;
use crate::task::panic::PanicHook;
use crate::task::record::Record;
use crate::task::registry::{Phases, Registry, Settings};
use crate::task::spawner::{SpawnError, TaskBuilder};

/// The environment variable that overrides the grace, in seconds.
const GRACE_VARIABLE: &str = "TASKMUSTER_GRACE";

/// How long the manager waits for its own threads after the report, at most and at least: they have nothing left to do,
/// unless the logger hangs.
const FAREWELL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(20));

/// Runs `body` with a manager, then stops all its tasks: [`Manager::builder`]`().`[`run`](ManagerBuilder::run)`(body)`.
#[track_caller]
pub fn run(body: impl FnOnce(&Manager) -> TaskResult) -> ShutdownReport {
    Manager::builder().run(body)
}

/// Owns every task, and at the end stops them all, joins them against one deadline, and reports.
///
/// Usually lent by [`run`]. There is one owner: a manager is not `Clone`; code that starts tasks is handed a
/// [`Group`]. The shutdown is carried out by a thread of the manager, so it proceeds while `main` sits in a join.
/// Dropping the manager without a shutdown is a shutdown too, within the grace, with a warning in the log.
///
/// A manager in a `static` is never dropped: signals and [`request_shutdown`](Self::request_shutdown) still stop its
/// tasks, but nobody waits for them when `main` returns.
///
/// ```
/// use taskmuster::Manager;
///
/// let manager = Manager::builder().build()?;
/// let hello = manager.spawn("hello", |ctx| Ok(format!("hello from {}", ctx.name())))?;
/// assert_eq!(hello.join()?, "hello from hello");
/// let report = manager.shutdown()?;
/// assert!(report.is_clean());
/// # Ok::<(), taskmuster::BoxError>(())
/// ```
#[must_use = "dropping a manager shuts it down; keep it, or use `run`"]
pub struct Manager {
    registry: Arc<Registry>,
    root: Group,
    courier: Arc<Courier>,
    verdict: Arc<Verdict>,
    warden: Mutex<Option<JoinHandle<()>>>,
}

/// The settings of a [`Manager`].
#[derive(Clone, Debug)]
#[must_use = "a manager is made by `run` or `build`"]
pub struct ManagerBuilder {
    grace: Duration,
    max_tasks: Option<usize>,
    history: usize,
    panic_hook: PanicHook,
    phases: Phases,
}

impl Manager {
    /// The settings of a new manager.
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder {
            grace: Duration::from_secs(10),
            max_tasks: None,
            history: 256,
            panic_hook: PanicHook::default(),
            phases: Phases::default(),
        }
    }

    /// Lets Ctrl-C, SIGTERM and SIGHUP shut this manager down: the first asks, the second skips the grace, the third
    /// ends the process with exit code 130. Call it first; a signal before it ends the process as ever.
    ///
    /// When no manager is open any more, the first signal of the process ends it with 130, as without this library; a
    /// second does nothing, since the first has stopped the program and it is on its way out, with its result and its
    /// report still to be printed; the third ends it always.
    ///
    /// The handler is ctrlc's: one for the process and for ever, shared by all managers of this library. A manager
    /// that is made after a signal starts with the request to stop. SIGHUP counts even where it was ignored, as under
    /// `nohup`; a line of log warns of that.
    ///
    /// # Errors
    /// [`SignalError`] when other code has set ctrlc's handler, or its thread could not be started.
    #[cfg(all(feature = "signals", not(any(loom, shuttle))))]
    pub fn handle_signals(&self) -> Result<(), SignalError> {
        signal::subscribe(&self.registry)
    }

    /// Starts a task in the manager's root group; see [`Group::spawn`].
    ///
    /// # Errors
    /// [`SpawnError`], which gives the closure back.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        name: impl AsRef<str>,
        body: impl FnOnce(&TaskContext) -> TaskResult<T> + Send + 'static,
    ) -> Result<TaskHandle<T>, SpawnError<T>> {
        self.root.spawn(name, body)
    }

    /// Describes a task of the root group that needs more than a name; see [`TaskBuilder`].
    pub fn task(&self, name: impl AsRef<str>) -> TaskBuilder {
        self.root.task(name)
    }

    /// Makes a group. Groups stop in reverse order of creation.
    #[must_use]
    pub fn group(&self, name: impl AsRef<str>) -> Group {
        self.root.group(name)
    }

    /// The group of the manager's own tasks, for code that starts tasks.
    #[must_use]
    pub fn root_group(&self) -> &Group {
        &self.root
    }

    /// Runs tasks that borrow; see [`Group::scope`].
    ///
    /// # Errors
    /// As [`Group::scope`].
    #[cfg(not(any(loom, shuttle)))]
    #[track_caller]
    pub fn scope<'env, R>(
        &self,
        name: impl AsRef<str>,
        body: impl for<'scope> FnOnce(&Scope<'scope, 'env>) -> TaskResult<R>,
    ) -> Result<R, ScopeError> {
        self.root.scope(name, body)
    }

    /// The live tasks, in order of creation. None in a forked copy of the process.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskStatus> {
        if self.registry.ledger.is_forked() {
            return Vec::new();
        }
        self.registry
            .live()
            .iter()
            .map(|record| record.status())
            .collect()
    }

    /// Whether the program does what it is there for: no shutdown is requested, and every live task that was started
    /// with [`spawn_ready`](TaskBuilder::spawn_ready) or a [`Startup`](crate::Startup) is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let is_ready = |record: &Arc<Record>| record.is_ready() || !record.counts_for_readiness;
        !self.registry.request.latch().is_open() && self.registry.live().iter().all(is_ready)
    }

    /// Whether a shutdown has begun, so that nothing new should be taken in.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.registry.request.is_draining()
    }

    /// The exact numbers of tasks so far. All zero in a forked copy of the process.
    #[must_use]
    pub fn counts(&self) -> TaskCounts {
        if self.registry.ledger.is_forked() {
            return TaskCounts::default();
        }
        self.registry.counts()
    }

    /// Waits until the shutdown is requested (by a signal, a call, or the failure of a critical task), or no task is
    /// left. Returns before the tasks have stopped: what follows is what else `main` wants to do at the end. Inside one
    /// of the manager's own tasks it also ends when that task is asked to stop.
    #[must_use = "says why the wait is over"]
    pub fn wait(&self) -> Waited {
        if self.registry.ledger.is_forked() {
            return Waited::NothingLeft;
        }
        let request = self.registry.request.latch();
        let own_task = occupant::current_record().filter(|record| self.owns(record));
        if let Some(record) = own_task {
            latch::wait_any(
                &[request, record.token.node().beacon().latch()],
                Deadline::NEVER,
            );
            if let (false, Err(cancelled)) = (request.is_open(), record.token.checkpoint()) {
                return Waited::Cancelled(cancelled);
            }
        } else {
            latch::wait_any(&[request, &self.registry.idle()], Deadline::NEVER);
        }
        match self.registry.request.demand() {
            Some(demand) => Waited::Requested(demand.cause),
            None => Waited::NothingLeft,
        }
    }

    /// Asks for the shutdown and returns at once; `note` is for the one who reads the report.
    #[track_caller]
    pub fn request_shutdown(&self, note: impl Into<String>) {
        self.requester().request_shutdown(note);
    }

    /// Something that can ask for the shutdown from anywhere: another signal library, a GUI, a web framework.
    pub fn requester(&self) -> ShutdownRequester {
        ShutdownRequester(Arc::clone(&self.registry))
    }

    /// Skips what is left of the grace, as the second Ctrl-C does: everybody is asked at once and has 200 ms to answer.
    /// All groups at the same time, in no order: a sink may stop before what writes to it.
    ///
    /// Requests the shutdown as well, if nobody did. Returns at once.
    #[track_caller]
    pub fn hurry(&self) {
        self.requester().hurry();
    }

    /// Stops all tasks, groups in reverse order of creation, and waits for the report: at most the grace, unless a
    /// shutdown with another deadline is under way.
    ///
    /// Concurrent and later calls get the same report.
    ///
    /// # Errors
    /// [`ShutdownError::WouldDeadlock`] inside one of the manager's own tasks: the shutdown is requested, but that task
    /// cannot wait for itself. [`ShutdownError::Forked`] in a forked copy of the process.
    #[track_caller]
    pub fn shutdown(&self) -> Result<ShutdownReport, ShutdownError> {
        self.shutdown_by(Cause::here(CauseKind::Shutdown), None)
    }

    /// Like [`shutdown`](Self::shutdown), within `timeout` instead of the grace. The first deadline rules, later ones can
    /// only shorten it.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    #[track_caller]
    pub fn shutdown_timeout(&self, timeout: Duration) -> Result<ShutdownReport, ShutdownError> {
        self.shutdown_by(
            Cause::here(CauseKind::Shutdown),
            Some(Deadline::after(timeout)),
        )
    }

    /// Like [`shutdown`](Self::shutdown), until `deadline`. The first deadline rules, later ones can only shorten it.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    #[track_caller]
    pub fn shutdown_deadline(&self, deadline: Instant) -> Result<ShutdownReport, ShutdownError> {
        self.shutdown_by(
            Cause::here(CauseKind::Shutdown),
            Some(Deadline::at(deadline)),
        )
    }

    fn shutdown_by(
        &self,
        cause: Cause,
        deadline: Option<Deadline>,
    ) -> Result<ShutdownReport, ShutdownError> {
        if self.registry.ledger.is_forked() {
            return Err(ShutdownError::Forked);
        }
        self.registry.request.raise(cause, deadline);
        if self.is_own_task() {
            return Err(ShutdownError::WouldDeadlock);
        }
        Ok(self.wait_for_verdict())
    }

    /// Waits for the report; the drain does not wait for a callback that does so.
    fn wait_for_verdict(&self) -> ShutdownReport {
        self.registry.excuse_own_callback();
        self.verdict.wait()
    }

    /// Whether the caller is one of the manager's tasks.
    fn is_own_task(&self) -> bool {
        occupant::current_record().is_some_and(|record| self.owns(&record))
    }

    fn owns(&self, record: &Record) -> bool {
        Arc::ptr_eq(record.ledger(), &self.registry.ledger)
    }

    /// Joins the manager's own threads, which end with the report, unless a straggler or a logger holds one of them.
    fn dismiss_house(&self) {
        let warden = self.warden.lock().take();
        unwind::discard(warden.map(JoinHandle::join));
        if self.registry.is_empty() {
            let (most, least) = FAREWELL;
            let left = self
                .registry
                .request
                .demand()
                .and_then(|demand| demand.deadline.remaining());
            let patience = left.map_or(most, |left| left.clamp(least, most));
            self.courier.join(Deadline::after(patience));
        }
    }
}

impl Drop for Manager {
    /// A bounded shutdown. Inside one of the manager's own tasks it is only requested, and the warden does the rest.
    fn drop(&mut self) {
        if self.registry.ledger.is_forked() {
            return;
        }
        if self
            .registry
            .request
            .raise(Cause::from_outside(CauseKind::ManagerDropped), None)
        {
            log::say(
                Level::Warn,
                format_args!("the manager was dropped without a shutdown: stopping its tasks now"),
            );
        }
        if !self.is_own_task() {
            drop(self.wait_for_verdict());
            self.dismiss_house();
        }
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl ManagerBuilder {
    /// The time a shutdown may take in all, from the request to the report; 10 s without it.
    ///
    /// The environment variable `TASKMUSTER_GRACE`, in seconds with fractions, overrides it, so that whoever operates
    /// the program can fit it to the supervisor's own patience (Docker 10 s, Kubernetes 30 s, systemd 90 s). It holds for
    /// every manager of the process; a time given to `shutdown_timeout` stands. Empty, it counts as unset. A grace of
    /// `Duration::MAX` means for ever.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long everything goes on as before after a shutdown was requested; not at all without it.
    ///
    /// For services behind a load balancer that takes a while to send its requests elsewhere. Part of the grace.
    pub fn lame_duck(mut self, time: Duration) -> Self {
        self.phases.lame_duck = time;
        self
    }

    /// How long tasks that [end by themselves](TaskBuilder::drains) may take to finish what was begun, before anybody is
    /// asked to stop; not at all without it. Over as soon as they have. Part of the grace.
    ///
    /// Of the time of a shutdown a tenth is always kept for the stop itself; a second signal skips this time.
    pub fn drain(mut self, time: Duration) -> Self {
        self.phases.drain = time;
        self
    }

    /// The most tasks that may be live at once. Without it a sixth of the system's `vm.max_map_count`, bounded by the
    /// process's and its cgroup's limits: above about a quarter std would abort the process.
    pub fn max_tasks(mut self, tasks: usize) -> Self {
        self.max_tasks = Some(tasks);
        self
    }

    /// How many ended tasks are remembered, for the report; 256 without it. All are counted.
    pub fn history(mut self, tasks: usize) -> Self {
        self.history = tasks;
        self
    }

    /// Whether the library may chain into the process-wide panic hook, to learn where tasks panic; it does without it.
    pub fn panic_hook(mut self, policy: PanicHook) -> Self {
        self.panic_hook = policy;
        self
    }

    /// Makes the manager and starts its two house-keeping threads.
    ///
    /// # Errors
    /// [`BuildError`] when `TASKMUSTER_GRACE` is no number of seconds, the lame-duck and drain times leave nothing of the
    /// grace, or the system has no thread to give.
    pub fn build(self) -> Result<Manager, BuildError> {
        self.build_for(None)
    }

    fn build_for(self, body: Option<Arc<Body>>) -> Result<Manager, BuildError> {
        let settings = Settings {
            grace: grace_from_environment()?.unwrap_or(self.grace),
            max_tasks: self.max_tasks.unwrap_or_else(limits::default_max_tasks),
            history: self.history,
            panic_hook: self.panic_hook,
            phases: self.phases,
        };
        let before_stop = self.phases.lame_duck.saturating_add(self.phases.drain);
        if before_stop >= self.grace && !before_stop.is_zero() {
            return Err(BuildError::NoTimeToStop {
                before_stop,
                grace: self.grace,
            });
        }
        if cfg!(panic = "abort") {
            let line =
                format_args!("built with panic=abort: the first panic of a task ends the process");
            log::say(Level::Warn, line);
        }
        let (sender, errands) = mailbox();
        let registry = Arc::new(Registry::new(settings, sender));
        let courier = Courier::start(&registry, errands).map_err(BuildError::Os)?;
        let verdict = Verdict::new();
        let warden =
            start_warden(&registry, &courier, &verdict, body).inspect_err(|_| courier.close());
        Ok(Manager {
            root: Group::root(&registry),
            registry,
            courier,
            verdict,
            warden: Mutex::new(Some(warden.map_err(BuildError::Os)?)),
        })
    }

    /// Lends a new manager to `body`, then stops all tasks and gives the report: return it from `main`.
    ///
    /// The shutdown begins when the body returns, or earlier by a signal or a request; it runs on the manager's own
    /// thread, so a body that sits in [`TaskHandle::join`] is let go when that task stops. The body's `Err` makes exit
    /// code 1 and is in the report, unless it is a cancellation by this very shutdown. If the body panics, the tasks are
    /// stopped, the report is logged, and the panic goes on.
    ///
    /// When the manager cannot be [made](Self::build), the body does not run; the report says why, with exit code 1.
    #[track_caller]
    pub fn run(self, body: impl FnOnce(&Manager) -> TaskResult) -> ShutdownReport {
        let place = Location::caller();
        let watched = Arc::new(Body {
            place,
            over: Latch::new(),
        });
        let manager = match self.build_for(Some(Arc::clone(&watched))) {
            Ok(manager) => manager,
            Err(error) => return ShutdownReport::of_failed_start(place, &error),
        };
        let result = unwind::catch(|| body(&manager));
        watched.over.open();
        if manager.registry.ledger.is_forked() {
            unwind::discard(result);
            return ShutdownReport::of_fork(place);
        }
        let under_way = manager.registry.request.demand();
        let over =
            Cause::at_place(CauseKind::Shutdown, place).with_note("end of the body of `run`");
        manager.registry.request.raise(over, None);
        let report = manager.wait_for_verdict();
        drop(manager);
        match result {
            Ok(Ok(())) => report,
            Ok(Err(error)) => {
                // What the error does when it is asked, or dropped, costs nobody the report.
                let mut is_this_stop = false;
                unwind::contain(|| {
                    is_this_stop = under_way.is_some_and(|demand| {
                        cancelled::coming_from(&demand.cause, &*error).is_some()
                    });
                });
                let report = if is_this_stop {
                    report
                } else {
                    report.with_body_error(&*error)
                };
                unwind::discard(error);
                report
            }
            Err(payload) => {
                log::say(
                    Level::Error,
                    format_args!("the body of `run` panicked; {report}"),
                );
                unwind::resume(payload)
            }
        }
    }
}

fn start_warden(
    registry: &Arc<Registry>,
    courier: &Arc<Courier>,
    verdict: &Arc<Verdict>,
    body: Option<Arc<Body>>,
) -> io::Result<JoinHandle<()>> {
    let (registry, courier, verdict) = (
        Arc::clone(registry),
        Arc::clone(courier),
        Arc::clone(verdict),
    );
    start_thread("tm-warden".to_owned(), None, move || {
        drain::stand_guard(&registry, &courier, &verdict, body.as_deref());
    })
}

fn grace_from_environment() -> Result<Option<Duration>, BuildError> {
    let Some(value) = env::var_os(GRACE_VARIABLE) else {
        return Ok(None);
    };
    if value.is_empty() {
        return Ok(None);
    }
    let text = value.to_string_lossy();
    let seconds = text
        .trim()
        .parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .map(Some)
        .ok_or_else(|| BuildError::Grace(text.into_owned()))
}

/// Why [`Manager::wait`] returned.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Waited {
    /// The shutdown was requested, for this cause.
    Requested(Cause),
    /// No task is left.
    NothingLeft,
    /// The task that waited was itself asked to stop.
    Cancelled(Cancelled),
}

/// Asks a manager for its shutdown, from anywhere; made by [`Manager::requester`].
///
/// It owns no task and keeps none alive. After the manager's end it does nothing.
///
/// ```
/// use taskmuster::Manager;
///
/// let report = Manager::builder().run(|manager| {
///     let requester = manager.requester();
///     std::thread::spawn(move || requester.request_shutdown("the window was closed"));
///     manager.spawn::<()>("clock", |ctx| Err(ctx.wait().into()))?;
///     let _ = manager.wait();
///     Ok(())
/// });
/// assert_eq!(report.cause().note(), Some("the window was closed"));
/// assert!(report.is_clean());
/// ```
#[derive(Clone)]
#[must_use = "it does nothing until `request_shutdown` is called"]
pub struct ShutdownRequester(Arc<Registry>);

impl ShutdownRequester {
    /// Asks for the shutdown and returns at once; `note` is for the one who reads the report.
    #[track_caller]
    pub fn request_shutdown(&self, note: impl Into<String>) {
        self.0
            .request
            .raise(Cause::here(CauseKind::Shutdown).with_note(note), None);
    }

    /// Skips what is left of the grace, as the second Ctrl-C does: everybody is asked at once and has 200 ms to answer.
    /// All groups at the same time, in no order: a sink may stop before what writes to it.
    ///
    /// Requests the shutdown as well, if nobody did.
    #[track_caller]
    pub fn hurry(&self) {
        self.0
            .request
            .hurry(Cause::here(CauseKind::Shutdown).with_note("in a hurry"));
    }
}

impl fmt::Debug for ShutdownRequester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownRequester").finish_non_exhaustive()
    }
}

/// Why a manager could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The environment variable `TASKMUSTER_GRACE` has this value, which is no number of seconds.
    Grace(String),
    /// The lame-duck time and the drain time together leave nothing of the grace for the stop.
    NoTimeToStop {
        /// Both together.
        before_stop: Duration,
        /// The grace set in the builder.
        grace: Duration,
    },
    /// The system could not start a house-keeping thread.
    Os(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grace(value) => {
                write!(
                    f,
                    "{GRACE_VARIABLE}={value:?} is no number of seconds; write for example {GRACE_VARIABLE}=7.5"
                )
            }
            Self::NoTimeToStop { before_stop, grace } => write!(
                f,
                "lame_duck and drain take {} of a grace of {}: make the grace longer, it is the time for all of a shutdown",
                human(*before_stop),
                human(*grace)
            ),
            Self::Os(_) => f.write_str("the system could not start a thread of the manager"),
        }
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            Self::Grace(_) | Self::NoTimeToStop { .. } => None,
        }
    }
}

/// Why a shutdown gave no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShutdownError {
    /// The caller is a task of this manager: the shutdown was requested, but the task cannot wait for its own end.
    WouldDeadlock,
    /// This process is a fork of the one that owns the manager.
    Forked,
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WouldDeadlock => {
                "a task cannot wait for the shutdown that waits for it; it was requested, so return from the task"
            }
            Self::Forked => "this process is a fork of the one that owns the manager",
        })
    }
}

impl Error for ShutdownError {}
