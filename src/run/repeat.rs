//! Tasks that run again: after a failure, always, or on a schedule.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::log::{self, Level};
use crate::base::sync::{Receiver, Sender, bounded};
use crate::base::text::printable;
use crate::base::time::{self, Duration, Instant, human};
use crate::base::unwind::{self, Payload};
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
use crate::task::spawner::{SpawnError, SpawnFailure, TaskBuilder};

/// # Running again
impl TaskBuilder {
    /// Runs the task's body again when it has ended, as `restart` says.
    ///
    /// All runs are one task on one thread: a run never begins before the one before is over, and the task's name,
    /// number, token and handle stay. The value is that of the last run. While it waits for the next run, it hears its
    /// stop; a task that was cancelled is never run again. When the limit of restarts is passed, the task fails with
    /// [`GaveUp`], and its [`on_failure`](Self::on_failure) says what that means for others.
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

/// A task whose body may run more than once; made by [`TaskBuilder::restart`], [`every`](TaskBuilder::every) and
/// [`schedule`](TaskBuilder::schedule).
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

    /// Also runs the body when `trigger` is fired. Only with a schedule.
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
        self.schedule.as_ref().map_or(Ok(()), Schedule::check)
    }

    fn into_body<T: 'static>(
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
            return Box::new(|ctx| runs.by_calendar(ctx, calendar));
        }
        match self.schedule {
            None => {
                let runs = runs(self.restart.unwrap_or_default());
                Box::new(|ctx| runs.until_done(ctx))
            }
            Some(schedule) => {
                let restart = self.restart.unwrap_or_else(goes_on);
                let (runs, trigger) = (runs(restart), self.trigger);
                Box::new(move |ctx| runs.on_schedule(ctx, schedule, trigger.as_ref()))
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

/// What follows a run.
enum Then<T> {
    /// The task is over.
    End(TaskResult<T>),
    /// The next run begins after this time at the earliest.
    After(Duration),
}

impl<T, F: FnMut(&TaskContext) -> TaskResult<T>> Runs<F> {
    /// One run after the other until the policy says that it was the last.
    fn until_done(mut self, ctx: &TaskContext) -> TaskResult<T> {
        loop {
            let (run, ran) = self.run(ctx);
            match self.judge(ctx, run, ran) {
                Then::End(result) => return result,
                Then::After(delay) => ctx.sleep(delay)?,
            }
        }
    }

    /// One tick after the other until the schedule is over or the policy ends it.
    fn on_schedule(
        mut self,
        ctx: &TaskContext,
        schedule: Schedule,
        trigger: Option<&Trigger>,
    ) -> TaskResult<T> {
        let mut ticks = Ticks::new(schedule, time::now(), self.random.draw());
        let mut not_before = None;
        let mut last = None;
        while let Some(cue) = wait_for_tick(ctx, ticks.next(), not_before, trigger)? {
            let began = time::now();
            let (run, ran) = self.run(ctx);
            let ended = time::now();
            let missed = match cue {
                Cue::Time => ticks.ticked(began, ended, self.random.draw()),
                Cue::Trigger => {
                    ticks.triggered(ended, self.random.draw());
                    0
                }
            };
            ctx.record().count_tick(missed);
            not_before = None;
            match run {
                Run::Completed(value) => {
                    let before = last.replace(value);
                    unwind::discard(before);
                }
                failed => match self.judge(ctx, failed, ran) {
                    Then::End(result) => return result,
                    Then::After(delay) => not_before = ended.checked_add(delay),
                },
            }
        }
        last.ok_or_else(|| "no tick of the schedule has completed".into())
    }

    /// One tick after the other until there is none to come or the policy ends it.
    #[cfg(feature = "calendar")]
    fn by_calendar(mut self, ctx: &TaskContext, calendar: Calendar) -> TaskResult<T> {
        let (mut page, mut last) = (Page::new(calendar), None);
        while let Some(missed) = page.wait(ctx)? {
            let (run, ran) = self.run(ctx);
            ctx.record().count_tick(missed);
            match run {
                Run::Completed(value) => {
                    let before = last.replace(value);
                    unwind::discard(before);
                }
                failed => match self.judge(ctx, failed, ran) {
                    Then::End(result) => return result,
                    Then::After(delay) => ctx.sleep(delay)?,
                },
            }
        }
        last.ok_or_else(|| "no tick of the calendar has completed".into())
    }

    fn run(&mut self, ctx: &TaskContext) -> (Run<T>, Duration) {
        ctx.record().begin_attempt(self.history.attempt());
        let began = time::now();
        let body = &mut self.body;
        let result = unwind::catch(|| match self.timeout {
            None => body(ctx),
            Some(timeout) => ctx.with_timeout(timeout, body).map_err(BoxError::from),
        });
        let run = match result {
            Ok(Ok(value)) => Run::Completed(value),
            Ok(Err(error)) if ctx.own_cancelled(&*error).is_some() => Run::Cancelled(error),
            Ok(Err(error)) => Run::Failed(error),
            Err(payload) => Run::Panicked(payload),
        };
        (run, time::now().saturating_duration_since(began))
    }

    fn judge(&mut self, ctx: &TaskContext, run: Run<T>, ran: Duration) -> Then<T> {
        let end = match &run {
            Run::Completed(_) => RunEnd::Completed,
            Run::Cancelled(_) => RunEnd::Cancelled,
            Run::Failed(error) => RunEnd::failed(&**error),
            Run::Panicked(_) => RunEnd::Panicked,
        };
        let (now, random) = (time::now(), self.random.draw());
        match self
            .restart
            .decide(&mut self.history, end, ran, now, random)
        {
            Verdict::Stop(_) => Then::End(run.result()),
            Verdict::GiveUp(limit) => Then::End(Err(run.give_up(ctx, limit).into())),
            Verdict::Again(again) => {
                run.tell(ctx, again);
                ctx.group().registry().count_restart();
                unwind::discard(run);
                Then::After(again.delay)
            }
        }
    }
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
    not_before: Option<Instant>,
    trigger: Option<&Trigger>,
) -> TaskResult<Option<Cue>> {
    let moment = match next {
        Next::Ended => return Ok(None),
        Next::At(moment) => Some(not_before.map_or(moment, |earliest| moment.max(earliest))),
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
    fn result(self) -> TaskResult<T> {
        match self {
            Self::Completed(value) => Ok(value),
            Self::Cancelled(error) | Self::Failed(error) => Err(error),
            Self::Panicked(payload) => unwind::resume(payload),
        }
    }

    /// Tells of a run that is followed by another one.
    fn tell(&self, ctx: &TaskContext, again: Again) {
        let (name, attempt) = (ctx.name(), ctx.attempt());
        let next = match again.delay {
            Duration::ZERO => "running it again".to_owned(),
            delay => format!("running it again in {}", human(delay)),
        };
        let level = match self {
            Self::Completed(_) => Level::Debug,
            _ => Level::Warn,
        };
        let end = self.words();
        log::say(
            level,
            format_args!("task `{name}` {end} in attempt {attempt}, {next}"),
        );
    }

    fn words(&self) -> String {
        match self {
            Self::Completed(_) => "completed".to_owned(),
            Self::Cancelled(_) => "was cancelled".to_owned(),
            Self::Failed(error) => format!("failed: {}", Failure::of(&**error)),
            Self::Panicked(payload) => {
                let place = panic::place_of(&**payload);
                let place = place.map_or_else(String::new, |place| format!(" at {place}"));
                let message = unwind::message(&**payload).unwrap_or("no text");
                format!("panicked{place}: {}", printable(message))
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
