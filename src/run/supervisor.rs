//! Tasks that are restarted together, as in Erlang's supervisors.
//!
//! Words: a *child* is a task of a supervisor and its place in the order of start; it may run many times, each time as a
//! task of its own. A child is *down* when it has ended and is not to run again by itself.
//!
//! Invariants:
//!
//! 1. A child has at most one live task. It is started only when the one before has ended and its thread-locals are gone;
//!    one that does not end within its grace is a failure of the supervisor.
//! 2. Children are started in order, each when the one before is ready, and stopped in reverse order, each awaited.
//! 3. A child that was cancelled, by itself or by somebody else, is down for good, however it ended and whoever else is
//!    restarted. One that the supervisor itself stopped for a restart is started again, unless it is temporary.
//! 4. The end of a task that is not its child's present one is old news, and ignored.
//! 5. Each child is in a group of its own, made in the order of start, so that a shutdown asks them in reverse order too.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::base::log::{self, Level};
use crate::base::sync::Receiver;
use crate::base::time::{self, Deadline, Duration, Instant, human};
use crate::cancel::wait::RecvError;
use crate::policy::error::PolicyError;
use crate::policy::random::Random;
use crate::policy::restart::{History, Restart};
use crate::policy::verdict::{RunEnd, Verdict};
use crate::run::hands::Shelf;
use crate::run::repeat::GaveUp;
use crate::run::startup::StartError;
use crate::status::outcome::{Failure, Outcome, SharedError};
use crate::status::state::{TaskEnd, TaskId};
use crate::task::context::{BoxError, TaskContext, TaskResult};
use crate::task::group::Group;
use crate::task::handle::{ReadyError, TaskHandle};
use crate::task::spawner::{SpawnFailure, TaskBuilder};

/// How long a child may take to stop before the supervisor gives up, if it has no grace of its own.
const GRACE: Duration = Duration::from_secs(5);

/// How long the start of a supervisor may take besides the times of its children.
const READY: Duration = Duration::from_secs(30);

/// Who is restarted when a child fails: Erlang's strategies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// The child alone: while it waits for its restart, the others are cared for.
    #[default]
    OneForOne,
    /// All children: the others are stopped in reverse order of start, then all are started in order.
    OneForAll,
    /// The child and those started after it: these are stopped in reverse order, then all of them started in order.
    RestForOne,
}

/// Tasks that are restarted together: when one fails, the [`Strategy`] says who is stopped and started anew.
///
/// The supervisor is a task itself, and its children are tasks of a group of its name. When they are restarted too often,
/// it stops them all and fails with [`GaveUp`]; what that means for others is its own task's
/// [`on_failure`](crate::TaskBuilder::on_failure), and a supervisor around it may restart it. When it is cancelled, it
/// stops its children in reverse order of start. A child that does not stop within its grace is the error of the
/// supervisor, or in the log if that has another one. It completes when all of them are down.
///
/// For a single task that runs again, [`TaskBuilder::restart`](crate::TaskBuilder::restart) is enough.
///
/// ```
/// use std::time::Duration;
/// use taskmuster::{Backoff, Child, Manager, Restart, Strategy, Supervisor};
///
/// let report = Manager::builder().run(|manager| {
///     let restart = Restart::on_failure().backoff(Backoff::none()).limit(3, Duration::from_secs(5));
///     let ingest = Supervisor::new(Strategy::RestForOne)
///         .restart(restart)
///         .child(Child::new("connection", |ctx| { ctx.wait(); Ok(()) }))
///         .child(Child::new("reader", move |ctx| {
///             ctx.checkpoint()?;
///             Ok(()) // a transient child that completes is down
///         }));
///     let ingest = manager.task("ingest").supervise(ingest)?;
///     ingest.cancel();
///     Ok(())
/// });
/// assert!(report.is_clean());
/// ```
#[derive(Debug)]
#[must_use = "nothing is started before it is supervised"]
pub struct Supervisor {
    strategy: Strategy,
    restart: Restart,
    children: Vec<Child>,
}

impl Supervisor {
    /// A supervisor without children.
    pub fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            restart: Restart::on_failure(),
            children: Vec::new(),
        }
    }

    /// How often and after what delay children are restarted, all together: the limit counts every restart of the
    /// supervisor, however many children it concerns. [`Restart::on_failure`] with its defaults, without it.
    ///
    /// A limit that can never be passed is refused, as by [`Restart::check`]; but where several children are restarted one
    /// for one, their delays pass side by side, and any window is long enough.
    ///
    /// Which ends lead to a restart is up to each [`Child`], not to this policy. But an error that is marked as
    /// [`Permanent`](crate::Permanent) ends the supervisor with that error, and those around it as well.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Adds a child; children are started in the order in which they were added.
    pub fn child(mut self, child: Child) -> Self {
        self.children.push(child);
        self
    }

    /// Runs the children in a group `name` beside the calling task, until that is asked to stop, all of them are down, or
    /// the limit of restarts is passed: for a supervisor that is itself the child of one.
    ///
    /// # Errors
    /// The task's own cancellation; [`GaveUp`]; the error of a child that could not be started at first.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use taskmuster::{Child, Manager, Strategy, Supervisor};
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let mut inner = Supervisor::new(Strategy::OneForAll)
    ///         .child(Child::new("worker", |ctx| { ctx.wait(); Ok(()) }));
    ///     let outer = Supervisor::new(Strategy::OneForOne)
    ///         .child(Child::new("inner", move |ctx| inner.run(ctx, "inner")));
    ///     manager.task("outer").supervise(outer)?;
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    pub fn run(&mut self, ctx: &TaskContext, name: impl AsRef<str>) -> TaskResult {
        self.check()?;
        let group = ctx.group().group(name);
        Nursery::new(self, ctx, &group).run()
    }

    /// Whether the policy of restarts can do what it says.
    fn check(&self) -> Result<(), PolicyError> {
        if self.strategy == Strategy::OneForOne && self.children.len() > 1 {
            return self.restart.check_side_by_side();
        }
        self.restart.check()
    }

    /// How long the start may take: each child its own time, and some more for the threads.
    fn patience(&self) -> Duration {
        let children = self.children.iter();
        let times = children.map(|child| child.ready_within.unwrap_or_default());
        times.fold(READY, Duration::saturating_add)
    }
}

impl TaskBuilder {
    /// Starts a supervisor and returns when its children are started.
    ///
    /// # Errors
    /// [`StartError`] when the policy of restarts could never do what it says, the supervisor was not accepted, or a
    /// child could not be started; those before it are stopped again.
    #[track_caller]
    pub fn supervise(self, supervisor: Supervisor) -> Result<TaskHandle<()>, StartError> {
        let (patience, name) = (supervisor.patience(), self.own_name().to_owned());
        let mut supervisor = supervisor;
        self.spawn_ready(patience, move |ctx| supervisor.run(ctx, &name))
    }
}

/// A task of a [`Supervisor`], and when it is to run again.
///
/// Each run is a task of its own; [`TaskContext::attempt`] says which one it is. A child that was cancelled, by itself or by
/// somebody other than its supervisor, is never started again.
#[must_use = "a child does nothing without its supervisor"]
pub struct Child {
    name: String,
    kind: Kind,
    grace: Duration,
    ready_within: Option<Duration>,
    body: Shelf,
}

/// When a child is to run again: Erlang's restart types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Permanent,
    Transient,
    Temporary,
}

impl Child {
    /// A child that is restarted when it fails or panics: a *transient* one.
    pub fn new(
        name: impl Into<String>,
        body: impl FnMut(&TaskContext) -> TaskResult + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            kind: Kind::Transient,
            grace: GRACE,
            ready_within: None,
            body: Shelf::new(body),
        }
    }

    /// It is restarted when it completes, too.
    pub fn permanent(mut self) -> Self {
        self.kind = Kind::Permanent;
        self
    }

    /// It is never restarted, and its failure restarts nobody. When others are restarted, it is stopped for good.
    pub fn temporary(mut self) -> Self {
        self.kind = Kind::Temporary;
        self
    }

    /// How long it may take to stop, 5 s without it. A child that takes longer is a failure of the supervisor: a second
    /// one is never started beside it.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Whether the manager waits for it to be ready.
    fn readiness(&self) -> bool {
        self.ready_within.is_some()
    }

    /// It counts as started when it says that it is [ready](TaskContext::ready), at most after this time. Without it, it
    /// is as soon as its thread is created.
    pub fn ready_within(mut self, timeout: Duration) -> Self {
        self.ready_within = Some(timeout);
        self
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A supervisor at work.
struct Nursery<'a> {
    ctx: &'a TaskContext,
    strategy: Strategy,
    restart: &'a Restart,
    history: History,
    random: Random,
    children: Vec<Place<'a>>,
    ends: Receiver<TaskEnd>,
    /// No child is started any more.
    is_over: bool,
}

/// The place of a child in the order of start.
struct Place<'a> {
    child: &'a Child,
    group: Group,
    present: Option<TaskHandle<()>>,
    /// Its task before, of whose thread something may be left.
    past: Option<TaskHandle<()>>,
    /// When it is started again, if it waits for that alone: meanwhile the others are cared for.
    due: Option<Deadline>,
    began: Instant,
    /// How often it was started.
    starts: u32,
    /// Temporary and over, or cancelled: never started again (3).
    gone: bool,
}

impl Place<'_> {
    fn is_in_use(&self) -> bool {
        self.present.is_some() || self.due.is_some()
    }
}

impl<'a> Nursery<'a> {
    fn new(supervisor: &'a Supervisor, ctx: &'a TaskContext, group: &Group) -> Self {
        let place = |child| Place {
            child,
            group: group.nameless_group(),
            present: None,
            past: None,
            due: None,
            began: time::now(),
            starts: 0,
            gone: false,
        };
        Self {
            ctx,
            strategy: supervisor.strategy,
            restart: &supervisor.restart,
            history: History::new(),
            random: Random::from_entropy(),
            children: supervisor.children.iter().map(place).collect(),
            ends: group.ends(),
            is_over: false,
        }
    }

    fn run(mut self) -> TaskResult {
        let result = self.tend();
        self.is_over = true;
        // Whatever the reason, nobody is left behind (2).
        let stopped = self.stop_from(0);
        self.first_of(result, stopped)
    }

    /// The first of two errors, which is the cause; the other one is logged.
    fn first_of(&self, first: TaskResult, second: TaskResult) -> TaskResult {
        let (Err(_), Err(error)) = (&first, &second) else {
            return first.and(second);
        };
        let me = self.ctx.name();
        log::say(Level::Error, format_args!("supervisor `{me}`: {error}"));
        first
    }

    fn tend(&mut self) -> TaskResult {
        self.start_from(0).map_err(NotStarted::into_error)?;
        self.ctx.ready();
        while self.children.iter().any(Place::is_in_use) {
            match self.hear_end_or_due() {
                Ok(end) => {
                    if let Some(index) = self.index_of(end.id) {
                        self.hear_end(index, &end)?;
                    }
                }
                Err(RecvError::Timeout) => self.start_due()?,
                Err(stopped) => return Err(stopped.into()),
            }
        }
        let is_cancelled = |place: &Place<'_>| place.group.token().is_cancelled();
        if self.ctx.is_stop_ahead() && self.children.iter().any(is_cancelled) {
            // They are down because of the stop, which comes before the supervisor's own (5).
            return Err(self.ctx.wait().into());
        }
        Ok(())
    }

    /// The next end; [`RecvError::Timeout`] when a child is due before.
    fn hear_end_or_due(&self) -> Result<TaskEnd, RecvError> {
        let due = self.children.iter().filter_map(|place| place.due);
        let first = due.fold(Deadline::NEVER, Deadline::earlier);
        match first.instant() {
            Some(moment) => self.ctx.recv_deadline(&self.ends, moment),
            None => self.ctx.recv(&self.ends),
        }
    }

    /// Starts the children whose delay is over.
    fn start_due(&mut self) -> TaskResult {
        for index in 0..self.children.len() {
            let place = self.children.get_mut(index);
            let due = place.and_then(|place| place.due.take_if(|due| due.has_passed()));
            if due.is_some() {
                match self.start(index) {
                    Ok(()) => {}
                    Err(NotStarted::Failed(index, why)) => {
                        self.restart_after(index, why, Duration::ZERO)?;
                    }
                    Err(fatal) => return Err(fatal.into_error()),
                }
            }
        }
        Ok(())
    }

    /// Whose present task this is (4).
    fn index_of(&self, id: TaskId) -> Option<usize> {
        let is_present = |place: &Place<'_>| place.present.as_ref().is_some_and(|it| it.id() == id);
        self.children.iter().position(is_present)
    }

    fn hear_end(&mut self, index: usize, end: &TaskEnd) -> TaskResult {
        let Some(place) = self.children.get_mut(index) else {
            return Ok(());
        };
        let Some(handle) = place.present.take() else {
            return Ok(());
        };
        let kind = place.child.kind;
        place.gone = kind == Kind::Temporary;
        if handle.token().is_cancelled() {
            // Not by the supervisor (3); a failure is for whoever asked it to stop.
            place.gone = true;
            place.past = Some(handle);
            return Ok(());
        }
        let ran = time::now().saturating_duration_since(place.began);
        let why = EndedByItself::new(&handle, end.outcome.clone(), "");
        // A failure is the supervisor's business now: it counts as read.
        let is_due = match handle.outcome() {
            Some(Outcome::Failed(_) | Outcome::Panicked(_)) => kind != Kind::Temporary,
            Some(Outcome::Completed) => kind == Kind::Permanent,
            _ => false,
        };
        place.past = Some(handle);
        if is_due {
            self.restart_after(index, why.into(), ran)
        } else {
            Ok(())
        }
    }

    /// Restarts whom the strategy names, until that succeeds or was tried too often; a child alone when it is due.
    fn restart_after(&mut self, index: usize, why: BoxError, ran: Duration) -> TaskResult {
        let (mut index, mut why, mut ran) = (index, why, ran);
        loop {
            let delay = self.admit_restart(index, why, ran)?;
            let first = match self.strategy {
                Strategy::OneForOne => {
                    if let Some(place) = self.children.get_mut(index) {
                        place.due = Some(Deadline::after(delay));
                    }
                    return Ok(());
                }
                Strategy::RestForOne => index,
                Strategy::OneForAll => 0,
            };
            self.stop_from(first)?;
            self.ctx.sleep(delay)?;
            match self.start_from(first) {
                Ok(()) => return Ok(()),
                // A child that fails to start again is one more restart, as in Erlang.
                Err(NotStarted::Failed(failed, error)) => {
                    (index, why, ran) = (failed, error, Duration::ZERO);
                }
                Err(fatal) => return Err(fatal.into_error()),
            }
        }
    }

    /// Enters a restart into the books: its delay, or the end of the supervisor.
    fn admit_restart(
        &mut self,
        index: usize,
        why: BoxError,
        ran: Duration,
    ) -> Result<Duration, BoxError> {
        let (now, random) = (time::now(), self.random.draw());
        let (name, end) = (self.name_of(index), RunEnd::failed(&*why));
        match self
            .restart
            .decide(&mut self.history, end, ran, now, random)
        {
            Verdict::Again(again) => {
                let (me, whom, why) = (self.ctx.name(), self.whom(), Failure::of(&*why));
                let after = match again.delay {
                    Duration::ZERO => String::new(),
                    delay => format!(" in {}", human(delay)),
                };
                log::say(
                    Level::Warn,
                    format_args!("supervisor `{me}`: {why}; restarting {whom}{after}"),
                );
                self.ctx.group().registry().count_restart();
                Ok(again.delay)
            }
            Verdict::GiveUp(limit) => {
                let attempts = self.history.attempt();
                Err(GaveUp::new(&name, attempts, limit, why).into())
            }
            Verdict::Stop(_) => Err(why),
        }
    }

    fn whom(&self) -> &'static str {
        match self.strategy {
            Strategy::OneForOne => "it",
            Strategy::OneForAll => "all children",
            Strategy::RestForOne => "it and those after it",
        }
    }

    fn name_of(&self, index: usize) -> Arc<str> {
        let place = self.children.get(index);
        place.map_or_else(|| Arc::from(""), |place| place.child.name.as_str().into())
    }

    // ---- starting and stopping ----

    /// Starts those from `first` on in order (2).
    fn start_from(&mut self, first: usize) -> Result<(), NotStarted> {
        (first..self.children.len()).try_for_each(|index| self.start(index))
    }

    fn start(&mut self, index: usize) -> Result<(), NotStarted> {
        let ctx = self.ctx;
        let Some(place) = self.children.get_mut(index) else {
            return Ok(());
        };
        if place.gone || place.present.is_some() {
            return Ok(());
        }
        let child = place.child;
        let stop = ctx.token().node().beacon().latch();
        if let Some(past) = place.past.take() {
            if !past.wait_until_gone(child.grace, stop) {
                let stays = DoesNotStop::new(&past, child);
                let stopped = ctx.checkpoint().map_err(Into::into);
                return Err(NotStarted::Fatal(stopped.err().unwrap_or(stays.into())));
            }
        }
        let body = child.body.clone();
        let task = place
            .group
            .task(&child.name)
            .counts_for_readiness(child.readiness());
        place.began = time::now();
        place.starts = place.starts.saturating_add(1);
        let attempt = place.starts;
        let started = task.spawn(move |ctx| {
            if attempt > 1 {
                ctx.record().begin_attempt(attempt);
            }
            body.run(ctx)
        });
        let handle = match started {
            Ok(handle) => handle,
            Err(error) if !matches!(error.failure(), SpawnFailure::Stopping) => {
                return Err(NotStarted::Failed(index, error.into()));
            }
            // The stop of the children comes before the supervisor's own.
            Err(_) if ctx.is_stop_ahead() => return Err(NotStarted::Fatal(ctx.wait().into())),
            Err(_) => {
                // The child has cancelled its own group, for good (3).
                place.gone = true;
                return Ok(());
            }
        };
        if let Some(timeout) = child.ready_within {
            if let Err(error) = handle.wait_ready_or(timeout, Some(stop)) {
                if let Err(stopped) = ctx.checkpoint() {
                    // Not ready, but there: it is stopped in its turn (2).
                    place.present = Some(handle);
                    return Err(NotStarted::Fatal(stopped.into()));
                }
                let by_others = !handle.cancel() && handle.token().is_cancelled();
                if !handle.wait_end(child.grace) {
                    return Err(NotStarted::Fatal(DoesNotStop::new(&handle, child).into()));
                }
                ctx.checkpoint()
                    .map_err(|stopped| NotStarted::Fatal(stopped.into()))?;
                if by_others {
                    // For good (3), ready or not; unless that was the stop of all.
                    place.gone = true;
                    return if ctx.is_stop_ahead() {
                        Err(NotStarted::Fatal(ctx.wait().into()))
                    } else {
                        tell_failure(&handle);
                        Ok(())
                    };
                }
                // Read, whether it failed before its time was over or only when it was stopped.
                let why = match (error, handle.outcome()) {
                    (ReadyError::Ended { outcome, .. }, _) => {
                        EndedByItself::new(&handle, outcome, " before it was ready").into()
                    }
                    (error, _) => error.into(),
                };
                place.past = Some(handle);
                return Err(NotStarted::Failed(index, why));
            }
        }
        place.present = Some(handle);
        Ok(())
    }

    /// Stops those from `first` on in reverse order, each awaited (2).
    fn stop_from(&mut self, first: usize) -> TaskResult {
        let mut result = Ok(());
        for index in (first..self.children.len()).rev() {
            let stopped = self.stop(index);
            result = self.first_of(result, stopped);
        }
        result
    }

    fn stop(&mut self, index: usize) -> TaskResult {
        let Some(place) = self.children.get_mut(index) else {
            return Ok(());
        };
        place.gone |= place.child.kind == Kind::Temporary;
        let Some(handle) = place.present.take() else {
            return Ok(());
        };
        let by_others = !handle.cancel() && handle.token().is_cancelled();
        place.gone |= by_others;
        if !handle.wait_end(place.child.grace) {
            return Err(DoesNotStop::new(&handle, place.child).into());
        }
        // One that is not to be started again keeps its failure for whoever reads it.
        if !self.is_over && !by_others {
            tell_failure(&handle);
        }
        place.past = Some(handle);
        Ok(())
    }
}

/// The log has the failure of a child that was stopped: it counts as read.
fn tell_failure(handle: &TaskHandle<()>) {
    let failure = handle.peek_outcome().filter(Outcome::is_failure);
    if let Some(outcome) = failure {
        drop(handle.outcome());
        let name = handle.name();
        log::say(
            Level::Warn,
            format_args!("supervisor: `{name}` {outcome} when it was stopped"),
        );
    }
}

/// Why a child was not started.
enum NotStarted {
    /// Which one, and why; it may be tried again.
    Failed(usize, BoxError),
    /// There is no point in trying again.
    Fatal(BoxError),
}

impl NotStarted {
    fn into_error(self) -> BoxError {
        match self {
            Self::Failed(_, error) | Self::Fatal(error) => error,
        }
    }
}

/// A child has ended that was to go on; the source is its error, with all that it is marked with.
#[derive(Debug)]
struct EndedByItself {
    child: Arc<str>,
    outcome: Outcome,
    error: Option<SharedError>,
    when: &'static str,
}

impl EndedByItself {
    fn new(handle: &TaskHandle<()>, outcome: Outcome, when: &'static str) -> Self {
        Self {
            child: handle.name().into(),
            outcome,
            error: handle.peek_error(),
            when,
        }
    }
}

impl fmt::Display for EndedByItself {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (child, when) = (&self.child, self.when);
        match self.error {
            Some(_) => write!(f, "`{child}` failed{when}"),
            None => write!(f, "`{child}` {}{when}", self.outcome),
        }
    }
}

impl Error for EndedByItself {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.as_ref().map(|error| &**error as _)
    }
}

/// A child, or what is left of its thread, was still there after its grace, so it could not be started again.
#[derive(Debug)]
struct DoesNotStop {
    child: Arc<str>,
    grace: Duration,
}

impl DoesNotStop {
    fn new(handle: &TaskHandle<()>, child: &Child) -> Self {
        Self {
            child: handle.name().into(),
            grace: child.grace,
        }
    }
}

impl fmt::Display for DoesNotStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (child, grace) = (&self.child, human(self.grace));
        write!(
            f,
            "`{child}` did not stop within its grace of {grace}, and is not started a second time beside itself"
        )
    }
}

impl Error for DoesNotStop {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::backoff::Backoff;

    #[test]
    fn a_window_that_is_too_short_for_one_child_is_refused_where_no_two_delays_pass_side_by_side() {
        let half = Duration::from_millis(500);
        let checked = |strategy, children, limit: (u32, Duration)| {
            let restart = Restart::on_failure().backoff(Backoff::constant(half));
            let supervisor = Supervisor::new(strategy).restart(restart.limit(limit.0, limit.1));
            let children = (0..children).map(|_| Child::new("child", |_| Ok(())));
            children.fold(supervisor, Supervisor::child).check()
        };
        let short = (5, half * 2);
        let is_too_short = |strategy, children| {
            let checked = checked(strategy, children, short);
            matches!(checked, Err(PolicyError::WindowTooShort { .. }))
        };
        assert!(is_too_short(Strategy::OneForOne, 1));
        assert!(is_too_short(Strategy::OneForAll, 10));
        assert!(is_too_short(Strategy::RestForOne, 10));
        assert_eq!(checked(Strategy::OneForOne, 2, short), Ok(()));
        for (restarts, window, error) in [
            (0, half, PolicyError::NoRestarts),
            (5, Duration::ZERO, PolicyError::NoWindow),
        ] {
            let checked = checked(Strategy::OneForOne, 10, (restarts, window));
            assert_eq!(checked, Err(error));
        }
    }

    #[test]
    fn each_child_has_its_whole_time_to_become_ready() {
        let child = || Child::new("child", |_| Ok(()));
        let slow = Duration::from_secs(600);
        let supervisor = Supervisor::new(Strategy::OneForOne)
            .child(child().ready_within(slow))
            .child(child())
            .child(child().ready_within(slow));
        assert_eq!(supervisor.patience(), slow * 2 + READY);
        let endless = supervisor.child(child().ready_within(Duration::MAX));
        assert_eq!(endless.patience(), Duration::MAX);
    }
}
