//! What became of every task: the report and its exit code.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::panic::Location;
use std::process::{ExitCode, Termination};
use std::sync::Arc;

use crate::base::sync::{AtomicBool, Ordering};
use crate::base::time::{Duration, human};
use crate::cancel::cause::{Cause, CauseKind};
use crate::shutdown::diagnosis::Diagnosis;
use crate::status::outcome::{Outcome, chain};
use crate::status::state::{TaskCounts, TaskId};
use crate::task::record::{Ledger, Record};

/// What became of every task of a manager.
///
/// Return it from `main`: it then writes itself to stderr, once, and sets the exit code. A cheap clone.
///
/// | exit code | |
/// |---|---|
/// | 0 | everybody stopped, and no failure was left unread |
/// | 1 | a critical task or the body of `run` failed, a failure was read by nobody, or there was no manager to be had |
/// | 2 | a task did not stop or a [callback] was not over in time; announced [foreign] code does not count |
/// | 130 | the third signal ended the process, without a report; or the first did, when no manager was open (any more) |
///
/// A second signal when no manager is open any more changes neither the report nor the code: the first has stopped the
/// program, and both are on their way.
///
/// [callback]: crate::CancellationToken::on_cancel
/// [foreign]: crate::TaskContext::foreign
///
/// ```
/// use taskmuster::{Manager, ShutdownReport};
///
/// fn main() -> ShutdownReport {
///     Manager::builder().run(|manager| {
///         let answer = manager.spawn("answer", |_| Ok(42))?;
///         assert_eq!(answer.join()?, 42);
///         Ok(())
///     })
/// }
/// ```
#[derive(Clone)]
#[must_use = "the report says who did not stop; return it from `main`, or print it and use its exit code"]
pub struct ShutdownReport(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    facts: Facts,
    body_error: Option<Arc<str>>,
    /// The manager never was; the error says why.
    stillborn: bool,
    written: Arc<AtomicBool>,
}

/// What the drain found out.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) cause: Cause,
    pub(crate) took: Duration,
    /// The time the shutdown was given; `None` for ever.
    pub(crate) budget: Option<Duration>,
    pub(crate) hurried: bool,
    pub(crate) tasks: Vec<TaskReport>,
    pub(crate) counts: TaskCounts,
    /// What the courier was stuck in.
    pub(crate) stuck_courier: Option<String>,
    /// Where the callbacks were registered that were not over in time.
    pub(crate) callbacks: Vec<&'static Location<'static>>,
    pub(crate) ledger: Arc<Ledger>,
}

/// What became of one task.
#[derive(Clone, Debug)]
pub struct TaskReport {
    pub(crate) record: Arc<Record>,
    pub(crate) outcome: Outcome,
    pub(crate) stopped_after: Option<Duration>,
    pub(crate) diagnosis: Option<Diagnosis>,
}

impl TaskReport {
    /// The task's number.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.record.id
    }

    /// The name with those of the groups around it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.path
    }

    /// What the books say of it.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// How long it took to end after it was asked to stop; `None` if it had ended before, or did not.
    #[must_use]
    pub fn stopped_after(&self) -> Option<Duration> {
        self.stopped_after
    }

    /// By how much it exceeded its own grace.
    #[must_use]
    pub fn over_grace(&self) -> Option<Duration> {
        self.stopped_after?
            .checked_sub(self.record.grace?)
            .filter(|over| !over.is_zero())
    }

    /// Why it did not stop, if it did not.
    #[must_use]
    pub fn diagnosis(&self) -> Option<&Diagnosis> {
        self.diagnosis.as_ref()
    }

    /// Whether it failed and nobody has looked at the failure.
    #[must_use]
    pub fn is_unread_failure(&self) -> bool {
        self.record.is_unread()
    }

    /// Whether it was left in code that was announced with [`foreign`](crate::TaskContext::foreign).
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.diagnosis.as_ref().is_some_and(Diagnosis::is_foreign)
    }

    fn is_dull(&self) -> bool {
        !self.outcome.is_failure() && self.diagnosis.is_none() && self.over_grace().is_none()
    }

    fn word(&self) -> &'static str {
        match (&self.outcome, &self.diagnosis) {
            _ if self.is_foreign() => "FOREIGN",
            (Outcome::Abandoned, _) | (_, None) => self.outcome.word(),
            (_, Some(_)) => "EXITING",
        }
    }

    fn remark(&self) -> String {
        let when = match (&self.outcome, self.stopped_after) {
            _ if self.is_foreign() => return "left to itself".to_owned(),
            (Outcome::Abandoned, _) => return "did not stop".to_owned(),
            (_, Some(after)) => format!("after {}", human(after)),
            (_, None) => "before it was asked".to_owned(),
        };
        let grace = match (self.over_grace(), self.record.grace) {
            (Some(over), Some(grace)) => {
                format!(", {} over its grace of {}", human(over), human(grace))
            }
            _ => String::new(),
        };
        let unread = if self.is_unread_failure() {
            ", read by nobody"
        } else {
            ""
        };
        let why = match &self.outcome {
            Outcome::Failed(failure) => format!(": {failure}"),
            Outcome::Panicked(panic) => format!(": {panic}"),
            // The shutdown's own cause stands in the first line already.
            Outcome::Cancelled(cause) if self.stopped_after.is_none() => format!(": {cause}"),
            _ => String::new(),
        };
        format!("{when}{grace}{unread}{why}")
    }
}

impl ShutdownReport {
    pub(crate) fn new(facts: Facts) -> Self {
        Self(Arc::new(Inner {
            facts,
            body_error: None,
            stillborn: false,
            written: Arc::default(),
        }))
    }

    /// The report of a `run` whose body has returned in a forked copy of the process.
    pub(crate) fn of_fork(place: &'static Location<'static>) -> Self {
        let words = "this process is a fork of the one that owns the manager";
        Self::of_failed_start(place, &io::Error::other(words))
    }

    /// The report of a manager that could not be made.
    pub(crate) fn of_failed_start(
        place: &'static Location<'static>,
        error: &(dyn Error + 'static),
    ) -> Self {
        let report = Self::new(Facts {
            cause: Cause::at_place(CauseKind::Shutdown, place)
                .with_note("the manager could not be made"),
            took: Duration::ZERO,
            budget: None,
            hurried: false,
            tasks: Vec::new(),
            counts: TaskCounts::default(),
            stuck_courier: None,
            callbacks: Vec::new(),
            ledger: Ledger::new(),
        });
        let mut inner = Inner::clone(&report.with_body_error(error).0);
        inner.stillborn = true;
        Self(Arc::new(inner))
    }

    /// The same report for a `run` whose body failed.
    pub(crate) fn with_body_error(&self, error: &(dyn Error + 'static)) -> Self {
        let mut inner = Inner::clone(&self.0);
        inner.body_error = Some(chain(error).into());
        Self(Arc::new(inner))
    }

    /// Why the manager ended.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.0.facts.cause
    }

    /// How long it took from the request until everybody had stopped or was abandoned.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.0.facts.took
    }

    /// Whether a second signal, or a call of `hurry`, skipped the grace.
    #[must_use]
    pub fn was_hurried(&self) -> bool {
        self.0.facts.hurried
    }

    /// A row a task, in order of creation: all that were live when the shutdown began, the last of those that had ended
    /// before or started later, and the first failures.
    #[must_use]
    pub fn tasks(&self) -> &[TaskReport] {
        &self.0.facts.tasks
    }

    /// Those that did not stop in time, with those that were left in foreign code.
    pub fn stragglers(&self) -> impl Iterator<Item = &TaskReport> {
        self.tasks().iter().filter(|task| task.diagnosis.is_some())
    }

    /// Where the callbacks were registered that the stop set going and that were not over in time.
    #[must_use]
    pub fn late_callbacks(&self) -> &[&'static Location<'static>] {
        &self.0.facts.callbacks
    }

    /// The numbers of the whole life of the manager, at the time of the report.
    #[must_use]
    pub fn counts(&self) -> TaskCounts {
        self.0.facts.counts
    }

    /// The error of `run`'s body, unless it was the cancellation of this very shutdown; or why the body did not run.
    #[must_use]
    pub fn body_error(&self) -> Option<&str> {
        self.0.body_error.as_deref()
    }

    /// How many failures nobody has looked at, by now.
    #[must_use]
    pub fn unread_failures(&self) -> usize {
        self.0.facts.ledger.unread()
    }

    /// The exit code that tells the truth: see the table above.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let failed = self.body_error().is_some()
            || self.0.facts.ledger.has_critical_failure()
            || self.unread_failures() > 0;
        let is_late = self.stragglers().any(|task| !task.is_foreign());
        if is_late || !self.late_callbacks().is_empty() {
            2
        } else {
            u8::from(failed)
        }
    }

    /// Whether the exit code is 0.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exit_code() == 0
    }
}

/// Writes the report to stderr, once for all clones, and gives the exit code. Errors of writing are ignored: there is
/// nowhere left to say so.
impl Termination for ShutdownReport {
    fn report(self) -> ExitCode {
        // Relaxed: only "who is first" matters.
        if !self.0.written.swap(true, Ordering::Relaxed) {
            drop(io::stderr().write_all(format!("{self}\n").as_bytes()));
        }
        ExitCode::from(self.exit_code())
    }
}

/// How many callbacks that were not over are printed.
const CALLBACKS: usize = 16;

/// How many rows of tasks with nothing to tell are printed.
const DULL_ROWS: usize = 50;

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.0.facts;
        if let (true, Some(error)) = (self.0.stillborn, self.body_error()) {
            return write!(
                f,
                "taskmuster: not started: {error}\n  exit code {}",
                self.exit_code()
            );
        }
        write!(
            f,
            "taskmuster: stopped by {}; took {}",
            facts.cause,
            human(facts.took)
        )?;
        match facts.budget {
            _ if facts.hurried => f.write_str(", hurried")?,
            Some(budget) => write!(f, " of {}", human(budget))?,
            None => f.write_str(", without a limit")?,
        }
        writeln!(f)?;
        self.write_rows(f)?;
        writeln!(f, "  {}", self.sum())?;
        for straggler in self.stragglers() {
            writeln!(
                f,
                "  {}",
                straggler
                    .diagnosis
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default()
            )?;
        }
        for at in facts.callbacks.iter().take(CALLBACKS) {
            let (file, line) = (at.file(), at.line());
            writeln!(
                f,
                "  the callback registered at {file}:{line} was not over in time"
            )?;
        }
        let more = facts.callbacks.len().saturating_sub(CALLBACKS);
        if more > 0 {
            writeln!(f, "  nor were {more} more callbacks")?;
        }
        if let Some(errand) = &facts.stuck_courier {
            writeln!(
                f,
                "  the courier, a thread of taskmuster's own, is stuck in {errand}"
            )?;
        }
        if let Some(error) = self.body_error() {
            writeln!(f, "  the body of `run` failed: {error}")?;
        }
        write!(f, "  exit code {}", self.exit_code())
    }
}

impl ShutdownReport {
    fn write_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dull = self.tasks().iter().filter(|task| task.is_dull()).count();
        // Of too many alike, the youngest.
        let mut skip = dull.saturating_sub(DULL_ROWS);
        if skip > 0 {
            writeln!(f, "    … {skip} more with nothing to tell")?;
        }
        let shown: Vec<&TaskReport> = self
            .tasks()
            .iter()
            .filter(|task| {
                let hidden = task.is_dull() && skip > 0;
                skip -= usize::from(hidden);
                !hidden
            })
            .collect();
        let width = shown
            .iter()
            .map(|task| task.name().chars().count())
            .max()
            .unwrap_or(0)
            .min(40);
        for task in shown {
            writeln!(
                f,
                "    {:width$}  {:9}  {}",
                task.name(),
                task.word(),
                task.remark()
            )?;
        }
        Ok(())
    }

    /// `5 tasks: 4 cancelled, 1 completed`, over the whole life of the manager.
    fn sum(&self) -> String {
        let TaskCounts {
            spawned,
            live,
            completed,
            failed,
            panicked,
            cancelled,
            restarts,
            late: _,
        } = self.counts();
        let foreign = self.tasks().iter().filter(|task| task.is_foreign()).count() as u64;
        let parts: Vec<String> = [
            (completed, "completed"),
            (cancelled, "cancelled"),
            (failed, "failed"),
            (panicked, "panicked"),
            (live.saturating_sub(foreign), "abandoned"),
            (foreign, "left in foreign code"),
            (restarts, "restarts"),
        ]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
        let noun = if spawned == 1 { "task" } else { "tasks" };
        match (spawned, self.unread_failures()) {
            (0, _) => "no tasks".to_owned(),
            (_, 0) => format!("{spawned} {noun}: {}", parts.join(", ")),
            (_, unread) => format!(
                "{spawned} {noun}: {}; {unread} failed and nobody read it",
                parts.join(", ")
            ),
        }
    }
}

impl fmt::Debug for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownReport")
            .field("facts", &self.0.facts)
            .field("body_error", &self.0.body_error)
            .finish_non_exhaustive()
    }
}
