//! Tasks that run again: after a failure, always, or on a schedule.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::log::{self, Level};
use crate::base::sync::{Receiver, Sender, bounded};
use crate::base::text::printable;
use crate::base::time::{self, Deadline, Duration, Instant, human};
use crate::base::unwind::{self, Contained, Payload};
use crate::cancel::wait::RecvError;
use crate::policy::backoff::Backoff;
use crate::policy::error::PolicyError;
use crate::policy::intensity::LimitPassed;
use crate::policy::random::Random;
use crate::policy::restart::{History, Restart};
use crate::policy::schedule::Schedule;
use crate::policy::ticks::{Next, Ticks};
use crate::policy::verdict::{Again, RunEnd, Verdict};
#[cfg(feature = "calendar")]
use crate::run::calendar::{Calendar, Page};
use crate::status::outcome::Failure;
use crate::status::panic::Panic;
use crate::task::context::{BoxError, TaskBody, TaskContext, TaskResult};
use crate::task::handle::TaskHandle;
use crate::task::panic;
use crate::task::record::OnDrain;
use crate::task::spawner::{SpawnError, SpawnFailure, TaskBuilder};

/// # Running again
impl TaskBuilder {
    /// Runs the task's body again when it has ended, as `restart` says.
    ///
    /// All runs are one task on one thread: a run never begins before the one before is over, and the task's name,
    /// number, token, handle and thread-locals stay. The value is that of the last run. While it waits for the next run, it
    /// hears its stop; a task that was cancelled is never run again: a run that ends after the stop is the last, and if it
    /// failed, so has the task. When the limit of restarts is passed, the task fails with [`GaveUp`], and its
    /// [`on_failure`](Self::on_failure) says what that means for others.
    ///
    /// A task that [drains](Self::drains) ends with the first run that completes after a shutdown has begun.
    ///
    /// Other settings come first, since what follows takes a body that can run more than once (`FnMut`).
    ///
    /// ```
    /// use std::time::Duration;
    /// use taskmuster::{Backoff, Manager, Restart};
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let mut refused = 2;
    ///     let upload = manager
    ///         .task("upload")
    ///         .restart(Restart::on_failure().backoff(Backoff::exponential(Duration::from_millis(1))))
    ///         .spawn(move |ctx| {
    ///             if refused > 0 {
    ///                 refused -= 1;
    ///                 return Err("refused".into());
    ///             }
    ///             Ok(ctx.attempt())
    ///         })?;
    ///     assert_eq!(upload.join()?, 3);
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    pub fn restart(self, restart: Restart) -> RepeatingTask {
        RepeatingTask {
            restart: Some(restart),
            ..RepeatingTask::new(self)
        }
    }

    /// Runs the task's body at a fixed rate: [`schedule`](Self::schedule)`(Schedule::every(period))`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use taskmuster::Manager;
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let beats = manager.task("heartbeat").every(Duration::from_millis(1)).spawn(|_| Ok(println!("alive")))?;
    ///     while beats.status().ticks < 3 { std::thread::yield_now(); }
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    pub fn every(self, period: Duration) -> RepeatingTask {
        self.schedule(Schedule::every(period))
    }

    /// Runs the task's body at the moments of `schedule`: one tick after the other, never two at once.
    ///
    /// A tick that fails or panics is logged and does not end the schedule, unless a [`Restart`] policy says so: then its
    /// limit counts the failures, and its backoff may delay the next tick. Ticks that came too late are skipped and
    /// counted, unless the schedule says otherwise. The value is that of the last tick that completed.
    ///
    /// It goes on until it is asked to stop, so it is not for a task that [drains](Self::drains).
    pub fn schedule(self, schedule: Schedule) -> RepeatingTask {
        RepeatingTask {
            schedule: Some(schedule),
            ..RepeatingTask::new(self)
        }
    }
}

/// # By the calendar
#[cfg(feature = "calendar")]
impl TaskBuilder {
    /// Runs the task's body at the moments of a [`Calendar`], which goes by the wall clock; for the rest like
    /// [`schedule`](Self::schedule).
    ///
    /// ```
    /// use taskmuster::{Calendar, Manager};
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let nightly = Calendar::parse("0 3 * * *")?;
    ///     manager.task("compact").calendar(nightly).spawn(|_| Ok(println!("compacting")))?;
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    pub fn calendar(self, calendar: Calendar) -> RepeatingTask {
        RepeatingTask {
            calendar: Some(calendar),
            ..RepeatingTask::new(self)
        }
    }
}

/// A task whose body may run more than once; made by [`TaskBuilder::restart`], [`every`](TaskBuilder::every),
/// [`schedule`](TaskBuilder::schedule), and `calendar` with that feature.
#[derive(Clone, Debug)]
#[must_use = "a task is started by `spawn`"]
pub struct RepeatingTask {
    task: TaskBuilder,
    restart: Option<Restart>,
    schedule: Option<Schedule>,
    #[cfg(feature = "calendar")]
    calendar: Option<Calendar>,
    trigger: Option<Trigger>,
    tick_timeout: Option<Duration>,
}

impl RepeatingTask {
    fn new(task: TaskBuilder) -> Self {
        Self {
            task,
            restart: None,
            schedule: None,
            #[cfg(feature = "calendar")]
            calendar: None,
            trigger: None,
            tick_timeout: None,
        }
    }

    /// What a failing run means for the next one. Without it a task on a schedule goes on with it.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = Some(restart);
        self
    }

    /// How long a run may take: then its context is cancelled, and the run counts as failed with a
    /// [`TimeoutError`](crate::TimeoutError).
    pub fn run_timeout(mut self, timeout: Duration) -> Self {
        self.tick_timeout = Some(timeout);
        self
    }

    /// Also runs the body when `trigger` is fired. Only with a schedule: without one, and with a calendar, the spawn is
    /// refused with [`PolicyError::NothingToTrigger`].
    pub fn trigger(mut self, trigger: &Trigger) -> Self {
        self.trigger = Some(trigger.clone());
        self
    }

    /// Starts the task; see [`Group::spawn`](crate::Group::spawn).
    ///
    /// # Errors
    /// [`SpawnError`], also when the restart policy or the schedule says something that could never happen:
    /// [`SpawnFailure::Policy`].
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        self,
        body: impl FnMut(&TaskContext) -> TaskResult<T> + Send + 'static,
    ) -> Result<TaskHandle<T>, SpawnError<T>> {
        let place = Location::caller();
        let checked = self.check();
        let task = self.task.clone();
        let body = self.into_body(body);
        match checked {
            Ok(()) => task.spawn_boxed(body, place),
            Err(error) => Err(task.refuse(SpawnFailure::Policy(error), body)),
        }
    }

    fn check(&self) -> Result<(), PolicyError> {
        self.restart.as_ref().map_or(Ok(()), Restart::check)?;
        if self.trigger.is_some() && self.schedule.is_none() {
            return Err(PolicyError::NothingToTrigger);
        }
        self.schedule.as_ref().map_or(Ok(()), Schedule::check)
    }

    /// The body of the whole task: all its runs, one after the other.
    pub(crate) fn into_body<T: 'static>(
        self,
        body: impl FnMut(&TaskContext) -> TaskResult<T> + Send + 'static,
    ) -> TaskBody<T> {
        let runs = |restart| Runs {
            body,
            restart,
            timeout: self.tick_timeout,
            history: History::new(),
            random: Random::from_entropy(),
        };
        #[cfg(feature = "calendar")]
        if let Some(calendar) = self.calendar {
            let runs = runs(self.restart.unwrap_or_else(goes_on));
            return runs.into_body(|runs, ctx| runs.by_calendar(ctx, calendar));
        }
        match self.schedule {
            None => {
                let runs = runs(self.restart.unwrap_or_default());
                runs.into_body(Runs::until_done)
            }
            Some(schedule) => {
                let restart = self.restart.unwrap_or_else(goes_on);
                let (runs, trigger) = (runs(restart), self.trigger);
                runs.into_body(move |runs, ctx| runs.on_schedule(ctx, schedule, trigger.as_ref()))
            }
        }
    }
}

/// What a task on a schedule does after a failure, if nobody says: it goes on with the next tick.
fn goes_on() -> Restart {
    Restart::on_failure().backoff(Backoff::none()).unlimited()
}

/// Has a task on a schedule run at once; see [`RepeatingTask::trigger`].
///
/// ```
/// use std::time::Duration;
/// use taskmuster::{Manager, Trigger};
///
/// let report = Manager::builder().run(|manager| {
///     let reload = Trigger::new();
///     let reloads = manager
///         .task("reload")
///         .every(Duration::MAX) // never by itself
///         .trigger(&reload)
///         .spawn(|_| Ok(println!("reloaded")))?;
///     reload.fire();
///     while reloads.status().ticks < 1 { std::thread::yield_now(); }
///     Ok(())
/// });
/// assert!(report.is_clean());
/// ```
#[derive(Clone, Debug)]
pub struct Trigger {
    sender: Sender<()>,
    receiver: Receiver<()>,
}

impl Trigger {
    /// A trigger for one task, or for several that share its shots.
    #[must_use]
    pub fn new() -> Self {
        let (sender, receiver) = bounded(1);
        Self { sender, receiver }
    }

    /// Has the task run as soon as it does not; `false` if an earlier shot is still to be heard: they become one.
    #[expect(clippy::must_use_candidate, reason = "one shot is as good as two")]
    pub fn fire(&self) -> bool {
        self.sender.try_send(()).is_ok()
    }
}

impl Default for Trigger {
    fn default() -> Self {
        Self::new()
    }
}

/// The runs of one task.
struct Runs<F> {
    body: F,
    restart: Restart,
    timeout: Option<Duration>,
    history: History,
    random: Random,
}

/// How one run ended.
enum Run<T> {
    Completed(T),
    Cancelled(BoxError),
    Failed(BoxError),
    Panicked(Payload),
}

/// A run that is over, and what the policy must know of it.
struct Ran<T> {
    run: Run<T>,
    end: RunEnd,
    lasted: Duration,
}

/// How a task ended. Its panic goes on when all it held is gone, lest that meets it on the way.
type Ended<T> = Result<TaskResult<T>, Payload>;

/// What follows a run.
enum Then<T> {
    /// The task is over.
    End(Ended<T>),
    /// The next run begins after this time at the earliest.
    After(Duration),
}

impl<F: Send + 'static> Runs<F> {
    /// A task's body that goes through the runs as `go` says.
    fn into_body<T: 'static>(
        self,
        go: impl FnOnce(&mut Self, &TaskContext) -> Ended<T> + Send + 'static,
    ) -> TaskBody<T> {
        Box::new(move |ctx| {
            let mut runs = self;
            let ended = go(&mut runs, ctx);
            wind_up(ended, runs)
        })
    }
}

/// Drops the body and what it captured. If that panics, so does a task that completed; one that has failed or panicked
/// keeps its first trouble.
fn wind_up<T, R>(ended: Ended<T>, runs: R) -> TaskResult<T> {
    match ended {
        Ok(Ok(value)) => {
            if let Err(payload) = unwind::catch(|| drop(runs)) {
                unwind::discard(value);
                unwind::resume(payload);
            }
            Ok(value)
        }
        Ok(Err(error)) => {
            unwind::discard(runs);
            Err(error)
        }
        Err(payload) => {
            unwind::discard(runs);
            unwind::resume(payload)
        }
    }
}

impl<T, F: FnMut(&TaskContext) -> TaskResult<T>> Runs<F> {
    /// One run after the other until the policy says that it was the last.
    fn until_done(&mut self, ctx: &TaskContext) -> Ended<T> {
        loop {
            let ran = self.run(ctx);
            match self.judge(ctx, ran) {
                Then::End(ended) => return ended,
                Then::After(delay) => {
                    if let Err(stopped) = ctx.sleep(delay) {
                        return Ok(Err(stopped.into()));
                    }
                }
            }
        }
    }

    /// One tick after the other until the schedule is over or the policy ends it.
    fn on_schedule(
        &mut self,
        ctx: &TaskContext,
        schedule: Schedule,
        trigger: Option<&Trigger>,
    ) -> Ended<T> {
        let mut ticks = Ticks::new(schedule, time::now(), self.random.draw());
        let mut not_before = Deadline::at(time::now());
        let mut last = None;
        loop {
            let cue = match wait_for_tick(ctx, ticks.next(), not_before, trigger) {
                Ok(Some(cue)) => cue,
                Ok(None) => return Ok(value_of(last, "schedule")),
                Err(stopped) => return Ok(Err(stopped)),
            };
            let began = time::now();
            let ran = self.run(ctx);
            let ended = time::now();
            let missed = match cue {
                Cue::Time => ticks.ticked(began, ended, self.random.draw()),
                Cue::Trigger => {
                    ticks.triggered(ended, self.random.draw());
                    0
                }
            };
            ctx.record().count_tick(missed);
            not_before = Deadline::at(ended);
            match ran.run {
                Run::Completed(value) => last = Some(Contained::new(value)),
                _ => match self.judge(ctx, ran) {
                    Then::End(ended) => return ended,
                    Then::After(delay) => not_before = Deadline::counted_from(ended, delay),
                },
            }
        }
    }

    /// One tick after the other until there is none to come or the policy ends it.
    #[cfg(feature = "calendar")]
    fn by_calendar(&mut self, ctx: &TaskContext, calendar: Calendar) -> Ended<T> {
        let (mut page, mut last) = (Page::new(calendar), None);
        loop {
            let missed = match page.wait(ctx) {
                Ok(Some(missed)) => missed,
                Ok(None) => return Ok(value_of(last, "calendar")),
                Err(stopped) => return Ok(Err(stopped.into())),
            };
            let ran = self.run(ctx);
            ctx.record().count_tick(missed);
            match ran.run {
                Run::Completed(value) => last = Some(Contained::new(value)),
                _ => match self.judge(ctx, ran) {
                    Then::End(ended) => return ended,
                    Then::After(delay) => {
                        if let Err(stopped) = ctx.sleep(delay) {
                            return Ok(Err(stopped.into()));
                        }
                    }
                },
            }
        }
    }

    fn run(&mut self, ctx: &TaskContext) -> Ran<T> {
        ctx.record().begin_attempt(self.history.attempt());
        let began = time::now();
        let (body, timeout) = (&mut self.body, self.timeout);
        // What an error says of itself is the user's code as well: a panic there is one of the run.
        let (run, end) = match unwind::catch(|| once(ctx, body, timeout)) {
            Ok(ended) => ended,
            Err(payload) => (Run::Panicked(payload), RunEnd::Panicked),
        };
        let lasted = time::now().saturating_duration_since(began);
        Ran { run, end, lasted }
    }

    fn judge(&mut self, ctx: &TaskContext, ran: Ran<T>) -> Then<T> {
        let Ran { run, end, lasted } = ran;
        // There is none after it: what came of it is what came of the task, as of any other.
        if ctx.is_cancelled() || (end == RunEnd::Completed && ends_with_drain(ctx)) {
            return Then::End(run.ended());
        }
        let (now, random) = (time::now(), self.random.draw());
        match self
            .restart
            .decide(&mut self.history, end, lasted, now, random)
        {
            Verdict::Stop(_) => Then::End(run.ended()),
            Verdict::GiveUp(limit) => Then::End(Ok(Err(run.give_up(ctx, limit).into()))),
            Verdict::Again(again) => {
                run.tell(ctx, again);
                ctx.group().registry().count_restart();
                unwind::discard(run);
                Then::After(again.delay)
            }
        }
    }
}

/// Whether the task is one that ends by itself when a shutdown begins, and one has begun.
fn ends_with_drain(ctx: &TaskContext) -> bool {
    ctx.record().on_drain == OnDrain::Ends && ctx.is_draining()
}

/// One run of the body, and what its error says of it.
fn once<T>(
    ctx: &TaskContext,
    body: &mut impl FnMut(&TaskContext) -> TaskResult<T>,
    timeout: Option<Duration>,
) -> (Run<T>, RunEnd) {
    let result = match timeout {
        None => body(ctx),
        Some(timeout) => ctx.with_timeout(timeout, body).map_err(BoxError::from),
    };
    match result {
        Ok(value) => (Run::Completed(value), RunEnd::Completed),
        Err(error) if ctx.own_cancelled(&*error).is_some() => {
            (Run::Cancelled(error), RunEnd::Cancelled)
        }
        Err(error) => {
            let end = RunEnd::failed(&*error);
            (Run::Failed(error), end)
        }
    }
}

/// The value of the last tick that completed.
fn value_of<T>(last: Option<Contained<T>>, ticks_of: &str) -> TaskResult<T> {
    let value = last.and_then(Contained::take);
    value.ok_or_else(|| format!("no tick of the {ticks_of} has completed").into())
}

/// What a tick begins for.
#[derive(Clone, Copy)]
enum Cue {
    Time,
    Trigger,
}

/// Waits for the next tick; `None` when the schedule is over.
fn wait_for_tick(
    ctx: &TaskContext,
    next: Next,
    not_before: Deadline,
    trigger: Option<&Trigger>,
) -> TaskResult<Option<Cue>> {
    let moment = match next {
        Next::Ended => return Ok(None),
        Next::At(moment) => Deadline::at(moment).later(not_before).instant(),
        Next::Never => None,
    };
    let cue = match (trigger, moment) {
        (None, None) => return Err(ctx.wait().into()),
        (None, Some(moment)) => {
            ctx.sleep_until(moment)?;
            Cue::Time
        }
        (Some(trigger), moment) => match wait_for_shot(ctx, trigger, moment) {
            Ok(()) => Cue::Trigger,
            Err(RecvError::Timeout) => Cue::Time,
            Err(error) => return Err(error.into()),
        },
    };
    Ok(Some(cue))
}

fn wait_for_shot(
    ctx: &TaskContext,
    trigger: &Trigger,
    moment: Option<Instant>,
) -> Result<(), RecvError> {
    match moment {
        Some(moment) => ctx.recv_deadline(&trigger.receiver, moment),
        None => ctx.recv(&trigger.receiver),
    }
}

impl<T> Run<T> {
    fn ended(self) -> Ended<T> {
        match self {
            Self::Completed(value) => Ok(Ok(value)),
            Self::Cancelled(error) | Self::Failed(error) => Ok(Err(error)),
            Self::Panicked(payload) => Err(payload),
        }
    }

    /// Tells of a run that is followed by another one.
    fn tell(&self, ctx: &TaskContext, again: Again) {
        let name = ctx.name();
        let next = match again.delay {
            Duration::ZERO => "running it again".to_owned(),
            delay => format!("running it again in {}", human(delay)),
        };
        let level = match self {
            Self::Completed(_) => Level::Debug,
            _ => Level::Warn,
        };
        let end = self.words(ctx.attempt());
        log::say(level, format_args!("task `{name}` {end}; {next}"));
    }

    /// The attempt comes first: a message may be long.
    fn words(&self, attempt: u32) -> String {
        match self {
            Self::Completed(_) => format!("completed attempt {attempt}"),
            Self::Cancelled(_) => format!("was cancelled in attempt {attempt}"),
            Self::Failed(error) => {
                let failure = Failure::of(&**error);
                format!("failed in attempt {attempt}: {failure}")
            }
            Self::Panicked(payload) => {
                let place = panic::place_of(&**payload);
                let place = place.map_or_else(String::new, |place| format!(" at {place}"));
                let message = unwind::message(&**payload).unwrap_or("no text");
                let message = printable(message);
                format!("panicked in attempt {attempt}{place}: {message}")
            }
        }
    }

    /// The last failure of a task that was restarted too often.
    fn give_up(self, ctx: &TaskContext, limit: LimitPassed) -> GaveUp {
        let last: BoxError = match self {
            Self::Failed(error) | Self::Cancelled(error) => error,
            Self::Completed(value) => {
                unwind::discard(value);
                "it completed".into()
            }
            Self::Panicked(payload) => {
                let place = panic::take_place(&*payload);
                let seen = ctx.record().pulse.place();
                Box::new(Panic::new(
                    &ctx.record().path,
                    payload,
                    place,
                    seen,
                    ctx.attempt(),
                ))
            }
        };
        GaveUp::new(&ctx.record().path, ctx.attempt(), limit, last)
    }
}

/// The error of a task that was restarted too often: its last failure is the source.
#[derive(Debug)]
pub struct GaveUp {
    task: Arc<str>,
    attempts: u32,
    limit: LimitPassed,
    last: BoxError,
}

impl GaveUp {
    pub(crate) fn new(task: &Arc<str>, attempts: u32, limit: LimitPassed, last: BoxError) -> Self {
        Self {
            task: Arc::clone(task),
            attempts,
            limit,
            last,
        }
    }

    /// The name of the task.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.task
    }

    /// How many times it ran.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "gave up after {} attempts: {}",
            self.attempts, self.limit
        )
    }
}

impl Error for GaveUp {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.last)
    }
}
