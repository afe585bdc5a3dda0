//! Many periodic jobs on few threads.
//!
//! One task, the timetable's own, waits for the next job that is due and starts a task for it; between its ticks a job
//! has no thread. A job whose tick is still running is not due, however much time has passed; and a tick does not begin
//! before the thread-locals of the one before it are gone, for which it waits on its own thread. A tick for which there is
//! no thread is one that failed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::base::log::{self, Level};
use crate::base::sync::Receiver;
use crate::base::time::{self, Deadline, Duration, Instant};
use crate::cancel::cause::CauseKind;
use crate::cancel::checkpoint::Wait;
use crate::cancel::wait::RecvError;
use crate::policy::backoff::Backoff;
use crate::policy::error::PolicyError;
use crate::policy::random::Random;
use crate::policy::restart::{History, Restart};
use crate::policy::schedule::Schedule;
use crate::policy::ticks::{Next, Ticks};
use crate::policy::verdict::{RunEnd, Verdict};
use crate::run::hands::Shelf;
use crate::run::startup::StartError;
use crate::status::outcome::Outcome;
use crate::status::state::{TaskEnd, TaskId};
use crate::task::context::{TaskContext, TaskResult};
use crate::task::group::Group;
use crate::task::handle::TaskHandle;
use crate::task::registry::Failures;
use crate::task::spawner::{SpawnError, SpawnFailure, TaskBuilder};

/// How long the start of a timetable may take: it starts no job.
const READY: Duration = Duration::from_secs(30);

/// How long a job waits at least when the system, or the manager's limit, had no thread for its tick.
const NO_THREAD: Duration = Duration::from_millis(100);

/// Many jobs, each on a schedule of its own, without a thread for each.
///
/// Every tick is a task of a group with the timetable's name, so it can be seen, stopped and awaited like any other. A
/// tick that fails is logged, and counted by its job's restart policy; so is one for which there is no thread, and the
/// next one begins 100 ms later at the earliest. One that fails when it was asked to stop is a failure of its own.
///
/// For few periodic tasks, [`TaskBuilder::every`] is simpler and starts its ticks sooner: it keeps its thread.
///
/// ```
/// use std::time::Duration;
/// use taskmuster::{Job, Manager, Schedule, Timetable};
///
/// let report = Manager::builder().run(|manager| {
///     let timetable = Timetable::new()
///         .job(Job::new("compact", Schedule::every(Duration::from_secs(3_600)), |_| Ok(())))
///         .job(Job::new("ping", Schedule::spaced(Duration::from_millis(1)).times(3), |_| Ok(())));
///     let house = manager.task("house").timetable(timetable)?;
///     while manager.counts().completed < 4 { std::thread::yield_now(); }
///     house.cancel();
///     Ok(())
/// });
/// assert!(report.is_clean());
/// ```
#[derive(Debug, Default)]
#[must_use = "nothing runs before the timetable is a task"]
pub struct Timetable {
    jobs: Vec<Job>,
}

impl Timetable {
    /// A timetable without jobs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a job.
    pub fn job(mut self, job: Job) -> Self {
        self.jobs.push(job);
        self
    }

    fn check(&self) -> Result<(), PolicyError> {
        self.jobs.iter().try_for_each(|job| {
            job.restart.check()?;
            job.schedule.check()
        })
    }

    /// The body of the timetable's task: until it is asked to stop, or no job has a tick to come.
    fn keep(self, ctx: &TaskContext, name: &str) -> TaskResult {
        self.check()?;
        let group = ctx
            .group()
            .group_below(name, ctx.token(), Failures::OfAllAbove);
        ctx.ready();
        let result = Keeper::new(&self, ctx, &group).run();
        group.cancel();
        // Its own stop was heard; whether its ticks stop is what this waits for.
        let _waiting = ctx.record().pulse.waits_for(Wait::Tasks);
        group.idle().wait_until(Deadline::NEVER);
        result
    }
}

impl TaskBuilder {
    /// Starts a timetable. Its task completes when no job has a tick to come.
    ///
    /// # Errors
    /// [`StartError`] when a schedule or a restart policy could never do what it says, or the task was not accepted.
    #[track_caller]
    pub fn timetable(self, timetable: Timetable) -> Result<TaskHandle<()>, StartError> {
        let name = self.own_name().to_owned();
        self.spawn_ready(READY, move |ctx| timetable.keep(ctx, &name))
    }
}

/// A periodic job of a [`Timetable`].
#[must_use = "a job does nothing without its timetable"]
pub struct Job {
    name: String,
    schedule: Schedule,
    restart: Restart,
    timeout: Duration,
    body: Shelf,
}

impl Job {
    /// A job whose body runs at the moments of `schedule`, one tick after the other.
    pub fn new(
        name: impl Into<String>,
        schedule: Schedule,
        body: impl FnMut(&TaskContext) -> TaskResult + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            schedule,
            restart: Restart::on_failure().backoff(Backoff::none()).unlimited(),
            timeout: Duration::MAX,
            body: Shelf::new(body),
        }
    }

    /// What a failing tick means for the next one; without it the job goes on with its schedule. After a backoff of
    /// `Duration::MAX` the job has no tick to come.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long a tick may take: then it is asked to stop.
    pub fn run_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("name", &self.name)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}

/// A timetable at work.
struct Keeper<'a> {
    ctx: &'a TaskContext,
    group: &'a Group,
    entries: Vec<Entry<'a>>,
    /// The ticks that run, and the index of their job.
    running: HashMap<TaskId, (usize, Tick)>,
    /// When who is due next; those whose tick is running are not in it.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    ends: Receiver<TaskEnd>,
    random: Random,
    /// Why the first job was given up whose last tick had no thread, and so no place in the books.
    given_up: Option<SpawnError<()>>,
}

/// A job and where it stands.
struct Entry<'a> {
    job: &'a Job,
    ticks: Ticks,
    history: History,
    /// The tick before, of whose thread something may be left.
    past: Option<Arc<TaskHandle<()>>>,
}

/// A tick that runs.
struct Tick {
    handle: Arc<TaskHandle<()>>,
    began: Instant,
}

impl<'a> Keeper<'a> {
    fn new(timetable: &'a Timetable, ctx: &'a TaskContext, group: &'a Group) -> Self {
        let (mut random, now) = (Random::from_entropy(), time::now());
        let entry = |job: &'a Job| Entry {
            job,
            ticks: Ticks::new(job.schedule.clone(), now, random.draw()),
            history: History::new(),
            past: None,
        };
        let entries = timetable.jobs.iter().map(entry).collect();
        let mut keeper = Self {
            ctx,
            group,
            entries,
            running: HashMap::new(),
            due: BinaryHeap::new(),
            ends: group.ends(),
            random,
            given_up: None,
        };
        (0..keeper.entries.len()).for_each(|index| keeper.plan(index, Deadline::at(now)));
        keeper
    }

    fn run(mut self) -> TaskResult {
        loop {
            let next = self.due.peek().map(|Reverse((moment, _))| *moment);
            if next.is_none() && self.running.is_empty() {
                return self.given_up.map_or(Ok(()), |error| Err(error.into()));
            }
            let end = match next {
                Some(moment) => self.ctx.recv_deadline(&self.ends, moment),
                None => self.ctx.recv(&self.ends),
            };
            match end {
                Ok(end) => self.hear_end(end.id),
                Err(RecvError::Timeout) => self.start_due()?,
                Err(stopped) => return Err(stopped.into()),
            }
        }
    }

    /// Puts the next tick of a job into the heap, if there is one and its moment ever comes.
    fn plan(&mut self, index: usize, not_before: Deadline) {
        let next = self.entries.get(index).map(|entry| entry.ticks.next());
        let Some(Next::At(moment)) = next else {
            return;
        };
        if let Some(moment) = Deadline::at(moment).later(not_before).instant() {
            self.due.push(Reverse((moment, index)));
        }
    }

    fn start_due(&mut self) -> TaskResult {
        let now = time::now();
        while let Some(Reverse((moment, index))) = self.due.peek().copied() {
            if moment > now {
                break;
            }
            self.due.pop();
            self.start(index)?;
        }
        Ok(())
    }

    fn start(&mut self, index: usize) -> TaskResult {
        let Some(entry) = self.entries.get(index) else {
            return Ok(());
        };
        let (job, past) = (entry.job, entry.past.clone());
        let body = job.body.clone();
        let task = self.group.task(&job.name).timeout(job.timeout);
        let started = task.spawn(move |ctx| {
            if let Some(past) = past {
                wait_until_gone(ctx, &past)?;
            }
            body.run(ctx)
        });
        match started {
            Ok(handle) => {
                let (handle, began) = (Arc::new(handle), time::now());
                self.running
                    .insert(handle.id(), (index, Tick { handle, began }));
                Ok(())
            }
            // The stop of its ticks comes before its own, unless a job has cancelled them all.
            Err(error) if matches!(error.failure(), SpawnFailure::Stopping) => {
                Err(if self.ctx.is_stop_ahead() {
                    self.ctx.wait().into()
                } else {
                    error.into()
                })
            }
            Err(error) => {
                self.go_without(index, error);
                Ok(())
            }
        }
    }

    /// A tick for which there is no thread: it counts as one that failed.
    fn go_without(&mut self, index: usize, error: SpawnError<()>) {
        let (now, random) = (time::now(), self.random.draw());
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        let missed = entry.ticks.ticked(now, now, random);
        let verdict = entry.decide(RunEnd::Failed, Duration::ZERO, now, random);
        self.ctx.record().count_tick(missed);
        if let Verdict::Again(again) = verdict {
            log::say(Level::Warn, format_args!("{error}"));
            let delay = again.delay.max(NO_THREAD);
            self.plan(index, Deadline::counted_from(now, delay));
        } else {
            let name = &entry.job.name;
            log::say(
                Level::Error,
                format_args!("job `{name}` is given up: {error}"),
            );
            self.given_up.get_or_insert(error);
        }
    }

    fn hear_end(&mut self, id: TaskId) {
        let Some((index, tick)) = self.running.remove(&id) else {
            return;
        };
        let (ended, random) = (time::now(), self.random.draw());
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        let missed = entry.ticks.ticked(tick.began, ended, random);
        self.ctx.record().count_tick(missed);
        // A failure during the stop is not answered by another tick: the books keep it.
        let verdict = if self.group.token().is_cancelled() {
            None
        } else {
            entry.verdict(&tick, ended, random)
        };
        entry.past = Some(tick.handle);
        match verdict {
            Some(Verdict::Again(again)) => {
                self.plan(index, Deadline::counted_from(ended, again.delay));
            }
            // The job is over.
            Some(Verdict::Stop(_) | Verdict::GiveUp(_)) => {}
            None => self.plan(index, Deadline::at(ended)),
        }
    }
}

fn wait_until_gone(ctx: &TaskContext, past: &TaskHandle<()>) -> TaskResult {
    let _waiting = ctx.record().pulse.waits_for(Wait::Tasks);
    past.wait_until_gone(Duration::MAX, ctx.token().node().beacon().latch());
    Ok(ctx.token().checkpoint()?)
}

impl Entry<'_> {
    fn decide(&mut self, end: RunEnd, ran: Duration, now: Instant, random: u64) -> Verdict {
        self.job
            .restart
            .decide(&mut self.history, end, ran, now, random)
    }

    /// What the policy says of a tick that failed; `None` for one that did not. A failure that the job survives counts as
    /// read: the log has it.
    fn verdict(&mut self, tick: &Tick, now: Instant, random: u64) -> Option<Verdict> {
        let (end, words) = match tick.handle.peek_outcome()? {
            outcome @ Outcome::Failed(_) => (
                tick.handle
                    .peek_error()
                    .map_or(RunEnd::Failed, |error| RunEnd::failed(&*error)),
                outcome,
            ),
            outcome @ Outcome::Panicked(_) => (RunEnd::Panicked, outcome),
            Outcome::Cancelled(cause) if cause.kind() == CauseKind::Deadline => {
                (RunEnd::Failed, Outcome::Cancelled(cause))
            }
            _ => return None,
        };
        let ran = now.saturating_duration_since(tick.began);
        let verdict = self.decide(end, ran, now, random);
        if let Verdict::Again(_) = verdict {
            drop(tick.handle.outcome());
        } else {
            let name = tick.handle.name();
            log::say(
                Level::Error,
                format_args!("job `{name}` is given up, its last tick {words}"),
            );
        }
        Some(verdict)
    }
}
